# SPDX-License-Identifier: Apache-2.0
"""MemCopy: C = A, bit for bit, through the cores or (``bypass``) past them. Replaced by Copy in September 2026."""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.tolerance import exact
from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.operators.tiling import Tiling, runs
from fusion_replay.refs._elementwise import unary_args


def _copy(call: Call, a: Array) -> Array:
    return call.xp.asarray(a, copy=True)


def _tiling(p: SimpleNamespace) -> Tiling | None:
    source = "amd/IRON iron/operators/mem_copy/design.py, whole partitions"
    return runs(p.size, p.num_cores, tile=p.tile_size and min(p.tile_size, 8192), source=source)


SPEC = OperatorSpec(
    type="MemCopy",
    summary="C = A",
    aliases=("mem_copy", "AIEMemCopy"),
    params=(
        Param("size", int, help="elements"),
        Param("num_cores", int, 1, decides=False),
        Param("num_channels", int, 1, decides=False),
        Param("bypass", bool, False, decides=False, help="no core touches the data"),
        Param("tile_size", int, None, decides=False),
    ),
    args=unary_args,
    flavours=every(_copy),
    tolerance={"*": exact().from_source("amd/IRON iron/operators/mem_copy: data movement, identical")},
    raw=True,
    exact_bits=True,
    tiling=_tiling,
    source="amd/IRON iron/operators/mem_copy/op.py (13979d3f), reference.py (2df6d082)",
    no_reference=("pr117",),
)
