# SPDX-License-Identifier: Apache-2.0
"""Counts the bytes that a recording keeps while it runs: for ``max_bytes``, and for the estimate after the first call.

Tested in tests/snapshot/write/test_hold.py and tests/recording/test_retention.py.
"""

from __future__ import annotations

from fusion_replay.system.locks import Locked


class _Share:
    """Bytes of one kind of content: kept in all; handed to the compression, and in and out of it so far."""

    __slots__ = ("given", "kept", "raw", "stored")

    def __init__(self) -> None:
        self.kept = self.given = self.raw = self.stored = 0

    def on_disk(self) -> int:
        """As far as it is compressed already; what waits is taken to come out at the same ratio."""
        waiting = self.given - self.raw
        return self.kept - self.given + self.stored + (waiting * self.stored // self.raw if self.raw else waiting)


class Volume(Locked):
    """Bytes kept, apart by whether they were there before the call or were made in it.

    The threads that compress report their sizes here, until :meth:`on_disk` is asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self._outside, self._made = _Share(), _Share()
        self._measured: dict[int, _Share] | None = {}

    def keep(self, content: int, nbytes: int, *, outside: bool, spilled: bool) -> None:
        """These bytes are kept; ``spilled``: they will be compressed."""
        with self._lock:
            share = self._outside if outside else self._made
            share.kept += nbytes
            if spilled and self._measured is not None:
                share.given += nbytes
                self._measured[content] = share

    def compressed(self, content: int, nbytes: int, size: int) -> None:
        """So many bytes of a content became ``size``."""
        with self._lock:
            share = None if self._measured is None else self._measured.get(content)
            if share is not None:
                share.raw += nbytes
                share.stored += size

    @property
    def kept(self) -> int:
        """Before compression."""
        with self._lock:
            return self._outside.kept + self._made.kept

    def on_disk(self) -> tuple[int, int]:
        """After compression: what was there before, what was made. Asked once: measuring ends with it."""
        with self._lock:
            self._measured = None
            return self._outside.on_disk(), self._made.on_disk()


__all__ = ["Volume"]
