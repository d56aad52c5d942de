# SPDX-License-Identifier: Apache-2.0
"""Our file descriptors inside a recorded program, which may close what it did not open and reuse the number."""

from __future__ import annotations

import contextlib
import errno
import os

from fusion_replay.system import platform

_MOST = 4096  # the kernel's table of descriptors grows with the highest one
_ROOM = 64


class OwnDescriptor:
    """A file that we opened. Each use looks first whether the number still leads to it.

    A program may close every number in a range (``os.closerange``, the start of a daemon); what it opens next gets the
    lowest free one. Ours is high up, where a descriptor comes only on request. What is left open: another thread
    that, between our look and the system call that follows, closes our number and gives it to a file of its own
    (``dup2``, ``F_DUPFD``).

    Takes ``fd`` over; ``path`` is for messages.
    """

    def __init__(self, fd: int, path: str | os.PathLike[str]) -> None:
        self._fd, self._path = platform.moved_high(fd, _MOST, _ROOM), path
        self._file = _identity(self._fd)
        self._lost = self._closed = False

    @property
    def fd(self) -> int:
        """The number, which is ours at this moment.

        Raises:
            OSError: EBADF: the program has closed it; once is for good.
        """
        if not self._lost:
            try:
                if _identity(self._fd) == self._file:
                    return self._fd
            except OSError:
                pass
            self._lost = True
        raise OSError(errno.EBADF, "the program closed the recorder's descriptor of", str(self._path))

    def close(self) -> None:
        """Safe to call twice; what is not ours any more is left alone."""
        if not self._closed:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self._closed = self._lost = True


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


__all__ = ["OwnDescriptor"]
