# SPDX-License-Identifier: Apache-2.0
"""SiLU and GELU against 60-digit arithmetic and torch."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from bf16_oracle import NAN, array, bits_of, exactly, nearest, to_torch, ulps, value
from fusion_replay.operators import FLAVOURS

# All patterns from 2**-12 to 128 where the functions bend, every 61st elsewhere, both signs.
from fusion_replay.refs import reference

# All patterns from 2**-12 to 128 where the functions bend, every 61st elsewhere, both signs.
_BEND = np.arange(0x3980, 0x4301)
_REST = np.arange(0x0001, 0x7F80, 61)
POSITIVE = np.union1d(_BEND, _REST)
FINITE = np.concatenate([POSITIVE, POSITIVE | 0x8000])


def _silu(x: mpmath.mpf) -> mpmath.mpf:
    return x / (1 + mpmath.exp(-x))


def _gelu(x: mpmath.mpf) -> mpmath.mpf:
    # 1 + tanh(u) cancels in any fixed precision; 2 / (1 + exp(-2u)) is the same number.
    u = mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)
    return x / (1 + mpmath.exp(-2 * u))


def _true(fn, bits: int) -> int:
    x = value(bits)
    if abs(x) > 200:  # exp(-200) is 1e-87: the gate is 1 or 0 to every bit that bf16 has
        return bits if x > 0 else 0x8000
    return nearest(exactly(fn, x), bits & 0x8000)


@pytest.mark.parametrize(("op", "fn"), [("SiLU", _silu), ("GELU", _gelu)])
def test_is_the_true_value_rounded_once(op: str, fn) -> None:
    want = np.array([_true(fn, int(b)) for b in FINITE])
    (c,) = reference(op, {"size": FINITE.size}, [array(FINITE)])
    np.testing.assert_array_equal(bits_of(c), want)
    normal = (FINITE & 0x7FFF) >= 0x0100  # from there on half of x is no tie, which IRON's forms take to even
    for flavour in FLAVOURS:
        (c,) = reference(op, {"size": FINITE.size}, [array(FINITE)], flavour)
        np.testing.assert_array_equal(bits_of(c)[normal], want[normal])
        assert ulps(c, array(want)).max() <= 1


@pytest.mark.parametrize("op", ["SiLU", "GELU"])
def test_half_of_the_smallest_subnormals(op: str) -> None:
    x = array([0x0001, 0x0003, 0x0005, 0x8001, 0x8003])
    assert bits_of(reference(op, {"size": 5}, [x])[0]).tolist() == [1, 2, 3, 0x8000, 0x8001]
    assert bits_of(reference(op, {"size": 5}, [x], "pr117")[0]).tolist() == [0, 2, 2, 0x8000, 0x8002]


def test_gelu_formula_in_tanh_form() -> None:
    for x in (-2.5, -1.0, -0.125, 0.5, 3.0):
        u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        with mpmath.workdps(60):
            assert float(_gelu(mpmath.mpf(x))) == pytest.approx(0.5 * x * (1 + math.tanh(u)), rel=1e-12)


@pytest.mark.parametrize("op", ["SiLU", "GELU"])
def test_the_ends(op: str) -> None:
    x = array([0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x7F7F, 0xFF7F])
    (c,) = reference(op, {"size": 7}, [x])
    assert bits_of(c).tolist() == [0x0000, 0x8000, 0x7F80, NAN, NAN, 0x7F7F, 0x8000]


@pytest.mark.torch
def test_torch_agrees_on_every_pattern() -> None:
    torch = pytest.importorskip("torch")
    x = array(np.arange(1 << 16))
    (silu,) = reference("SiLU", {"size": x.size}, [x], "pr117")
    (gelu,) = reference("GELU", {"size": x.size}, [x], "pr117")
    # Below -88.7 torch's float32 exponential overflows; its gelu cancels where the result is tiny.
    theirs = torch.nn.functional.silu(to_torch(x))
    safe = ~(x.astype(np.float32) < -88)
    off = ulps(silu, theirs)[safe]
    assert off.max() <= 1
    assert (off > 0).mean() <= 1e-3
    theirs = torch.nn.functional.gelu(to_torch(x), approximate="tanh")
    mine, theirs_32 = gelu.astype(np.float32), theirs.float().numpy()
    np.testing.assert_array_equal(np.isnan(mine), np.isnan(theirs_32))
    off = ulps(gelu, theirs)
    finite = np.isfinite(mine)
    far = finite & (off > 1)
    assert np.abs(mine[far] - theirs_32[far]).max(initial=0) <= 1e-6
    assert (off[finite & (np.abs(mine) > 1e-2)] > 0).mean() <= 1e-3


@pytest.mark.torch
@pytest.mark.parametrize("op", ["SiLU", "GELU"])
def test_on_torch_tensors_the_bits_are_the_same(op: str) -> None:
    pytest.importorskip("torch")
    x = array(FINITE)
    (mine,) = reference(op, {"size": x.size}, [x])
    (theirs,) = reference(op, {"size": x.size}, [to_torch(x)])
    np.testing.assert_array_equal(bits_of(theirs), bits_of(mine))
