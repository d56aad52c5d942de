# SPDX-License-Identifier: Apache-2.0
"""Figures of the user's own: computed of every comparison, shown wherever ours are, never a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import UsageError
from fusion_replay.model import declared

Function = Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]


@dataclass(frozen=True, slots=True)
class Metric:
    """``function`` takes actual and expected as float64 arrays of one shape; ``source`` says where it is declared."""

    name: str
    function: Function
    source: str


_METRICS: dict[str, Metric] = declared.table()


def metric(name: str) -> Callable[[Function], Function]:
    """Register the decorated function as a figure: ``f(actual, expected) -> float``, both float64 arrays of one shape.

    From then on it stands with ours in reports, ``--json``, tables and verdicts. It decides nothing.

    Raises:
        UsageError: a name that is none, or that is taken.
    """
    if not name.isidentifier():
        raise UsageError(f"metric {name!r}: expected a name of letters, digits and _")

    def register(function: Function) -> Function:
        source = f"{function.__module__}.{getattr(function, '__qualname__', name)}"
        if name in _METRICS and _METRICS[name].source != source:
            raise UsageError(f"metric {name!r}: {_METRICS[name].source} has that name; choose another one")
        _METRICS[name] = Metric(name, function, source)
        return function

    return register


def names() -> tuple[str, ...]:
    """Of all that are registered, in their order."""
    return tuple(_METRICS)


def measured(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> tuple[tuple[str, float], ...]:
    """(name, value) of each.

    Raises:
        UsageError: one of them raised, or gives no number.
    """
    if not _METRICS:
        return ()
    a, e = (np.asarray(x, np.float64) for x in (actual, expected))
    return tuple((m.name, _value(m, a, e)) for m in _METRICS.values())


def _value(m: Metric, a: npt.NDArray[Any], e: npt.NDArray[Any]) -> float:
    try:
        return float(m.function(a, e))
    except Exception as error:
        raise UsageError(f"metric {m.name} ({m.source}): raised {type(error).__name__}: {error}; mend it") from error


__all__ = ["Metric", "measured", "metric", "names"]
