# SPDX-License-Identifier: Apache-2.0
"""Tanh, Sigmoid, SiLU, GELU and the AIE2 tables over every bfloat16 pattern."""

from __future__ import annotations

import math
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.simulator.core import Core, widen
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel, lut

BF16 = ml_dtypes.bfloat16
ALL = np.arange(65536, dtype=np.uint16).view(BF16)
with np.errstate(invalid="ignore"):  # signalling NaNs
    X = widen(ALL).astype(np.float64)
FINITE = np.isfinite(X)
STATES = [(g, r) for g in ("npu1", "npu2") for r in ("floor", "conv_even")]


def silu(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, x, x * small) / (1 + small)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array(
        [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v * v * v))) for v in x.tolist()]
    )


def sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def run(op: str, core: Core) -> np.ndarray:
    (out,) = find_kernel(op).run(Dispatch(core, SimpleNamespace(size=ALL.size), [ALL]))
    return out.astype(np.float32).astype(np.float64)


# Absolute slack needed beside the relative tolerance that mlir-aie and IRON state for the class of implementation.
@pytest.mark.parametrize(
    ("op", "truth", "limits"),
    [
        ("SiLU", silu, {"npu1": (0.128, 0.0145), "npu2": (0.04, 0.0121)}),
        ("GELU", gelu, {"npu1": (0.128, 0.0002), "npu2": (0.04, 0.0054)}),
        ("Sigmoid", sigmoid, {"npu1": (0.04, 0.0028), "npu2": (0.04, 0.002)}),
        ("Tanh", np.tanh, {"npu1": (0.04, 1e-30), "npu2": (2.0**-8, 1e-38)}),
    ],
)
@pytest.mark.parametrize(("generation", "rounding"), STATES)
def test_error_over_all_finite_patterns(op, truth, limits, generation: str, rounding: str) -> None:
    actual = run(op, Core(generation, rounding))[FINITE]
    expected = truth(X[FINITE])
    difference = np.abs(actual - expected)
    rtol, atol = limits[generation]
    assert np.isfinite(actual).all()
    allowed = np.maximum(atol, rtol * (np.abs(actual) / 2 + np.abs(expected) / 2) * 2)
    assert (difference <= allowed).all()
    moderate = np.abs(X[FINITE]) < 8
    wrong = actual != expected.astype(np.float32).astype(BF16).astype(np.float64)
    if (op, generation, rounding) != ("Tanh", "npu2", "conv_even"):  # one instruction, rounded once
        assert wrong[moderate & (np.abs(X[FINITE]) > 0.01)].mean() > 0.1  # a simulator without numerics is not one


def test_silu_on_npu2_rounds_three_times() -> None:
    core = Core("npu2", "conv_even")
    for x in (0.3125, -0.71875, 1.1640625, 2.5):
        t = float(BF16(np.float32(math.tanh(x / 2))))
        sigmoid = float(BF16(np.float32(1 + t))) / 2
        assert run("SiLU", core)[ALL.astype(np.float32) == x] == float(BF16(np.float32(x * sigmoid)))


def test_sigmoid_rounds_its_tanh_and_its_sum() -> None:
    core = Core("npu2", "conv_even")
    for x in (0.3125, -0.71875, 1.1640625, -5.5):
        t = float(BF16(np.float32(math.tanh(x / 2))))
        assert run("Sigmoid", core)[ALL.astype(np.float32) == x] == float(BF16(np.float32(1 + t))) / 2
    assert run("Sigmoid", core)[ALL.astype(np.float32) == -8.0] == 0  # truth 0.00034: 1 + tanh has steps of 2**-8


def test_tanh_on_npu2_is_rounded_once_and_on_npu1_a_table() -> None:
    want = np.tanh(X[FINITE]).astype(np.float32).astype(BF16).astype(np.float64)
    np.testing.assert_array_equal(run("Tanh", Core("npu2", "conv_even"))[FINITE], want)
    table = run("Tanh", Core("npu1", "conv_even"))[FINITE]
    error = np.abs(table - np.tanh(X[FINITE]))
    assert 0.005 < error.max() < 0.008
    assert (table != want).mean() > 0.05


