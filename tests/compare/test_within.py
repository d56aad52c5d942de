# SPDX-License-Identifier: Apache-2.0
"""An output against its bound, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fusion_replay.compare.numerics.evaluator import Bound
from fusion_replay.compare.tolerance import relative
from fusion_replay.compare.verdict import compare
from fusion_replay.compare.within import Within, within
from fusion_replay.model.bf16 import BFLOAT16

INF, NAN = np.inf, np.nan


def bf(*values: float) -> np.ndarray:
    return np.array(values, np.float32).astype(BFLOAT16)


def limits(lo: list[float], hi: list[float]) -> Bound:
    return Bound(np.array(lo, np.float32), np.array(hi, np.float32), ())


def test_inside_outside_unbounded_and_nan() -> None:
    bound = limits([1, 1, 1, -INF, NAN, NAN, 1], [1, 2, 2, INF, NAN, NAN, 1])
    found = within(bf(1, 1.5, 3, NAN, NAN, 7, NAN), bf(*[9] * 7), bound)
    assert found.n_outside == 3
    assert found.first == (2, 3.0, 1.0, 2.0)
    assert found.n_unbounded == 1


@pytest.mark.parametrize(
    ("ends", "accepts"),
    [([(1, 1)] * 3, 1), ([(1, 1), (1, 1.0078125), (1, 2)], 2), ([(1, 2)] * 3, 129), ([(-INF, INF)] * 2 + [(0, 0)], 1)],
)
def test_how_many_values_it_accepts(ends: list[tuple[float, float]], accepts: int) -> None:
    bound = limits(*map(list, zip(*ends, strict=True)))
    assert within(bf(1, 1, 1), bf(1, 1, 1), bound).accepts == accepts


def test_what_is_outside_counts_for_the_width_too() -> None:
    assert within(bf(9), bf(1), limits([1], [2])).accepts == 129


def test_how_far_the_worst_element_is() -> None:
    bound = limits([1.0, 1.0], [1.0625, 1.0])  # nine values, and one
    assert within(bf(1.03125, 1), bf(0, 0), bound).worst == 0
    assert within(bf(1.046875, 1), bf(0, 0), bound).worst == 0.5
    assert within(bf(1.0625, 1), bf(0, 0), bound).worst == 1


def test_what_equals_the_reference_is_never_outside() -> None:
    bound = limits([1, NAN], [1, NAN])
    assert within(bf(2, 3), bf(2, 3), bound).n_outside == 0
    assert within(bf(2), bf(NAN), limits([1], [1])).n_outside == 1


def test_one_value_below_where_the_device_is_not_known() -> None:
    below, above = 2 - 2.0**-7, 2 + 2.0**-6
    assert within(bf(below), bf(2), limits([3], [3]), steps_below=1).n_outside == 0
    assert within(bf(below), bf(2), limits([3], [3])).n_outside == 1
    assert within(bf(above), bf(2), limits([3], [3]), steps_below=1).n_outside == 1


def test_one_of_other_bounds_is_enough() -> None:
    bound, others = limits([1, 1], [1, 1]), [limits([2, 5], [2, 5]), limits([7, 7], [7, 7])]
    assert within(bf(2, 3), bf(0, 0), bound, also=others).first == (1, 3.0, 1.0, 1.0)


def test_many_elements_are_all_seen() -> None:
    n = 200_000
    actual, bound = bf(*np.ones(n)), limits([1] * n, [1] * n)
    actual[n - 1] = 2
    found = within(actual, bf(*np.ones(n)), bound)
    assert found.first == (n - 1, 2.0, 1.0, 1.0)


def test_a_bound_that_knows_nothing_does_not_decide() -> None:
    assert not within(bf(1), bf(1), limits([-INF], [INF]), decides=True).decides
    assert within(bf(1), bf(1), limits([1], [1]), decides=True).decides


def judged(n_outside: int, *, decides: bool) -> Within:
    return Within(n_outside, (0, 1.5, 1.0, 1.0) if n_outside else None, 1, 0.0, 0, (), (), decides)


def test_who_decides() -> None:
    near, far = bf(1.5, 1), bf(1, 1)
    loose, tight = {"rtol": 1.0}, {"rtol": 0.0, "atol": 0.0}
    out = compare(near, far, "auto", **loose, within=judged(1, decides=True))
    assert (out.ok, out.decided_by, out.n_failing, out.stats.n_failing) == (False, "bound", 1, 1)
    assert (
        "1 of 2 elements outside the bound (50.00%), first at (0,) actual 1.5, an honest device gives 1" in out.detail
    )
    kept = compare(near, far, "auto", **tight, within=judged(0, decides=True))
    assert (kept.ok, kept.decided_by) == (True, "bound")
    listed = compare(near, far, "auto", **loose, within=judged(1, decides=False))
    assert (listed.ok, listed.outside, listed.decided_by) == (True, True, "tolerance")
    assert "outside the bound" in listed.detail
    failed = compare(near, far, "auto", **tight, within=judged(0, decides=False))
    assert (failed.ok, failed.outside) == (False, False)


def test_old_contents_inside_the_bound_are_no_finding() -> None:
    inside, outside = judged(0, decides=True), judged(1, decides=True)
    assert compare(bf(1.5, 1), bf(1, 1), "auto", within=inside, unchanged=True)
    assert compare(bf(1.5, 1), bf(1, 1), "auto", within=outside, unchanged=True).detail.startswith("never written: ")
    assert compare(bf(1, 1), bf(1, 1), "auto", within=inside, unchanged=True)


LARGEST = 3.3895313892515355e38


def test_inf_against_the_largest_value_is_the_modes_to_say_where_the_bound_holds_both() -> None:
    """Floor keeps 3.395e38 below Inf, nearest even does not; beyond the bound it is a fault."""
    actual, expected = bf(LARGEST, 1), bf(INF, 1)
    bound = within(actual, expected, limits([LARGEST, 1], [INF, 1]))
    assert compare(actual, expected, "auto", within=bound)
    assert compare(actual, expected, "auto", within=bound).n_failing == 0
    assert not compare(actual, expected, "auto")
    assert not compare(actual, expected, "auto", within=within(actual, expected, limits([INF, 1], [INF, 1])))
    assert not compare(actual, expected, "auto", within=within(actual, expected, limits([-INF, 1], [INF, 1])))
    assert "n_edge" not in bound.to_dict()


def test_an_output_of_zeros_alone_passes_where_the_bound_holds_it_and_else_says_why_it_fails() -> None:
    actual, expected = bf(0, 0), bf(1e-39, 1e-39)
    loose = relative(0.1, 1e-3)
    inside = within(actual, expected, limits([0] * 2, [1e-38] * 2))
    assert compare(actual, expected, "auto", tolerance=loose, within=inside)
    found = compare(actual, expected, "auto", tolerance=loose)
    assert not found
    assert "each element is inside its limit" in found.detail
