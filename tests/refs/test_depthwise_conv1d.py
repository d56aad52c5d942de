# SPDX-License-Identifier: Apache-2.0
"""DepthwiseConv1d against rational sums and torch's conv1d."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import array, bits_of, finite_bits, nearest, normal, tame_bits, to_torch, ulps, value
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import reference


@st.composite
def convolutions(draw: st.DrawFn, bits: st.SearchStrategy[int]) -> tuple[int, int, list[int], list[int]]:
    rows, channels = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    x = draw(st.lists(bits, min_size=rows * channels, max_size=rows * channels))
    return rows, channels, x, draw(st.lists(bits, min_size=5 * channels, max_size=5 * channels))


def _want(rows: int, channels: int, x: list[int], weight: list[int]) -> list[int]:
    found = []
    for t in range(rows):
        for c in range(channels):
            total = Fraction(0)
            for j in range(5):
                if t + j - 4 >= 0:
                    total += value(weight[j * channels + c]) * value(x[(t + j - 4) * channels + c])
            found.append(nearest(total))
    return found


@settings(deadline=None)
@given(convolutions(tame_bits))
def test_is_the_sum_rounded_once(drawn: tuple[int, int, list[int], list[int]]) -> None:
    rows, channels, x, weight = drawn
    for flavour in FLAVOURS:
        (y,) = reference("DepthwiseConv1d", {"rows": rows, "channels": channels}, [array(x), array(weight)], flavour)
        assert [b & 0x7FFF if not b & 0x7FFF else b for b in bits_of(y).tolist()] == _want(*drawn)


@settings(deadline=None)
@given(convolutions(finite_bits))
def test_terms_of_any_size_miss_by_a_last_bit_at_most(drawn: tuple[int, int, list[int], list[int]]) -> None:
    rows, channels, x, weight = drawn
    (y,) = reference("DepthwiseConv1d", {"rows": rows, "channels": channels}, [array(x), array(weight)])
    # float64 sums: off where terms cancel by more than 2**45
    largest = max((abs(value(a)) for a in x), default=0) * max(abs(value(w)) for w in weight)
    for got, want in zip(bits_of(y).tolist(), _want(*drawn), strict=True):
        a, b = value(got), value(want)
        assert a == b or (
            isinstance(a, Fraction) and isinstance(b, Fraction) and abs(a - b) <= abs(b) / 128 + largest / 2**45
        )


@pytest.mark.torch
def test_torchs_convolution() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weight = normal(rng, (40, 32)), normal(rng, (5, 32))
    padded = torch.nn.functional.pad(to_torch(x).double().T[None], (4, 0))
    theirs = torch.nn.functional.conv1d(padded, to_torch(weight).double().T[:, None], groups=32)[0].T.bfloat16()
    (mine,) = reference("DepthwiseConv1d", {"rows": 40, "channels": 32}, [x, weight])
    assert ulps(mine, theirs).max() == 0
    (same,) = reference("DepthwiseConv1d", {"rows": 40, "channels": 32}, [to_torch(x), to_torch(weight)])
    np.testing.assert_array_equal(bits_of(same), bits_of(mine))


def test_nan_and_inf_reach_the_rows_that_see_them() -> None:
    x = array([nearest(1.0)] * 8)
    x[2] = np.inf
    (y,) = reference("DepthwiseConv1d", {"rows": 8, "channels": 1}, [x, array([nearest(1.0)] * 5)])
    assert np.isinf(y.astype(np.float32)).reshape(-1).tolist() == [False] * 2 + [True] * 5 + [False]


def test_five_taps() -> None:
    with pytest.raises(UsageError, match=r"DepthwiseConv1d: argument weight needs 10 elements \(5, 2\), found 8"):
        reference("DepthwiseConv1d", {"rows": 3, "channels": 2}, [array([0] * 6), array([0] * 8)])
