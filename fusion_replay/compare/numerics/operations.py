# SPDX-License-Identifier: Apache-2.0
"""What a stage can do, on intervals: arithmetic, functions, sums, selections, products.

Tested in tests/compare/numerics/test_evaluator.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.numerics import intervals
from fusion_replay.compare.numerics.functions import FALLING, OTHER, RISING
from fusion_replay.compare.numerics.intervals import F32, Interval, checked
from fusion_replay.compare.numerics.products import U, matmul, matvec
from fusion_replay.compare.numerics.stages import ABSOLUTE, Constant, Model, Stage

Array = npt.NDArray[Any]

_TINY = 2.0**-126


@dataclass(frozen=True, slots=True)
class Run:
    """How one evaluation goes."""

    model: Model
    level: str
    flushes: bool


def _rising(function: Callable[[F32], F32]) -> Callable[..., Interval]:
    def apply(_run: Run, _stage: Stage, x: Interval) -> Interval:
        lo = function(x.lo)
        return Interval(lo, lo, x.free) if x.known else checked(lo, function(x.hi), x.free)

    return apply


def _falling(function: Callable[[F32], F32]) -> Callable[..., Interval]:
    """A few float32 steps wider where both ends were evaluated; of NaN, NaN, and garbage of other than positive normal
    numbers."""

    def apply(_run: Run, _stage: Stage, x: Interval) -> Interval:
        if x.known:
            y = function(x.lo)
            lo, hi = y, y
        else:
            lo, hi = function(x.hi) * np.float32(1 - 8 * U), function(x.lo) * np.float32(1 + 8 * U)
        bad = ~((x.lo >= np.float32(_TINY)) & np.isfinite(x.hi)) & ~(np.isnan(x.lo) & np.isnan(x.hi))
        if bad.any():
            return Interval(lo, hi, bad if x.free is None else bad | x.free)
        return Interval(lo, hi, x.free)

    return apply


def _turning(function: Callable[[F32], F32]) -> Callable[..., Interval]:
    """Of values that are known but for subnormal numbers that may be zero; for others, run it as a table."""

    def apply(_run: Run, _stage: Stage, x: Interval) -> Interval:
        lo = function(x.lo)
        if x.known:
            return Interval(lo, lo, x.free)
        hi = function(x.hi)
        return checked(np.minimum(lo, hi), np.maximum(lo, hi), x.free)

    return apply


def _sum(run: Run, stage: Stage, x: Interval) -> Interval:
    """Over the last axis, kept; ``how``: the lanes. Whole vectors in lanes, what is left over one by one."""
    n = x.lo.shape[-1]
    lanes = stage.how if run.level == "M" else 8
    per = n / lanes + (n % stage.how) + 9
    lo = x.lo.sum(axis=-1, keepdims=True, dtype=np.float64)
    hi = lo if x.known else x.hi.sum(axis=-1, keepdims=True, dtype=np.float64)
    positive = bool(x.lo.size) and x.lo.min() >= 0
    if positive:
        terms = hi
    else:
        terms = np.maximum(np.abs(x.lo), np.abs(x.hi)).sum(axis=-1, keepdims=True, dtype=np.float64)
    radius = per * U * terms + n * (_TINY if run.flushes else 2.0**-149)
    part = intervals.spread(lo, radius, terms)
    other = part if x.known else intervals.spread(hi, radius, terms)
    least, free = part.lo, part.free
    if positive:
        least = np.maximum(least, np.float32(0))
    if x.free is not None:
        rows = np.asarray(np.broadcast_to(x.free, x.lo.shape).any(axis=-1, keepdims=True))
        free = rows if free is None else free | rows
    return Interval(least, other.hi, free)


def _lossy_sum(run: Run, stage: Stage, x: Interval) -> Interval:
    """Over the last axis in bfloat16, in the kernel's own order: ``how`` running sums, then halved."""
    lo = x.lo.reshape(*x.lo.shape[:-1], -1, stage.how)
    hi = lo if x.known else x.hi.reshape(lo.shape)

    def summed(a: Interval, b: Interval) -> Interval:
        total = intervals.rounded(intervals.add(a, b), run.model.rounding)
        return intervals.flushed(total) if run.flushes else total

    def cut(x: Interval, part: tuple[Any, ...]) -> Interval:
        low = x.lo[part]
        return Interval(low, low if x.known else x.hi[part], None if x.free is None else x.free[part])

    given = Interval(lo, lo if x.known else hi, None if x.free is None else np.broadcast_to(x.free, lo.shape))
    sums = cut(given, (..., 0, slice(None)))
    for i in range(1, lo.shape[-2]):
        sums = summed(sums, cut(given, (..., i, slice(None))))
    while sums.lo.shape[-1] > 1:
        half = sums.lo.shape[-1] // 2
        sums = summed(cut(sums, (..., slice(None, half))), cut(sums, (..., slice(half, None))))
    return sums


