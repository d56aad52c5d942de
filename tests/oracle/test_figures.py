# SPDX-License-Identifier: Apache-2.0
"""Figures by hand, against numpy's own statistics, and where something is not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion_replay.oracle.figures import carriers, figures, nrmse


def test_figures_by_hand() -> None:
    f = figures(np.array([1.0, 2, 3, 5]), np.array([1.0, 2, 3, 4]))
    assert (f.max_abs, f.mean_abs, f.finite, f.n) == (1, 0.25, 4, 4)
    assert f.nrmse == pytest.approx(math.sqrt(1 / 30), rel=1e-5)
    assert f.sqnr == pytest.approx(10 * math.log10(30), rel=1e-5)
    assert f.cosine == pytest.approx(34 / math.sqrt(39 * 30), rel=1e-5)
    assert f.pcc == pytest.approx(np.corrcoef([1, 2, 3, 5], [1, 2, 3, 4])[0, 1], rel=1e-5)


def test_what_is_not_finite_is_never_left_out() -> None:
    f = figures(np.array([1.0, np.nan, 3]), np.array([1.0, 2, 3]))
    assert (f.finite, f.n, f.max_abs) == (2, 3, math.inf)
    assert all(math.isnan(x) for x in (f.nrmse, f.cosine, f.pcc, f.sqnr, f.mean_abs))
    assert [(c.axis, c.at, c.share) for c in carriers(np.array([[1.0, np.nan]]), np.ones((1, 2)))] == [
        (0, 0, 1.0),
        (1, 1, 1.0),
    ]


def test_equal_zero_and_twice() -> None:
    ones = np.ones(5)
    assert figures(ones, ones).sqnr == math.inf
    assert nrmse(ones, np.zeros(5)) == math.inf
    assert nrmse(np.zeros(5), np.zeros(5)) == 0
    twice = figures(2 * np.arange(5.0), np.arange(5.0))
    assert (twice.cosine, twice.nrmse) == (1.0, 1.0)  # a factor is no error to a cosine


def test_the_coordinates_that_carry_the_error_are_named() -> None:
    model = np.random.default_rng(0).standard_normal((20, 30))
    found = model + 1e-3
    found[8, 5] += 5
    found[17, 5] += 4
    named = [(c.axis, c.at) for c in carriers(found, model)]
    assert named == [(1, 5), (0, 8), (0, 17)]
    assert carriers(model, model) == ()
