# SPDX-License-Identifier: Apache-2.0
"""FusedQKVProj: the query, key and value projections of one token as one product, their matrices stacked row-wise.

A matrix-vector product on GEMV's own design and kernel; the host cuts the result into its three parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy.typing as npt

from fusion_replay.compare.numerics.products import Dot
from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import relative
from fusion_replay.model.bf16 import Array, narrow, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.operators.tiling import Tiling, runs
from fusion_replay.refs.arithmetic.products import matvec
from fusion_replay.refs.gemv import lanes


def _rows(p: SimpleNamespace) -> int:
    return int(p.q_dim + p.k_dim + p.v_dim)


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    return (
        ArgSpec("weights", "in", (_rows(p), p.embedding_dim)),
        ArgSpec("input", "in", (p.embedding_dim,)),
        ArgSpec("output", "out", (_rows(p),)),
    )


def _product(_call: Call, weights: Array, x: Array) -> Array:
    return matvec(weights, wide(x), narrow)


def _tiling(p: SimpleNamespace) -> Tiling | None:
    source = "amd/IRON iron/operators/gemv/design.py, C_taps"
    return runs(_rows(p), p.num_aie_columns, tile=p.tile_size_output, source=source)


def _arrange(
    p: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    return {"a": inputs[0].reshape(1, _rows(p), p.embedding_dim), "b": inputs[1].reshape(1, p.embedding_dim)}


def _stages(p: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
    return (Stage("product", "matvec", ("a", "b"), BF16, how=Dot(lanes(p.embedding_dim))),)


SPEC = OperatorSpec(
    type="FusedQKVProj",
    summary="output = weights input, the rows of Wq, Wk and Wv one after another",
    aliases=("fused_qkv_proj", "AIEFusedQKVProj"),
    params=(
        Param("embedding_dim", int, help="elements of a token"),
        Param("q_dim", int, help="rows of Wq"),
        Param("k_dim", int, help="rows of Wk"),
        Param("v_dim", int, help="rows of Wv"),
        Param("num_aie_columns", int, 4, decides=False),
        Param("tile_size_input", int, 4, decides=False),
        Param("tile_size_output", int, None, decides=False),
    ),
    args=_args,
    flavours=every(_product),
    tolerance={
        "*": relative(0.04, 0.0, range_frac=1e-4).from_source(
            "amd/IRON iron/operators/fused_qkv_proj/test.py: 0.04; range: as GEMV's, in place of its absolute 1e-3"
        )
    },
    raw=True,
    tiling=_tiling,
    numerics=Numerics(_stages, "amd/IRON aie_kernels/generic/mv.cc", _arrange),
    source="amd/IRON iron/operators/fused_qkv_proj/{op,reference}.py (116b2477)",
    no_reference=("pr117", "iron-2026-08", "iron-2026-09"),
)
