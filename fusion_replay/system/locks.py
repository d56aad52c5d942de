# SPDX-License-Identifier: Apache-2.0
"""Locks that a forked child finds free, whichever thread of its parent held them."""

from __future__ import annotations

import threading
from weakref import WeakSet

from fusion_replay.system import platform


class Locked:
    """What has a lock, ``_lock``, that several threads of a recorded program may take.

    A child has none of its parent's threads but the one that forked. What another of them held at that moment would be
    held for ever in there, and the program would stand still: the child gets a new one. (Not a lock that looks whose
    process it is in when it is taken: an interrupt between having it and saying so would leave it taken.)
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _ALL.add(self)


_ALL: WeakSet[Locked] = WeakSet()


def _renew() -> None:
    for owner in list(_ALL):
        owner._lock = threading.RLock()


platform.after_fork_in_child(_renew)

__all__ = ["Locked"]
