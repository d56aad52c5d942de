# SPDX-License-Identifier: Apache-2.0
"""What of a content is news: the writer asks here, before it stores new bytes, whether other contents give them.

All of it is decided on the dispatching thread, where it replaces a write of the same bytes by less: a comparison with
a kept copy, a digest of slices, a copy made by a movement operator's own reference. Nothing is taken on trust: a patch
is made of the bytes themselves, parts and derived outputs have the same digest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import FusionReplayError
from fusion_replay.model.runlist import OperandUse, SequenceDescription
from fusion_replay.snapshot.encodings.delta import BLOCK, changed_blocks, make_patch
from fusion_replay.snapshot.encodings.derived import MAX_OUTPUT, moved, mover
from fusion_replay.snapshot.encodings.links import Delta, Derived, Link, Parts
from fusion_replay.snapshot.schema import INPUT, MAX_DEPTH, MAX_PIECE, OUTPUT, REFERENCE, digest_of

Bytes = npt.NDArray[np.uint8]
Key = tuple[bytes, str]
"""Digest and element type: what makes two contents one."""

KEPT_BYTES = 96 << 20
"""Memory for copies of the newest version of each buffer; a version of a buffer beyond it is stored whole."""
KEYFRAME = 64
"""Every so many versions one is whole."""
SMALL = BLOCK
"""Contents below this many bytes are stored as they are: less would hardly be saved than is written about it."""
WEIGHTS_FROM = 1 << 16
"""Bytes; what is smaller stays in the recording even where its weights go elsewhere."""
_PATCHED_FROM = 4 * BLOCK
_REMEMBERED = 1 << 16  # slices, and outcomes of movement operators
_HOPELESS = 3  # versions in a row that had little in common with the last


@dataclass(frozen=True, slots=True)
class Place:
    """Where a content was seen."""

    sequence: int
    invocation: int
    step: int
    position: int
    role: int
    use: OperandUse

    @property
    def region(self) -> tuple[int, str, int, int]:
        return self.sequence, self.use.buffer, self.use.start, self.use.spec.nbytes


@dataclass(slots=True)
class _Kept:
    content: int
    copy: Bytes


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a movement operator will write, by operand position; ``partial``: into old contents that it leaves."""

    depth: int
    digests: Mapping[int, bytes]
    partial: bool


