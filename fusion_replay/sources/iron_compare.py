# SPDX-License-Identifier: Apache-2.0
"""IRON's own statistics of a compare-mode callable, step by step, the failing one included.

``last_step_stats`` (amd/IRON iron/common/sequence.py, ``SequenceCompareCallable``) gets a step's entry after its kernel
has come back, and not at all where the step raises: there the log record, written just before, has the same numbers.
Since September 2026 (iron/common/image/callable.py, ``StepCallable``) there is no list, and one record per output at
level INFO. Records are only looked at; none is added, and none that was off is let through.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

_PREFIX = "[compare step %d] %s -> %s: max_abs=%.4g"
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
        self._logger: logging.Logger | None = None
        self._level = logging.NOTSET  # the logger's own, to be restored; below _threshold nothing is let through
        self._threshold = logging.NOTSET

    def start(self) -> None:
        has_list = hasattr(self._callable, "last_step_stats")
        if not (has_list or getattr(self._callable, "compare", False) is True):
            return
        found = getattr(sys.modules.get(type(self._callable).__module__), "logger", None)
        if not isinstance(found, logging.Logger):
            return
        self._logger, self._level, self._threshold = found, found.level, found.getEffectiveLevel()
        found.addFilter(self._see)
        if not has_list and self._threshold > logging.INFO:
            found.setLevel(logging.INFO)

    def stop(self) -> None:
        self.flush()
        if self._logger is not None:
            self._logger.removeFilter(self._see)
            self._logger.setLevel(self._level)
            self._logger = None

    def ran(self, step: int) -> None:
        """``step`` runs, and IRON compares it next. The list is replaced at every call: this one is kept."""
        self._step, self._stats = step, getattr(self._callable, "last_step_stats", None)

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

    def _see(self, record: logging.LogRecord) -> bool:
        """A filter: lets through what would have been logged without us."""
        with contextlib.suppress(Exception):
            args = record.args
            if isinstance(record.msg, str) and record.msg.startswith(_PREFIX) and isinstance(args, tuple):
                self._seen(record.levelno, args)
        return record.levelno >= self._threshold

    def _seen(self, level: int, args: tuple[Any, ...]) -> None:
        if args[0] != self._step:
            return
        if self._stats is None:  # one record per output and no list; more outputs of the step may follow
            self._tell(self._step, {str(args[2]): {"max_abs": float(args[3])}})
        elif level >= logging.WARNING:
            stats: Statistics = dict(zip(_KEYS, map(float, args[3:7]), strict=True))
            self._told({"output": str(args[2]), "skipped": False, **stats, "mismatch": True})


def _plain(entry: Mapping[str, Any]) -> Statistics:
    wanted = ("output", "skipped", *_KEYS, "mismatch")
    return {k: entry[k] for k in wanted if isinstance(entry.get(k), (bool, int, float, str))}


def is_mismatch(error: BaseException) -> bool:
    """Whether the step ran and IRON's compare then raised."""
    return isinstance(error, RuntimeError) and str(error).startswith("[compare step ")


__all__ = ["CompareListener", "is_mismatch"]
