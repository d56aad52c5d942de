# SPDX-License-Identifier: Apache-2.0
"""What the threads of this process are doing at this moment."""

from __future__ import annotations

import gc
import sys
from types import FrameType

from fusion_replay.system.locks import Locked


class _One(Locked):
    """One at a time: while one asks, the collector is off."""

    def frames(self) -> dict[int, FrameType]:
        with self._lock:
            was = gc.isenabled()
            gc.disable()
            try:
                return sys._current_frames()
            finally:
                if was:
                    gc.enable()


_one = _One()


def current_frames() -> dict[int, FrameType]:
    """As ``sys._current_frames``: the innermost frame of each thread, by its identifier.

    CPython 3.11 holds the lock of its list of threads meanwhile, and a collection that begins in there may run Python
    code and let go of the interpreter: a thread that starts or ends then waits for that lock with the interpreter in
    its hands, and both stand still. So nothing is collected meanwhile.
    """
    return _one.frames()


__all__ = ["current_frames"]
