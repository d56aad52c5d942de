# SPDX-License-Identifier: Apache-2.0
"""Activations in float64, in forms that lose nothing where the result is small.

Only products, quotients and ``exp`` of float64: its last bit differs between libraries, which one rounding to bf16
hides. Infinite inputs follow torch: silu(-inf) and gelu(-inf) are NaN (-inf * 0), though the limit is 0.
"""

from __future__ import annotations

import math
from typing import Any

from fusion_replay.model.bf16 import Array
from fusion_replay.refs.arithmetic.sums import add_to_odd

_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715  # Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016; torch's gelu(approximate="tanh")


def silu(xp: Any, x: Array) -> Array:
    """x * sigmoid(x), as x / (1 + exp(-x)): exp overflows to Inf below -709 and the quotient is then -0."""
    return x / (1.0 + xp.exp(-x))


def gelu_tanh(xp: Any, x: Array) -> Array:
    """0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3), as x / (1 + exp(-2u)).

    The two are equal, but 1 + tanh(u) cancels for negative u: in float32 the tail is off by up to 13,000 bf16 ULP.
    """
    return x / (1.0 + xp.exp(-2.0 * _SQRT_2_OVER_PI * (x + _CUBIC * x * x * x)))


def silu_exact(xp: Any, x: Array) -> Array:
    """As :func:`silu`, right also where half of a tiny x lies on a bf16 tie."""
    return _past_the_tie(xp, x, 0.25, silu(xp, x))


def gelu_tanh_exact(xp: Any, x: Array) -> Array:
    """As :func:`gelu_tanh`, right also where half of a tiny x lies on a bf16 tie."""
    return _past_the_tie(xp, x, 0.5 * _SQRT_2_OVER_PI, gelu_tanh(xp, x))


def _past_the_tie(xp: Any, x: Array, curve: float, result: Array) -> Array:
    """x/2 + curve x^2 where |x| < 2**-60, ``result`` elsewhere.

    Half of an odd subnormal is a tie, the square decides it, and float64 holds no more than one of the two.
    """
    tiny = (xp.abs(x) < 2.0**-60) & (x != 0)  # -0 stays -0
    return xp.where(tiny, add_to_odd(xp, 0.5 * x, curve * x * x), result)
