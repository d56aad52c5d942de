# SPDX-License-Identifier: Apache-2.0
"""Executes an operator's stages on recorded inputs: as intervals that every honest device keeps, or as one device.

A kernel stores in one mode, so a bound is the hull over the modes (and, where the device is not known, the devices) of
what the stages give under each. Uncertainty enters at error constants and at sums whose order is free, nowhere else.
Levels (W, P, M): a bound that assumes formats and constants alone; the same with bfp16's conversion errors as
independent ones; one device model, where only the order of float32 sums is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.numerics import intervals
from fusion_replay.compare.numerics.intervals import F32, Interval, places, point
from fusion_replay.compare.numerics.operations import NARROWING, OPERATIONS, WHOLE, Run, off
from fusion_replay.compare.numerics.stages import ABSOLUTE, BF16, RELATIVE, Model, Numerics, Stage
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import bits_to_float32

LEVELS = ("W", "P", "M")

Array = npt.NDArray[Any]

_BLOCK = 1 << 15  # elements of one array that a chain of stages works on at a time: they stay in cache


@dataclass(frozen=True, slots=True)
class Bound:
    """What an honest device may give, per element of one output, flat.

    Attributes:
        lo, hi: the ends, float32; infinite at both ends where nothing is known, NaN at both where NaN is due.
        models: the devices and modes that it holds for.
    """

    lo: F32
    hi: F32
    models: tuple[Model, ...]

    def part(self, cut: slice) -> Bound:
        """Of these elements."""
        return Bound(self.lo[cut], self.hi[cut], self.models)


def bound(
    numerics: Numerics,
    params: SimpleNamespace,
    inputs: Sequence[Array],
    values: Mapping[str, int | float],
    models: Sequence[Model],
    level: str = "W",
    *,
    flushes: bool = False,
) -> Bound:
    """The acceptance interval of each element of the output.

    Args:
        params, inputs, values: as the reference gets them; inputs as stored, in the arg specs' shapes.
        models: what the step may have run on (``numerics.models``); one of them with level "M" is that device.
        flushes: the device may make zeros of subnormal numbers, as AIE cores can.

    Raises:
        UsageError: these parameters have no stages.
    """
    for array in inputs:
        if array.dtype.kind == "f":
            raise UsageError(f"inputs of {array.dtype}: the kernel's arithmetic is known for bfloat16")
    with np.errstate(all="ignore"):
        if numerics.unary:
            lo, hi = _from_table(numerics, params, inputs[0], tuple(models), level, flushes)
        else:
            arrays = numerics.arrange(params, values, inputs)
            runs = _different((m, numerics.stages_of(params, m)) for m in models)
            parts = _evaluate(arrays, runs, numerics.results, level, flushes)
            lo, hi = (numerics.place(params, side).reshape(-1) for side in zip(*parts, strict=True))
    return Bound(lo, hi, tuple(models))


def predicted(
    numerics: Numerics,
    params: SimpleNamespace,
    inputs: Sequence[Array],
    values: Mapping[str, int | float],
    model: Model,
) -> Array:
    """What this device gives, flat float32: the middle of its interval where the order of a sum is free."""
    found = bound(numerics, params, inputs, values, [model], "M")
    if found.lo is found.hi:
        return found.lo
    with np.errstate(all="ignore"):
        middle = intervals.at_places((places(found.lo) + places(found.hi)) >> 1)
        return np.where((found.lo == found.hi) | ~np.isfinite(found.lo + found.hi), found.lo, middle)


# --- running stages -------------------------------------------------------------------------------------------------


def _different(runs: Iterable[tuple[Model, tuple[Stage, ...]]]) -> list[tuple[Model, tuple[Stage, ...]]]:
    """Devices whose kernels are the same count once."""
    return list({(model.rounding, stages): (model, stages) for model, stages in runs}.values())


def _evaluate(
    arrays: Mapping[str, Array],
    runs: Sequence[tuple[Model, tuple[Stage, ...]]],
    results: Sequence[str],
    level: str,
    flushes: bool,
) -> list[tuple[F32, F32]]:
    """(lo, hi) of each result, computed in bands of rows so that what lies between stays in cache."""
    names = results or (runs[0][1][-1].name,)
    if any(stage.op in WHOLE for _, stages in runs for stage in stages):
        return [_ends(x) for x in _band(arrays, runs, names, level, flushes)]
    rows = max(len(x) for x in arrays.values())
    block = 4 * _BLOCK if any(stage.op == "lossy_sum" for _, stages in runs for stage in stages) else _BLOCK
    step = max(1, block * rows // max(1, max(x.size for x in arrays.values())))
    found: list[tuple[F32, F32]] = []
    for start in range(0, rows, step):
        cut = {k: x[start : start + step] if len(x) == rows else x for k, x in arrays.items()}
        ends = [_ends(x) for x in _band(cut, runs, names, level, flushes)]
        if not found:
            if rows <= step:
                return ends
            found = [
                (np.empty((rows, *lo.shape[1:]), np.float32), np.empty((rows, *lo.shape[1:]), np.float32))
                for lo, _ in ends
            ]
        for (all_lo, all_hi), (lo, hi) in zip(found, ends, strict=True):
            all_lo[start : start + step], all_hi[start : start + step] = lo, hi
    return found or [(np.empty(0, np.float32), np.empty(0, np.float32)) for _ in names]


def _ends(x: Interval) -> tuple[F32, F32]:
    """What is not known goes from -inf to inf."""
    if x.free is None:
        return x.lo, x.hi
    free = np.broadcast_to(x.free, x.lo.shape)
    return np.where(free, np.float32(-np.inf), x.lo), np.where(free, np.float32(np.inf), x.hi)


def _band(
    arrays: Mapping[str, Array],
    runs: Sequence[tuple[Model, tuple[Stage, ...]]],
    names: Sequence[str],
    level: str,
    flushes: bool,
) -> list[Interval]:
    each = []
    inputs: dict[str, Any] = dict(arrays)
    done: _Done = {}
    for model, stages in runs:
        run = Run(model, level, flushes)
        known: dict[str, Interval] = {}
        for stage in stages:
            operands = [_operand(known, inputs, x, run, stage.op in WHOLE) for x in stage.of]
            known[stage.name] = _stage(run, stage, operands, done)
        each.append([known[name] for name in names])
    return [intervals.hull(list(parts)) for parts in zip(*each, strict=True)]


_Done = dict[tuple[Any, ...], tuple[list[Any], Interval]]
"""What an operation gave before it was stored, for the other modes: by operation and operands, which it keeps."""


def _operand(
    known: dict[str, Interval], inputs: dict[str, Any], x: str | float, run: Run, as_stored: bool
) -> Interval | Array:
    """A stage's result, a number, or an array of the arrangement: widened on first use, unless a product does that."""
    if x in known:
        return known[str(x)]
    value = inputs.get(str(x))
    if isinstance(value, Interval) or (as_stored and value is not None):
        return value
    if not isinstance(x, str):
        wide = np.asarray(x, np.float32).reshape(1)
    else:
        wide = inputs[x] if inputs[x].dtype == np.float32 else bits_to_float32(inputs[x].view(np.uint16))
    found = inputs[str(x)] = intervals.flushed(point(wide)) if run.flushes else point(wide)
    return found


