# SPDX-License-Identifier: Apache-2.0
"""Two tensors side by side, one stretch at a time, as every rule and statistic wants to see them.

Each block is widened to float32 (IRON's figures) and float64 (all others) and placed on the ordered line of bf16 values
(ULP distances), in buffers that stay in a core's cache: tensors of half a gigabyte need no copy of themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.bf16 import BFLOAT16, bits_of

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BLOCK = 1 << 14  # elements; all temporaries of one block stay in a core's cache
_IRON_GUARD = np.float32(1e-6)  # IRON adds it to |reference| before dividing by it


@dataclass(slots=True)
class Block:
    """One stretch of both tensors, widened; valid only until the next block.

    Attributes:
        actual32, expected32, difference32, relative32: float32 as IRON has them, non-finite values included.
        actual, expected: float64; zero where a pair is not finite on both sides.
        difference: ``|actual - expected|`` in float64.
        ulp, ulp_signed: distances, zero where a pair is not finite; and the sum of actual minus expected.
        specials: NaN in actual, in expected, Inf in actual, in expected.
        unequal: pairs of different value, for integers too wide for float64. None: ``difference`` says it.
        finite: pairs finite on both sides. None: all.
        disagree: NaN against a number, Inf against anything but the same Inf. None: nowhere.
    """

    actual32: F32
    expected32: F32
    difference32: F32
    relative32: F32
    actual: F64
    expected: F64
    difference: F64
    ulp: npt.NDArray[Any]
    ulp_signed: int
    specials: tuple[int, int, int, int] = (0, 0, 0, 0)
    unequal: Mask | None = None
    finite: Mask | None = None
    disagree: Mask | None = None


class Blocks:
    """Hands out blocks; all buffers are allocated once per comparison."""

    def __init__(self, actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
        self.a, self.e = np.ascontiguousarray(actual).reshape(-1), np.ascontiguousarray(expected).reshape(-1)
        self.n = self.a.size
        self.bit_equal = self.a.dtype != self.e.dtype  # of different dtypes: until a block says otherwise
        self.integers = self.a.dtype.kind in "iub" and self.e.dtype.kind in "iub"
        size = min(self.n, BLOCK)
        self.f32 = np.empty((4, size), np.float32)
        self.f64 = np.empty((3, size), np.float64)

    def block(self, start: int) -> Block:
        a, e = self.a[start : start + BLOCK], self.e[start : start + BLOCK]
        a32, e32, d32, r32 = self.f32[:, : a.size]
        a64, e64, d64 = self.f64[:, : a.size]
        to_float32(a, a32)
        to_float32(e, e32)
        np.subtract(a32, e32, out=d32)
        np.abs(d32, out=d32)
        np.abs(e32, out=r32)
        r32 += _IRON_GUARD
        np.divide(d32, r32, out=r32)
        a64[...] = a32 if a.dtype == BFLOAT16 else a  # ml_dtypes widens one by one
        e64[...] = e32 if e.dtype == BFLOAT16 else e
        if self.bit_equal:
            self.bit_equal = bool((a64.view(np.int64) == e64.view(np.int64)).all())
        finite, disagree, specials = _finite_pairs(a64, e64)
        np.subtract(a64, e64, out=d64)
        if self.integers:
            signed = int(math.fsum(d64.tolist()))
            ulp: npt.NDArray[Any] = _integer_distance(a, e)
        else:
            ulp, signed = _ulp_distance(_ordinals(a, a32), _ordinals(e, e32), finite)
        np.abs(d64, out=d64)
        unequal = a != e if self.integers else None
        return Block(a32, e32, d32, r32, a64, e64, d64, ulp, signed, specials, unequal, finite, disagree)


def to_float32(x: npt.NDArray[Any], out: F32) -> None:
    """Widen (or round, from float64) into ``out`` of the same shape; bf16 by its bits, being float32's upper half."""
    if x.dtype == BFLOAT16:
        bits = out.view(np.uint32)
        bits[...] = x.view(np.uint16)
        bits <<= np.uint32(16)
    else:
        out[...] = x


def _finite_pairs(a: F64, e: F64) -> tuple[Mask | None, Mask | None, tuple[int, int, int, int]]:
    """Masks of finite and of disagreeing pairs (None: all, none) and counts; zeroes non-finite pairs in place."""
    if math.isfinite(float(a.max()) - float(a.min())) and math.isfinite(float(e.max()) - float(e.min())):
        return None, None, (0, 0, 0, 0)
    nans, infs = (np.isnan(a), np.isnan(e)), (np.isinf(a), np.isinf(e))
    finite = np.isfinite(a) & np.isfinite(e)
    disagree = ~finite & ~((a == e) | (nans[0] & nans[1]))
    a[~finite] = 0.0
    e[~finite] = 0.0
    nan_a, nan_e, inf_a, inf_e = (int(np.count_nonzero(mask)) for mask in (*nans, *infs))
    return finite, disagree, (nan_a, nan_e, inf_a, inf_e)


def _ordinals(x: npt.NDArray[Any], x32: F32) -> npt.NDArray[np.uint16]:
    """Places on the ordered bf16 line: both zeros at 32768, the largest numbers towards 0 and 65535."""
    if x.dtype == BFLOAT16:
        bits = x.view(np.uint16)
    elif x.dtype == np.float64:
        bits = bits_of(x)
    else:
        wide = x32.view(np.uint32)
        even = (wide >> np.uint32(16)) & np.uint32(1)
        bits = ((wide + (even + np.uint32(0x7FFF))) >> np.uint32(16)).astype(np.uint16)
    negative = (bits.view(np.int16) >> np.int16(15)).view(np.uint16)  # all ones where the sign is set
    line = bits & np.uint16(0x7FFF)
    line ^= negative
    line -= negative
    line ^= np.uint16(0x8000)
    return line


def _ulp_distance(
    a: npt.NDArray[np.uint16], e: npt.NDArray[np.uint16], finite: Mask | None
) -> tuple[npt.NDArray[np.uint16], int]:
    """Distances, and the sum of ``a - e``, over finite pairs."""
    if finite is not None:
        a[~finite] = 0
        e[~finite] = 0
    signed = int(np.add.reduce(a, dtype=np.uint32)) - int(np.add.reduce(e, dtype=np.uint32))
    distance = np.maximum(a, e)
    distance -= np.minimum(a, e)
    return distance, signed


def _integer_distance(a: npt.NDArray[Any], e: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    if np.result_type(a, e).kind == "f":  # uint64 beside a signed type has no common integer type
        return np.abs(a.astype(np.float64) - e.astype(np.float64)).astype(np.uint64)
    high, low = np.maximum(a, e), np.minimum(a, e)
    distance: npt.NDArray[np.uint64] = high.astype(np.uint64) - low.astype(np.uint64)  # right modulo 2**64
    return distance
