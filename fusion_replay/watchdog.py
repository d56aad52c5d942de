# SPDX-License-Identifier: Apache-2.0
"""Says so while a step runs far longer than its like: whoever waits for a hung kernel learns which one it is.

A thread of its own looks at the clock; the dispatching thread only notes when a step begins and ends. It can speak
where the kernel's wait gives up Python's lock. pyxrt's ``run.wait`` keeps it (Xilinx/XRT
``src/python/pybind11/src/pyxrt.cpp``, d269eb9e656ce3670b54a2ecc4e3a812f9192e34): nothing is told there until the driver
gives the command up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_replay.sources.protocol import LiveStep, StepResult
from fusion_replay.telling import say
from fusion_replay.watch import Watch

if TYPE_CHECKING:
    from fusion_replay.record import Recorder

_LIKE = 64  # durations remembered per operator type of a sequence
_FAR = 100.0  # times the median is far longer, below --step-timeout and above slow_after
_GRACE = 5.0  # seconds for a KeyboardInterrupt to arrive before the process is ended


@dataclass(slots=True)
class _Running:
    label: Callable[[], str]
    like: deque[float]
    started: float
    told: bool = False
    interrupted: float | None = None
    ended: bool = False


class Watchdog:
    """Watches one step at a time per thread that dispatches.

    Args:
        slow_after: seconds below which no step is worth a line; 0 never says anything.
        step_timeout: seconds after which the program is interrupted (KeyboardInterrupt in the main thread) and, where
            that has not helped after 5 s, ended by SIGTERM, then SIGKILL; None never.
        safe_in: where the inputs of the step in flight are, for the message.
    """

    def __init__(self, slow_after: float, step_timeout: float | None, safe_in: str) -> None:
        self._slow_after, self._timeout, self._safe_in = slow_after, step_timeout, safe_in
        self._running: dict[int, _Running] = {}
        self._durations: dict[str, deque[float]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._period = min([1.0, *(t / 4 for t in (slow_after, step_timeout) if t)])

    @property
    def active(self) -> bool:
        return bool(self._slow_after or self._timeout)

    def began(self, kind: str, label: Callable[[], str]) -> None:
        """A step is about to run in this thread; ``kind`` names its like, ``label`` is asked for when it is slow."""
        if not self.active:
            return
        like = self._durations.setdefault(kind, deque(maxlen=_LIKE))
        self._running[threading.get_ident()] = _Running(label, like, time.monotonic())
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="fusion-replay watchdog", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                self._thread.start()

    def ended(self, *, came_back: bool) -> None:
        running = self._running.pop(threading.get_ident(), None)
        if running is not None and came_back:
            running.like.append(time.monotonic() - running.started)

    def close(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(self._period):
            for running in list(self._running.values()):
                with contextlib.suppress(Exception):
                    self._look(running, time.monotonic() - running.started)

    def _look(self, running: _Running, seconds: float) -> None:
        if self._timeout is not None and seconds >= self._timeout:
            self._give_up(running, seconds)
        elif self._slow_after and not running.told and seconds >= self._slow_after:
            median = statistics.median(running.like) if running.like else None
            if median is None or seconds >= _FAR * median:
                running.told = True
                beside = "the first of its kind" if median is None else f"median {_duration(median)}"
                say(
                    f"{running.label()} has run {_duration(seconds)} ({beside}); its inputs are safe in "
                    f"{self._safe_in}; Ctrl-C is safe"
                )

    def _give_up(self, running: _Running, seconds: float) -> None:
        if running.interrupted is None:
            running.interrupted = time.monotonic()
            say(
                f"{running.label()} has run {_duration(seconds)}, longer than the step timeout of "
                f"{_duration(self._timeout or 0)}; its inputs are safe in {self._safe_in}; stopping the program"
            )
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        elif time.monotonic() - running.interrupted >= _GRACE:
            say(f"{running.label()} can't be interrupted; ending the process")
            os.kill(os.getpid(), signal.SIGKILL if running.ended else signal.SIGTERM)
            running.interrupted, running.ended = time.monotonic(), True


class TimedWatch(Watch):
    """A :class:`~fusion_replay.watch.Watch` whose steps the watchdog knows of."""

    def __init__(self, recorder: Recorder, watchdog: Watchdog) -> None:
        super().__init__(recorder)
        self._watchdog = watchdog

    def before(self, step: LiveStep) -> None:
        super().before(step)
        self._watchdog.began(self._kind(step), lambda: self._words(step).removeprefix("step "))

    def after(self, step: LiveStep, result: StepResult) -> None:
        self._watchdog.ended(came_back=True)
        super().after(step, result)

    def failed(self, step: LiveStep, error: BaseException) -> None:
        self._watchdog.ended(came_back=False)
        super().failed(step, error)

    def _kind(self, step: LiveStep) -> str:
        described = self._description
        return "" if described is None else described.operator_of(step.description.index).type


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms"


__all__ = ["TimedWatch", "Watchdog"]
