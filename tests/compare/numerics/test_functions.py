# SPDX-License-Identifier: Apache-2.0
"""What device models execute in place of a function keeps the distance that the constants in refs/ state."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from fusion_replay import refs
from fusion_replay.compare.numerics.functions import FALLING, OTHER, RISING
from fusion_replay.compare.numerics.stages import Constant, Stage, walk

X = np.linspace(-8, 8, 20_001, dtype=np.float32)


def constant(op: str, device: str, stage: str, **params: object) -> Constant:
    spec = refs.lookup(op)
    assert spec is not None
    assert spec.numerics is not None
    stages: list[Stage] = list(walk(spec.numerics.stages(spec.bind(params), device)))
    (found,) = {s.error for s in stages if s.op == stage and s.error is not None}
    return found


def test_tanh_s_table() -> None:
    error = constant("Tanh", "npu1", "tanh", size=64)
    off = RISING["tanh_segments"](X) - np.tanh(X.astype(np.float64))
    assert error.low <= off.min()
    assert off.max() <= error.high
    assert off.max() > 0.5 * error.high  # and no wider than it need be


def test_gelu_s_table() -> None:
    error = constant("GELU", "npu1", "gelu", size=64)
    exact = np.array([0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) for x in X.tolist()])
    assert np.abs(OTHER["gelu"](X) - exact).max() < 1e-6
    off = OTHER["gelu_segments"](X) - exact
    assert error.low <= off.min()
    assert off.max() <= error.high
    assert np.abs(off).max() > 0.5 * error.high


@pytest.mark.parametrize(("device", "by"), [("npu1", "newton1"), ("npu2", "newton2")])
def test_reciprocal_roots(device: str, by: str) -> None:
    error = constant("RMSNorm", device, "rsqrt", size=64, tile_size=64)
    x = np.exp(np.linspace(-80, 80, 50_001)).astype(np.float32)
    off = FALLING[by](x) * np.sqrt(x.astype(np.float64)) - 1
    assert error.low <= off.min()
    assert off.max() <= error.high
    assert off.min() < 0.5 * error.low


def test_exponential_tables() -> None:
    error = constant("Softmax", "npu1", "exp", rows=16, cols=64)
    x = np.linspace(-86.9, 87.9, 50_001, dtype=np.float32)
    off = RISING["exp_tables"](x) / np.exp(x.astype(np.float64)) - 1
    assert error.low <= off.min()
    assert off.max() <= error.high
    assert RISING["exp_tables"](np.array([-np.inf, -87.5], np.float32)).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["tanh", "exp2", "exp"])
def test_functions_are_rounded_once(name: str) -> None:
    x = np.linspace(-4, 4, 257, dtype=np.float32)
    true = {"tanh": mpmath.tanh, "exp2": lambda v: mpmath.mpf(2) ** v, "exp": mpmath.exp}[name]
    assert RISING[name](x).tolist() == [float(np.float32(float(true(mpmath.mpf(v))))) for v in x.tolist()]
