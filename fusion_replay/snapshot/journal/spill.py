# SPDX-License-Identifier: Apache-2.0
"""The spill file: raw bytes of new contents in 1 MiB slots, which worker threads compress and free.

The recording thread writes new contents here with ``pwrite`` and goes on; nothing waits in process memory. A slot is
used again once its compressed chunk is kept. Stores into a memory map would be as fast, but a full disk
turns them into SIGBUS, which kills the run that is being watched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.snapshot.encodings.chunks import Encoder, Way
from fusion_replay.snapshot.journal.pages import write_whole
from fusion_replay.snapshot.schema import MAX_PIECE
from fusion_replay.system import platform
from fusion_replay.system.descriptors import OwnDescriptor

SLOT = MAX_PIECE
RESERVE = 1 << 16  # bytes held back behind the last slot, so that a recording on a full disk can still say what it lost


@dataclass(frozen=True, slots=True)
class Task:
    """One piece waiting in its slot."""

    content: int
    piece: int
    slot: int
    nbytes: int
    piece_bytes: int
    itemsize: int
    kind: Any


class Spill:
    """``sink(task, chunk, mask)`` is called from a worker thread with each compressed piece; an OSError it raises
    leaves the piece in its slot, where a reader and the seal find it."""

    def __init__(self, path: Path, sink: Callable[[Task, bytes, int], None], *, threads: int, slots: int) -> None:
        self.path = path
        self._own = OwnDescriptor(os.open(path, platform.UPDATE | os.O_CREAT | os.O_TRUNC, 0o666), path)
        self.error: Exception | None = None
        self._sink = sink
        self._limit = slots
        self._reserved = self._reserve()
        self._used = 0
        self._held = 0  # slots that wait for a verdict, not for compression: they don't count for the limit
        self._free: list[int] = []
        self._tasks: deque[Task] = deque()
        self._running = 0
        self._alive = 0
        self._closed = False
        self._change = threading.Condition()
        self._ways: dict[Any, Way] = {}
        self._wanted = threads
        self._threads: list[threading.Thread] = []
        self._emptying: threading.Thread | None = None

    def put(self, task_of: Callable[[int], Task], piece: npt.NDArray[np.uint8]) -> int:
        """Write ``piece`` into a slot, queue its task, return the slot; waits while every slot is in use.

        Raises:
            OSError: the disk is full; the slot is free again.
        """
        slot = self._write(piece)
        with self._change:
            self._queue(task_of(slot))
        return slot

    def hold(self, piece: npt.NDArray[np.uint8]) -> int:
        """Write ``piece`` into a slot and leave it there, until :meth:`queue` or :meth:`free` says what becomes of it.

        Raises:
            OSError: as :meth:`put`.
        """
        slot = self._write(piece)
        with self._change:
            self._held += 1
        return slot

    def queue(self, tasks: Iterable[Task]) -> None:
        """Compress what was held."""
        with self._change:
            for task in tasks:
                self._held -= 1
                self._queue(task)

    def free(self, slots: Collection[int]) -> None:
        """Free the slots of what was held; the journal must not refer to them any more."""
        with self._change:
            self._held -= len(slots)
            self._free.extend(slots)
            self._change.notify_all()

    def _write(self, piece: npt.NDArray[np.uint8]) -> int:
        slot = self._take()
        try:
            write_whole(self._own.fd, piece.data, slot * SLOT)
        except BaseException:
            with self._change:
                self._free.append(slot)
            raise
        return slot

    def _queue(self, task: Task) -> None:
        self._tasks.append(task)
        if len(self._threads) < self._wanted and len(self._tasks) > len(self._threads) - self._running:
            self._start_worker()
        self._change.notify_all()

    def _reserve(self) -> bool:
        try:
            platform.reserve(self._own.fd, self._limit * SLOT, RESERVE)
        except OSError:  # no room, a limit on file sizes, another system: there is nothing to hold back then
            os.ftruncate(self._own.fd, 0)
            return False
        return True

    def release_reserve(self) -> bool:
        """Give up the space that was held back, for the next write; False where there is none (any more)."""
        if not self._reserved or self._used > self._limit:  # slots lie there
            return False
        self._reserved = False
        return self._cut(self._limit * SLOT)

    def drain(self) -> None:
        """Wait until every queued piece is compressed, or stuck in its slot for want of space."""
        compressor: _Compressor | None = None
        while self._tasks:  # this thread has nothing else to do: it takes part
            compressor = compressor or _Compressor(self._ways)
            with self._change:
                if not self._tasks:
                    break
                task = self._tasks.popleft()
                self._running += 1
            self._empty(task, compressor)
        with self._change:
            while self._progresses():
                self._change.wait()

    def let_go(self) -> None:
        """Give the disk its space back, beside what comes next: after :meth:`drain`, when nothing will be put any more.

        Where a piece is stuck in its slot everything stays. Freeing memory takes the kernel as long as a third of
        writing to it.
        """
        with self._change:
            if len(self._free) == self._used:
                thread = threading.Thread(target=self._cut, args=(0,), name="fusion-replay-free")
                with contextlib.suppress(RuntimeError):  # no more threads: it goes when the file does
                    thread.start()
                    self._emptying = thread

    def _cut(self, length: int) -> bool:
        try:
            os.ftruncate(self._own.fd, length)
        except OSError:  # not ours any more: it goes when the file does
            return False
        return True

    def close(self) -> None:
        """Stop the workers (after the piece each has in hand) and close the file, which stays."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in [*self._threads, *([self._emptying] if self._emptying else [])]:
            thread.join()
        self._own.close()

    def _take(self) -> int:
        with self._change:
            while True:
                if self._free:
                    return self._free.pop()
                if self._used - self._held < self._limit:
                    self._used += 1
                    return self._used - 1
                if not self._progresses():
                    # No thread will free a slot any more: waiting would be for ever.
                    raise OSError(errno.ENOSPC, "no room left to compress into", str(self.path))
                self._change.wait()

    def _start_worker(self) -> None:
        thread = threading.Thread(target=self._work, name="fusion-replay-compress", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: the pieces stay raw, and sealing compresses them
            self.error = error
            return
        self._threads.append(thread)
        self._alive += 1

    def _progresses(self) -> bool:
        """Whether some worker will still take a piece out of its slot."""
        return bool(self._running or (self._tasks and self._alive))

    def _work(self) -> None:
        try:
            self._compress()
        finally:
            with self._change:
                self._alive -= 1
                self._change.notify_all()

    def _compress(self) -> None:
        compressor = _Compressor(self._ways)
        while True:
            with self._change:
                while not self._tasks and not self._closed:
                    self._change.wait()
                if self._closed:
                    return
                task = self._tasks.popleft()
                self._running += 1
            self._empty(task, compressor)

    def _empty(self, task: Task, compressor: _Compressor) -> None:
        """Compress one piece and free its slot."""
        freed = False
        try:
            raw = compressor.buffer[: task.nbytes]
            if platform.read_into(self._own.fd, raw.data, task.slot * SLOT) != task.nbytes:
                raise OSError(errno.EIO, "the spill file is shorter than what was written to it")
            chunk, mask = compressor.encoder.encode(raw, task.piece_bytes, task.itemsize, task.kind)
            self._sink(task, chunk, mask)
            freed = True
        except Exception as error:  # whatever it is, the raw bytes stay where they are
            self.error = error
        finally:  # after an interrupt too, or draining again would wait for ever
            with self._change:
                self._running -= 1
                if freed:
                    self._free.append(task.slot)
                self._change.notify_all()


class _Compressor:
    """The encoder and the buffer of one thread; fresh pages for every piece would cost as much as reading it."""

    def __init__(self, ways: dict[Any, Way]) -> None:
        self.encoder = Encoder(ways)
        self.buffer = np.empty(SLOT, np.uint8)
