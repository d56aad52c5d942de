# SPDX-License-Identifier: Apache-2.0
"""Reads ahead: a thread decodes the contents of the next steps of a known series; each stays until its last use.

While one step is judged, a thread reads what the next ones need: on two cores each has one. Both reading and zstd run
outside Python's lock. A step that needs what the thread is still decoding takes part. What no later step of the series
uses is dropped at once, and its memory serves what comes next; where the budget is full, what is needed furthest in the
future goes first, which no other choice beats (Belady, "A study of replacement algorithms for a virtual-storage
computer", 1966). The thread stays near: contents that are used once then need little memory, and the same pages all the
time.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import SnapshotError
from fusion_replay.snapshot.read.decode_buffers import Buffers
from fusion_replay.snapshot.schema import COMPLETE, NO_CONTENT

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot
    from fusion_replay.snapshot.read.decoding import Decoding

Bytes = npt.NDArray[np.uint8]

_NEVER = 1 << 62
_MINE, _OTHERS = "mine", "others"  # whose it is to read a content
_AHEAD = "read ahead"  # the name, in messages, of a tensor that was not asked for yet
_BASES = 8  # 1/8 of the budget is the store's, for contents that others are made of (versions of a cache)
_NEAR = 16  # the thread is ahead by 1/16 of the budget, and the content it is at
_ROOM = 16  # where something must go, a share of the budget goes: 1/16, so that choosing it stays cheap


class ReadAhead:
    """The source of the contents of ``steps`` while they are judged in their order; a context manager.

    Args:
        roles: of the operands that judging reads (:data:`fusion_replay.snapshot.schema.INPUT` and the like).
        budget: bytes of decoded contents held, and of memory for the next ones, at most. Contents of the largest step
            come on top where they don't fit.
    """

    def __init__(self, snapshot: Snapshot, steps: Sequence[RecordedStep], roles: Iterable[int], budget: int) -> None:
        self._sizes = snapshot.index.contents["nbytes"]
        contents, positions = _series(snapshot, steps, tuple(roles))
        self._uses = _Uses(contents, positions, len(snapshot.index.contents))
        self._budget = budget - budget // _BASES
        self._near = budget // _NEAR
        largest = int(np.bincount(positions, self._sizes[contents]).max(initial=0))
        if largest > self._budget:  # judging has it in its hands anyway; so it is decoded once, beside earlier steps
            self._budget += largest
        self._buffers = Buffers(self._budget)
        self._store = snapshot.store.apart(lambda row: self._held.get(row), budget // _BASES, self._buffers.empty)
        self._held: dict[int, Bytes] = {}
        self._bytes = 0  # held, and under way into it
        self._under_way: dict[int, Decoding | None] = {}
        self._ahead: deque[tuple[int, int]] = deque()  # step and bytes of what the thread read, until its turn comes
        self._ahead_bytes = 0
        self._done = -1  # the last step of the series that was judged
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read_ahead, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        with contextlib.suppress(RuntimeError):  # no more threads: each content is read when it is asked for
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._held.clear()
        self._buffers.keep(0)

    @property
    def rows(self) -> frozenset[int]:
        """Of the contents that are held at the moment."""
        with self._changed:
            return frozenset(self._held)

    @property
    def nbytes(self) -> int:
        """Of the contents held or under way, and of the memory for the next ones."""
        with self._changed:
            return self._bytes + self._buffers.unused

    def kept(self, row: int) -> bool:
        return self._store.kept(row)

    def absent(self, row: int) -> str:
        return self._store.absent(row)

    def read(self, row: int, what: str) -> Bytes:
        """As :meth:`fusion_replay.snapshot.read.store.ContentStore.read`."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way.get(row, True) is not None)
            held = self._held.get(row)
            if held is not None:
                return held
            shared = self._under_way.get(row)
            keep = shared is None and self._reserve(row, self._done + 1, what)
        return self._load(row, what) if keep else self._fetch(row, shared, what)

    def done(self, position: int) -> None:
        """Step number ``position`` of the series is judged, and so are those before it."""
        with self._changed:
            self._done = position
            for row in self._uses.advance(position):
                self._drop(row)
            while self._ahead and self._ahead[0][0] <= position + 1:
                self._ahead_bytes -= self._ahead.popleft()[1]
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
                self._load(row, _AHEAD)
            except Exception:  # judging the step reads it again, and gets the error with the tensor's name
                continue

    def _turn(self, row: int, position: int) -> str:
        """Whether this use is the thread's to read, its place reserved; nothing where there is no room yet."""
        if self._closed or self._done >= position or row in self._held or row in self._under_way:
            return _OTHERS
        if (self._ahead and self._ahead_bytes >= self._near) or not self._reserve(row, position, _AHEAD):
            return ""
        if position > self._done + 1:
            size = int(self._sizes[row])
            self._ahead.append((position, size))
            self._ahead_bytes += size
        return _MINE

    # --- all under the lock -----------------------------------------------------------------------------------------

    def _reserve(self, row: int, use: int, what: str) -> bool:
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
        self._buffers.keep(self._budget - self._bytes, wanted=size)
        self._under_way[row] = self._store.begin(row, what)
        return True

    def _drop(self, row: int) -> None:
        if row in self._held:
            self._bytes -= int(self._sizes[row])
            self._buffers.keep(self._budget - self._bytes)
            del self._held[row]

    # --- without it -------------------------------------------------------------------------------------------------

    def _load(self, row: int, what: str) -> Bytes:
        """What was reserved."""
        data = None
        try:
            data = self._fetch(row, self._under_way[row], what)
            return data
        finally:
            with self._changed:
                del self._under_way[row]
                if data is not None and self._uses.next(row) != _NEVER:
                    self._held[row] = data
                else:
                    self._bytes -= int(self._sizes[row])
                self._buffers.keep(self._budget - self._bytes)
                self._changed.notify_all()

    def _fetch(self, row: int, shared: Decoding | None, what: str) -> Bytes:
        if shared is not None:
            try:
                return self._store.finish(row, shared, what)
            except SnapshotError:  # alone it is read where it lies now, or refused by this name
                pass
        return self._store.read(row, what, keep=False)


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
