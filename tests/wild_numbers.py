# SPDX-License-Identifier: Apache-2.0
"""Wild numbers for kernels of the software NPU, and what is outside a bound; for tests and scripts/wild.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusion_replay import refs
from fusion_replay.compare.numerics.evaluator import Bound
from fusion_replay.model.bf16 import BFLOAT16, narrow
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

KINDS = ("normal", "heavy", "lognormal", "cancelling", "tiny", "small", "huge", "big", "constant", "integers")
KINDS += ("negative", "bits", "offset")


def wild(seed: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    r, n = np.random.default_rng(seed), int(np.prod(shape))
    normal = r.standard_normal(n)
    if kind == "bits":
        return r.integers(0, 1 << 16, n).astype(np.uint16).view(BFLOAT16).reshape(shape)
    drawn = {
        "normal": normal,
        "heavy": r.standard_t(1.1, n),
        "lognormal": np.exp(8 * normal) * r.choice([-1.0, 1.0], n),
        "cancelling": np.repeat(normal, 2)[:n] * np.resize([1.0, -1.0], n) * (1 + 0.01 * normal),
        "tiny": normal * 1e-37,
        "small": normal * 1e-18,
        "huge": normal * 1e37,
        "big": normal * 1e18,
        "constant": np.full(n, normal[0]),
        "integers": r.integers(-8, 9, n).astype(float),
        "negative": -20 * np.abs(normal),
        "offset": 100 + normal,
    }[kind]
    return narrow(np.asarray(drawn, np.float64)).reshape(shape)


def outside(found: Bound, actual: np.ndarray) -> np.ndarray:
    free = np.isinf(found.lo) & np.isinf(found.hi) & (found.lo != found.hi)
    inside = (found.lo <= actual) & (actual <= found.hi)
    return ~(inside | free | (np.isnan(actual) & np.isnan(found.lo)))


def run(op: str, device: str, params: dict[str, Any], kinds: list[str], seed: int, mode: str) -> tuple[Any, ...]:
    """(numerics, bound parameters, inputs, what the software NPU gives as float32)."""
    spec = refs.lookup(op)
    assert spec is not None
    assert spec.numerics is not None
    inputs = []
    for i, arg in enumerate(s for s in spec.arg_specs(params) if s.reads):
        if arg.dtype == "uint8":
            inputs.append(np.random.default_rng(seed).integers(0, 256, arg.size).astype(np.uint8))
        else:
            inputs.append(wild(seed + i, arg.shape, kinds[i % len(kinds)]))
    bound_params = spec.bind(params)
    previous = [np.zeros(s.shape, BFLOAT16) for s in spec.arg_specs(params) if s.writes]
    out = find_kernel(op).run(Dispatch(Core(device, mode), bound_params, inputs, previous))[0]
    return spec.numerics, bound_params, inputs, np.asarray(out).reshape(-1).astype(np.float32)
