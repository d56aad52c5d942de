# SPDX-License-Identifier: Apache-2.0
"""Repeat: every row of A ``repeat`` times, one copy behind the other (torch's repeat_interleave along axis 0)."""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.tolerance import exact
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.operators.tiling import Tiling, grid
from fusion_replay.refs._dtypes import dtype_name


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    dtype = dtype_name("Repeat", p.dtype)
    row = (p.cols,) if p.seq == 1 else (p.seq, p.cols)
    return ArgSpec("A", "in", (p.rows, *row), dtype), ArgSpec("C", "out", (p.rows * p.repeat, *row), dtype)


def _repeat(call: Call, a: Array) -> Array:
    return call.xp.repeat(a, call.params.repeat, axis=0)


def _tiling(p: SimpleNamespace) -> Tiling | None:
    size = p.rows * p.repeat * p.seq * p.cols
    return grid(size, (("tile", p.rows * p.repeat), ("", p.seq * p.cols)), "amd/IRON iron/operators/repeat: a row")


SPEC = OperatorSpec(
    type="Repeat",
    summary="C = each row of A, repeat times in a row",
    aliases=("repeat", "AIERepeat"),
    params=(
        Param("rows", int),
        Param("cols", int, help="elements per row"),
        Param("repeat", int, help="copies of each row"),
        Param("transfer_size", int, None, decides=False),
        Param("dtype", object, "bfloat16"),
        Param("seq", int, 1, help="middle axis of a stack: a row is then seq * cols elements"),
    ),
    args=_args,
    flavours=every(_repeat),
    tolerance={"*": exact().from_source("amd/IRON iron/operators/repeat: gated exactly")},
    raw=True,
    exact_bits=True,
    tiling=_tiling,
    source="amd/IRON iron/operators/repeat",
)
