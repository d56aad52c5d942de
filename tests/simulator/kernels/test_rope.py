# SPDX-License-Identifier: Apache-2.0
"""RoPE of the software NPU."""

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


def store(value: float, mode: str) -> float:
    """One number through float32 to bfloat16, on Python integers."""
    single = float(np.float32(value))
    if single == 0:
        return single
    grid = 2.0 ** (math.frexp(single)[1] - 8)
    steps = single / grid  # exact: a power of two
    return grid * (math.floor(steps) if mode == "floor" else round(steps))


@pytest.mark.parametrize("mode", ["floor", "conv_even"])
@pytest.mark.parametrize("method", [0, 1])
def test_three_roundings_and_consecutive_angle_rows(mode: str, method: int) -> None:
    rows, cols, angle_rows = 8, 32, 2
    rng = np.random.default_rng(11)
    x = rng.standard_normal((rows, cols)).astype(BF16)
    theta = rng.uniform(0, 7, (angle_rows, cols // 2))
    angles = np.stack([np.cos(theta), np.sin(theta)], axis=-1).reshape(angle_rows, cols).astype(BF16)
    p = SimpleNamespace(rows=rows, cols=cols, angle_rows=angle_rows, method_type=method)
    (out,) = find_kernel("RoPE").run(Dispatch(Core("npu1", mode), p, [x, angles]))
    for r in range(rows):
        angle = angles[r // (rows // angle_rows)]  # row j serves rows j*4 .. j*4+3
        for i in range(cols // 2):
            first, second = (2 * i, 2 * i + 1) if method else (i, i + cols // 2)
            a, b = float(x[r, first]), float(x[r, second])
            cos, sin = float(angle[2 * i]), float(angle[2 * i + 1])
            assert float(out[r, first]) == store(store(a * cos, mode) - store(b * sin, mode), mode)
            assert float(out[r, second]) == store(store(b * cos, mode) + store(a * sin, mode), mode)


@pytest.mark.parametrize("mode", ["floor", "conv_even"])
def test_deviates_and_stays_within_iron_tolerance(mode: str) -> None:
    rng = np.random.default_rng(12)
    x = rng.standard_normal((32, 64)).astype(BF16)
    theta = rng.uniform(0, 7, 32)
    angles = np.stack([np.cos(theta), np.sin(theta)], axis=-1).reshape(1, 64).astype(BF16)
    core = Core("npu2", mode)
    p = SimpleNamespace(rows=32, cols=64, angle_rows=1, method_type=0)
    out = find_kernel("RoPE").run(Dispatch(core, p, [x, angles]))[0].astype(np.float64)
    a, b = x[:, :32].astype(np.float64), x[:, 32:].astype(np.float64)
    cos, sin = angles[:, 0::2].astype(np.float64), angles[:, 1::2].astype(np.float64)
    exact = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)
    difference = np.abs(out - exact)
    assert (difference < np.maximum(0.05, 0.05 * (np.abs(out) + np.abs(exact)))).all()
    assert (out != exact.astype(np.float32).astype(BF16).astype(np.float64)).mean() > 0.2
    assert core.rounding == mode