def _stage(run: Run, stage: Stage, operands: list[Any], done: _Done) -> Interval:
    """Operation, error constant, format, range: in this order."""
    model = run.level == "M"
    name = stage.by if model and stage.by else stage.op
    key = (name, stage.how, *map(id, operands))
    if key in done:
        result = done[key][1]
    elif name == "through":
        result = _through(run, stage, *operands)
    else:
        result = OPERATIONS[name](run, stage, *operands)
        if name not in NARROWING:
            done[key] = operands, result
    error = None if model else stage.error
    if error is not None and error.unit in (RELATIVE, ABSOLUTE):
        result = off(result, error)
    if stage.store == BF16:
        result = intervals.rounded(result, run.model.rounding)
        if run.flushes:
            result = intervals.flushed(result)
    if error is not None and error.unit not in (RELATIVE, ABSOLUTE):
        low, high = (intervals.stepped(x, int(n)) for x, n in ((result.lo, error.low), (result.hi, error.high)))
        result = Interval(low, high, result.free)
    if stage.within is not None:
        ends = np.float32(stage.within[0]), np.float32(stage.within[1])
        lo = np.clip(result.lo, *ends)
        result = Interval(lo, lo if result.known else np.clip(result.hi, *ends), result.free)
    return result


# --- tables over all bfloat16 values --------------------------------------------------------------------------------