def test_silu_cancels_to_zero_on_the_far_negative_side() -> None:
    out = run("SiLU", Core("npu2", "floor"))
    at = {x: out[np.flatnonzero(x == X)[0]] for x in (-4.0, -8.0, -20.0)}
    assert at[-4.0] < 0
    assert at[-8.0] == 0  # truth -0.0027
    assert at[-20.0] == 0


@pytest.mark.parametrize("rounding", ["floor", "conv_even"])
def test_non_finite_inputs(rounding: str) -> None:
    inf, minus_inf, nan = 0x7F80, 0xFF80, 0x7FC0
    for generation in ("npu1", "npu2"):
        for op, low in (("Sigmoid", 0), ("Tanh", -1)):
            out = run(op, Core(generation, rounding))
            assert (out[inf], out[minus_inf]) == (1, low)
            assert math.isnan(out[nan])
        for op in ("SiLU", "GELU"):
            out = run(op, Core(generation, rounding))
            assert out[inf] == math.inf
            assert math.isnan(out[nan])
            assert math.isnan(out[minus_inf]) or out[minus_inf] == 0


def test_results_do_not_hang_on_the_last_bit_of_the_hosts_tanh() -> None:
    """Two float64 ULPs either way change no bfloat16 result, so any host's libm gives the same recording."""
    half = X[FINITE] / 2
    for argument in (half, half * 0.796875 * 2):
        t = np.tanh(argument)
        for mode in ("floor", "conv_even"):
            core = Core("npu2", mode)
            want = core.store_bf16(t).view(np.uint16)
            for direction in (-np.inf, np.inf):
                moved = np.nextafter(np.nextafter(t, direction), direction)
                moved = np.where(np.abs(t) == 1, t, moved)  # saturated: every libm returns exactly 1
                moved = np.where(np.abs(argument) < 1e-30, t, moved)  # tanh(x) = x there
                np.testing.assert_array_equal(core.store_bf16(moved).view(np.uint16), want)


def test_exp_table() -> None:
    x = X[FINITE & (np.abs(X) <= 87)]
    relative = lut.exp(x.astype(np.float32)).astype(np.float64) / np.exp(x) - 1
    assert np.abs(relative).max() < 0.0085
    assert relative.mean() < -0.002  # the input is cut downwards
    assert lut.exp(np.array([-np.inf, -88, -1000, 0], np.float32)).tolist() == [0, 0, 0, 1]
    assert np.isnan(lut.exp(np.array([np.nan], np.float32))[0])
    # Entries of Xilinx/mlir-aie aie_runtime_lib/AIE2/lut_based_ops.cpp, as bfloat16 bit patterns.
    at = np.array([1, 2, -1, -87, 1 / 256, 255 / 256], np.float32)
    assert lut.exp(at).astype(BF16).view(np.uint16).tolist() == [16430, 16620, 16060, 179, 16257, 16429]


def test_tanh_table() -> None:
    segments = lut.tanh_segments()
    x = X[FINITE].astype(np.float32)
    assert np.abs(segments(x) - np.tanh(X[FINITE])).max() < 0.0065
    ends = np.array([-np.inf, -4.5, 0.0, 4.5, np.inf], np.float32)
    assert segments(ends).tolist() == [-1, -1, 0, 1, 1]
    assert len(segments.slope) == 32


def test_gelu_table() -> None:
    segments = lut.gelu_segments()
    assert len(segments.slope) == 64
    assert segments(np.array([-np.inf, -100, 0, 100, np.inf], np.float32)).tolist() == [0, 0, 0, 100, np.inf]
    x = np.arange(-4, 4, 2.0**-10).astype(np.float32)
    assert 0.0005 < np.abs(segments(x) - gelu(x.astype(np.float64))).max() < 0.003
