# SPDX-License-Identifier: Apache-2.0
"""An output against its bound: which elements no honest device gives, and how much room the bound leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.blocks import Mask, to_float32
from fusion_replay.compare.numerics.evaluator import Bound
from fusion_replay.compare.numerics.intervals import F32, places
from fusion_replay.model import serialise
from fusion_replay.model.bf16 import BFLOAT16

_BLOCK = 1 << 16  # elements
_WIDEST = 0xFF02  # all bf16 values from -inf to inf


@dataclass(frozen=True, slots=True)
class Within:
    """What a bound says of one output.

    Attributes:
        n_outside: elements that no honest device gives for these inputs.
        first: index of the first of them, flat, with its value and the ends of its bound; None: there is none.
        accepts: how many bf16 values the bound accepts per element, the median over bounded elements; 0 without any.
        worst: how far the element nearest to an end of its bound is from the middle, 0 to 1; 0 where each bound
            accepts one value alone.
        n_unbounded: elements of which nothing is known (float32 may have overflowed, a row's sum underflowed); they
            are accepted.
        models: the devices and modes that the bound holds for.
        assumed: what of the hardware it assumes, in words; empty where all of it is documented.
        decides: the bound, and not the hand-set tolerance, says whether the output matches.
        n_edge: elements inside their bound where one of output and reference is Inf and the other the largest finite
            value of that sign: which of them it is, the rounding mode says. Not part of the JSON data.
    """

    n_outside: int
    first: tuple[int, float, float, float] | None
    accepts: int
    worst: float
    n_unbounded: int
    models: tuple[str, ...]
    assumed: tuple[str, ...]
    decides: bool
    n_edge: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON data; ``first`` by the names of its parts."""
        names = ("index", "actual", "low", "high")
        first = None if self.first is None else dict(zip(names, serialise.json_data(self.first), strict=True))
        told = serialise.to_dict(self) | {"first": first}
        del told["n_edge"]
        return told

    def __str__(self) -> str:
        values = f"accepts {self.accepts:,} bf16 value{'' if self.accepts == 1 else 's'}"
        parts = [f"{self.n_outside:,} outside" if self.n_outside else values]
        parts += [values] if self.n_outside else [f"worst element {self.worst:.0%} of the way to its end"]
        parts += [f"{self.n_unbounded:,} unbounded"] if self.n_unbounded else []
        parts += [f"assumes {'; '.join(self.assumed)}"] if self.assumed else []
        return "; ".join(parts)


def within(
    actual: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    bound: Bound,
    *,
    also: Sequence[Bound] = (),
    steps_below: int = 0,
    assumed: tuple[str, ...] = (),
    decides: bool = False,
) -> Within:
    """``actual`` against ``bound``; what equals ``expected`` is never outside.

    Args:
        actual, expected: the output and its reference, of one shape.
        also: bounds of which one is enough, where an element is outside ``bound``.
        steps_below: so many bf16 values below ``expected`` are not outside either: hardware may compute exactly and
            cut.
        assumed, decides: as in :class:`Within`.
    """
    tally = _Tally()
    a, e = np.ascontiguousarray(actual).reshape(-1), np.ascontiguousarray(expected).reshape(-1)
    mine, theirs = (np.empty(min(a.size, _BLOCK), np.float32) for _ in range(2))
    for start in range(0, a.size, _BLOCK):
        cut = slice(start, start + _BLOCK)
        got = mine[: a[cut].size]
        to_float32(a[cut], got)
        beyond = outside(got, e[cut], bound.part(cut), also=[b.part(cut) for b in also], steps_below=steps_below)
        tally.add(start, got, bound.lo[cut], bound.hi[cut], beyond)
        if _infinite(a[cut]) or _infinite(e[cut]):
            due = theirs[: got.size]
            to_float32(e[cut], due)
            known = np.isfinite(bound.lo[cut]) | np.isfinite(bound.hi[cut])
            edge = (np.isinf(got) != np.isinf(due)) & (np.abs(places(got) - places(due)) == 1)
            tally.n_edge += int(np.count_nonzero(edge & known & ~beyond))
    models = tuple(map(str, bound.models))
    decides = decides and (tally.n_unbounded < a.size or not a.size)
    return Within(
        tally.n_outside,
        tally.first,
        tally.median(),
        tally.worst,
        tally.n_unbounded,
        models,
        assumed,
        decides,
        tally.n_edge,
    )


def outside(
    actual: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    bound: Bound,
    *,
    also: Sequence[Bound] = (),
    steps_below: int = 0,
) -> Mask:
    """Which elements of a flat output are outside; arguments as of :func:`within`."""
    got = _as_float32(actual)
    found = _outside(got, bound.lo, bound.hi)
    if found.any():
        for other in also:
            found &= _outside(got, other.lo, other.hi)
        due = _as_float32(expected)
        found &= ~((got == due) | (np.isnan(got) & np.isnan(due)))
        if steps_below:
            gap = places(due) - places(got)
            found &= ~((gap >= 0) & (gap <= steps_below))
    return found


def _as_float32(x: npt.NDArray[Any]) -> F32:
    if x.dtype == np.float32:
        return x
    out = np.empty(x.size, np.float32)
    to_float32(x, out)
    return out


def _outside(x: F32, lo: F32, hi: F32) -> Mask:
    inside: Mask = (lo <= x) & (x <= hi)
    if inside.all():
        return np.zeros(x.shape, np.bool_)
    unbounded = np.isinf(lo) & np.isinf(hi) & (lo != hi)
    outside: Mask = ~(inside | unbounded | (np.isnan(x) & np.isnan(lo)))
    return outside


def _infinite(x: npt.NDArray[Any]) -> bool:
    """Whether some elements are Inf."""
    if x.dtype == BFLOAT16:
        return bool(((x.view(np.uint16) & np.uint16(0x7FFF)) == 0x7F80).any())
    return x.dtype.kind == "f" and bool(np.isinf(x).any())


class _Tally:
    def __init__(self) -> None:
        self.n_outside = self.n_unbounded = self.n_edge = 0
        self.first: tuple[int, float, float, float] | None = None
        self.worst = 0.0
        self.counts = np.zeros(_WIDEST + 1, np.int64)

    def add(self, start: int, x: F32, lo: F32, hi: F32, outside: Mask) -> None:
        found = int(np.count_nonzero(outside))
        if found and self.first is None:
            i = int(outside.argmax())
            self.first = (start + i, float(x[i]), float(lo[i]), float(hi[i]))
        self.n_outside += found
        open_ = np.flatnonzero(lo != hi)  # NaN included
        self.counts[1] += x.size - open_.size
        if not open_.size:
            return
        low, high, at = places(lo[open_]), places(hi[open_]), places(x[open_])
        free = np.isinf(lo[open_]) & np.isinf(hi[open_])
        due = np.isnan(lo[open_])
        self.n_unbounded += int(np.count_nonzero(free))
        self.counts[1] += int(np.count_nonzero(due))
        bounded = ~(free | due)
        self.counts += np.bincount((high - low)[bounded] + 1, minlength=_WIDEST + 1)[: _WIDEST + 1]
        inside = bounded & ~outside[open_]
        if inside.any():
            low, high, at = low[inside], high[inside], at[inside]
            off = np.abs(2 * at - low - high) / np.maximum(high - low, 1)
            self.worst = max(self.worst, min(float(off.max()), 1.0))

    def median(self) -> int:
        total = int(self.counts.sum())
        return int(np.searchsorted(np.cumsum(self.counts), math.ceil(total / 2))) if total else 0


__all__ = ["Within", "outside", "within"]
