# SPDX-License-Identifier: Apache-2.0
"""LeakyReLU with any slope, MemCopy, and what Sigmoid, Tanh and LeakyReLU of pull request 117 could not do."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import any_bits, array, bits_of, finite_bits, nearest, raw_bits, to_torch, value
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import find, reference

slopes = st.floats(-4, 4, allow_subnormal=False) | st.sampled_from([0.0, 0.01, 0.25, 1.0, 1e-30])


@given(bits=st.lists(finite_bits, min_size=1, max_size=40), alpha=slopes)
def test_leaky_relu_multiplies_by_the_slope_as_given(bits: list[int], alpha: float) -> None:
    (c,) = reference("LeakyReLU", {"size": len(bits), "alpha": alpha}, [array(bits)])
    for got, b in zip(bits_of(c), bits, strict=True):
        x = value(b)
        want = nearest(x if x > 0 else Fraction(alpha) * x)
        assert int(got) == want or (got & 0x7FFF, want & 0x7FFF) == (0, 0)


@pytest.mark.torch
@settings(deadline=None, max_examples=40)
@given(alpha=slopes)
def test_leaky_relu_of_iron_is_torchs(alpha: float) -> None:
    torch = pytest.importorskip("torch")
    x = array(np.arange(0, 1 << 16, 7))
    theirs = torch.nn.functional.leaky_relu(to_torch(x), alpha)
    for flavour in ("pr117", "iron-2026-08", "iron-2026-09"):
        (mine,) = reference("LeakyReLU", {"size": x.size, "alpha": alpha}, [x], flavour)
        np.testing.assert_array_equal(bits_of(mine), bits_of(theirs))


def test_leaky_relu_rounds_slope_and_product_to_float32_as_torch_does() -> None:
    def product(alpha: float, x: int, flavour: str) -> float:
        (c,) = reference("LeakyReLU", {"size": 1, "alpha": alpha}, [array([x])], flavour)
        return float(c.astype(float)[0])

    # -1 times 1 + 2**-8 + 2**-30: in float32 the last term is gone and leaves a tie between two bf16 values.
    assert product(1 + 2.0**-8 + 2.0**-30, 0xBF80, "pr117") == -1.0
    assert product(1 + 2.0**-8 + 2.0**-30, 0xBF80, "exact") == -1.0078125
    # -1.0078125 times this slope lies 3.0e-8 under a tie, which float32 cannot tell from the tie; times the slope's
    # float32 it lies 8.8e-8 under it, which it can.
    assert product(1.065891442868217, 0xBF81, "pr117") == -1.0703125


@given(st.lists(any_bits, min_size=1, max_size=60))
def test_mem_copy_keeps_every_bit(bits: list[int]) -> None:
    x = array(bits)
    for flavour in FLAVOURS:
        (c,) = reference("MemCopy", {"size": x.size, "bypass": True}, [x], flavour)
        assert raw_bits(c).tolist() == bits
        assert c is not x


@pytest.mark.parametrize("op", ["LeakyReLU", "Sigmoid", "Tanh", "AXPY", "MemCopy", "Dequant", "MHA"])
def test_pull_request_117_had_no_reference(op: str) -> None:
    params = {"size": 4096, "num_heads": 1, "seq_len": 64}
    assert "no reference()" in str(find(op).iron_failure(params, "pr117"))
    assert find(op).iron_failure(params, "iron-2026-08") is None
