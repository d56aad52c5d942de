# SPDX-License-Identifier: Apache-2.0
"""A model of three layers as a runlist on the software NPU, and the same in float64 numpy: an oracle of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

import fusion_replay as fr
from fusion_replay.simulator import operators

Array = npt.NDArray[Any]

LAYERS, ROWS, TOKENS, WIDTH = 3, 64, 12, 64


def weights(seed: int = 0) -> dict[str, Array]:
    """Of every layer, bf16; and ``x``, whose first rows are the tokens."""
    rng = np.random.default_rng(seed)
    made = {"x": rng.standard_normal((ROWS, WIDTH))}
    for i in range(LAYERS):
        for part in ("up", "down"):
            made[f"W_{part}_{i}"] = rng.standard_normal((WIDTH, WIDTH)) / 8
    return {name: values.astype(ml_dtypes.bfloat16) for name, values in made.items()}


def runlist() -> list[tuple[Any, ...]]:
    gemm = operators.GEMM(M=ROWS, K=WIDTH, N=WIDTH, tile_m=16, tile_k=64, tile_n=16, num_aie_columns=4)
    shape = {"size": ROWS * WIDTH, "num_aie_columns": 4, "num_channels": 1, "tile_size": WIDTH}
    gelu, add = operators.GELU(**shape), operators.ElementwiseAdd(size=ROWS * WIDTH, tile_size=WIDTH, num_aie_columns=4)
    steps: list[tuple[Any, ...]] = []
    for i in range(LAYERS):
        steps += [
            (gemm, "x", f"W_up_{i}", "up"),
            (gelu, "up", "act"),
            (gemm, "act", f"W_down_{i}", "down"),
            (add, "x", "down", "x"),
        ]
    return steps


def record(
    path: Path,
    held: dict[str, Array] | None = None,
    steps: Callable[[list[tuple[Any, ...]]], list[tuple[Any, ...]]] = lambda s: s,
    faults: tuple[str, ...] = (),
) -> Path:
    """The runlist run once with these contents in its buffers."""
    callable_ = fr.simulate(steps(runlist()), faults=faults, name="small", input_args=["x"], output_args=[])
    with fr.record(path, callable_, if_exists="replace"):
        for name, values in (weights() if held is None else held).items():
            buffer = callable_.get_buffer(name)
            buffer.numpy_view().reshape(-1)[:] = values.reshape(-1)
            buffer.to("npu")
        callable_()
    return path


def model(seed: int = 0) -> dict[str, Array]:
    """What the model computes for the tokens, float32, in its order."""
    held = {name: values.astype(np.float64) for name, values in weights(seed).items()}
    x = held["x"][:TOKENS]
    found = {"embedded": x}
    for i in range(LAYERS):
        up = x @ held[f"W_up_{i}"]
        act = 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        down = act @ held[f"W_down_{i}"]
        x = x + down
        found |= {f"layers.{i}.up": up, f"layers.{i}.act": act, f"layers.{i}.down": down, f"layers.{i}": x}
    return {name: values[None].astype(np.float32) for name, values in found.items()}


def write_oracle(path: Path, seed: int = 0) -> Path:
    fr.oracle.write(model(seed), path, if_exists="replace")
    return path
