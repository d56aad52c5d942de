# SPDX-License-Identifier: Apache-2.0
"""Tells on stderr, while it runs, which step takes far longer than others of its kind: perhaps a hung kernel.

The dispatching thread notes in shared memory when a step begins and ends, without a system call; a process beside the
program (``monitor_process``) looks at it, so that a kernel whose wait keeps Python's lock is told too.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import deque

from fusion_replay.recording import monitor_process
from fusion_replay.recording.monitor_process import LABEL, SLOT, SLOTS, STARTED, STARTED_AT
from fusion_replay.recording.option_declaration import PREFIX
from fusion_replay.system import platform
from fusion_replay.system.descriptors import OwnDescriptor
from fusion_replay.system.messages import in_words, say

_LIKE = 64  # durations remembered per operator type of a sequence
_AGAIN = 16  # durations after which the median is taken again
GRACE = 5.0  # seconds for a signal to be heeded before the next, harder one


class _Durations:
    """How long steps of one kind took."""

    __slots__ = ("_count", "_seconds", "median")

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_LIKE)
        self._count = 0
        self.median = math.nan

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._count += 1
        if self._count < _AGAIN or self._count % _AGAIN == 0:
            self.median = statistics.median(self._seconds)


class StepTimer:
    """Times one step at a time per thread that dispatches.

    Args:
        slow_after: seconds below which no step is worth a line; 0 never says anything.
        step_timeout: seconds after which the program is interrupted (SIGINT: a KeyboardInterrupt in the main thread)
            and, where that has not helped after 5 s, ended by SIGTERM, then SIGKILL; None never.
        safe_in: where the inputs of the step in flight are, for the message.
    """

    def __init__(self, slow_after: float, step_timeout: float | None, safe_in: str) -> None:
        self._slow_after, self._timeout, self._safe_in = slow_after, step_timeout, safe_in
        self.active = bool(slow_after or step_timeout)
        if self.active and (reason := platform.records_programs()):
            self.active = False
            if step_timeout:
                say(f"the step timeout is not kept: {reason}")
        self._pid = os.getpid()
        self._memory: ctypes.Array[ctypes.c_char] | None = None
        self._lifeline: OwnDescriptor | None = None
        self._free = list(range(SLOTS))
        self._running: dict[int, tuple[int, float, _Durations]] = {}  # by thread: slot, start, its like
        self._likes: dict[str, _Durations] = {}
        self._lock = threading.Lock()

    def began(self, kind: str, label: str) -> None:
        """A step is about to run in this thread; ``kind`` names its like, ``label`` is for the message."""
        if not self.active or os.getpid() != self._pid or not (self._memory is not None or self._start()):
            return
        self.ended(came_back=False)
        try:
            slot = self._free.pop()
        except IndexError:
            return
        like = self._likes.get(kind) or self._likes.setdefault(kind, _Durations())
        started = time.monotonic()
        self._running[threading.get_ident()] = slot, started, like
        assert self._memory is not None
        SLOT.pack_into(self._memory, slot * SLOT.size, label.encode("utf-8", "replace")[:LABEL], like.median, started)

    def ended(self, *, came_back: bool) -> None:
        running = self._running.pop(threading.get_ident(), None)
        if running is None or self._memory is None or os.getpid() != self._pid:
            return
        slot, started, like = running
        STARTED.pack_into(self._memory, slot * SLOT.size + STARTED_AT, 0.0)
        self._free.append(slot)
        if came_back:
            like.add(time.monotonic() - started)

    def close(self) -> None:
        """The monitor ends; steps that still run in other threads are not watched any more."""
        self.active = False
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            lifeline.close()

    def _start(self) -> bool:
        with self._lock:
            if self._memory is None and self.active:
                try:
                    self._memory = self._launch()
                except Exception as error:
                    self.active = False
                    say(f"steps that hang won't be told: {in_words(error)}")
            return self._memory is not None

    def _launch(self) -> ctypes.Array[ctypes.c_char]:
        """Start the monitor as no child of ours: a program that waits for all of its children must not wait for it."""
        with contextlib.ExitStack() as opened:
            fds = [os.memfd_create("fusion-replay steps"), os.pidfd_open(self._pid), *os.pipe()]
            shared, program, pipe, lifeline = fds
            for fd in fds[:3]:
                opened.callback(os.close, fd)
            failed = opened.enter_context(contextlib.ExitStack())
            failed.callback(os.close, lifeline)
            os.ftruncate(shared, SLOTS * SLOT.size)
            times = (self._slow_after, self._timeout or 0.0, GRACE)
            words = [str(word) for word in (shared, pipe, program, *times, self._safe_in)]
            subprocess.run(  # the shell ends at once and leaves the monitor to init, out of reach of Ctrl-C
                ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-I", "-S", monitor_process.__file__, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=fds[:3],
                env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
                start_new_session=True,
                check=True,
            )
            memory = _mapped(shared, SLOTS * SLOT.size)
            failed.pop_all()
            self._lifeline = OwnDescriptor(lifeline, "its monitor")
            return memory


def _mapped(fd: int, nbytes: int) -> ctypes.Array[ctypes.c_char]:
    """Shared memory that needs no descriptor: ``mmap.mmap`` keeps one and closes that number at the end,
    when the program may have closed it and opened another file under it.

    Stays mapped until the process ends: a step of another thread may note its end after the recording's.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = libc.mmap(None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return (ctypes.c_char * nbytes).from_address(address)


__all__ = ["StepTimer"]
