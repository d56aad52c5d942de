# SPDX-License-Identifier: Apache-2.0
"""RoPE: rotates pairs of elements of each row by the angles of its position.

An angle row holds ``[cos0, sin0, cos1, sin1, ...]``. ``method_type`` 0 pairs element i with i + cols/2 (Hugging Face),
1 pairs neighbours (the Llama paper). With fewer angle rows than rows, August's form (and the device) uses each angle
row for consecutive rows; the form of pull request 117 *tiles* the angle rows and knows method 0 only, so its flavour
takes August's meaning for method 1. All forms round once; September's rounds what float32 makes of products and sum,
which next to a tie, and where a product leaves float32's range, is another value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import relative
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.operators.tiling import Tiling, runs
from fusion_replay.refs._elementwise import through_float32
from fusion_replay.refs.arithmetic.sums import add_to_odd


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    angle_rows = _angle_rows(p)
    if p.cols % 2:
        raise UsageError(f"RoPE: cols {p.cols}: expected an even number, a row holds pairs")
    if p.method_type not in (0, 1):
        raise UsageError(f"RoPE: method_type {p.method_type}: expected 0 (halves) or 1 (neighbours)")
    if angle_rows < 1 or p.rows % angle_rows:
        raise UsageError(f"RoPE: rows {p.rows}: expected a multiple of angle_rows, found {angle_rows}")
    return (
        ArgSpec("A", "in", (p.rows, p.cols)),
        ArgSpec("angles", "in", (angle_rows, p.cols)),
        ArgSpec("C", "out", (p.rows, p.cols)),
    )


def _angle_rows(p: SimpleNamespace) -> int:
    return int(p.rows if p.angle_rows is None else p.angle_rows)


def _rope(call: Call, x: Array, angles: Array) -> Array:
    return _shared(call, x, angles, lambda v: v)


def _float32(call: Call, x: Array, angles: Array) -> Array:
    return _shared(call, x, angles, lambda v: through_float32(call.xp, v))


def _shared(call: Call, x: Array, angles: Array, held: Callable[[Array], Array]) -> Array:
    """Angle row j serves the rows j*r .. (j+1)*r - 1, r = rows / angle_rows."""
    xp, p = call.xp, call.params
    grouped = xp.reshape(x, (_angle_rows(p), -1, p.cols))
    return _rotate(call, grouped, angles[:, None, :], held)


def _pr117(call: Call, x: Array, angles: Array) -> Array:
    """Row r uses angle row r mod angle_rows."""
    xp, p = call.xp, call.params
    if p.method_type == 1:
        return _rope(call, x, angles)
    return _rotate(call, xp.reshape(x, (-1, _angle_rows(p), p.cols)), angles[None, :, :], lambda v: v)


def _rotate(call: Call, x: Array, angles: Array, held: Callable[[Array], Array]) -> Array:
    """``held``: what each product, and their sum, is held in."""
    xp, p = call.xp, call.params
    cos, sin = angles[..., 0::2], angles[..., 1::2]
    if p.method_type == 0:
        first, second = x[..., : p.cols // 2], x[..., p.cols // 2 :]
    else:
        first, second = x[..., 0::2], x[..., 1::2]
    # Products of two bf16 values are exact in float64; their sum need not be.
    products = (first * cos, -(second * sin)), (second * cos, first * sin)
    pair = [held(add_to_odd(xp, held(a), held(b))) for a, b in products]
    return xp.concat(pair, axis=-1) if p.method_type == 0 else xp.reshape(xp.stack(pair, axis=-1), x.shape)


def _iron_fails(p: SimpleNamespace, flavour: str) -> str | None:
    if flavour != "pr117":
        return None
    if p.method_type == 1:
        return "IRON's reference of pull request 117 rotates halves only, not neighbours (method_type 1)"
    if 1 < _angle_rows(p) < p.rows:
        return "IRON's reference of pull request 117 tiles the angle rows, the device repeats each for consecutive rows"
    return None


def _tiling(p: SimpleNamespace) -> Tiling | None:
    source = "amd/IRON iron/operators/rope/design.py: a row is a tile"
    return runs(p.rows * p.cols, p.num_aie_columns, tile=p.cols, source=source)


def _arrange(
    p: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    x = inputs[0].reshape(_angle_rows(p), -1, p.cols)
    angles = inputs[1].reshape(-1, 1, p.cols)
    half = p.cols // 2
    a, b = (x[..., :half], x[..., half:]) if p.method_type == 0 else (x[..., 0::2], x[..., 1::2])
    return {"a": a, "b": b, "cos": angles[..., 0::2], "sin": angles[..., 1::2]}


def _place(p: SimpleNamespace, results: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(results, axis=-1) if p.method_type == 0 else np.stack(results, axis=-1)


def _stages(_params: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
    return (
        Stage("a cos", "mul", ("a", "cos"), BF16),
        Stage("b sin", "mul", ("b", "sin"), BF16),
        Stage("b cos", "mul", ("b", "cos"), BF16),
        Stage("a sin", "mul", ("a", "sin"), BF16),
        Stage("first", "sub", ("a cos", "b sin"), BF16),
        Stage("second", "add", ("b cos", "a sin"), BF16),
    )


_NUMERICS = Numerics(
    _stages, "amd/IRON aie_kernels/generic/rope.cc", _arrange, results=("first", "second"), place=_place
)


SPEC = OperatorSpec(
    type="RoPE",
    summary="rotates pairs of each row: (x1 cos - x2 sin, x2 cos + x1 sin)",
    aliases=("rope", "AIERope", "AIERoPE"),
    params=(
        Param("rows", int),
        Param("cols", int, help="elements per row: the head dimension"),
        Param("angle_rows", int, None, help="rows of the angle table; default: one per row"),
        Param("num_aie_columns", int, 1, decides=False),
        Param("method_type", int, 0, help="0 pairs the halves of a row, 1 neighbours"),
    ),
    args=_args,
    flavours=every(_rope) | {"pr117": _pr117, "iron-2026-09": _float32},
    tolerance={
        # IRON had 0.5 absolute beside 0.05, which lets zeros pass. Two products floored to bf16 and their floored
        # difference are off by at most 2**-7 (|x1 cos| + |x2 sin|) + 2**-7 |result|, under 0.02 of the largest.
        "*": relative(0.05, 0.0, range_frac=0.02).from_source("amd/IRON iron/operators/rope; range from the kernel")
    },
    tiling=_tiling,
    numerics=_NUMERICS,
    source="amd/IRON iron/operators/rope",
    iron_fails=_iron_fails,
    defects=(
        "Pull request 117 repeats the angle table as a whole (row r takes angle row r mod angle_rows) and knows "
        "halves only; the device repeats each angle row for consecutive rows and pairs neighbours too.",
    ),
)
