# SPDX-License-Identifier: Apache-2.0
"""Intervals of float32 values, and the two roundings to bfloat16, each of which keeps the order.

Both ends of a value that is known are the same array, so what is exact costs one computation. An element may be *free*:
float32 may have overflowed there, or a divisor reached zero, and nothing is known of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_UPPER = np.int32(-0x10000)  # sign, exponent and the seven fraction bits that bfloat16 keeps
_LARGEST = 3.4028235e38
_TINY = np.float32(2.0**-126)


@dataclass(frozen=True, slots=True)
class Interval:
    """``lo`` to ``hi``, float32 arrays of one shape; NaN at both ends: NaN is due.

    ``free``: elements of which nothing is known, broadcast against the ends; None: there are none.
    """

    lo: F32
    hi: F32
    free: Mask | None = None

    @property
    def known(self) -> bool:
        return self.lo is self.hi


def point(x: F32) -> Interval:
    return Interval(x, x)


# --- rounding -------------------------------------------------------------------------------------------------------


def floor_bf16(x: F32) -> F32:
    """Towards minus infinity: the lower half is cut, and below zero one step is added wherever something was cut."""
    bits = np.ascontiguousarray(x).view(np.int32)
    out = bits >> np.int32(31)
    out &= np.int32(0xFFFF)
    out += bits
    out &= _UPPER
    return _nan_kept(x, out)


def even_bf16(x: F32) -> F32:
    """To the nearest, ties to even."""
    bits = np.ascontiguousarray(x).view(np.int32)
    out = bits >> np.int32(16)
    out &= np.int32(1)
    out += np.int32(0x7FFF)
    out += bits
    out &= _UPPER
    return _nan_kept(x, out)


def _nan_kept(x: F32, bits: npt.NDArray[np.int32]) -> F32:
    out: F32 = bits.view(np.float32)
    if x.size and np.isnan(x.min()):
        out[np.isnan(x)] = np.nan
    return out


ROUND: dict[str, Callable[[F32], F32]] = {"floor": floor_bf16, "conv_even": even_bf16}


def rounded(x: Interval, mode: str) -> Interval:
    """Narrowed to bfloat16 in this mode, still float32."""
    lo = ROUND[mode](x.lo)
    return Interval(lo, lo, x.free) if x.known else checked(lo, ROUND[mode](x.hi), x.free)


def places(x: F32) -> npt.NDArray[np.int32]:
    """Where bfloat16 values stand on their ordered line; both zeros at 0, infinities at +-0x7F80."""
    bits = np.ascontiguousarray(x).view(np.int32) >> np.int32(16)
    magnitude = bits & np.int32(0x7FFF)
    return np.where(bits < 0, -magnitude, magnitude)


def at_places(line: npt.NDArray[np.int32]) -> F32:
    """The bfloat16 values at these places; beyond the infinities: those."""
    inside = np.clip(line, -0x7F80, 0x7F80)
    bits = np.abs(inside) | np.where(inside < 0, np.int32(0x8000), np.int32(0))
    return np.left_shift(bits.astype(np.uint32), np.uint32(16)).view(np.float32)


def stepped(x: F32, steps: int) -> F32:
    """So many bfloat16 values further up; NaN stays."""
    return np.where(np.isnan(x), x, at_places(places(x) + np.int32(steps)))


def flushed(x: Interval) -> Interval:
    """As far as a device may make zeros of subnormal numbers, too."""
    lo, hi = (np.abs(e) < _TINY for e in (x.lo, x.hi))
    if not (lo.any() or hi.any()):
        return x
    return Interval(np.where(lo, np.minimum(x.lo, 0), x.lo), np.where(hi, np.maximum(x.hi, 0), x.hi), x.free)


# --- arithmetic: every operation rounds to float32, to nearest ------------------------------------------------------


def add(a: Interval, b: Interval) -> Interval:
    lo = a.lo + b.lo
    return checked(lo, lo if a.known and b.known else a.hi + b.hi, _either(a, b))


def sub(a: Interval, b: Interval) -> Interval:
    lo = a.lo - b.hi
    return checked(lo, lo if a.known and b.known else a.hi - b.lo, _either(a, b))


def mul(a: Interval, b: Interval) -> Interval:
    if a.known and b.known:
        return Interval(p := a.lo * b.lo, p, _either(a, b))
    if a.known or b.known:
        fixed, other = (a.lo, b) if a.known else (b.lo, a)
        lo, hi = fixed * other.lo, fixed * other.hi
        return checked(np.minimum(lo, hi), np.maximum(lo, hi), _either(a, b))
    if a.lo.size and b.lo.size and a.lo.min() >= 0 and b.lo.min() >= 0:
        return checked(a.lo * b.lo, a.hi * b.hi, _either(a, b))
    ends = [x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    lo = np.minimum(np.minimum(ends[0], ends[1]), np.minimum(ends[2], ends[3]))
    hi = np.maximum(np.maximum(ends[0], ends[1]), np.maximum(ends[2], ends[3]))
    return checked(lo, hi, _either(a, b))


def maximum(a: Interval, b: Interval) -> Interval:
    lo = np.maximum(a.lo, b.lo)
    return Interval(lo, lo if a.known and b.known else np.maximum(a.hi, b.hi), _either(a, b))


def reciprocal(x: Interval) -> Interval:
    """Of what is not negative; free where the divisor may be zero or subnormal; of NaN, NaN."""
    hi = np.float32(1) / x.lo
    lo = hi if x.known else np.float32(1) / x.hi
    lost = (x.lo < _TINY) | (np.isnan(x.lo) & ~np.isnan(x.hi))
    free = x.free
    if lost.any():
        free = lost if free is None else free | lost
    return Interval(lo, hi, free)


def div(a: Interval, b: Interval) -> Interval:
    """By a positive number that is known."""
    lo = a.lo / b.lo
    return Interval(lo, lo if a.known else a.hi / b.lo, _either(a, b))


def hull(parts: list[Interval]) -> Interval:
    """The smallest interval that holds them all; NaN in some and not in others leaves an element free."""
    if len(parts) == 1:
        return parts[0]
    lo, hi, free = parts[0].lo, parts[0].hi, parts[0].free
    for other in parts[1:]:
        lo, hi = np.minimum(lo, other.lo), np.maximum(hi, other.hi)
        free = other.free if free is None else free if other.free is None else free | other.free
    if lo.size and np.isnan(lo.min()):
        nan = [np.isnan(p.lo) for p in parts]
        some = np.logical_or.reduce(nan) & ~np.logical_and.reduce(nan)
        if some.any():
            free = some if free is None else free | some
    return Interval(lo, hi, free)


def spread(
    centre: npt.NDArray[np.float64], radius: npt.NDArray[np.float64], terms: npt.NDArray[np.float64]
) -> Interval:
    """``centre`` +- ``radius``; free where the ``terms``, summed in any order, may pass the largest float32.

    A term that is NaN makes NaN of the sum in any order.
    """
    with np.errstate(all="ignore"):
        lo, hi = (centre - radius).astype(np.float32), (centre + radius).astype(np.float32)
    free = None
    most = float(terms.max()) if terms.size else 0.0
    if not most < _LARGEST:  # NaN included
        free = terms >= _LARGEST
        free = free if free.any() else None
    return checked(lo, hi, free)


def _either(a: Interval, b: Interval) -> Mask | None:
    if a.free is None or b.free is None:
        return a.free if b.free is None else b.free
    return a.free | b.free


def checked(lo: F32, hi: F32, free: Mask | None) -> Interval:
    """Free where one end alone left the finite numbers."""
    if lo is hi or not lo.size or (np.isfinite(lo.min()) and np.isfinite(hi.max())):
        return Interval(lo, hi, free)
    lost = ~(np.isfinite(lo) & np.isfinite(hi)) & ~((lo == hi) | (np.isnan(lo) & np.isnan(hi)))
    if lost.any():
        free = lost if free is None else free | lost
    return Interval(lo, hi, free)
