# SPDX-License-Identifier: Apache-2.0
"""StridedCopy: gathers elements of A by one walk and scatters them into C by another; the rest of C stays as it was.

A walk is offset, sizes and strides in elements (:mod:`fusion_replay.refs._walk`). A runtime offset is added to the
static one. With ``num_aie_channels`` > 1 the innermost dimension of *both* walks is split.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

from fusion_replay.compare.tolerance import exact
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.refs._dtypes import dtype_name
from fusion_replay.refs._walk import Walk, check_walk, copied, moved


def _walk(side: str, p: SimpleNamespace) -> Walk:
    return Walk(getattr(p, f"{side}_offset"), getattr(p, f"{side}_sizes"), getattr(p, f"{side}_strides"))


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    dtype = dtype_name("StridedCopy", p.dtype)
    taken, stored = math.prod(p.input_sizes), math.prod(p.output_sizes)
    if taken != stored:
        raise UsageError(
            f"StridedCopy: output_sizes {p.output_sizes}: expected {taken} elements, as input_sizes {p.input_sizes} "
            f"walks, found {stored}"
        )
    return (
        ArgSpec("A", "in", (p.input_buffer_size,), dtype),
        ArgSpec("C", "out", (p.output_buffer_size,), dtype),
    )


def _copy(call: Call, a: Array) -> Array:
    p, old = call.params, call.previous[0]
    assert old is not None  # evaluate() asks for it: partial=True
    walks = []
    for side in ("input", "output"):
        runtime = int(call.values.get(f"{side}_offset", 0))
        buffer, channels = getattr(p, f"{side}_buffer_size"), ("num_aie_channels", p.num_aie_channels)
        check_walk("StridedCopy", side, _walk(side, p), channels, buffer, runtime)
        walks.append(moved(_walk(side, p), runtime))
    return copied(a, old, walks[0], walks[1], p.num_aie_channels)


def _iron_fails(p: SimpleNamespace, flavour: str) -> str | None:
    if flavour == "iron-2026-08":
        return "IRON's StridedCopy reference of August 2026 puts zeros where the copy keeps old contents"
    return None


SPEC = OperatorSpec(
    type="StridedCopy",
    summary="C[walk] = A[walk]; the rest of C keeps its contents",
    aliases=("strided_copy", "AIEStridedCopy"),
    params=(
        Param("input_sizes", tuple),
        Param("input_strides", tuple, help="elements"),
        Param("input_offset", int, help="elements"),
        Param("output_sizes", tuple),
        Param("output_strides", tuple, help="elements"),
        Param("output_offset", int, help="elements"),
        Param("input_buffer_size", int, help="elements"),
        Param("output_buffer_size", int, help="elements"),
        Param("dtype", object, "bfloat16"),
        Param("transfer_size", int, None, decides=False),
        Param("num_aie_channels", int, 1, help="splits the innermost dimension of both walks"),
        Param("input_offset_parameter", str, None, help="symbol of the runtime value input_offset (elements)"),
        Param("output_offset_parameter", str, None, help="symbol of the runtime value output_offset (elements)"),
        Param("kwargs", object, None, decides=False),
    ),
    args=_args,
    flavours=every(_copy),
    tolerance={"*": exact().from_source("amd/IRON iron/operators/copy.py: gated exactly")},
    raw=True,
    exact_bits=True,
    partial=True,
    values=("input_offset", "output_offset"),
    source="amd/IRON iron/operators/strided_copy",
    no_reference=("pr117",),
    iron_fails=_iron_fails,
    defects=(
        "Pull request 117 has no reference(): compare and reference modes raise AttributeError.",
        "August 2026 puts zeros wherever nothing is copied: compare mode flags every cache write, reference mode "
        "wipes the cache; right is to keep the old contents.",
    ),
)
