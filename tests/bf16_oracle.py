# SPDX-License-Identifier: Apache-2.0
"""bfloat16 by rational arithmetic, for tests: shares no code with the package and no conversion with any library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import ml_dtypes
import mpmath
import numpy as np
from hypothesis import strategies as st

NAN, INF, NEGATIVE = 0x7FC0, 0x7F80, 0x8000


def value(bits: int) -> Fraction | float:
    """What a bf16 pattern stands for: a Fraction, or the float nan, inf, -inf."""
    sign = -1 if bits & NEGATIVE else 1
    exponent, fraction = (bits >> 7) & 0xFF, bits & 0x7F
    if exponent == 0xFF:
        return math.nan if fraction else sign * math.inf
    if exponent == 0:
        return sign * Fraction(fraction, 1 << 133)
    scaled = Fraction(fraction + 128, 128)
    return sign * (scaled * (1 << (exponent - 127)) if exponent >= 127 else scaled / (1 << (127 - exponent)))


_POSITIVE = [value(b) for b in range(INF)]  # every finite magnitude, ascending


def nearest(x: Fraction | float, sign_of_zero: int = 0) -> int:
    """Pattern of the bf16 value nearest to x, ties to even. ``sign_of_zero`` (0x8000 or 0) is used for x == 0."""
    if isinstance(x, float):
        if math.isnan(x):
            return NAN
        if math.isinf(x):
            return INF | (NEGATIVE if x < 0 else 0)
        if x == 0:
            return NEGATIVE if math.copysign(1, x) < 0 else 0
        x = Fraction(x)
    if x == 0:
        return sign_of_zero
    sign, magnitude = (NEGATIVE if x < 0 else 0), abs(x)
    low, high = 0, INF  # greatest pattern whose value is <= magnitude, by bisection
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _POSITIVE[middle] <= magnitude else (low, middle)
    below = _POSITIVE[low]
    # Beyond the largest finite value the next one counts as 2**128, where Inf stands.
    above = _POSITIVE[low + 1] if low + 1 < INF else Fraction(2) ** 128
    up, down = above - magnitude, magnitude - below
    return sign | (low if down < up or (down == up and low % 2 == 0) else low + 1)


def nearest_values(x: Fraction | float) -> Fraction | float:
    """x rounded to bf16, as a value."""
    return value(nearest(x))


def array(bits: Sequence[int] | np.ndarray, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    """Patterns -> ml_dtypes.bfloat16 array."""
    return np.asarray(bits, np.uint16).view(ml_dtypes.bfloat16).reshape(shape)


def bits_of(x: object) -> np.ndarray:
    """Patterns of a bf16 array or torch tensor, flat, every NaN as 0x7fc0."""
    raw = raw_bits(x)
    return np.where((raw & 0x7FFF) > INF, NAN, raw)


def raw_bits(x: object) -> np.ndarray:
    """Patterns as they are, flat, in int64."""
    if not isinstance(x, np.ndarray):
        import torch

        x = x.contiguous().view(torch.uint16).numpy()  # type: ignore[attr-defined]
    return np.ascontiguousarray(x).view(np.uint16).reshape(-1).astype(np.int64)


def ulps(a: object, b: object) -> np.ndarray:
    """Steps between two bf16 arrays on the ordered line of bf16 values."""
    return np.abs(_line(bits_of(a)) - _line(bits_of(b)))


def _line(bits: np.ndarray) -> np.ndarray:
    return np.where(bits & NEGATIVE, -(bits & 0x7FFF), bits)


def to_torch(x: np.ndarray) -> object:
    """The same bits as a torch.bfloat16 tensor."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(x).view(np.uint16).copy()).view(torch.bfloat16)


def normal(rng: np.random.Generator, shape: tuple[int, ...] | int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32).astype(ml_dtypes.bfloat16)


def to_fraction(x: mpmath.mpf) -> Fraction | float:
    if not mpmath.isfinite(x):
        return float(x)
    sign, mantissa, exponent, _ = x._mpf_
    return (-1) ** sign * (Fraction(mantissa << exponent) if exponent >= 0 else Fraction(mantissa, 1 << -exponent))


def exactly(fn: Callable[..., mpmath.mpf], *args: Fraction | float) -> Fraction | float:
    """fn of these values in 60-digit arithmetic."""
    with mpmath.workdps(60):
        return to_fraction(fn(*(_mpf(a) for a in args)))


def _mpf(x: Fraction | float) -> mpmath.mpf:
    return mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else mpmath.mpf(x)


SPECIAL = (
    0x0000,
    0x8000,
    0x0001,
    0x8001,
    0x007F,
    0x0080,
    0x3F80,
    0xBF80,
    0x7F7F,
    0xFF7F,
    0x7F80,
    0xFF80,
    0x7FC0,
    0x7F81,
)

any_bits = st.integers(0, 0xFFFF) | st.sampled_from(SPECIAL)
"""Every pattern, the troublesome ones often."""

finite_bits = any_bits.filter(lambda b: (b & INF) != INF)

tame_bits = st.integers(0x3C00, 0x4100).map(lambda b: b) | st.integers(0xBC00, 0xC100) | st.sampled_from([0, 0x8000])
"""Magnitudes from 0.008 to 8, and zeros."""
