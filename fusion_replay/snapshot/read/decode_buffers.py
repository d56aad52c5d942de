# SPDX-License-Identifier: Apache-2.0
"""Memory for decoded contents that is used again: pages fresh from the kernel can cost as much as decoding into them.

A block goes back when the last array that shows any part of it is gone, never before: the arrays handed out stand on a
*lease*, which numpy keeps alive for every view of them, and no array that is still in use
can be overwritten.

They are worth their lines where contents are large: a replay of two layers as wide as Llama 3.2 1B's (492 MiB) took
1.25 s of CPU with them and 1.35 s with fresh memory (least of five: 0.89 and 1.10), on two busy cores; of a recording
of 30 MiB 0.67 and 0.63.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

_FROM = 1 << 16  # bytes; smaller ones malloc has at hand
_ROUNDED = 1 << 12


class Buffers:
    """Uninitialised arrays, as ``np.empty`` makes them; safe to use from several threads.

    Args:
        limit: bytes of unused memory kept for the next ones, at most. Sizes that came and went longest ago go first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unused = 0
        self._blocks: dict[int, list[Bytes]] = {}  # by size, the one that was in use last stands last
        self._lock = threading.Lock()

    @property
    def unused(self) -> int:
        """Bytes kept."""
        return self._unused

    def empty(self, nbytes: int) -> Bytes:
        """``nbytes`` bytes of memory that no other array shows."""
        if nbytes < _FROM:
            return np.empty(nbytes, np.uint8)
        size = _rounded(nbytes)
        with self._lock:
            block = self._pop(size) if size in self._blocks else None
            if block is None and size > self._unused:
                self._shrink(0)  # all of it is less than this one, which can have its pages from the kernel
        return np.asarray(_Lease(np.empty(size, np.uint8) if block is None else block, nbytes, self))

    def keep(self, limit: int, *, wanted: int = 0) -> None:
        """From now on this much; and, if there is one, a block for ``wanted`` bytes, which will be asked for next."""
        size = _rounded(wanted)
        with self._lock:
            self._limit = limit
            if size in self._blocks:
                self._blocks[size] = self._blocks.pop(size)  # the last one to go
                limit += size
            self._shrink(limit)

    def give_back(self, block: Bytes) -> None:
        """Called wherever an array happens to die, under this very lock too: what can't be kept at once is freed."""
        if self._lock.acquire(blocking=False):
            try:
                if block.size <= self._limit:
                    self._shrink(self._limit - block.size)
                    self._blocks[block.size] = [*self._blocks.pop(block.size, ()), block]
                    self._unused += block.size
            finally:
                self._lock.release()

    def _shrink(self, limit: int) -> None:
        while self._unused > limit:
            self._pop(next(iter(self._blocks)))

    def _pop(self, size: int) -> Bytes:
        blocks = self._blocks[size]
        block = blocks.pop()
        if not blocks:
            del self._blocks[size]
        self._unused -= size
        return block


def _rounded(nbytes: int) -> int:
    return -(-nbytes // _ROUNDED) * _ROUNDED


class _Lease:
    """What an array handed out stands on (its ``base``); its end is the end of every view.

    numpy shortens chains of views to the array below them all, but stops at what is no array.
    """

    def __init__(self, block: Bytes, nbytes: int, home: Buffers) -> None:
        self.__array_interface__: dict[str, Any] = block[:nbytes].__array_interface__
        self._block = block
        self._home = home

    def __del__(self) -> None:
        self._home.give_back(self._block)
