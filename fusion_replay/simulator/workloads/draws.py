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

from fusion_replay import refs
from fusion_replay.model.bf16 import bits_of
from fusion_replay.model.runlist import ArgSpec

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
_WEIGHTS = ("w_gate", "w_up", "w_down")
_DRAWS: Mapping[tuple[str, str], Draw] = {
    ("GELU", "A"): uniform(-RANGE, RANGE),
    ("Sigmoid", "A"): uniform(-RANGE, RANGE),
    ("Tanh", "A"): uniform(-RANGE, RANGE),
    ("SiLU", "A"): uniform(-RANGE / 2, RANGE / 2),
    ("ReLU", "A"): uniform(-RANGE / 2, RANGE / 2),
    ("LeakyReLU", "A"): uniform(-RANGE / 2, RANGE / 2),
    ("Clamp", "A"): uniform(-RANGE / 2, RANGE / 2),
    ("DepthwiseConv1d", "x"): uniform(-RANGE / 2, RANGE / 2),
    ("DepthwiseConv1d", "weight"): uniform(-RANGE / 2, RANGE / 2),
    ("GEMV", "A"): normal,
    ("GEMV", "B"): normal,
    ("GEMM", "A"): normal,
    ("DualGEMVSiLUMul", "A"): normal,
    ("DualGEMVSiLUMul", "B"): normal,
    **{(kind, name): uniform(-RANGE / 2, RANGE / 2) for kind in ("SiLUMul", "Pointwise") for name in "AB"},
    ("FusedQKVProj", "weights"): normal,
    ("FusedQKVProj", "input"): normal,
    ("FusedDequantGEMV", "vector"): normal,
    ("SwiGLUFusedDecode", "weights_all"): uniform(-0.25, 0.25),
    ("SwiGLUFusedDecode", "input"): normal,
    ("FlowKVDecode", "kv_cache"): lambda rng, shape: rng.standard_normal(shape) * RANGE / 2,
    **{(kind, name): uniform(-0.25, 0.25) for kind in ("SwiGLUDecode", "SwiGLUPrefill") for name in _WEIGHTS},
    ("SwiGLUDecode", "input"): normal,
    ("SwiGLUPrefill", "input"): normal,
    ("Sample", "logits"): lambda rng, shape: rng.standard_normal(shape) * 3,
    ("RoPE", "angles"): angles,
}
"""What differs from uniform [0, 4), by operator and argument."""


def contents(op_type: str, params: Mapping[str, Any], arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Contents of argument ``arg`` of an operator with these parameters, in the arg spec's shape and dtype."""
    if (op_type, arg.name) in _MADE:
        return _MADE[op_type, arg.name](params, arg, rng)
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
    p = refs.find("Dequant").bind(params)
    return _tiles(p.size, p.tile_size or _DEQUANT_TILE, p.group_size, rng)


def _packed_rows(params: Mapping[str, Any], arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The same in tiles of a matrix's rows."""
    p = refs.find("FusedDequantGEMV").bind(params)
    return _tiles(p.M * p.K, p.tile_size_input * p.K, p.group_size, rng)


def _tiles(size: int, tile: int, group: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    tiles, groups = size // tile, tile // group
    values = rng.integers(0, 256, (tiles, tile // 2), dtype=np.uint8)
    scales = rng.uniform(1 / 3.75, 1, (tiles, groups)).astype(np.float32).astype(ml_dtypes.bfloat16)
    packed = np.concatenate((values, scales.view("<u2").view(np.uint8).reshape(tiles, 2 * groups)), axis=1)
    return packed.reshape(-1)


def _queries_with_angles(params: Mapping[str, Any], arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Normal queries of standard deviation 2, and behind each group's the angles of the position after the cache."""
    drawn = rng.standard_normal(arg.shape) * RANGE / 2
    drawn[:, -1] = angles(rng, (int(params["seq_len"]) + 1, arg.shape[-1]))[-1]
    return bits_of(drawn)


def _draw_rows(params: Mapping[str, Any], arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Sample's draws, a row per position: the temperature's bits, k, and the two words of a 53-bit uniform number.

    Temperatures and k as in amd/IRON ``iron/operators/sample.py``; greedy rows only behind the first one.
    """
    steps = arg.shape[0]
    rows = np.empty((steps, 4), np.uint32)
    temperatures = np.where(np.arange(steps) == 0, 1.0, rng.choice([0.0, 0.7, 1.0], steps))
    rows[:, 0] = temperatures.astype(np.float32).view(np.uint32)
    rows[:, 1] = rng.integers(1, 51, steps)
    numbers = rng.integers(0, 1 << 53, steps, dtype=np.uint64)
    rows[:, 2], rows[:, 3] = numbers & np.uint64(0xFFFFFFFF), numbers >> np.uint64(32)
    return rows.view(np.int32)


def _program(params: Mapping[str, Any], arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Emit's rows of plane, index, scale, bias and shift, a quarter unused (amd/IRON iron/operators/emit.py)."""
    rows = arg.shape[0]
    carried = int(params["carried"])
    columns = [
        rng.integers(0, 2, rows),
        rng.integers(0, carried, rows),
        rng.integers(-3, 4, rows),
        rng.integers(-1000, 1000, rows),
        rng.choice([0, 2], rows),
    ]
    program = np.stack(columns, axis=1).astype(np.int32)
    program[rng.random(rows) < 0.25] = 0
    return program


def _planes(params: Mapping[str, Any], arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    return rng.integers(-(1 << 20), 1 << 20, arg.shape).astype(np.int32)


def _no_tokens(params: Mapping[str, Any], arg: ArgSpec, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    return np.full(arg.shape, -1, np.int32)


_DEQUANT_TILE = 4096
_MADE: Mapping[tuple[str, str], Callable[[Mapping[str, Any], ArgSpec, np.random.Generator], npt.NDArray[Any]]] = {
    ("Dequant", "A"): _packed,
    ("FusedDequantGEMV", "packed_weights"): _packed_rows,
    ("FlowKVDecode", "queries"): _queries_with_angles,
    ("Emit", "program"): _program,
    ("Emit", "planes"): _planes,
    ("Sample", "draws"): _draw_rows,
    ("Sample", "tokens"): _no_tokens,
}
"""Inputs that must satisfy their kernel, by operator and argument."""


__all__ = ["POSITIVE", "RANGE", "SEED", "Draw", "angles", "contents", "normal", "of_kind", "uniform"]