@cache
def _all_values() -> F32:
    return bits_to_float32(np.arange(1 << 16, dtype=np.uint16))


@lru_cache(maxsize=64)
def _table(runs: tuple[tuple[Model, tuple[Stage, ...]], ...], level: str, flushes: bool) -> tuple[F32, F32]:
    """(lo, hi) for each bit pattern of the input."""
    with np.errstate(all="ignore"):
        lo, hi = _evaluate({"x": _all_values()}, runs, (), level, flushes)[0]
    lo.flags.writeable = hi.flags.writeable = False
    return lo, hi


def _from_table(
    numerics: Numerics, params: SimpleNamespace, x: Array, models: tuple[Model, ...], level: str, flushes: bool
) -> tuple[F32, F32]:
    lo, hi = _table(tuple((m, numerics.stages_of(params, m)) for m in models), level, flushes)
    at = x.reshape(-1).view(np.uint16)
    return lo[at], hi[at]


@lru_cache(maxsize=4)
def _ranges(stages: tuple[Stage, ...], run: Run) -> tuple[F32, F32]:
    """Row k, column i: the lowest (highest) of the 2**k results from place i of the line on."""
    lo, hi = _table(((run.model, stages),), run.level, run.flushes)
    line = np.arange(-0x7F80, 0x7F81, dtype=np.int32)
    at = intervals.at_places(line).view(np.uint32) >> np.uint32(16)
    rows = [(lo[at], hi[at])]
    step = 1
    while step < len(line):
        low, high = rows[-1]
        rows.append((_joined(np.minimum, low, step), _joined(np.maximum, high, step)))
        step *= 2
    return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])


def _joined(best: Callable[[F32, F32], F32], row: F32, step: int) -> F32:
    out = row.copy()
    out[:-step] = best(row[:-step], row[step:])
    return out


def _through(run: Run, stage: Stage, x: Interval) -> Interval:
    """``how``: stages of one bfloat16 element, over every value of the interval."""
    if x.known and x.free is None:
        return _looked_up(*_table(((run.model, stage.how),), run.level, run.flushes), x.lo)
    low, high = _ranges(stage.how, run)
    a, b = places(x.lo) + 0x7F80, places(x.hi) + 0x7F80
    nan = np.isnan(x.lo) | np.isnan(x.hi)
    a, b = (np.where(nan, 0, line) for line in (a, b))
    level = np.frexp(np.maximum(b - a, 0) + 1)[1] - 1
    end = b - (1 << level) + 1
    lo = np.minimum(low[level, a], low[level, end])
    hi = np.maximum(high[level, a], high[level, end])
    free = np.isinf(lo) & np.isinf(hi) & (lo != hi)
    lo[nan] = hi[nan] = np.nan
    if x.free is not None:
        free |= x.free
    return Interval(lo, hi, free if free.any() else None)


def _looked_up(lo: F32, hi: F32, x: F32) -> Interval:
    at = np.ascontiguousarray(x).view(np.uint32) >> np.uint32(16)
    found, top = lo[at], hi[at]
    free = np.isinf(found) & (found != top)
    return Interval(found, top, free if free.any() else None)


__all__ = ["LEVELS", "Bound", "bound", "predicted"]
