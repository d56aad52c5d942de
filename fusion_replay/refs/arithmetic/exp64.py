# SPDX-License-Identifier: Apache-2.0
"""exp in float64, bit for bit as the device's software routine (Xilinx/mlir-aie aie_kernels/sample/exp64.h).

exp(x) = 2**(k / 128) exp(r), with 2**(k / 128) from a table and a polynomial of degree 5 for exp(r): only IEEE
additions and products in a fixed order, so numpy has the device's bits, which no library's own exp promises. The table
needs no copy: entry i is 2**(i / 128) rounded to float64 and what the rounding lost, relative, both from integer roots.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import isqrt

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_BITS = 7
_N = 1 << _BITS
_INV_LN2_N = float.fromhex("0x1.71547652b82fep+7")
_SHIFT = 1.5 * 2.0**52  # adding it rounds to an integer, which then sits in the low bits
_LN2_HI_N = float.fromhex("0x1.62e42fefc0000p-8")
_LN2_LO_N = float.fromhex("-0x1.c610ca86c3899p-44")
_C2 = 0.5
_C3 = float.fromhex("0x1.5555555555555p-3")
_C4 = float.fromhex("0x1.5555555555555p-5")
_C5 = float.fromhex("0x1.1111111111111p-7")
_PRECISION = 200  # bits of the roots


@cache
def table() -> tuple[Doubles, npt.NDArray[np.uint64]]:
    """(tail, bits of 2**(i / 128) less i << 45), i from 0 to 127."""
    tails, bits = [], []
    for i in range(_N):
        root = (1 << i) << _PRECISION
        for _ in range(_BITS):
            root = isqrt(root << _PRECISION)
        exact = Fraction(root, 1 << _PRECISION)
        rounded = float(exact)
        tails.append(float(exact / Fraction(rounded) - 1))
        bits.append(int(np.float64(rounded).view(np.uint64)) - (i << (52 - _BITS)))
    return np.array(tails), np.array(bits, np.uint64)


def exp64(x: Doubles) -> Doubles:
    """exp(x) for x <= 0, -inf included (a softmax's weights). float64, any shape."""
    tails, starts = table()
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        shifted = _INV_LN2_N * x + _SHIFT
        k = shifted.view(np.uint64)
        turns = shifted - _SHIFT
        r = (x + turns * -_LN2_HI_N) + turns * -_LN2_LO_N
        entry = (k % np.uint64(_N)).astype(np.int64)
        scale = starts[entry] + (k << np.uint64(52 - _BITS))
        squared = r * r
        polynomial = ((tails[entry] + r) + squared * (_C2 + r * _C3)) + (squared * squared) * (_C4 + r * _C5)
        normal = scale.view(np.float64)
        result = normal + normal * polynomial
        result = np.where(x <= -512.0, _subnormal(scale, polynomial), result)
        result = np.where(x > -(2.0**-54), 1.0 + x, result)
    return np.where(x <= -1024.0, 0.0, result)


def _subnormal(scale: npt.NDArray[np.uint64], polynomial: Doubles) -> Doubles:
    """Below -512 the result may be subnormal: rounded once, at the place where its last bit will be."""
    lifted = (scale + (np.uint64(1022) << np.uint64(52))).view(np.float64)
    step = lifted * polynomial
    y = lifted + step
    low = (lifted - y) + step
    high = 1.0 + y
    low = ((1.0 - high) + y) + low
    rounded = (high + low) - 1.0
    return 2.0**-1022 * np.where(y < 1.0, np.where(rounded == 0.0, 0.0, rounded), y)
