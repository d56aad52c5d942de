# SPDX-License-Identifier: Apache-2.0
"""AXPY, LeakyReLU, Clamp of the software NPU against float64, where their products and sums are exact."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16
ALL = np.arange(65536, dtype=np.uint16).view(BF16)
with np.errstate(invalid="ignore"):  # signalling NaNs
    X = ALL.astype(np.float64)
FINITE = np.isfinite(X)
MODES = {"floor": np.floor, "conv_even": np.rint}


def run(op: str, core: Core, *inputs: np.ndarray, **params: float) -> np.ndarray:
    (out,) = find_kernel(op).run(Dispatch(core, SimpleNamespace(size=inputs[0].size, **params), list(inputs)))
    assert out.dtype == BF16
    return out


def rounded(exact: np.ndarray, mode: str) -> np.ndarray:
    """float64 -> bf16 values of the normal range, by the definition of the mode."""
    _, exponent = np.frexp(exact)
    ulp = np.ldexp(1.0, np.maximum(exponent - 8, -133))
    return MODES[mode](exact / ulp) * ulp


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("generation", ["npu1", "npu2"])
@pytest.mark.parametrize("scalar", [3.0, 0.01, 1.003, -2.7])
def test_axpy(generation: str, mode: str, scalar: float) -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.uniform(0, 4, 20000).astype(BF16) for _ in range(2))
    out = run("AXPY", Core(generation, mode), x, y, scalar_factor=scalar).astype(np.float64)
    taken = rounded(np.array(scalar, np.float64), mode)  # the core narrows the scalar itself
    exact = taken * x.astype(np.float64) + y.astype(np.float64)
    np.testing.assert_array_equal(out, rounded(exact, mode))
    if scalar == 0.01:  # the truncated scalar shows: floor loses up to 2**-7 of the product
        assert (taken < np.float64(np.float32(0.01).astype(BF16))) == (mode == "floor")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [0.01, 0.25, 0.1])
def test_leaky_relu_over_all_finite_patterns(mode: str, alpha: float) -> None:
    normal = FINITE & ((np.abs(X) > 2.0**-110) | (X == 0))
    slope = float(np.float32(alpha).astype(BF16))
    for generation in ("npu1", "npu2"):
        with np.errstate(invalid="ignore"):
            out = run("LeakyReLU", Core(generation, mode), ALL, alpha=alpha).astype(np.float64)
        expected = np.where(X > 0, X, rounded(np.where(FINITE, X, 0) * slope, mode))
        np.testing.assert_array_equal(out[normal], expected[normal])
        assert np.isnan(out[np.isnan(X)]).all()
        assert (out[0x7F80], out[0xFF80]) == (np.inf, -np.inf)


@pytest.mark.parametrize("mode", MODES)
def test_clamp_over_all_patterns(mode: str) -> None:
    core = Core("npu2", mode)
    for low, high in ((-0.75, 1.25), (0.5, 1.5), (-3e4, 3e4), (0.1, 0.1)):
        lo, hi = (float(np.float32(b).astype(BF16)) for b in (low, high))
        out = run("Clamp", core, ALL, low=low, high=high)
        with np.errstate(invalid="ignore"):
            values = out.astype(np.float64)
        np.testing.assert_array_equal(values[~np.isnan(X)], [min(max(v, lo), hi) for v in X[~np.isnan(X)]])
        assert np.array_equal(out.view(np.uint16)[np.isnan(X)], ALL.view(np.uint16)[np.isnan(X)])
    assert core.rounding == mode
    assert "every rounding state" in find_kernel("Clamp").rounding_note(SimpleNamespace(), core)


def test_none_of_them_sets_the_register() -> None:
    for mode in MODES:
        core = Core("npu1", mode)
        run("AXPY", core, ALL, ALL, scalar_factor=0.3)
        run("LeakyReLU", core, ALL, alpha=0.3)
        assert core.rounding == mode
    assert "conv_even" in find_kernel("AXPY").rounding_note(SimpleNamespace(), Core("npu1", "conv_even"))
    assert find_kernel("AXPY").rounding_note(SimpleNamespace(), Core("npu1")) == ""
