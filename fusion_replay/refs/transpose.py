# SPDX-License-Identifier: Apache-2.0
"""Transpose: each (M, N) matrix of A, stored row by row, as (N, M)."""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.tolerance import exact
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.operators.tiling import Tiling, grid


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    size = p.num_batches * p.M * p.N
    return ArgSpec("A", "in", (size,)), ArgSpec("C", "out", (size,))


def _transpose(call: Call, a: Array) -> Array:
    xp, p = call.xp, call.params
    return xp.reshape(xp.matrix_transpose(xp.reshape(a, (p.num_batches, p.M, p.N))), (-1,))


def _iron_fails(p: SimpleNamespace, flavour: str) -> str | None:
    if p.num_batches > 1 and flavour != "iron-2026-09":
        return "IRON's transpose reference of that time reshapes to (M, N) and raises for num_batches > 1"
    return None


def _tiling(p: SimpleNamespace) -> Tiling | None:
    columns, channels, batches = p.num_aie_columns, p.num_channels, p.num_batches
    across = (("column", columns), ("tile", p.N // columns // p.n), ("", p.n))
    down = (("channel", channels), ("tile", p.M // channels // p.m), ("", p.m))
    axes = (("batch", batches), *across, *down)
    return grid(batches * p.M * p.N, axes, "amd/IRON iron/operators/transpose/design.py, taps_out_L1L3")


SPEC = OperatorSpec(
    type="Transpose",
    summary="C = A^T, matrix by matrix",
    aliases=("transpose", "AIETranspose"),
    params=(
        Param("M", int, help="rows of A"),
        Param("N", int, help="columns of A"),
        Param("num_aie_columns", int, 1, decides=False),
        Param("num_channels", int, 1, decides=False),
        Param("m", int, 64, decides=False),
        Param("n", int, 64, decides=False),
        Param("s", int, 8, decides=False),
        Param("num_batches", int, 1, help="matrices, one behind the other"),
    ),
    args=_args,
    flavours=every(_transpose),
    tolerance={"*": exact().from_source("amd/IRON iron/operators/transpose: a permutation is gated exactly")},
    raw=True,
    exact_bits=True,
    tiling=_tiling,
    source="amd/IRON iron/operators/transpose",
    iron_fails=_iron_fails,
    defects=(
        "Up to August 2026 the reference reshapes to (M, N) and raises for num_batches > 1; right is matrix by matrix.",
    ),
)
