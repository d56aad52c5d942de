# SPDX-License-Identifier: Apache-2.0
"""Roundings and interval arithmetic against fractions: every end where the exact numbers put it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_replay.compare.numerics.intervals import (
    Interval,
    add,
    at_places,
    even_bf16,
    floor_bf16,
    flushed,
    hull,
    mul,
    places,
    point,
    reciprocal,
    spread,
    stepped,
    sub,
)

ALL = at_places(np.arange(-0x7F7F, 0x7F80, dtype=np.int32))
"""Every finite bfloat16 value, in order."""
VALUES = [Fraction(float(v)) for v in ALL]

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_all_finite_values_stand_in_order_and_come_back() -> None:
    assert (np.diff(ALL.astype(np.float64)) > 0).all()
    assert (places(ALL) == np.arange(-0x7F7F, 0x7F80)).all()
    assert at_places(np.array([0x7F80, 99999, -99999], np.int32)).tolist() == [np.inf, np.inf, -np.inf]
    assert stepped(f32(1.0, -1.0, 0.0, np.nan), 1)[:3].tolist() == [1.0078125, -0.99609375, 2.0**-133]


@given(floats)
def test_floor_is_the_largest_value_below(x: float) -> None:
    (found,) = floor_bf16(f32(x))
    exact = Fraction(float(np.float32(x)))
    if found == -np.inf:
        assert exact < Fraction(float(ALL[0]))
        return
    assert Fraction(float(found)) <= exact
    assert (
        not np.isfinite(stepped(f32(float(found)), 1)[0]) or Fraction(float(stepped(f32(float(found)), 1)[0])) > exact
    )


@given(floats)
def test_even_is_the_nearest_value_and_of_two_the_even_one(x: float) -> None:
    (found,) = even_bf16(f32(x))
    exact = Fraction(float(np.float32(x)))
    below, above = (float(stepped(f32(float(found)), n)[0]) for n in (-1, 1))
    gaps = [abs(Fraction(v) - exact) for v in (below, above) if np.isfinite(v)]
    if not np.isfinite(found):
        assert abs(exact) >= Fraction(float(ALL[-1])) + Fraction(2) ** 119
        return
    mine = abs(Fraction(float(found)) - exact)
    assert all(mine <= gap for gap in gaps)
    if mine in gaps:
        assert int(places(f32(float(found)))[0]) % 2 == 0


def test_what_is_not_a_number_stays_so() -> None:
    bits = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    for rounding in (floor_bf16, even_bf16):
        assert np.isnan(rounding(bits)).all()
        assert rounding(f32(np.inf, -np.inf)).tolist() == [np.inf, -np.inf]


def test_the_whole_line_is_its_own_rounding() -> None:
    assert (floor_bf16(ALL) == ALL).all()
    assert (even_bf16(ALL) == ALL).all()


@given(st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4), st.sampled_from([add, sub, mul]))
def test_a_result_of_any_members_is_a_member(ends: list[float], operation: object) -> None:
    a, b = (Interval(f32(min(p)), f32(max(p))) for p in (ends[:2], ends[2:]))
    found = operation(a, b)  # type: ignore[operator]
    plain = {add: np.add, sub: np.subtract, mul: np.multiply}[operation]  # type: ignore[index]
    for x in (ends[0], ends[1], (ends[0] + ends[1]) / 2):
        for y in (ends[2], ends[3]):
            value = plain(np.float32(x), np.float32(y))
            assert found.lo[0] <= value <= found.hi[0]


def test_known_values_cost_one_array() -> None:
    found = mul(point(f32(2, 3)), point(f32(5, 7)))
    assert found.known
    assert found.lo.tolist() == [10, 21]


def test_one_end_that_overflows_leaves_the_element_free() -> None:
    with np.errstate(over="ignore"):
        found = add(Interval(f32(0, 1), f32(3e38, 1)), Interval(f32(0, 1), f32(3e38, 1)))
    assert found.free is not None
    assert found.free.tolist() == [True, False]


def test_a_divisor_that_may_be_zero_leaves_the_quotient_free() -> None:
    with np.errstate(divide="ignore"):
        found = reciprocal(Interval(f32(0, 2), f32(1, 4)))
    assert found.free is not None
    assert found.free.tolist() == [True, False]
    assert (found.lo[1], found.hi[1]) == (0.25, 0.5)


def test_a_hull_holds_all_and_nan_in_one_of_them_leaves_it_free() -> None:
    found = hull([point(f32(1, np.nan, np.nan)), point(f32(2, 1, np.nan))])
    assert (found.lo[0], found.hi[0]) == (1, 2)
    assert found.free is not None
    assert found.free.tolist() == [False, True, False]


def test_sums_whose_terms_may_pass_float32_are_free() -> None:
    found = spread(np.array([1.0, 2.0]), np.array([0.5, 0.5]), np.array([1.0, 1e39]))
    assert (found.lo[0], found.hi[0]) == (0.5, 1.5)
    assert found.free is not None
    assert found.free.tolist() == [False, True]


def test_subnormal_numbers_may_be_zero() -> None:
    found = flushed(point(f32(2.0**-130, -(2.0**-130), 1)))
    assert found.lo.tolist() == [0, np.float32(-(2.0**-130)), 1]
    assert found.hi.tolist() == [np.float32(2.0**-130), 0, 1]


@pytest.mark.parametrize("steps", [1, -1])
def test_steps_and_places_agree(steps: int) -> None:
    inner = ALL[1:-1]
    assert (places(stepped(inner, steps)) == places(inner) + steps).all()
