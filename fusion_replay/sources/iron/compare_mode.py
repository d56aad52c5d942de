# SPDX-License-Identifier: Apache-2.0
"""IRON's own statistics of a compare-mode callable, step by step, the failing one included.

``last_step_stats`` (amd/IRON iron/common/sequence.py, ``SequenceCompareCallable``) gets a step's entry after its kernel
has come back, and not at all where the step raises: there the log record, written just before, has the same numbers.
Since September 2026 (iron/common/image/callable.py, ``StepCallable``) there is no list, and one record per output at
level INFO; in its first form that has the four numbers in one text. Records are only looked at; none is added, and none
that was off is let through.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

_FORMS = ("[compare step %d] %s -> %s: max_abs=%.4g", "[compare step %d] %s -> %s: %s")
_FIGURE = re.compile(r"(\w+)=([^\s,;]+)")
_KEYS = ("max_abs", "mean_abs", "max_rel", "ref_max")

Statistics = dict[str, Any]
Tell = Callable[[int, Statistics], None]
"""Takes the step's number and IRON's own figures of it."""


class CompareListener:
    """Tells ``tell`` what IRON's compare mode found; inert for any other callable."""

    def __init__(self, callable_: Any, tell: Tell) -> None:
        self._callable, self._tell = callable_, tell
        self._step = -1  # the step that ran last, until its statistics have been told
        self._stats: list[Any] | None = None
        self._ear: _Ear | None = None

    def start(self) -> None:
        has_list = hasattr(self._callable, "last_step_stats")
        if not (has_list or getattr(self._callable, "compare", False) is True):
            return
        found = getattr(sys.modules.get(type(self._callable).__module__), "logger", None)
        if not isinstance(found, logging.Logger):
            return
        self._ear = _Ear.of(found, lower=not has_list)
        self._ear.listeners.append(self)

    def stop(self) -> None:
        self.flush()
        if self._ear is not None:
            self._ear.leave(self)
            self._ear = None

    def ran(self, step: int) -> None:
        """``step`` runs, and IRON compares it next. The list is replaced at every call: this one is kept."""
        self._step, self._stats = step, getattr(self._callable, "last_step_stats", None)
        if self._ear is not None:
            self._ear.running = self

    def flush(self) -> None:
        """Tell what the list says of the last step, if nothing was told yet."""
        if self._step >= 0 and isinstance(self._stats, list):
            with contextlib.suppress(Exception):
                for entry in reversed(self._stats):
                    if entry.get("step") == self._step:
                        self._told(_plain(entry))
                        break
        self._step, self._stats = -1, None

    def _told(self, stats: Statistics) -> None:
        step, self._step = self._step, -1
        self._tell(step, stats)

    def heard(self, level: int, args: tuple[Any, ...]) -> None:
        if args[0] != self._step:
            return
        if isinstance(args[3], str):
            found = dict(_FIGURE.findall(args[3]))
            if set(_KEYS) <= set(found):  # else it says why the step was not compared
                self._told({"output": str(args[2]), "skipped": False, **{k: float(found[k]) for k in _KEYS}})
        elif self._stats is None:  # one record per output and no list; more outputs of the step may follow
            self._tell(self._step, {str(args[2]): {"max_abs": float(args[3])}})
        elif level >= logging.WARNING:
            stats: Statistics = dict(zip(_KEYS, map(float, args[3:7]), strict=True))
            self._told({"output": str(args[2]), "skipped": False, **stats, "mismatch": True})


class _Ear:
    """A filter on one logger, shared by all listeners: looks at records, lets through what was on without it.

    Where IRON says what we want to know at INFO alone, the level is lowered to that meanwhile, and what this brings up
    stops here.
    """

    _by_logger: ClassVar[dict[str, _Ear]] = {}

    def __init__(self, logger: logging.Logger) -> None:
        self.listeners: list[CompareListener] = []
        self.running: CompareListener | None = None  # whose step ran last: the records are about that one
        self._logger = logger
        self._level, self._threshold = logger.level, logger.getEffectiveLevel()
        logger.addFilter(self._filter)

    @classmethod
    def of(cls, logger: logging.Logger, *, lower: bool) -> _Ear:
        ear = cls._by_logger.get(logger.name) or cls._by_logger.setdefault(logger.name, cls(logger))
        if lower and ear._threshold > logging.INFO:
            logger.setLevel(logging.INFO)
        return ear

    def leave(self, listener: CompareListener) -> None:
        self.listeners.remove(listener)
        if self.running is listener:
            self.running = None
        if not self.listeners:
            self._logger.removeFilter(self._filter)
            self._logger.setLevel(self._level)
            del self._by_logger[self._logger.name]

    def _filter(self, record: logging.LogRecord) -> bool:
        with contextlib.suppress(Exception):
            args = record.args
            if self.running is not None and isinstance(record.msg, str) and record.msg.startswith(_FORMS):
                self.running.heard(record.levelno, args if isinstance(args, tuple) else ())
        return record.levelno >= self._threshold


def _plain(entry: Mapping[str, Any]) -> Statistics:
    wanted = ("output", "skipped", *_KEYS, "mismatch")
    return {k: entry[k] for k in wanted if isinstance(entry.get(k), (bool, int, float, str))}


def is_mismatch(error: BaseException) -> bool:
    """Whether the step ran and IRON's compare then raised."""
    return isinstance(error, RuntimeError) and str(error).startswith("[compare step ")


__all__ = ["CompareListener", "is_mismatch"]
