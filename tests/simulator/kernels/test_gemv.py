# SPDX-License-Identifier: Apache-2.0
"""GEMV of the software NPU: lanes, batches, one rounding."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16


def run(core: Core, a: np.ndarray, b: np.ndarray, **params: object) -> np.ndarray:
    p = SimpleNamespace(M=a.shape[-2], K=a.shape[-1], **params)
    return find_kernel("GEMV").run(Dispatch(core, p, [a, b]))[0]


def lane_dot(row: np.ndarray, vector: np.ndarray, lanes: int) -> np.float32:
    """One row's dot product, float32 scalar by float32 scalar."""
    sums = [np.float32(0)] * lanes
    for i, (x, y) in enumerate(zip(row.astype(np.float32), vector.astype(np.float32), strict=True)):
        sums[i % lanes] = np.float32(sums[i % lanes] + np.float32(x * y))
    while len(sums) > 1:
        middle = len(sums) // 2
        sums = [np.float32(sums[i] + sums[i + middle]) for i in range(middle)]
    return sums[0]


@pytest.mark.parametrize(("k", "limit", "lanes"), [(192, 64, 64), (192, 32, 32), (48, 64, 16), (64, None, 64)])
def test_lanes_and_one_rounding_down(k: int, limit: int | None, lanes: int) -> None:
    rng = np.random.default_rng(k)
    a, b = rng.standard_normal((6, k)).astype(BF16), rng.standard_normal(k).astype(BF16)
    out = run(Core("npu1"), a, b, kernel_vector_size=limit).astype(np.float32)[0]
    for value, row in zip(out, a, strict=True):
        total = lane_dot(row, b, lanes)
        ulp = np.ldexp(1.0, int(np.frexp(total)[1]) - 8)
        assert float(value) == np.floor(float(total) / ulp) * ulp


def test_batches_are_matrix_times_vector_each() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((3, 40, 64)).astype(BF16), rng.standard_normal((3, 64)).astype(BF16)
    out = run(Core("npu2"), a, b, num_batches=3).reshape(3, 40)
    for batch in range(3):
        np.testing.assert_array_equal(out[batch], run(Core("npu2"), a[batch], b[batch])[0])
    assert not np.array_equal(out[1], out[2])


def test_rows_do_not_see_how_they_are_blocked() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((1500, 256)).astype(BF16), rng.standard_normal(256).astype(BF16)
    out = run(Core("npu2"), a, b)[0]
    for start in (0, 511, 512, 1499):
        assert run(Core("npu2"), a[start : start + 1], b)[0][0] == out[start]


@pytest.mark.parametrize("generation", ["npu1", "npu2"])
def test_deviation_under_both_rounding_states(generation: str) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((8192, 512)) * 0.05).astype(BF16), rng.standard_normal(512).astype(BF16)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    ulp = np.ldexp(1.0, np.frexp(exact)[1] - 8)
    nearest = np.rint(exact / ulp) * ulp
    floor = run(Core(generation), a, b).astype(np.float64)[0]
    error = (floor - exact) / ulp
    assert error.min() > -1.01
    assert error.max() < 0.01
    assert -0.55 < error.mean() < -0.45
    even_core = Core(generation, "conv_even")
    even = run(even_core, a, b).astype(np.float64)[0]
    share = (even != nearest).mean()
    assert share < 1e-3  # only sums that float32 carries across a tie
    assert "tie" in find_kernel("GEMV").rounding_note(SimpleNamespace(), even_core)
    assert find_kernel("GEMV").rounding_note(SimpleNamespace(), Core(generation)) == ""


def test_float32_lanes_carry_sums_across_ties() -> None:
    """1 + 2**-8 (a tie) + 2**-25 in lane 0: float32 loses the last term, so nearest-even goes to 1, not above."""
    a = np.zeros((1, 192), BF16)
    a[0, [0, 64, 128]] = [1, 2**-8, 2**-25]
    assert float(run(Core("npu2", "conv_even"), a, np.ones(192, BF16))[0][0]) == 1.0
    a[0, 128] = 0
    a[0, 1] = 2**-20  # in another lane, and large enough for float32: the tie is broken upwards
    assert float(run(Core("npu2", "conv_even"), a, np.ones(192, BF16))[0][0]) == 1.0078125


def test_gelu_epilogue_follows_the_rounded_tile() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((64, 64)).astype(BF16), (rng.standard_normal(64) * 0.2).astype(BF16)
    core = Core("npu2")
    plain = run(core, a, b)
    (want,) = find_kernel("GELU").run(Dispatch(core, SimpleNamespace(size=64), [plain]))
    np.testing.assert_array_equal(run(core, a, b, epilogue="gelu"), want)


def test_special_values_travel() -> None:
    a = np.ones((3, 64), BF16)
    a[0, 5], a[1, 5] = np.inf, np.nan
    out = run(Core("npu1"), a, np.ones(64, BF16)).astype(np.float32)[0]
    assert out[0] == np.inf
    assert np.isnan(out[1])
    assert out[2] == 64
