# SPDX-License-Identifier: Apache-2.0
"""What one element may be under a hypothesis: the lowest and the highest value, and how a store rounds to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.bf16 import BFLOAT16, bits_of, bits_to_float32, wide

NDArray = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NEAREST, FLOOR, CUT = "to nearest", "by floor", "towards zero"
ROUNDINGS = (NEAREST, FLOOR, CUT)


@dataclass(frozen=True)
class Span:
    """``lo`` to ``hi``, float64, flat; NaN at both ends: NaN."""

    lo: F64
    hi: F64

    @classmethod
    def of(cls, stored: NDArray) -> Span:
        """Exactly these contents."""
        values = np.ascontiguousarray(wide(stored), np.float64).reshape(-1)
        return cls(values, values)

    def __getitem__(self, at: Any) -> Span:
        lo = self.lo[at]
        return Span(lo, lo if self.hi is self.lo else self.hi[at])

    def holds(self, values: F64) -> Mask:
        inside = (self.lo <= values) & (values <= self.hi)
        return np.asarray(inside | (np.isnan(values) & np.isnan(self.lo)))

    def apart(self, other: Span) -> Mask:
        """Elements for which the two have no value in common."""
        apart = (self.lo > other.hi) | (self.hi < other.lo)
        return np.asarray(apart | (np.isnan(self.lo) != np.isnan(other.lo)))

    def where(self, mask: Mask, other: Span) -> Span:
        """This where ``mask``, else ``other``."""
        return Span(np.where(mask, self.lo, other.lo), np.where(mask, self.hi, other.hi))


def hull(first: Span, second: Span) -> Span:
    return Span(np.minimum(first.lo, second.lo), np.maximum(first.hi, second.hi))


def stored(values: F64, slack: F64 | float, dtype: np.dtype[Any], rounding: str) -> Span:
    """What a store of ``values``, known to ``slack``, leaves in ``dtype``."""
    with np.errstate(all="ignore"):
        if dtype.kind in "iub":
            whole = {NEAREST: np.rint, FLOOR: np.floor, CUT: np.trunc}[rounding](values)
            return Span(whole, whole)
        lo, hi = values - slack, values + slack
        if dtype != BFLOAT16:
            reach = np.abs(values) * 2.0**-22 if dtype.itemsize == 4 else np.abs(values) * 2.0**-40
            return Span(lo - reach, hi + reach)
        return Span(_bf16(lo, rounding), _bf16(hi, rounding))


def before(actual: NDArray, rounding: str) -> Span:
    """The values that a store rounds to ``actual`` (bf16), open ends taken as closed."""
    at = ordinal(actual)
    here, up, down = (_at(at + k) for k in (0, 1, -1))
    if rounding == NEAREST:
        return Span((here + down) / 2, (here + up) / 2)
    if rounding == FLOOR:
        return Span(here, up)
    return Span(np.where(here > 0, here, down), np.where(here < 0, here, up))


def ordinal(x: NDArray) -> Index:
    """Place on the ordered line of bf16 values; both zeros at 0."""
    bits = x.view(np.uint16) if x.dtype == BFLOAT16 else bits_of(np.asarray(x, np.float64))
    magnitude = (bits & np.uint16(0x7FFF)).astype(np.int64)
    return np.where(bits >> np.uint16(15), -magnitude, magnitude)


def _at(place: Index) -> F64:
    magnitude = np.minimum(np.abs(place), 0x7F80).astype(np.uint16)
    bits = np.where(place < 0, magnitude | np.uint16(0x8000), magnitude).astype(np.uint16)
    return bits_to_float32(bits).astype(np.float64)


def _bf16(values: F64, rounding: str) -> F64:
    near = bits_to_float32(bits_of(np.ascontiguousarray(values))).astype(np.float64)
    if rounding == NEAREST:
        return near
    place = ordinal(near)
    if rounding == FLOOR:
        return np.where(near > values, _at(place - 1), near)
    return np.where(np.abs(near) > np.abs(values), _at(place - np.sign(place)), near)
