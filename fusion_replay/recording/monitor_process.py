# SPDX-License-Identifier: Apache-2.0
"""The process that tells of slow and hung steps of a recorded program; the step timer starts it as a script.

A process, because the kernel's wait may keep Python's lock: pyxrt's ``run.wait`` does (Xilinx/XRT
``src/python/pybind11/src/pyxrt.cpp``, d269eb9e656ce3670b54a2ecc4e3a812f9192e34), and no thread of the program can speak
or act then. It imports the standard library alone, reads the program's steps from shared memory, and ends with the
program (its pidfd), with the recording, or where the program becomes another by ``exec`` (the pipe's other end closes).

Tested in tests/recording/test_step_timer.py.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import struct
import sys
from collections.abc import Callable
from time import monotonic

SLOTS = 64
"""Steps that run at once, one per thread; further threads are not watched."""
LABEL = 112
SLOT = struct.Struct(f"={LABEL}sdd")
"""Label (UTF-8, cut or padded), median of its like in seconds (NaN: the first), start on the monotonic clock (0: none
runs). The start comes last: who finds it finds the rest."""
STARTED = struct.Struct("=d")
STARTED_AT = SLOT.size - STARTED.size
_FAR = 100.0  # times the median is far longer, below --step-timeout and above slow_after


class Monitor:
    """Looks at the slots each time it is asked to.

    Args:
        memory: ``SLOTS`` slots.
        send: sends a signal to the program.
        tell: takes a line.
        slow_after, step_timeout: seconds; 0 for never.
        grace: seconds between one signal and the next.
        safe_in: where the inputs are.
    """

    def __init__(
        self,
        memory: mmap.mmap | bytearray,
        send: Callable[[signal.Signals], object],
        tell: Callable[[str], object],
        slow_after: float,
        step_timeout: float,
        grace: float,
        safe_in: str,
    ) -> None:
        self._memory, self._send, self._tell = memory, send, tell
        self._slow_after, self._timeout, self._grace, self._safe_in = slow_after, step_timeout, grace, safe_in
        self._told: dict[int, float] = {}  # slot -> start of the step that was told
        self._signalled: dict[int, tuple[float, float, int]] = {}  # slot -> its step, when, how many signals

    def look(self, now: float) -> None:
        for slot in range(SLOTS):
            label, median, started = SLOT.unpack_from(self._memory, slot * SLOT.size)
            if started:
                self._judge(slot, label.rstrip(b"\0").decode("utf-8", "replace"), median, started, now)

    def _judge(self, slot: int, label: str, median: float, started: float, now: float) -> None:
        seconds = now - started
        if self._timeout and seconds >= self._timeout:
            self._give_up(slot, label, started, now)
        elif self._slow_after and seconds >= self._slow_after and self._told.get(slot) != started:
            first = median != median
            if first or seconds >= _FAR * median:
                self._told[slot] = started
                beside = "the first of its kind" if first else f"median {duration(median)}"
                self._tell(f"{label} has run {duration(seconds)} ({beside}); {self._safe}; Ctrl-C is safe")

    def _give_up(self, slot: int, label: str, started: float, now: float) -> None:
        step, when, count = self._signalled.get(slot, (started, now, 0))
        if step != started:
            when, count = now, 0
        if count and now - when < self._grace:
            return
        if count == 0:
            ran, limit = duration(now - started), duration(self._timeout)
            self._tell(
                f"{label} has run {ran}, longer than the step timeout of {limit}; {self._safe}; stopping the program"
            )
        else:
            self._tell(f"{label} can't be interrupted; ending the process")
        self._signalled[slot] = started, now, count + 1
        self._send((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[min(count, 2)])

    @property
    def _safe(self) -> str:
        return f"its inputs are safe in {self._safe_in}"


def duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms"


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"fusion-replay: {line}\n".encode("utf-8", "replace"))


def main(words: list[str]) -> None:
    """``words``: descriptors of the shared memory, the pipe and the program; three times in seconds; where is safe."""
    shared, pipe, program = (int(word) for word in words[:3])
    slow_after, step_timeout, grace = (float(word) for word in words[3:6])
    monitor = Monitor(
        mmap.mmap(shared, SLOTS * SLOT.size, prot=mmap.PROT_READ),
        lambda number: signal.pidfd_send_signal(program, number),
        _tell,
        slow_after,
        step_timeout,
        grace,
        words[6],
    )
    over = select.poll()
    over.register(pipe, select.POLLIN)
    over.register(program, select.POLLIN)
    period = min(1.0, *(t / 4 for t in (slow_after, step_timeout, grace) if t))
    while not over.poll(max(1.0, period * 1e3)):
        with contextlib.suppress(ProcessLookupError):
            monitor.look(monotonic())


if __name__ == "__main__":
    main(sys.argv[1:])