def _largest(_run: Run, _stage: Stage, x: Interval) -> Interval:
    lo = x.lo.max(axis=-1, keepdims=True)
    return Interval(lo, lo if x.known else x.hi.max(axis=-1, keepdims=True), x.free)


def _pair(_run: Run, stage: Stage, scale: Interval, x: Interval) -> Interval:
    """``x`` times a float32 scale that rides in two bfloat16 values, the products added in float32."""
    ends = []
    for end in (scale.lo, scale.hi):
        high = intervals.ROUND[_run.model.rounding](end)
        ends.append(high + intervals.ROUND[_run.model.rounding](end - high))
    slack = np.float32(4 * U)
    lo, hi = np.minimum(*ends), np.maximum(*ends)
    return intervals.mul(Interval(lo * (1 - slack), hi * (1 + slack), scale.free), x)


def _select(_run: Run, stage: Stage, x: Interval, other: Interval) -> Interval:
    """``how``: "max" or "min" of the two, x where they do not compare."""
    better = np.greater if stage.how == "max" else np.less
    lo = np.where(better(other.lo, x.lo), other.lo, x.lo)
    return Interval(lo, lo if other.known and x.known else np.where(better(other.hi, x.hi), other.hi, x.hi), x.free)


def _part(_run: Run, stage: Stage, x: Interval) -> Interval:
    """``how``: (shape, axis, number): the elements with that number along the axis of the shape; moves only."""
    shape, axis, number = stage.how
    lo, hi = (np.take(e.reshape(shape), number, axis).reshape(-1) for e in (x.lo, x.hi))
    free = None if x.free is None else np.take(np.broadcast_to(x.free, x.lo.shape).reshape(shape), number, axis)
    return Interval(lo, lo if x.known else hi, None if free is None else free.reshape(-1))


def _matvec(run: Run, stage: Stage, a: Array, b: Array) -> Interval:
    return matvec(stage.how, a, b, run.level == "M", run.flushes)


def _matmul(run: Run, stage: Stage, a: Array, b: Array) -> Interval:
    return matmul(stage.how, a, b, run.model.rounding, run.level, run.flushes)


WHOLE = ("matvec", "matmul")
"""Operations on whole arrays, as stored: they go through them in blocks of their own."""

NARROWING = ("lossy_sum", "pair", "matmul")
"""Operations that round on the way, so that their results depend on the mode."""

OPERATIONS: dict[str, Callable[..., Interval]] = {
    **{name: _rising(f) for name, f in RISING.items()},
    **{name: _falling(f) for name, f in FALLING.items()},
    **{name: _turning(f) for name, f in OTHER.items()},
    "add": lambda _run, _stage, a, b: intervals.add(a, b),
    "sub": lambda _run, _stage, a, b: intervals.sub(a, b),
    "mul": lambda _run, _stage, a, b: intervals.mul(a, b),
    "maximum": lambda _run, _stage, a, b: intervals.maximum(a, b),
    "same": lambda _run, _stage, a: a,
    "sum": _sum,
    "lossy_sum": _lossy_sum,
    "largest": _largest,
    "reciprocal": lambda _run, _stage, a: intervals.reciprocal(a),
    "div": lambda _run, _stage, a, b: intervals.div(a, b),
    "pair": _pair,
    "select": _select,
    "part": _part,
    "matvec": _matvec,
    "matmul": _matmul,
}


def off(x: Interval, error: Constant) -> Interval:
    low, high = np.float32(error.low), np.float32(error.high)
    if error.unit == ABSOLUTE:
        return Interval(x.lo + low, x.hi + high, x.free)
    if x.lo.size and x.lo.min() >= 0:
        return checked(x.lo * (1 + low), x.hi * (1 + high), x.free)
    down, up = np.abs(x.lo), np.abs(x.hi)
    lo = x.lo + np.where(x.lo < 0, down * -high, down * low)
    hi = x.hi + np.where(x.hi < 0, up * -low, up * high)
    return checked(lo, hi, x.free)
