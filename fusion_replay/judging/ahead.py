# SPDX-License-Identifier: Apache-2.0
"""Contents of a series of steps that is known beforehand: decoded ahead by a thread, kept until nobody needs them.

While one step is judged, a thread reads what the next ones need: on two cores each has one. Both reading and zstd run
outside Python's lock. What no later step of the series uses is dropped at once; where the budget is full, what is
needed furthest in the future goes first, which no other choice beats (Belady, "A study of replacement algorithms for a
virtual-storage computer", 1966).
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from fusion_replay.snapshot.schema import COMPLETE, NO_CONTENT

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot

Bytes = npt.NDArray[np.uint8]

_NEVER = 1 << 62
_MINE, _OTHERS = "mine", "others"  # whose it is to read a content
_BASES = 8  # 1/8 of the budget is the store's, for contents that others are made of (versions of a cache)
_ROOM = 16  # where something must go, a share of the budget goes: 1/16, so that choosing it stays cheap


class ReadAhead:
    """Stands in for a snapshot's store while ``steps`` are judged in their order; a context manager.

    Args:
        roles: of the operands that judging reads (:data:`fusion_replay.snapshot.schema.INPUT` and the like).
        budget: bytes of decoded contents held, at most. What the step being judged has in its hands comes on top.
    """

    def __init__(self, snapshot: Snapshot, steps: Sequence[RecordedStep], roles: Iterable[int], budget: int) -> None:
        self._store = snapshot.store
        self._budget = budget - budget // _BASES
        self._consulting = snapshot.store.consulting(lambda row: self._held.get(row), budget // _BASES)
        self._sizes = snapshot.index.contents["nbytes"]
        self._uses = _Uses(*_series(snapshot, steps, tuple(roles)), len(snapshot.index.contents))
        self._held: dict[int, Bytes] = {}
        self._bytes = 0  # held, and under way into it
        self._under_way: set[int] = set()
        self._done = -1  # the last step of the series that was judged
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read_ahead, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._consulting.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._held.clear()
        self._consulting.__exit__(kind, error, tb)

    def kept(self, row: int) -> bool:
        return self._store.kept(row)

    def absent(self, row: int) -> str:
        return self._store.absent(row)

    def read(self, row: int, what: str) -> Bytes:
        """As :meth:`fusion_replay.snapshot.store.ContentStore.read`."""
        with self._changed:
            self._changed.wait_for(lambda: row not in self._under_way)
            held = self._held.get(row)
            if held is not None:
                return held
            keep = self._reserve(row, self._done + 1)
        return self._load(row, what, keep=keep)

    def done(self, position: int) -> None:
        """Step number ``position`` of the series is judged, and so are those before it."""
        with self._changed:
            self._done = position
            for row in self._uses.advance(position):
                self._drop(row)
            self._changed.notify_all()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _read_ahead(self) -> None:
        for row, position in self._uses:
            with self._changed:
                turn = self._changed.wait_for(lambda row=row, position=position: self._turn(row, position))  # type: ignore[misc]
                if self._closed:
                    return
            if turn != _MINE:
                continue
            try:
                self._load(row, "read ahead", keep=True)
            except Exception:  # whoever judges the step reads it again, and gets the error with the tensor's name
                continue

    def _turn(self, row: int, position: int) -> str:
        """Whether this use is the thread's to read, its place reserved; nothing where there is no room yet."""
        if self._closed or self._done >= position or row in self._held or row in self._under_way:
            return _OTHERS
        return _MINE if self._reserve(row, position) else ""

    # --- all under the lock -----------------------------------------------------------------------------------------

    def _reserve(self, row: int, use: int) -> bool:
        """Room for a content that is needed at ``use``: that of others which are needed later."""
        size = int(self._sizes[row])
        excess = self._bytes + size - self._budget
        if size > self._budget:
            return False
        if excess > 0:
            later = ((self._uses.next(other), other) for other in self._held)
            farthest = heapq.nlargest(max(8, len(self._held) // _ROOM), (pair for pair in later if pair[0] > use))
            if sum(int(self._sizes[other]) for _, other in farthest) < excess:
                return False
            for _, other in farthest:
                if self._bytes + size <= self._budget:
                    break
                self._drop(other)
        self._bytes += size
        self._under_way.add(row)
        return True

    def _drop(self, row: int) -> None:
        if self._held.pop(row, None) is not None:
            self._bytes -= int(self._sizes[row])

    # --- without it -------------------------------------------------------------------------------------------------

    def _load(self, row: int, what: str, *, keep: bool) -> Bytes:
        data = None
        try:
            data = self._store.read(row, what, keep=False)
            return data
        finally:
            if keep:
                with self._changed:
                    self._under_way.discard(row)
                    if data is not None and self._uses.next(row) != _NEVER:
                        self._held[row] = data
                    else:
                        self._bytes -= int(self._sizes[row])
                    self._changed.notify_all()


class _Uses:
    """When each content is needed, as numbers of steps; iterating gives every use in order."""

    def __init__(self, contents: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], n_contents: int) -> None:
        self._contents, self._positions = contents.tolist(), positions.tolist()
        self._passed = 0
        by_content = np.argsort(contents, kind="stable")
        ends = np.cumsum(np.bincount(contents, minlength=n_contents))
        self._when = positions[by_content].tolist()  # those of content 0, of content 1, ...
        self._end = ends.tolist()
        self._at = [0, *self._end[:-1]]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._contents, self._positions, strict=True)

    def next(self, row: int) -> int:
        """The step that needs it next, of those not passed."""
        at = self._at[row]
        return self._when[at] if at < self._end[row] else _NEVER

    def advance(self, position: int) -> Iterator[int]:
        """Move past ``position``; those that no later step needs."""
        while self._passed < len(self._positions) and self._positions[self._passed] <= position:
            row = self._contents[self._passed]
            self._passed += 1
            self._at[row] += 1
            if self._at[row] == self._end[row]:
                yield row


def _series(
    snapshot: Snapshot, steps: Sequence[RecordedStep], roles: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of contents, and for each the place of its step in the series, in the order of use."""
    index = snapshot.index
    rows = np.array([step.row for step in steps], np.int64)
    table = index.steps[rows]
    counts = np.where(table["status"] == COMPLETE, table["n_operands"], 0).astype(np.int64)
    positions = np.repeat(np.arange(len(rows)), counts)
    starts = np.cumsum(counts) - counts
    first = table["first_operand"].astype(np.int64) - starts
    operands = index.operands[first[positions] + np.arange(len(positions))]
    wanted = np.isin(operands["role"], roles) & (operands["content"] != NO_CONTENT)
    contents = operands["content"][wanted].astype(np.int64)
    present = np.zeros(len(index.contents), np.bool_)
    present[[row for row in np.unique(contents).tolist() if snapshot.store.kept(row)]] = True
    kept = present[contents]
    return contents[kept], positions[wanted][kept]
