# SPDX-License-Identifier: Apache-2.0
"""RMSNorm and LayerNorm of the software NPU."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16
GENERATIONS = ["npu1", "npu2"]


def run(op: str, core: Core, *inputs: np.ndarray, **params: object) -> np.ndarray:
    (out,) = find_kernel(op).run(Dispatch(core, SimpleNamespace(**params), list(inputs)))
    return out.astype(np.float64)


def ulps(actual: np.ndarray, exact: np.ndarray) -> np.ndarray:
    return np.abs(actual - exact) / np.ldexp(1.0, np.frexp(exact)[1] - 8)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("cols", [2048, 96, 40, 7])  # 40 and 7: a tail beyond whole vectors
def test_rms_norm_is_within_an_ulp_and_a_half(generation: str, cols: int) -> None:
    x = np.random.default_rng(cols).standard_normal((4, cols)).astype(BF16)
    out = run("RMSNorm", Core(generation), x, size=x.size, tile_size=cols).reshape(x.shape)
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5)
    error = ulps(out, exact)
    assert error.max() <= (1.0 if generation == "npu1" else 0.51)  # npu1: 0.18 % from the estimate, half from rounding


@pytest.mark.parametrize("generation", GENERATIONS)
def test_weighted_rms_norm_rounds_twice(generation: str) -> None:
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((2, 2048)).astype(BF16), rng.standard_normal(2048).astype(BF16)
    params = {"size": x.size, "tile_size": 2048, "weighted": True, "epsilon": 1e-5}
    core = Core(generation)
    out = run("RMSNorm", core, x, weight, **params).reshape(x.shape)
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * weight.astype(np.float64)
    assert ulps(out, exact).max() < 2
    nearest = exact.astype(np.float32).astype(BF16).astype(np.float64)
    assert 0.1 < (out != nearest).mean() < 0.6
    unweighted = run("RMSNorm", core, x, size=x.size, tile_size=2048).reshape(x.shape)
    product = (unweighted * weight.astype(np.float64)).astype(np.float32).astype(BF16).astype(np.float64)
    np.testing.assert_array_equal(out, product)


def test_rms_norm_is_explained_where_it_may_be_exact() -> None:
    """On npu2 only the reciprocal root, 5e-6 off, parts it from a reference that rounds at the same two places."""
    note = find_kernel("RMSNorm").rounding_note
    assert "nearest even" in note(SimpleNamespace(), Core("npu2"))
    assert note(SimpleNamespace(), Core("npu1")) == ""
    x = np.random.default_rng(6).standard_normal((64, 2048)).astype(BF16)
    out = run("RMSNorm", Core("npu2"), x, size=x.size, tile_size=2048).reshape(x.shape)
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5)
    nearest = exact.astype(np.float32).astype(BF16).astype(np.float64)
    assert 0 < (out != nearest).mean() < 2e-3


def test_epsilon_counts() -> None:
    x = np.full((1, 64), 2.0**-10, BF16)  # the square, 9.5e-7, is far below 1e-5
    out = run("RMSNorm", Core("npu2"), x, size=64, tile_size=64, epsilon=1e-5)
    assert out[0] == pytest.approx(2.0**-10 / np.sqrt(2.0**-20 + 1e-5), rel=2**-8)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("op", ["RMSNorm", "LayerNorm"])
def test_both_leave_conv_even_behind(op: str, generation: str) -> None:
    """The leak that Xilinx/mlir-aie pull request 3726 describes, here for the better."""
    core = Core(generation)
    x = np.ones((1, 64), BF16)
    run(op, core, x, size=64, tile_size=64)
    assert core.rounding == "conv_even"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_layer_norm_on_sane_rows(generation: str) -> None:
    x = (np.random.default_rng(9).standard_normal((64, 384)) * 2 + 0.5).astype(BF16)
    out = run("LayerNorm", Core(generation), x, size=x.size, tile_size=384).reshape(x.shape)
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(axis=1, keepdims=True)) / np.sqrt(wide.var(axis=1, keepdims=True) + 1e-5)
    difference = np.abs(out - exact)
    assert (difference < np.maximum(0.1, 0.1 * (np.abs(out) + np.abs(exact)))).all()  # IRON's own tolerance
    assert difference.max() < 0.05
    assert (out != exact.astype(np.float32).astype(BF16).astype(np.float64)).mean() > 0.2


def test_layer_norm_sums_in_bfloat16() -> None:
    """A lane of ones stops growing at 256, where the next bfloat16 is 258 and the tie goes back."""
    ones = np.ones((1, 32 * 300), BF16)
    out = run("LayerNorm", Core("npu2"), ones, size=ones.size, tile_size=ones.size)
    mean = 256 / 300
    want = (1 - mean) / np.sqrt(1 - mean**2 + 1e-5)  # an exact mean would give 0
    assert out == pytest.approx(np.full(out.shape, want), rel=0.02)
    lost = run("LayerNorm", Core("npu1"), ones, size=ones.size, tile_size=ones.size)
    assert lost.min() > out.max()  # 16 lanes lose twice as much
