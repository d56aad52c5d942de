# SPDX-License-Identifier: Apache-2.0
"""Clamp on every pattern, by comparison of rationals and by torch."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf16_oracle import NAN, any_bits, array, bits_of, nearest, to_torch, value
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import reference

bounds = st.tuples(st.floats(-100, 100), st.floats(-100, 100)).map(lambda b: (min(b), max(b)))


def _want(bits: int, low: float, high: float) -> Fraction | float:
    x, lo, hi = value(bits), value(nearest(low)), value(nearest(high))
    return x if isinstance(x, float) and math.isnan(x) else min(max(x, lo), hi)


@given(bits=st.lists(any_bits, min_size=1, max_size=40), limits=bounds)
def test_bounds_are_bf16_and_nan_stays(bits: list[int], limits: tuple[float, float]) -> None:
    low, high = limits
    for flavour in FLAVOURS:
        (c,) = reference("Clamp", {"size": len(bits), "low": low, "high": high}, [array(bits)], flavour)
        for got, b in zip(bits_of(c), bits, strict=True):
            want = _want(b, low, high)
            assert got == NAN if isinstance(want, float) and math.isnan(want) else value(int(got)) == want


@pytest.mark.torch
def test_torch_agrees_on_every_pattern() -> None:
    torch = pytest.importorskip("torch")
    x = array(np.arange(1 << 16))
    for low, high in ((-0.75, 1.25), (0.5, 1.5), (-3e4, 3e4)):
        (mine,) = reference("Clamp", {"size": x.size, "low": low, "high": high}, [x])
        as_bf16 = torch.tensor([low, high]).bfloat16().tolist()
        np.testing.assert_array_equal(bits_of(mine), bits_of(torch.clamp(to_torch(x), *as_bf16)))


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (2.0, 1.0)])
def test_bounds_the_wrong_way_round(low: float, high: float) -> None:
    with pytest.raises(UsageError, match=r"Clamp: low .* and high .*: expected low <= high"):
        reference("Clamp", {"size": 1, "low": low, "high": high}, [array([0])])
