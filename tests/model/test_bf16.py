# SPDX-License-Identifier: Apache-2.0
"""Rounding to bfloat16 against rational arithmetic, on numpy and on torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf16_oracle import NAN, any_bits, array, bits_of, nearest, raw_bits, to_torch, value
from fusion_replay.model import bf16

ALL = np.arange(1 << 16, dtype=np.uint16)

# float64 values near what rounding decides on: a bf16 value or a midpoint, pushed by nothing or by a sliver.
near_midpoints = st.builds(
    lambda b, half, push: _nudged(b, half, push),
    st.integers(0, 0x7F7E),
    st.booleans(),
    st.sampled_from([0, 1, -1, 3, -3]),
)


def _nudged(bits: int, half: bool, push: int) -> float:
    x = float((value(bits) + value(bits + 1)) / 2) if half else float(value(bits))
    for _ in range(abs(push)):
        x = math.nextafter(x, math.inf if push > 0 else -math.inf)
    return x


def test_wide_gives_every_pattern_its_value() -> None:
    wide = bf16.wide(ALL.view(bf16.BFLOAT16))
    for bits, got in zip(ALL.tolist(), wide.tolist(), strict=True):
        want = value(bits)
        assert got == want or (math.isnan(got) and math.isnan(want)), hex(bits)
    assert np.signbit(wide[0x8000])


def test_narrow_keeps_every_pattern() -> None:
    back = raw_bits(bf16.narrow(bf16.wide(ALL.view(bf16.BFLOAT16))))
    nan = (ALL & 0x7FFF) > 0x7F80
    np.testing.assert_array_equal(back, np.where(nan, NAN, ALL))


@given(st.lists(st.floats(width=64) | near_midpoints | near_midpoints.map(lambda x: -x), min_size=1, max_size=20))
def test_narrow_rounds_to_nearest_even_once(values: list[float]) -> None:
    want = [nearest(x) for x in values]
    np.testing.assert_array_equal(raw_bits(bf16.narrow(np.array(values))), want)
    rounded = bf16.round_bf16(np.array(values))
    np.testing.assert_array_equal(bits_of(rounded.astype(np.float32).astype(bf16.BFLOAT16)), want)


@pytest.mark.parametrize(
    ("x", "bits"),
    [
        (1 + 2**-8, 0x3F80),  # tie to even
        (1 + 3 * 2**-8, 0x3F82),
        (1 + 2**-8 + 2**-40, 0x3F81),  # float32 would lose the sliver and tie down
        (1 + 2**-8 - 2**-40, 0x3F80),
        (2.0**-134, 0x0000),  # half the smallest subnormal ties to zero
        (-(2.0**-134), 0x8000),
        (2.0**-134 * (1 + 2**-52), 0x0001),
        (3 * 2.0**-134, 0x0002),
        ((2 - 2**-8) * 2.0**127, 0x7F80),  # half a step beyond the largest ties to Inf
        (math.nextafter((2 - 2**-8) * 2.0**127, 0.0), 0x7F7F),
        (-1e300, 0xFF80),
        (5e-324, 0x0000),
        (-0.0, 0x8000),
        (math.inf, 0x7F80),
        (math.nan, 0x7FC0),
    ],
)
def test_hand_values(x: float, bits: int) -> None:
    assert raw_bits(bf16.narrow(np.array([x]))).tolist() == [bits]


def test_round_keeps_shape_and_blocks_join(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((7, 5, 3))
    whole = bf16.narrow(x)
    monkeypatch.setattr(bf16, "BLOCK", 4)
    assert whole.shape == x.shape
    np.testing.assert_array_equal(raw_bits(bf16.narrow(x)), raw_bits(whole))
    assert bf16.narrow(np.zeros((0, 3))).shape == (0, 3)
    assert bf16.round_bf16(np.float64(1.003)).shape == ()


def test_strided_input_is_read_in_order() -> None:
    x = np.arange(24.0).reshape(4, 6)
    np.testing.assert_array_equal(bf16.wide(bf16.narrow(x.T)), x.T)
    stored = bf16.narrow(x)
    np.testing.assert_array_equal(bf16.wide(stored[:, ::2]), x[:, ::2])


def test_a_quiet_bit_is_all_that_distinguishes_nans() -> None:
    assert bits_of(array([0x7F81, 0xFFC1])).tolist() == [NAN, NAN]
    assert raw_bits(bf16.narrow(bf16.wide(array([0x7F81, 0xFFC1])))).tolist() == [NAN, NAN]


@pytest.mark.torch
def test_torch_equals_numpy_on_patterns_and_midpoints() -> None:
    torch = pytest.importorskip("torch")
    finite = bf16.wide(array(np.arange(0x7F80)))
    middle = (finite[:-1] + finite[1:]) / 2
    x = np.concatenate([finite, middle, np.nextafter(middle, np.inf), np.nextafter(middle, 0)])
    x = np.concatenate([x, -x, [np.nan, np.inf, -np.inf, 1e300, 5e-324, -5e-324]])
    mine = raw_bits(bf16.narrow(x))
    np.testing.assert_array_equal(raw_bits(bf16.narrow(torch.from_numpy(x))), mine)
    rounded = bf16.round_bf16(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(rounded, bf16.round_bf16(x))
    np.testing.assert_array_equal(np.signbit(rounded[~np.isnan(x)]), np.signbit(x[~np.isnan(x)]))


@pytest.mark.torch
@given(st.lists(any_bits, min_size=1, max_size=8))
def test_torch_widens_as_numpy(bits: list[int]) -> None:
    pytest.importorskip("torch")
    np.testing.assert_array_equal(bf16.wide(to_torch(array(bits))).numpy(), bf16.wide(array(bits)))
