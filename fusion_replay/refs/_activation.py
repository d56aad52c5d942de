# SPDX-License-Identifier: Apache-2.0
"""Activations in float64, in forms that lose nothing where the result is small.

Only products, quotients and ``exp`` of float64: its last bit differs between libraries, which one rounding to bf16
hides. Infinite inputs follow torch: silu(-inf) and gelu(-inf) are NaN (-inf * 0), though the limit is 0.
"""

from __future__ import annotations

import math
from typing import Any

from fusion_replay.bf16 import Array

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
