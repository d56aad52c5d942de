# SPDX-License-Identifier: Apache-2.0
"""ElementwiseAdd, ElementwiseMul, ReLU of the software NPU."""

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


def run(op: str, core: Core, *inputs: np.ndarray) -> np.ndarray:
    (out,) = find_kernel(op).run(Dispatch(core, SimpleNamespace(size=inputs[0].size), list(inputs)))
    return out


@pytest.mark.parametrize("generation", ["npu1", "npu2"])
def test_hand_values(generation: str) -> None:
    a = np.array([1.0, -1.0, 1.0, 3.0], BF16)
    b = np.array([2**-8, -(2**-8), 3 * 2**-8, 1.0], BF16)  # half a step, half a step, one and a half steps of 2**-7
    step = 2.0**-7
    assert run("ElementwiseAdd", Core(generation), a, b).astype(float).tolist() == [1, -1 - step, 1 + step, 4]
    even = Core(generation, "conv_even")
    assert run("ElementwiseAdd", even, a, b).astype(float).tolist() == [1, -1, 1 + 2 * step, 4]
    x = np.array([1 + step, -(1 + step)], BF16)  # the square is 1 + 2 step + step**2
    assert run("ElementwiseMul", Core(generation), x, np.array([1 + step] * 2, BF16)).astype(float).tolist() == [
        1 + 2 * step,
        -(1 + 3 * step),
    ]


@pytest.mark.parametrize("op", ["ElementwiseAdd", "ElementwiseMul"])
def test_floor_is_low_by_less_than_one_ulp_and_conv_even_is_exact(op: str) -> None:
    rng = np.random.default_rng(7)
    a, b = (rng.standard_normal(20000).astype(BF16) for _ in range(2))
    exact = a.astype(np.float64) + b.astype(np.float64) if op.endswith("Add") else a.astype(float) * b.astype(float)
    floor = run(op, Core("npu2"), a, b).astype(np.float64)
    _, exponent = np.frexp(exact)
    ulp = np.ldexp(1.0, exponent - 8)
    deficit = (exact - floor) / ulp
    assert (deficit >= 0).all()
    assert deficit.max() <= 1
    assert 0.1 < deficit.mean() < 0.6  # half an ULP wherever anything is cut
    nearest = np.rint(exact / ulp) * ulp
    assert (floor != nearest).mean() > 0.2
    even = Core("npu2", "conv_even")
    np.testing.assert_array_equal(run(op, even, a, b).astype(np.float64), nearest)
    note = find_kernel(op).rounding_note
    assert "conv_even" in note(SimpleNamespace(), even)
    assert note(SimpleNamespace(), Core("npu2")) == ""


def test_neither_sets_the_register() -> None:
    for mode in ("floor", "conv_even"):
        core = Core("npu1", mode)
        for op in ("ElementwiseAdd", "ElementwiseMul"):
            run(op, core, ALL, ALL)
        assert core.rounding == mode


def test_relu_over_all_patterns() -> None:
    out = run("ReLU", Core("npu1"), ALL).view(np.uint16)
    for bits in (0x0000, 0x0001, 0x3F80, 0x7F7F, 0x7F80, 0x7FC0, 0xFFC1):
        assert out[bits] == bits
    for bits in (0x8000, 0x8001, 0xBF80, 0xFF7F, 0xFF80):
        assert out[bits] == 0
    values = ALL.astype(np.float32)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(out.view(BF16).astype(np.float32)[numbers], np.maximum(values[numbers], 0))
    assert find_kernel("ReLU").rounding_note(SimpleNamespace(), Core("npu1"))
