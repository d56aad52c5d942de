# SPDX-License-Identifier: Apache-2.0
"""DepthwiseConv1d and the fused dual GEMV of the software NPU."""

from __future__ import annotations

import math
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16


@pytest.mark.parametrize("generation", ["npu1", "npu2"])
def test_conv_on_integers_is_the_sum_over_the_five_latest_rows(generation: str) -> None:
    """Small integers: exact whatever the order and the rounding."""
    rng = np.random.default_rng(1)
    x, w = rng.integers(-3, 4, (9, 32)), rng.integers(-2, 3, (5, 32))
    p = SimpleNamespace(rows=9, channels=32)
    (out,) = find_kernel("DepthwiseConv1d").run(Dispatch(Core(generation), p, [x.astype(BF16), w.astype(BF16)]))
    for t in range(9):
        for c in range(32):
            want = sum(int(w[j, c]) * int(x[t + j - 4, c]) for j in range(5) if t + j >= 4)
            assert int(out.reshape(9, 32)[t, c]) == want


@pytest.mark.parametrize("mode", ["floor", "conv_even"])
def test_conv_sums_in_float32_oldest_tap_first_and_rounds_once(mode: str) -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((16, 32)).astype(BF16), rng.standard_normal((5, 32)).astype(BF16)
    core = Core("npu2", mode)
    (out,) = find_kernel("DepthwiseConv1d").run(Dispatch(core, SimpleNamespace(rows=16, channels=32), [x, w]))
    for t, c in ((0, 0), (3, 7), (9, 31), (15, 4)):
        total = np.float32(0)
        for j in range(5):
            sample = np.float32(x[t + j - 4, c]) if t + j >= 4 else np.float32(0)
            total = np.float32(total + np.float32(np.float32(w[j, c]) * sample))
        ulp = 2.0 ** (math.frexp(float(total))[1] - 8)
        steps = math.floor(float(total) / ulp) if mode == "floor" else round(float(total) / ulp)
        assert float(out.reshape(16, 32)[t, c]) == steps * ulp
    assert core.rounding == mode


def dual(core: Core, w1: np.ndarray, w2: np.ndarray, x: np.ndarray, columns: int, tile: int | None = None):
    m, k = w1.shape
    rows = tile or m // columns
    blocks = [w[at : at + rows] for at in range(0, m, rows) for w in (w1, w2)]
    p = SimpleNamespace(M=m, K=k, num_aie_columns=columns, tile_size_output=tile)
    (out,) = find_kernel("DualGEMVSiLUMul").run(Dispatch(core, p, [np.concatenate(blocks), x]))
    return out.reshape(-1)


@pytest.mark.parametrize(("columns", "tile"), [(1, None), (2, None), (4, 16), (1, 16)])
def test_dual_gemv_is_its_parts_one_after_another(columns: int, tile: int | None) -> None:
    """GEMV, SiLU and ElementwiseMul of the same device under conv_even give the same bits."""
    rng = np.random.default_rng(columns)
    w1, w2, x = (rng.standard_normal(s).astype(BF16) for s in ((64, 128), (64, 128), (128,)))
    for generation in ("npu1", "npu2"):
        core = Core(generation)
        fused = dual(core, w1, w2, x, columns, tile)
        assert core.rounding == "conv_even"  # left behind by the GEMV phase
        p = SimpleNamespace(M=64, K=128)
        left, right = (find_kernel("GEMV").run(Dispatch(core, p, [w, x]))[0] for w in (w1, w2))
        (gate,) = find_kernel("SiLU").run(Dispatch(core, p, [left]))
        (want,) = find_kernel("ElementwiseMul").run(Dispatch(core, p, [gate, right]))
        np.testing.assert_array_equal(fused.view(np.uint16), want.reshape(-1).view(np.uint16))


def test_dual_gemv_is_near_the_real_numbers() -> None:
    rng = np.random.default_rng(9)
    w1, w2 = (rng.standard_normal((32, 64)).astype(BF16) for _ in range(2))
    x = (rng.standard_normal(64) / 8).astype(BF16)
    a, b = (w.astype(np.float64) @ x.astype(np.float64) for w in (w1, w2))
    want = a / (1 + np.exp(-a)) * b
    out = dual(Core("npu2"), w1, w2, x, 2).astype(np.float64)
    assert 0 < np.abs(out - want).max() < 0.02
