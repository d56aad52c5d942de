# SPDX-License-Identifier: Apache-2.0
"""Sums that a later rounding to bf16 cannot get wrong."""

from __future__ import annotations

from typing import Any

from fusion_replay.model.bf16 import Array


def add_to_odd(xp: Any, a: Array, b: Array) -> Array:
    """a + b in float64, rounded to *odd*: the last bit is set wherever bits were lost.

    1.51171875 + 1e-30 rounds to the tie 1.51171875 in float64, and the tie to the wrong bf16; the odd neighbour does
    not. Knuth's TwoSum gives the lost part; Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008.
    NaN and Inf come through as from a plain sum.
    """
    total = a + b
    seen = total - a
    lost = (a - (total - seen)) + (b - seen)
    even = (total.view(xp.int64) & 1) == 0
    step = even & (lost != 0) & (lost == lost)
    towards = xp.copysign(xp.full_like(total, float("inf")), lost)
    return xp.where(step, xp.nextafter(total, towards), total)
