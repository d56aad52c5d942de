# SPDX-License-Identifier: Apache-2.0
"""How far a result is from its limit: of each element of one output, and of a judged output from its figures alone.

The unit is the limit: 0 at the reference, 1 at the limit, beyond it an element fails. Of a bound the limit is half its
width in bf16 values, counted from its middle; of a tolerance the largest deviation that it accepts for this element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.compare.blocks import BLOCK, F64, Blocks, Mask, to_float32
from fusion_replay.compare.numerics.intervals import places
from fusion_replay.compare.rules import rule_for
from fusion_replay.compare.verdict import as_numpy
from fusion_replay.model.bf16 import wide
from fusion_replay.replaying.bounds import step_bound

if TYPE_CHECKING:
    from fusion_replay.compare.tolerance import Tolerance
    from fusion_replay.compare.verdict import Verdict
    from fusion_replay.model.step import Step
    from fusion_replay.replaying.judge import Evaluation

NDArray = npt.NDArray[Any]

_JUST_BEYOND = float(np.nextafter(1.0, 2.0))


@dataclass(frozen=True)
class Elements:
    """One output, element by element, flat.

    Attributes:
        actual, expected: as recorded, as the reference gives it.
        distance: from ``expected`` in units of the limit; infinite where no factor on the limits would accept it.
        failing: those that the verdict counts.
        ulp: bf16 steps from expected to actual, signed; 0 where one of them is no number. Of integers: units.
    """

    actual: NDArray
    expected: NDArray
    distance: F64
    failing: Mask
    ulp: npt.NDArray[np.int64]

    def failing_at(self, factor: float) -> int:
        """How many would fail if the limits were ``factor`` times as wide."""
        return int(np.count_nonzero(self.distance > factor))


def elements(step: Step, evaluation: Evaluation, number: int, verdict: Verdict) -> Elements:
    """The output ``number`` of a step (in runtime order), as ``verdict`` judged it against ``evaluation``."""
    actual = np.ascontiguousarray(as_numpy(step.outputs.in_order()[number].numpy())).reshape(-1)
    expected = np.ascontiguousarray(as_numpy(evaluation.results[number])).reshape(-1)
    return measure(actual, expected, verdict, _of_bound(step, evaluation, actual, expected, verdict))


def measure(actual: NDArray, expected: NDArray, verdict: Verdict, bounded: tuple[F64, Mask] | None = None) -> Elements:
    """Two flat arrays as ``verdict`` judged them; ``bounded``: distance and failing elements where a bound decided."""
    if bounded is None:
        failing, ratio = _of_tolerance(actual, expected, verdict)
    else:
        ratio, failing = bounded
    # The rule has the last word on which side of the limit an element stands.
    ratio = np.where(failing, np.maximum(ratio, _JUST_BEYOND), np.minimum(ratio, 1.0))
    return Elements(actual, expected, ratio, failing, _ulp(actual, expected))


def distance(verdict: Verdict) -> float:
    """Of the worst element, from the figures of a verdict alone: an upper end where a tolerance has several limits,
    of which any one is enough; infinite where NaN or Inf disagree."""
    s, t = verdict.stats, verdict.tolerance
    if s.bit_equal:
        return 0.0
    if not math.isfinite(s.rel_l2) or s.cosine != s.cosine:
        return math.inf
    if verdict.decided_by == "bound" and verdict.within is not None:
        if not verdict.within.n_outside:
            return min(verdict.within.worst, 1.0)
        return max(s.ulp_max / max((verdict.within.accepts - 1) / 2, 0.5), _JUST_BEYOND)
    ways = [s.ulp_max / t.ulps] if t.ulps else []
    ways += [s.min_atol / t.atol] if t.atol else []
    ways += [_relative(s.min_rtol, verdict.rule) / t.rtol] if t.rtol else []
    ways += [s.min_atol / (t.range_frac * s.ref_max)] if t.range_frac and s.ref_max else []
    worst = min(ways, default=0.0 if not s.min_atol else math.inf)
    return min(worst, 1.0) if verdict.ok else max(worst, _JUST_BEYOND)


def _relative(largest: float, rule: str) -> float:
    """The largest deviation over what ``rtol`` is multiplied with, from the largest ``|a - e| / |e|``: over
    ``|a| + |e|`` it is never above 1, and of a smaller one at most this."""
    if rule == "strict":
        return largest
    return largest / (2 - largest) if largest < 1 else 1.0


# --- parts ----------------------------------------------------------------------------------------------------------


def _of_bound(
    step: Step, evaluation: Evaluation, actual: NDArray, expected: NDArray, verdict: Verdict
) -> tuple[F64, Mask] | None:
    """(distance, failing) where a bound decided."""
    if verdict.decided_by != "bound":
        return None
    spec = refs.coverage(step.op, step.description.operands).spec
    found = step_bound(step, spec, evaluation, actual)
    if isinstance(found, str):
        return None
    bad = found.outside(actual, expected)
    got = np.empty(actual.size, np.float32)
    to_float32(actual, got)
    at, low, high = (places(x).astype(np.float64) for x in (got, found.bound.lo, found.bound.hi))
    ratio = np.abs(at - (low + high) / 2) / np.maximum((high - low) / 2, 0.5)
    free = np.isinf(found.bound.lo) & np.isinf(found.bound.hi) & (found.bound.lo != found.bound.hi)
    ratio[free | (got == as_float32(expected))] = 0.0
    ratio[~np.isfinite(got) & bad] = np.inf
    return ratio, bad


def as_float32(x: NDArray) -> npt.NDArray[np.float32]:
    """Flat; bf16 by its bits."""
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty(flat.size, np.float32)
    to_float32(flat, out)
    return out


def _of_tolerance(actual: NDArray, expected: NDArray, verdict: Verdict) -> tuple[Mask, F64]:
    rule = rule_for(verdict.rule, actual, expected, tolerance=verdict.tolerance)
    failing = np.zeros(actual.size, np.bool_)
    blocks = Blocks(actual, expected)
    for start in range(0, actual.size, BLOCK):
        failing[start : start + BLOCK] = rule.failing(blocks.block(start))
    return failing, _ratio(actual, expected, verdict.rule, verdict.tolerance, rule.floor)


def _ratio(actual: NDArray, expected: NDArray, rule: str, t: Tolerance, floor: float) -> F64:
    a, e = (np.asarray(wide(x), np.float64) for x in (actual, expected))
    with np.errstate(all="ignore"):
        d, size = np.abs(a - e), np.abs(e)
        if rule == "iron-compare":
            ratio = np.minimum(d / t.atol, d / (size + 1e-6) / t.rtol)
        else:
            reach = t.atol + t.rtol * size if rule == "strict" else np.maximum(t.atol, t.rtol * (np.abs(a) + size))
            ratio = d / np.maximum(reach, floor)
        if t.ulps:
            ratio = np.minimum(ratio, np.abs(_ulp(actual, expected)) / t.ulps)
        equal = (a == e) | (np.isnan(a) & np.isnan(e))
        return np.where(equal, 0.0, np.where(np.isfinite(a) & np.isfinite(e), ratio, np.inf))


def _ulp(actual: NDArray, expected: NDArray) -> npt.NDArray[np.int64]:
    if actual.dtype.kind in "iub" and expected.dtype.kind in "iub":
        return actual.astype(np.int64) - expected.astype(np.int64)
    from fusion_replay.model.bf16 import BFLOAT16, bits_of, bits_to_float32

    def placed(x: NDArray) -> npt.NDArray[np.int64]:
        narrow = as_float32(x) if x.dtype == BFLOAT16 else bits_to_float32(bits_of(np.asarray(wide(x), np.float64)))
        return places(narrow).astype(np.int64)

    number = np.isfinite(as_float32(actual)) & np.isfinite(as_float32(expected))
    return np.where(number, placed(actual) - placed(expected), 0)


__all__ = ["Elements", "distance", "elements", "measure"]
