# SPDX-License-Identifier: Apache-2.0
"""Where the buffers of a fused dispatch lie in its three consolidated buffers: aligned, scratch pooled by lifetime.

Follows what amd/IRON ``iron/common/image/sequence.py`` (``calculate_buffer_layout``, ``infer_buffer_offsets``) and
``iron/common/image/allocator.py`` do, written anew: what the host addresses has a place of its own; a buffer that the
runlist both writes and later reads lives from its first write to its last read, and buffers that never live at the same
time may lie at the same bytes. Placed largest first, each in the tightest gap that is high enough.
Tested in tests/simulator/test_fused.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

ALIGNMENT = 64
"""Bytes on which each buffer begins."""

Life = tuple[int, int]
"""First and last step of a buffer's life, both included."""

Uses = Sequence[tuple[Sequence[str], Sequence[str]]]
"""Per step the names that it reads and the names that it writes, as the runlist spells them."""


def aligned(nbytes: int) -> int:
    """The next multiple of :data:`ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def lives(uses: Uses, pinned: Collection[str]) -> dict[str, Life]:
    """The buffers that may be pooled: written, then read, and never read before they were written."""
    written: dict[str, int] = {}
    read: dict[str, int] = {}
    before: set[str] = set()
    for step, (reads, writes) in enumerate(uses):
        before.update(name for name in reads if name not in written)
        read.update(dict.fromkeys(reads, step))
        for name in writes:
            written.setdefault(name, step)
    return {n: (i, read[n]) for n, i in written.items() if n in read and n not in before and n not in pinned}


def places(lives_of: Mapping[str, Life], sizes: Mapping[str, int]) -> dict[str, int]:
    """Byte offsets in one pool that starts at 0."""
    placed: dict[str, int] = {}
    for name in sorted(lives_of, key=lambda n: (-sizes[n], lives_of[n][0], n)):
        rivals = [n for n in placed if _together(lives_of[n], lives_of[name])]
        placed[name] = _tightest(sorted((placed[n], placed[n] + sizes[n]) for n in rivals), sizes[name])
    return placed


def _together(a: Life, b: Life) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def _tightest(taken: Iterable[tuple[int, int]], nbytes: int) -> int:
    """Where ``nbytes`` fit between the taken ranges (ascending) with the least room to spare, else behind them."""
    free, best = 0, (0, -1)
    for start, stop in taken:
        room = start - free
        if room >= nbytes and (best[1] < 0 or room < best[0]):
            best = room, free
        free = max(free, aligned(stop))
    return free if best[1] < 0 else best[1]


def back_to_back(names: Iterable[str], sizes: Mapping[str, int], offsets: Mapping[str, int]) -> dict[str, int]:
    """Offsets in one consolidated buffer: what is not planned in order, then the plan, behind all of it."""
    placed, end, planned = {}, 0, []
    for name in names:
        if name in offsets:
            planned.append(name)
            continue
        placed[name] = end
        end = aligned(end + sizes[name])
    placed.update((name, end + offsets[name]) for name in planned)
    return placed


__all__ = ["ALIGNMENT", "aligned", "back_to_back", "lives", "places"]