@dataclass(slots=True)
class _Regions:
    """Who uses which part of a sequence's buffers."""

    written: set[str] = field(default_factory=set)
    fed: set[str] = field(default_factory=set)
    of: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    inside: dict[tuple[str, int, int], tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @classmethod
    def describe(cls, sequence: SequenceDescription) -> _Regions:
        regions = cls(fed=set(sequence.input_args))
        for step in sequence.steps:
            for use in step.operands:
                regions.of.setdefault(use.buffer, set()).add((use.start, use.spec.nbytes))
                if use.spec.writes:
                    regions.written.add(use.buffer)
        return regions

    def slices(self, use: OperandUse) -> tuple[tuple[int, int], ...]:
        """``(offset, nbytes)`` of the parts of this use that other operands have for themselves, in order."""
        start, nbytes = use.start, use.spec.nbytes
        key = use.buffer, start, nbytes
        if key not in self.inside:
            self.inside[key] = tuple(
                (at - start, n)
                for at, n in sorted(self.of.get(use.buffer, ()))
                if n >= SMALL and n < nbytes and start <= at and at + n <= start + nbytes
            )
        return self.inside[key]


class News:
    """One per writer; not thread-safe, the writer's lock is held."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._budget = kept_bytes
        self._regions: list[_Regions] = []
        self._kept: OrderedDict[tuple[int, str, int, int], _Kept] = OrderedDict()
        self._held = 0
        self._unlike: dict[tuple[int, str, int, int], int] = {}
        self._depth: dict[int, int] = {}
        self._slices: OrderedDict[bytes, tuple[int, int, int]] = OrderedDict()
        self._moved: OrderedDict[Any, dict[int, bytes]] = OrderedDict()
        self._expected: dict[tuple[int, int], _Expected] = {}

    def add_sequence(self, sequence: SequenceDescription) -> None:
        self._regions.append(_Regions.describe(sequence))

    def is_weight(self, place: Place) -> bool:
        """Whether this is much that is read from a buffer as of :meth:`is_static`."""
        return place.role == INPUT and place.use.spec.nbytes >= WEIGHTS_FROM and self.is_static(place)

    def is_static(self, place: Place) -> bool:
        """Whether the sequence never writes this buffer and nobody feeds it in."""
        regions = self._regions[place.sequence]
        return place.use.buffer not in regions.written and place.use.buffer not in regions.fed

    def link(self, place: Place, raw: Bytes, key: Key, stored: Mapping[Key, int]) -> Link | None:
        """What gives these bytes, which are new under their digest; None: they must be stored themselves."""
        if raw.size < SMALL or place.role == REFERENCE:
            return None
        return (
            self._derived(place, key)
            or self._slice(raw, key)
            or self._joined(place, raw, key, stored)
            or self._delta(place, raw)
        )

    def stored(self, place: Place, content: int, raw: Bytes, link: Link | None) -> None:
        """Content ``content`` has (or will have, with what is being written) these bytes, by this link or whole."""
        if link is not None:
            self._depth[content] = self._depth_of(link, place)
        if raw.size < SMALL or place.role == REFERENCE:
            return
        self._remember_slices(place, content, raw)
        expected = self._expected.get((place.invocation, place.step))
        versions = isinstance(link, Derived) and expected is not None and expected.partial
        if link is None or isinstance(link, Delta) or versions:
            self._keep(place, content, raw, link)

    def expect(
        self,
        place: tuple[int, int, int],
        sequence: SequenceDescription,
        inputs: Mapping[int, npt.NDArray[Any]],
        previous: Mapping[int, npt.NDArray[Any]],
        values: Mapping[str, int | float],
        contents: tuple[int, ...],
    ) -> None:
        """Before step ``place`` (sequence, invocation, step): what will it write, if it only moves data?

        ``contents`` are those of inputs and previous, all of them kept.
        """
        number, invocation, index = place
        step, op = sequence.steps[index], sequence.operator_of(index)
        spec = mover(op)
        outputs = {i: use for i, use in enumerate(step.operands) if use.spec.writes}
        total = sum(use.spec.nbytes for use in outputs.values())
        if spec is None or not SMALL <= total <= MAX_OUTPUT or any(use.spec.reads for use in outputs.values()):
            return
        if spec.partial and any(self._has_kept(number, use) for use in outputs.values()):
            return  # a patch is as small, and quicker read
        depth = 1 + max((self._depth.get(content, 0) for content in contents), default=MAX_DEPTH)
        if depth > MAX_DEPTH:
            return
        key = number, sequence.steps[index].operator, tuple(values.items()), contents
        digests = self._moved.get(key)
        if digests is None:
            try:
                old = [previous.get(i) for i in outputs]
                made = moved(op, step, [inputs[i] for i in sorted(inputs)], old, values)
            except (FusionReplayError, ArithmeticError, LookupError, TypeError, ValueError):
                return  # what it writes is stored like anything else
            digests = {position: digest_of(data) for position, data in made.items()}
            _remember(self._moved, key, digests)
        self._expected[invocation, index] = _Expected(depth, digests, spec.partial)

    def ended(self, invocation: int, step: int) -> None:
        """The step's outputs have been asked for, or never will be."""
        self._expected.pop((invocation, step), None)

    def forget(self) -> None:
        """Something could not be written: nothing that comes may be made of what was."""
        self._kept.clear()
        self._held = 0
        self._slices.clear()
        self._moved.clear()
        self._expected.clear()

    def _depth_of(self, link: Link, place: Place) -> int:
        match link:
            case Delta(base, _):
                return 1 + self._depth.get(base, 0)
            case Parts(parts):
                return 1 + max(self._depth.get(content, 0) for content, _, _ in parts)
            case Derived():
                return self._expected[place.invocation, place.step].depth
            case _:
                return 0

    def _derived(self, place: Place, key: Key) -> Derived | None:
        expected = self._expected.get((place.invocation, place.step))
        if expected is not None and place.role == OUTPUT and expected.digests.get(place.position) == key[0]:
            return Derived(place.invocation, place.step, place.position)
        return None

    def _slice(self, raw: Bytes, key: Key) -> Parts | None:
        part = self._slices.get(key[0])
        return self._within_depth((part,)) if part is not None and part[2] == raw.size else None

    def _joined(self, place: Place, raw: Bytes, key: Key, stored: Mapping[Key, int]) -> Parts | None:
        """Slices of this use, all of them known, that cover it."""
        slices = self._regions[place.sequence].slices(place.use)
        longest: dict[int, int] = {}
        for offset, nbytes in slices:
            longest[offset] = max(nbytes, longest.get(offset, 0))
        cover, at = [], 0
        while at < raw.size:
            if at not in longest:
                return None
            cover.append((at, longest[at]))
            at += longest[at]
        if at != raw.size:
            return None
        parts = []
        for offset, nbytes in cover:
            digest = digest_of(raw[offset : offset + nbytes])
            content = stored.get((digest, key[1]))
            part = self._slices.get(digest) if content is None else (content, 0, nbytes)
            if part is None or part[2] != nbytes:
                return None
            parts.append(part)
        return self._within_depth(tuple(parts))

    def _within_depth(self, parts: tuple[tuple[int, int, int], ...]) -> Parts | None:
        deepest = max(self._depth.get(content, 0) for content, _, _ in parts)
        return Parts(parts) if deepest < MAX_DEPTH else None

    def _delta(self, place: Place, raw: Bytes) -> Delta | None:
        kept = self._kept.get(place.region)
        if kept is None or self._depth.get(kept.content, 0) >= KEYFRAME - 1:
            return None
        limit = min(raw.size // (4 * BLOCK), (MAX_PIECE - 4) // (BLOCK + 4))
        blocks = changed_blocks(kept.copy, raw, limit)
        if blocks is None or len(blocks) > limit:
            return None
        return Delta(kept.content, make_patch(kept.copy, raw, blocks))

    def _remember_slices(self, place: Place, content: int, raw: Bytes) -> None:
        for offset, nbytes in self._regions[place.sequence].slices(place.use):
            _remember(self._slices, digest_of(raw[offset : offset + nbytes]), (content, offset, nbytes))

    def _has_kept(self, sequence: int, use: OperandUse) -> bool:
        return (sequence, use.buffer, use.start, use.spec.nbytes) in self._kept

    def _keep(self, place: Place, content: int, raw: Bytes, link: Link | None) -> None:
        """A copy for the next version of this region to be compared with."""
        region = place.region
        kept = self._kept.pop(region, None)
        if kept is not None and link is None and self._depth.get(kept.content, 0) < KEYFRAME - 1:
            self._unlike[region] = self._unlike.get(region, 0) + 1
        elif link is not None:
            self._unlike.pop(region, None)
        hopeless = self._unlike.get(region, 0) >= _HOPELESS
        if hopeless or raw.size < _PATCHED_FROM or place.use.buffer not in self._regions[place.sequence].written:
            self._held -= 0 if kept is None else kept.copy.size
            return
        if kept is None:
            if self._held + raw.size > self._budget:
                return
            self._held += raw.size
            kept = _Kept(content, raw.copy())
        else:
            np.copyto(kept.copy, raw)
        kept.content = content
        self._kept[region] = kept


def _remember(known: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    known[key] = value
    if len(known) > _REMEMBERED:
        known.popitem(last=False)


__all__ = ["KEPT_BYTES", "KEYFRAME", "SMALL", "WEIGHTS_FROM", "Key", "News", "Place"]
