# SPDX-License-Identifier: Apache-2.0
"""Sums against exact rational arithmetic, and for the order that they promise."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from fusion_replay.compare.sums import LANES, dot, norm


@pytest.mark.parametrize("n", [0, 1, 3, LANES, LANES + 1, 5 * LANES - 1])
def test_the_sum_is_near_the_exact_one(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n))
    exact = sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction())
    scale = sum((abs(Fraction(x) * Fraction(y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction())
    assert abs(Fraction(dot(a, b)) - exact) <= scale * Fraction(2) ** -50
    assert math.isclose(norm(a), math.hypot(*a.tolist()), rel_tol=1e-14)


def test_lanes_are_added_in_order_and_then_exactly() -> None:
    """1 and 2**-53 in one lane lose the small one, in two lanes nothing is lost: BLAS does neither on every machine."""
    ones, small = np.ones(2 * LANES), np.zeros(2 * LANES)
    small[0], small[LANES], small[1], small[2] = 1.0, 2.0**-53, 2.0**-54, 2.0**-54
    assert dot(small, ones) == 1.0
    small[1] = 2.0**-53
    assert dot(small, ones) == 1.0 + 2.0**-52


def test_no_value_is_nan() -> None:
    assert math.isnan(dot(np.array([np.inf, 1.0]), np.array([0.0, 1.0])))
    assert math.isnan(dot(np.array([1e300, 1e300]), np.array([1e300, -1e300])))
    assert dot(np.array([np.inf]), np.array([1.0])) == math.inf
