# SPDX-License-Identifier: Apache-2.0
"""Rounding, the sticky register and the vector unit's sums, against exact rational arithmetic."""

from __future__ import annotations

import ast
import math
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusion_replay
from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core, halve, lane_sum, nearest_bf16, rsqrt, widen

BF16 = ml_dtypes.bfloat16
LARGEST = Fraction(255) * Fraction(2) ** 120


def exact_store(value: float, mode: str) -> float:
    """The bfloat16 value below ``value``, or nearest to it with ties to even, by rational arithmetic."""
    v = Fraction(value)
    if v == 0:
        return value
    exponent = max(math.frexp(value)[1] - 1, -126)
    grid = Fraction(2) ** (exponent - 7)
    steps = v / grid
    result = grid * (math.floor(steps) if mode == "floor" else round(steps))
    if result > LARGEST:
        return float(LARGEST) if mode == "floor" else math.inf
    if result < -LARGEST:
        return -math.inf
    return float(result)


finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
near_ties = st.builds(
    lambda hi, lo: float(np.array(hi << 16 | lo, np.uint32).view(np.float32)),
    st.integers(0, 0xFFFF).filter(lambda b: (b & 0x7F80) != 0x7F80),
    st.sampled_from([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]),
)


@given(finite32 | near_ties, st.sampled_from(["floor", "conv_even"]))
def test_store_is_the_rational_rounding(value: float, mode: str) -> None:
    stored = Core("npu2", mode).store_bf16([value])
    assert stored.dtype == BF16
    assert float(stored[0]) == exact_store(value, mode)


@pytest.mark.parametrize("mode", ["floor", "conv_even"])
def test_every_bf16_pattern_survives_a_store(mode: str) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    stored = Core("npu1", mode).store_bf16(widen(bits.view(BF16))).view(np.uint16)
    nan = (bits & 0x7FFF) > 0x7F80
    np.testing.assert_array_equal(stored[~nan], bits[~nan])
    assert (stored[nan] == 0x7FC0).all()


def test_overflow() -> None:
    top = float(np.finfo(np.float32).max)
    assert [float(v) for v in Core("npu1", "floor").store_bf16([top, -top])] == [float(LARGEST), -math.inf]
    assert [float(v) for v in Core("npu1", "conv_even").store_bf16([top, -top])] == [math.inf, -math.inf]


def test_float64_passes_a_float32_accumulator() -> None:
    # Above the tie between 1 and 1 + 2**-7 by less than float32 can hold: the accumulator drops it, the tie goes to 1.
    value = np.array([1 + 2.0**-8 + 2.0**-40])
    assert float(Core("npu2", "conv_even").store_bf16(value)[0]) == 1.0
    # Below 1 by less than float32 can hold: floor no longer sees it.
    assert float(Core("npu2", "floor").store_bf16(np.array([1 - 2.0**-40]))[0]) == 1.0


def test_register_powers_up_as_floor_and_sticks() -> None:
    core = Core("npu2")
    assert (core.rounding, core.columns, Core("npu1").columns) == ("floor", 8, 4)
    core.rounding = "conv_even"
    core.store_bf16([1.0])
    assert core.rounding == "conv_even"
    with pytest.raises(UsageError, match="rounding 'nearest': expected floor or conv_even"):
        core.rounding = "nearest"
    with pytest.raises(UsageError, match="device 'npu3': expected npu1 or npu2"):
        Core("npu3")


def test_floor_sums_agree_as_often_as_reported() -> None:
    """Xilinx/mlir-aie pull request 3587: 1538 of 2046 sums match numpy under floor, all under conv_even."""
    rng = np.random.default_rng(3587)
    a, b = (rng.uniform(-1, 1, 2046).astype(BF16) for _ in range(2))
    exact = a.astype(np.float64) + b.astype(np.float64)
    numpy_says = (a.astype(np.float32) + b.astype(np.float32)).astype(BF16)
    floor = Core("npu1", "floor").store_bf16(widen(a) + widen(b))
    even = Core("npu1", "conv_even").store_bf16(widen(a) + widen(b))
    assert abs(int((floor == numpy_says).sum()) - 1538) < 60
    assert (floor.astype(np.float64) <= exact).all()
    np.testing.assert_array_equal(even, numpy_says)


def test_widen_takes_bfloat16_only() -> None:
    with pytest.raises(UsageError, match="bfloat16, found float32"):
        widen(np.zeros(2, np.float32))


def test_host_constants_are_rounded_to_nearest() -> None:
    assert float(nearest_bf16(0.7978845608028654)) == 0.796875  # sqrt(2/pi)


@pytest.mark.parametrize(("steps", "least", "most"), [(1, 1.7e-3, 1.76e-3), (2, 4e-6, 5e-6)])
def test_rsqrt_error(steps: int, least: float, most: float) -> None:
    """0.175 % after one Newton step is the textbook figure; two leave about 5e-6."""
    x = np.geomspace(1, 4, 20001).astype(np.float32)  # one period of the estimate
    relative = np.abs(rsqrt(x, steps).astype(np.float64) * np.sqrt(x.astype(np.float64)) - 1)
    assert least < relative.max() < most


def test_lane_sum_adds_in_the_vector_units_order() -> None:
    x = np.random.default_rng(1).standard_normal((3, 96)).astype(np.float32) * np.float32(1e3)
    for row, total in zip(x, lane_sum(x, 8), strict=True):
        lanes = [np.float32(0)] * 8
        for i, value in enumerate(row):
            lanes[i % 8] = np.float32(lanes[i % 8] + value)
        while len(lanes) > 1:
            middle = len(lanes) // 2
            lanes = [np.float32(lanes[i] + lanes[i + middle]) for i in range(middle)]
        assert total == lanes[0]
    assert halve(np.array([[1, 2, 3, 4]], np.float32)).tolist() == [10]


def test_simulator_numerics_share_no_code_with_the_references() -> None:
    simulator = Path(fusion_replay.__file__).parent / "simulator"
    for file in [simulator / "core.py", *(simulator / "kernels").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not str(name).startswith(
                    ("fusion_replay.refs", "fusion_replay.model.bf16", "fusion_replay.operators")
                )
