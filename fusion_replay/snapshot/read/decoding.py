# SPDX-License-Identifier: Apache-2.0
"""Decodes one content piece by piece with several threads: each that needs it takes part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

Bytes = npt.NDArray[np.uint8]


class Decoding:
    """Pieces of a content, each taken by one thread; the digest follows in their order, while they are in a cache.

    Args:
        spans: first byte and end of every piece, one after the other.
        empty: makes the array; not before there is work.
        fill: puts the piece of that number into its part of the array.
    """

    def __init__(
        self, spans: Sequence[tuple[int, int]], empty: Callable[[], Bytes], fill: Callable[[int, Bytes], None]
    ) -> None:
        self._spans, self._empty, self._fill = spans, empty, fill
        self._out: Bytes | None = None
        self._taken = 0  # pieces that some thread has begun
        self._finished: set[int] = set()  # and filled, but for those that the digest has
        self._digested = 0  # pieces
        self._digesting = False
        self._digest = xxhash.xxh3_128()
        self._error: Exception | None = None
        self._changed = threading.Condition(threading.Lock())

    def result(self) -> tuple[Bytes, bytes]:
        """The content and its digest, once every piece is there.

        Raises:
            what ``fill`` raised, in whichever thread.
        """
        self.work()
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._digested == len(self._spans))
            if self._error is not None:
                raise self._error
            assert self._out is not None
            return self._out, self._digest.digest()

    def work(self) -> None:
        """Take pieces until none is left."""
        try:
            while (taken := self._take()) is not None:
                number, out = taken
                start, stop = self._spans[number]
                self._fill(number, out[start:stop])
                self._follow(number, out)
        except BaseException as error:  # an interrupt too: others must not wait for a piece that will never come
            with self._changed:
                if self._error is None:
                    self._error = error if isinstance(error, Exception) else RuntimeError("interrupted")
                self._taken = len(self._spans)
                self._changed.notify_all()
            if not isinstance(error, Exception):
                raise

    def _take(self) -> tuple[int, Bytes] | None:
        with self._changed:
            if self._out is None:
                self._out = self._empty()
            if self._taken == len(self._spans):
                return None
            self._taken += 1
            return self._taken - 1, self._out

    def _follow(self, number: int, out: Bytes) -> None:
        """The digest over what is now finished without a gap; where another thread is at it, that one goes on."""
        with self._changed:
            self._finished.add(number)
            if self._digesting:
                return
            self._digesting = True
        while True:
            with self._changed:
                if self._digested not in self._finished:
                    self._digesting = False
                    return
            start, stop = self._spans[self._digested]
            self._digest.update(out[start:stop].data)
            with self._changed:
                self._digested += 1
                if self._digested == len(self._spans):
                    self._changed.notify_all()
