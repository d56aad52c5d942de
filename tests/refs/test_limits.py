# SPDX-License-Identifier: Apache-2.0
"""Rule auto with each operator's own limits: honest kernels of the software NPU pass, gross faults do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bf16_oracle import normal
from fusion_replay.compare.verdict import compare
from fusion_replay.refs import find, reference
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

CASES = {
    "ElementwiseAdd": ({"size": 2048}, {}),
    "ElementwiseMul": ({"size": 2048}, {}),
    "ReLU": ({"size": 2048}, {}),
    "SiLU": ({"size": 2048}, {}),
    "GELU": ({"size": 2048}, {}),
    "RMSNorm": ({"size": 2048, "tile_size": 256, "weighted": True}, {}),
    "LayerNorm": ({"size": 4 * 384, "tile_size": 384}, {}),
    "Softmax": ({"rows": 16, "cols": 128}, {}),
    "Softmax masked": ({"rows": 16, "cols": 128}, {"vector_size": 37}),
    "RoPE": ({"rows": 32, "cols": 64, "angle_rows": 8}, {}),
    "RoPE neighbours": ({"rows": 32, "cols": 64, "method_type": 1}, {}),
    "GEMV": ({"M": 512, "K": 256}, {}),
    "GEMV batched": ({"M": 64, "K": 128, "num_batches": 8}, {}),
    "GEMM": ({"M": 64, "K": 384, "N": 64}, {}),
    "GEMM deep": ({"M": 64, "K": 1536, "N": 64, "b_col_maj": True}, {}),
    "GEMM floor": ({"M": 64, "K": 384, "N": 64, "round_conv_even": False}, {}),
    "GEMM accurate": (
        {"M": 64, "K": 384, "N": 64, "prio_accuracy": True, "emulate_bf16_mmul_with_bfp16": False, "c_col_maj": True},
        {},
    ),
}


def run(case: str, device: str, rounding: str, scale: float, seed: int = 0):
    """(kernel's output, reference, limits) of a case on inputs of this magnitude."""
    op = case.partition(" ")[0]
    params, values = CASES[case]
    spec, rng = find(op), np.random.default_rng(seed)
    *given, out = spec.arg_specs(params)
    inputs = [normal(rng, a.shape, scale if i == 0 else 1.0) for i, a in enumerate(given)]
    core = Core(device)  # type: ignore[arg-type]
    core.rounding = rounding  # type: ignore[assignment]
    actual = find_kernel(op).run(Dispatch(core, spec.bind(params), inputs, [], values))[0].reshape(out.shape)
    (expected,) = reference(op, params, inputs, "iron-2026-09", values=values)
    return actual, expected, spec.tolerance_for(device, params)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", ["npu1", "npu2"])
@pytest.mark.parametrize("rounding", ["floor", "conv_even"])
def test_honest_kernels_pass_at_any_scale(case: str, device: str, rounding: str) -> None:
    for scale in (0.01, 1.0, 5.0):
        actual, expected, limits = run(case, device, rounding, scale)
        verdict = compare(actual, expected, "auto", tolerance=limits)
        assert verdict, f"scale {scale}: {verdict}"


def _first_tile_zero(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1).copy()
    flat[:32] = 0
    return flat.reshape(x.shape)


def _one_nan(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1).copy()
    flat[17] = np.nan
    return flat.reshape(x.shape)


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all zero": np.zeros_like,
    "shifted by one": lambda x: np.roll(x.reshape(-1), 1).reshape(x.shape),
    "shifted by a block": lambda x: np.roll(x.reshape(-1), 64).reshape(x.shape),
    "dropped tile": _first_tile_zero,
    "reversed": lambda x: x.reshape(-1)[::-1].reshape(x.shape),
    "a NaN": _one_nan,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", ["npu1", "npu2"])
def test_gross_faults_fail(case: str, device: str) -> None:
    actual, expected, limits = run(case, device, "conv_even", 1.0)
    stale, _, _ = run(case, device, "conv_even", 1.0, seed=1)
    broken = {name: fault(actual) for name, fault in FAULTS.items()} | {"stale": stale}
    passed = [name for name, x in broken.items() if compare(x, expected, "auto", tolerance=limits)]
    assert not passed
