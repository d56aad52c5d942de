# SPDX-License-Identifier: Apache-2.0
"""Seeded inputs of single operators, in the distributions of IRON's golden generators.

Source: amd/IRON ``iron/operators/*/reference.py``: a value range of 4, centred where the function is interesting on
both sides. The distributions are the same, the values are not: those are torch's random stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fusion_replay import operators
from fusion_replay.bf16 import bits_of
from fusion_replay.model import ArgSpec

Draw = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[np.float64]]

RANGE = 4.0
SEED = 42
_ROPE_THETA = 500_000.0  # the base of Llama 3's angles, as IRON's generator takes it


def uniform(low: float, high: float) -> Draw:
    """Values from ``low`` up to ``high``, all equally likely."""
    return lambda rng, shape: rng.uniform(low, high, shape)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Normal values of standard deviation :data:`RANGE`."""
    return rng.standard_normal(shape) * RANGE


def angles(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """A row per position from 0: cosine and sine of each frequency, interleaved."""
    rows, cols = shape
    frequencies = _ROPE_THETA ** (-np.arange(0, cols, 2) / cols)
    turns = np.arange(rows)[:, None] * frequencies
    return np.stack([np.cos(turns), np.sin(turns)], axis=-1).reshape(shape)


POSITIVE = uniform(0, RANGE)
_DRAWS: Mapping[tuple[str, str], Draw] = {
    ("GELU", "A"): uniform(-RANGE, RANGE),
    ("Sigmoid", "A"): uniform(-RANGE, RANGE),
    ("Tanh", "A"): uniform(-RANGE, RANGE),
    ("SiLU", "A"): uniform(-RANGE / 2, RANGE / 2),
    ("ReLU", "A"): uniform(-RANGE / 2, RANGE / 2),
    ("GEMV", "A"): normal,
    ("GEMV", "B"): normal,
    ("GEMM", "A"): normal,
    ("RoPE", "angles"): angles,
}
"""What differs from uniform [0, 4), by operator and argument."""


def contents(op_type: str, params: Mapping[str, Any], arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Contents of argument ``arg`` of an operator with these parameters, in the arg spec's shape and dtype."""
    if op_type == "Dequant":
        return _packed(params, arg, rng)
    return of_kind(_DRAWS.get((op_type, arg.name), POSITIVE), arg, rng)


def of_kind(draw: Draw, arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Contents in the shape and dtype of ``arg``: ``draw`` rounded where it is a float, any integer where it is not."""
    if arg.dtype == "bfloat16":
        return bits_of(draw(rng, arg.shape))
    if arg.dtype.startswith("float"):
        return draw(rng, arg.shape).astype(arg.dtype)
    info = np.iinfo(arg.dtype)
    return rng.integers(info.min, info.max, arg.shape, dtype=np.dtype(arg.dtype), endpoint=True)


def _packed(params: Mapping[str, Any], arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Tiles of 4-bit values with their groups' bf16 scales behind them, scales from 1/3.75 to 1 as in IRON's generator.

    Any byte is a pair of values; any two bytes as a scale would be NaN and Inf too often to say anything.
    """
    p = operators.find("Dequant").bind(params)
    tiles, groups = p.size // p.tile_size, p.tile_size // p.group_size
    values = rng.integers(0, 256, (tiles, p.tile_size // 2), dtype=np.uint8)
    scales = rng.uniform(1 / 3.75, 1, (tiles, groups)).astype(np.float32).astype(ml_dtypes.bfloat16)
    packed = np.concatenate((values, scales.view("<u2").view(np.uint8).reshape(tiles, 2 * groups)), axis=1)
    return packed.reshape(arg.shape)


__all__ = ["POSITIVE", "RANGE", "SEED", "Draw", "angles", "contents", "normal", "of_kind", "uniform"]
