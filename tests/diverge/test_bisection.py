# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_replay.diverge.bisection import Crossing, crossing


def asked(values: list[float], scan: int = 64) -> tuple[Crossing, list[int]]:
    """The crossing in ``values`` (0 to n) and the k that were asked for."""
    calls: list[int] = []

    def error(k: int) -> float:
        calls.append(k)
        return values[k]

    return crossing(error, len(values) - 1, values[-1], scan), calls


@given(n=st.integers(1, 1000), data=st.data())
def test_one_jump_is_found_in_the_fewest_evaluations(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n - 1))
    found, calls = asked([0.0] * (k + 1) + [1.0] * (n - k))
    assert (found.k, found.before, found.after, found.monotone) == (k, 0.0, 1.0, True)
    assert len(calls) == len(set(calls)) <= math.ceil(math.log2(n))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_the_answer_crosses_half_of_the_whole(rises: list[float]) -> None:
    values = [0.0]
    for r in rises:
        values.append(values[-1] + r)
    if not values[-1]:
        return
    found, _ = asked(values)
    assert found.monotone
    assert found.before <= values[-1] / 2 <= found.after
    assert values[found.k : found.k + 2] == [found.before, found.after]


def test_a_little_wavering_is_no_reason_to_scan() -> None:
    noise = [0.0, 0.02, 0.01, 0.03, 0.02, 1.01, 0.99, 1.02, 1.0]
    found, calls = asked(noise)
    assert (found.k, found.monotone) == (4, True)
    assert len(calls) <= 3


def test_an_error_that_vanishes_again_is_scanned_and_its_largest_rise_found() -> None:
    values = [0.0] * 100 + [5.0] * 300 + [1.0] * 101
    found, calls = asked(values, scan=50)
    assert (found.k, found.monotone, found.scanned) == (99, False, 51)
    assert len(calls) < 75


@pytest.mark.parametrize(("huge", "answer"), [(1e30, 7), (0.5, 8)])
def test_where_the_end_is_infinite_the_step_that_made_it_huge_counts(huge: float, answer: int) -> None:
    """Half of "infinite" is an error as large as the result itself."""
    found, _ = asked([0.0] * 8 + [huge] + [math.inf] * 8)
    assert (found.k, found.monotone) == (answer, True)
