# SPDX-License-Identifier: Apache-2.0
"""What device models execute in place of a function: tables of segments, exponential tables, Newton steps.

Layouts are those of Xilinx/mlir-aie ``aie_runtime_lib/AIE2/lut_based_ops.h`` (exponential: 256 powers of e and 256
fractions, bfloat16; tanh: 32 segments of 1/4 over [-4, 4)) and ``python/utils/aie2p_emulation.py`` (GELU: 64 segments
of 1/8; the reciprocal root's Newton steps). Their entries were not read: segments are taken as chords of the function,
which models alone rely on; bounds take a table's distance from its function instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.numerics.intervals import F32, even_bf16

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x**3)))


def _wide(function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Callable[[F32], F32]:
    """A function evaluated in float64, so that no host's float32 library shows."""
    return lambda x: function(x.astype(np.float64)).astype(np.float32)


def _gelu(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    inside = np.clip(x, -40, 40)
    y = inside / (1 + np.exp(-2 * _SQRT_2_OVER_PI * (inside + 0.044715 * inside**3)))
    return np.where(np.isnan(x), x, np.where(x > 40, x, np.where(x < -40, -0.0, y)))


@cache
def _segments(name: str) -> tuple[float, float, F32, F32]:
    """(start, width, slopes, offsets) of a table of chords; each meets the function at its end nearer to 0."""
    function, low, width, count = {"tanh": (math.tanh, -4.0, 0.25, 32), "gelu": (gelu, -4.0, 0.125, 64)}[name]
    ends = low + width * np.arange(count + 1)
    values = np.array([function(e) for e in ends])
    slopes = even_bf16(((values[1:] - values[:-1]) / width).astype(np.float32))
    inner = np.where(ends[:-1] >= 0, np.arange(count), np.arange(count) + 1)
    offsets = (values[inner] - slopes.astype(np.float64) * ends[inner]).astype(np.float32)
    slopes[0], slopes[-1] = 0, 0 if name == "tanh" else 1
    offsets[0], offsets[-1] = (-1, 1) if name == "tanh" else (0, 0)
    return low, width, slopes, even_bf16(offsets) if name == "tanh" else offsets


def _table(name: str) -> Callable[[F32], F32]:
    def look_up(x: F32) -> F32:
        low, width, slopes, offsets = _segments(name)
        inside = np.clip(np.where(np.isnan(x), 0, x), low, -low - width / 2).astype(np.float32)
        at = (np.floor(inside / np.float32(width)) - low / width).astype(np.int64)
        # A flat outer segment holds its constant for infinite inputs too.
        y: F32 = np.where(slopes[at] == 0, inside, x) * slopes[at] + offsets[at]
        return y

    return look_up


@cache
def _powers() -> tuple[F32, F32]:
    with np.errstate(over="ignore"):
        whole = even_bf16(np.exp(np.minimum(np.arange(-128.0, 128.0), 88.0)).astype(np.float32))
    whole[whole < np.float32(2.0**-126)] = 0
    return whole, even_bf16(np.exp(np.arange(256) / 256.0).astype(np.float32))


def _exp_tables(x: F32) -> F32:
    """Cut to a multiple of 1/256 towards minus infinity, whatever the mode; two entries multiplied in float32."""
    whole, fraction = _powers()
    fixed = np.floor(np.clip(np.where(np.isnan(x), 0, x), -88, 88) * 256.0).astype(np.int64)
    return np.where(np.isnan(x), x, whole[(fixed >> 8) + 128] * fraction[fixed & 255])


def _exp_clamped(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """exp as the tables mean it: their input ends at +-88, and what is no normal number there is 0."""
    y = np.exp(np.clip(x, -88, 88))
    return np.where(x < -87.0, 0.0, y)


def _newton(steps: int) -> Callable[[F32], F32]:
    """The estimate with the magic number 0x5f3759df, then so many Newton steps, in float32."""

    def rsqrt(x: F32) -> F32:
        x = np.ascontiguousarray(x)
        y: F32 = (np.int32(0x5F3759DF) - (x.view(np.int32) >> np.int32(1))).view(np.float32)
        half = x * np.float32(0.5)
        for _ in range(steps):
            y = y * (np.float32(1.5) - half * y * y)
        return y

    return rsqrt


RISING: dict[str, Callable[[F32], F32]] = {
    "tanh": _wide(np.tanh),
    "tanh_segments": _table("tanh"),
    "exp": _wide(_exp_clamped),
    "exp_tables": _exp_tables,
    "exp2": _wide(np.exp2),
}
"""Functions that never fall."""

FALLING: dict[str, Callable[[F32], F32]] = {
    "rsqrt": _wide(lambda x: 1 / np.sqrt(x)),
    "newton1": _newton(1),
    "newton2": _newton(2),
}
"""Functions of positive numbers that fall, models to within some float32 steps."""

OTHER: dict[str, Callable[[F32], F32]] = {"gelu": _wide(_gelu), "gelu_segments": _table("gelu")}
"""Functions that turn: of known values only."""
