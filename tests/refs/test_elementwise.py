# SPDX-License-Identifier: Apache-2.0
"""ElementwiseAdd, ElementwiseMul and ReLU to the bit, against rational arithmetic and torch."""

from __future__ import annotations

import math
import operator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf16_oracle import INF, NAN, NEGATIVE, any_bits, array, bits_of, finite_bits, nearest, to_torch, value
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import reference

pairs = st.lists(st.tuples(any_bits, any_bits), min_size=1, max_size=40)


def _ieee(fn, a: int, b: int) -> int:
    """bf16 pattern of ``fn`` on two patterns: exact where both are finite, the float64 rules otherwise."""
    x, y = value(a), value(b)
    as_float = fn(_float(a), _float(b))
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return nearest(fn(x, y), NEGATIVE if math.copysign(1, as_float) < 0 else 0)
    return nearest(as_float)


def _float(bits: int) -> float:
    x = float(value(bits))
    return -0.0 if bits == NEGATIVE else x


@pytest.mark.parametrize(("op", "fn"), [("ElementwiseAdd", operator.add), ("ElementwiseMul", operator.mul)])
class TestBinary:
    @given(drawn=pairs)
    def test_is_the_correctly_rounded_result(self, op: str, fn, drawn: list[tuple[int, int]]) -> None:
        a, b = zip(*drawn, strict=True)
        want = [_ieee(fn, x, y) for x, y in drawn]
        for flavour in FLAVOURS:
            (c,) = reference(op, {"size": len(drawn)}, [array(a), array(b)], flavour)
            np.testing.assert_array_equal(bits_of(c), want)

    @pytest.mark.torch
    def test_torch_tensors_give_torchs_bits(self, op: str, fn) -> None:
        pytest.importorskip("torch")
        rng = np.random.default_rng(7)
        a, b = (array(rng.integers(0, 1 << 16, 20_000)) for _ in range(2))
        (c,) = reference(op, {"size": a.size}, [to_torch(a), to_torch(b)], "pr117")
        np.testing.assert_array_equal(bits_of(c), bits_of(fn(to_torch(a), to_torch(b))))


def test_a_sum_beyond_float64_keeps_its_larger_operand() -> None:
    big, tiny = 0x7F01, 0x8001  # 1.7e38 less 9e-41: 2**260 apart
    (c,) = reference("ElementwiseAdd", {"size": 1}, [array([big]), array([tiny])])
    assert bits_of(c).tolist() == [big]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_relu_on_every_pattern(flavour: str) -> None:
    bits = np.arange(1 << 16)
    (c,) = reference("ReLU", {"size": bits.size}, [array(bits)], flavour)
    nan = (bits & 0x7FFF) > INF
    want = np.where(nan, NAN, np.where(bits > NEGATIVE, 0, bits))  # -0 stays -0, as in torch
    np.testing.assert_array_equal(bits_of(c), want)


@pytest.mark.torch
def test_relu_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    x = to_torch(array(np.arange(1 << 16)))
    (c,) = reference("ReLU", {"size": 1 << 16}, [x], "iron-2026-08")
    np.testing.assert_array_equal(bits_of(c), bits_of(torch.relu(x)))


@given(st.lists(finite_bits, min_size=6, max_size=6))
def test_any_shape_with_the_right_count_is_accepted(bits: list[int]) -> None:
    x = array(bits)
    (flat,) = reference("ElementwiseAdd", {"size": 6}, [x, x])
    (shaped,) = reference("ElementwiseAdd", {"size": 6}, {"B": x.reshape(3, 2), "A": x.reshape(2, 3)})
    assert shaped.shape == (6,)
    np.testing.assert_array_equal(bits_of(shaped), bits_of(flat))
