# SPDX-License-Identifier: Apache-2.0
"""Where a function of k crosses from good to bad: by halving where it is monotone, by scanning where it isn't."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

SLACK = 0.05
"""Of the whole error: how far a value may lie outside its neighbours before the function counts as not monotone.
Honest rounding makes the end-to-end error waver by a few percent."""

SCAN = 64
"""Evaluations that a scan may take before it goes on in the interval with the largest rise."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Between ``k`` and ``k + 1`` the error rises from ``before`` to ``after``, a ``share`` of the whole.

    ``monotone``: nothing evaluated spoke against it; otherwise ``scanned`` points were tried to find the largest rise.
    """

    k: int
    before: float
    after: float
    share: float
    monotone: bool
    scanned: int


def crossing(error: Callable[[int], float], n: int, total: float, scan: int = SCAN) -> Crossing:
    """The step at which ``error`` passes half of ``total``.

    ``error(0)`` is 0 and ``error(n)`` is ``total`` by definition; neither is asked for. While nothing speaks against
    monotony this takes ``ceil(log2(n))`` evaluations.

    Args:
        total: greater than 0; infinite where the result has elements that are no numbers.
        scan: evaluations that a scan may take (see :data:`SCAN`).
    """
    known = {0: 0.0, n: total}
    shape = _as_it_is if math.isfinite(total) else _bounded

    def at(k: int) -> float:
        if k not in known:
            known[k] = error(k)
        return shape(known[k])

    def share(k: int) -> float:
        return (at(k + 1) - at(k)) / at(n)

    limit, slack = at(n) / 2, SLACK * at(n)

    lo, hi = 0, n
    while hi - lo > 1:
        middle = (lo + hi) // 2
        value = at(middle)
        if not at(lo) - slack <= value <= at(hi) + slack:
            k, scanned = _scan(at, n, scan)
            return Crossing(k, known[k], known[k + 1], share(k), False, scanned)
        if value > limit:
            hi = middle
        else:
            lo = middle
    return Crossing(lo, known[lo], known[hi], share(lo), True, 0)


def _scan(at: Callable[[int], float], n: int, scan: int) -> tuple[int, int]:
    """Evenly spread points, then halving inside the interval with the largest rise; where it is, and the points."""
    count = min(n, max(scan, 2))
    points = sorted({round(i * n / count) for i in range(count + 1)})
    lo, hi = max(pairwise(points), key=lambda pair: at(pair[1]) - at(pair[0]))
    while hi - lo > 1:
        middle = (lo + hi) // 2
        lo, hi = max((lo, middle), (middle, hi), key=lambda pair: at(pair[1]) - at(pair[0]))
    return lo, len(points)


def _as_it_is(error: float) -> float:
    return error


def _bounded(error: float) -> float:
    """0 to 1, in the same order. Where the end is infinite, half of it is an error as large as the result itself: a
    step that makes a huge number is found, not the one after it that makes an infinity of it."""
    return 1.0 if math.isinf(error) else error / (1 + error)


__all__ = ["SCAN", "SLACK", "Crossing", "crossing"]
