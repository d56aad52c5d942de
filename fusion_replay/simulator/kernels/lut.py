# SPDX-License-Identifier: Apache-2.0
"""The lookup tables of AIE2, which has no exponential and no tanh instruction.

Layout and table sizes are those of Xilinx/mlir-aie ``aie_runtime_lib/AIE2/lut_based_ops.h`` (exp: an integer table and
a fraction table of 256 bfloat16 entries each; tanh: 32 segments of a quarter over [-4, 4)) and
``python/utils/aie2p_emulation.py`` (GELU: 64 segments of an eighth over [-4, 4)). The entries are computed here: the
exponentials rounded to bfloat16, the segments as chords through the function's values at both ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from fusion_replay.simulator.core import Float32, nearest_bf16

_EXP_CLAMP = 88.0  # beyond it the integer table would overflow
_SMALLEST_NORMAL = 2.0**-126


def exp(x: Float32) -> Float32:
    """exp of bfloat16 values (as float32) by two table lookups; the float32 product, not rounded to bfloat16 yet.

    The input is cut to a multiple of 1/256 towards minus infinity, whatever the rounding register says. Table
    entries below the smallest normal number are 0, so that masked columns of a softmax give 0.
    """
    whole, fraction = _exp_tables()
    clamped = np.clip(np.where(np.isnan(x), np.float32(0), x), -_EXP_CLAMP, _EXP_CLAMP)
    fixed = np.floor(clamped * np.float32(256)).astype(np.int64)
    product = whole[(fixed >> 8) + 128] * fraction[fixed & 255]
    return np.where(np.isnan(x), x, product).astype(np.float32)


@cache
def _exp_tables() -> tuple[Float32, Float32]:
    whole = nearest_bf16([math.exp(min(i, 88)) for i in range(-128, 128)])
    whole[whole < _SMALLEST_NORMAL] = 0
    return whole, nearest_bf16([math.exp(i / 256) for i in range(256)])


@dataclass(frozen=True)
class Segments:
    """A piecewise linear function: ``slope[i] * x + offset[i]`` on ``[low + i * width, low + (i + 1) * width)``.

    The outermost segments serve everything beyond them. Slopes are bfloat16 values, offsets float32; the product is
    exact in float32 and the sum is rounded to it.
    """

    low: float
    width: float
    slope: Float32
    offset: Float32

    def __call__(self, x: Float32) -> Float32:
        """``x``: bfloat16 values as float32. Returns the float32 accumulator, NaN where ``x`` is NaN."""
        high = self.low + self.width * (len(self.slope) - 0.5)  # the middle of the last segment
        inside = np.clip(np.where(np.isnan(x), np.float32(0), x), np.float32(self.low), np.float32(high))
        # Divided before the table's start is taken off: a tiny negative number belongs left of 0.
        index = np.floor(inside / np.float32(self.width)).astype(np.int64) - int(self.low / self.width)
        slope = self.slope[index]
        # A flat segment multiplies 0 by the input it clamps, so Inf gives its constant and not NaN.
        return np.where(slope == 0, inside, x) * slope + self.offset[index]


@cache
def tanh_segments() -> Segments:
    """32 segments of 1/4 over [-4, 4); the outermost two are the constants -1 and 1."""
    slope, offset = _chords(math.tanh, -4.0, 0.25, 32)
    slope[[0, -1]] = 0
    offset[0], offset[-1] = -1, 1
    return Segments(-4.0, 0.25, slope, nearest_bf16(offset))


@cache
def gelu_segments() -> Segments:
    """64 segments of 1/8 over [-4, 4); the outermost two are 0 and x."""
    slope, offset = _chords(_gelu, -4.0, 0.125, 64)
    slope[0], slope[-1] = 0, 1
    offset[[0, -1]] = 0
    return Segments(-4.0, 0.125, slope, offset)


def _chords(function: Callable[[float], float], low: float, width: float, count: int) -> tuple[Float32, Float32]:
    """Chords with bfloat16 slopes that meet the function at the segment end nearer to 0 (so 0 maps to itself)."""
    ends = [low + width * i for i in range(count + 1)]
    at = np.array([function(e) for e in ends])
    slope = nearest_bf16((at[1:] - at[:-1]) / width)
    inner = np.array([0 if low + width * i >= 0 else 1 for i in range(count)]) + np.arange(count)
    return slope, (at[inner] - slope * np.array(ends)[inner]).astype(np.float32)


def _gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
