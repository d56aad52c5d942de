# SPDX-License-Identifier: Apache-2.0
"""Copy: gathers elements of A by the walk ``src`` and scatters them into C by the walk ``dst``; the rest of C stays.

September 2026's StridedCopy. A walk (:mod:`fusion_replay.refs._walk`) has ``offset``, ``sizes``, ``strides`` and,
where a dispatch may shorten one of its dimensions, ``bounded``, the number of that dimension (in the newest form a
field of the operator: ``src_bound``, ``dst_bound``). Runtime values:
``in_offset`` and ``out_offset`` (elements, added to the walks' own), ``src_valid`` and ``dst_valid`` (size of the
bounded dimension).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from fusion_replay.compare.tolerance import exact
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param
from fusion_replay.refs._dtypes import dtype_name
from fusion_replay.refs._walk import Walk, check_walk, copied, moved


def walk_of(p: SimpleNamespace, side: str) -> Walk:
    """The static walk of ``side`` ("src" or "dst"); the whole buffer where none is given.

    Raises:
        UsageError: no walk.
    """
    value = getattr(p, side)
    if value is None:
        return Walk(0, (_buffer(p, side),), (1,))
    sizes, strides = _part(value, "sizes"), _part(value, "strides")
    if sizes is None or strides is None:
        raise UsageError(f"Copy: {side} {value!r}: expected a walk with offset, sizes and strides (elements)")
    return Walk(int(_part(value, "offset") or 0), tuple(int(n) for n in sizes), tuple(int(s) for s in strides))


def _part(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _buffer(p: SimpleNamespace, side: str) -> int:
    """Elements of the buffer that ``side`` walks over; an output of unnamed size holds just what is copied."""
    if side == "src":
        return int(p.input_buffer_size)
    return int(walk_of(p, "src").count if p.output_buffer_size is None else p.output_buffer_size)


def _this_call(call: Call, side: str) -> Walk:
    """The walk with this dispatch's bound and offset, checked against its buffer."""
    p, walk = call.params, walk_of(call.params, side)
    valid = call.values.get(f"{side}_valid")
    if valid is not None:
        bound = getattr(p, f"{side}_bound")
        axis = _part(getattr(p, side), "bounded") if bound is None else bound
        if axis is None:
            raise UsageError(f"Copy: runtime value {side}_valid {valid}: {side} has no bounded dimension")
        if not 1 <= valid <= walk.sizes[axis]:
            raise UsageError(f"Copy: runtime value {side}_valid {valid}: expected 1 to {walk.sizes[axis]}")
        walk = Walk(walk.offset, (*walk.sizes[:axis], int(valid), *walk.sizes[axis + 1 :]), walk.strides)
    words, name = ("input", "in_offset") if side == "src" else ("output", "out_offset")
    runtime = int(call.values.get(name, 0))
    channels = ("num_channels", p.num_channels)
    check_walk("Copy", words, walk, channels, _buffer(p, side), runtime, f"{side}.")
    return moved(walk, runtime)


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    dtype = dtype_name("Copy", p.dtype)
    source, target = walk_of(p, "src"), walk_of(p, "dst")
    if source.count != target.count:
        raise UsageError(
            f"Copy: dst.sizes {target.sizes}: expected {source.count} elements, as src.sizes {source.sizes} walks, "
            f"found {target.count}"
        )
    return ArgSpec("A", "in", (_buffer(p, "src"),), dtype), ArgSpec("C", "out", (_buffer(p, "dst"),), dtype)


def _copy(call: Call, a: Array) -> Array:
    old = call.previous[0]
    assert old is not None  # evaluate() asks for it: partial=True
    source, target = _this_call(call, "src"), _this_call(call, "dst")
    if source.count != target.count:
        raise UsageError(
            f"Copy: dst: expected {source.count} elements, as this dispatch's src moves, found {target.count}"
        )
    return copied(a, old, source, target, call.params.num_channels)


SPEC = OperatorSpec(
    type="Copy",
    summary="C[dst] = A[src]; the rest of C keeps its contents",
    aliases=("copy",),
    params=(
        Param("input_buffer_size", int, help="elements"),
        Param("src", object, None, help="walk over A: offset, sizes, strides, bounded; default: all of it"),
        Param("output_buffer_size", int, None, help="elements; default: what is copied"),
        Param("dst", object, None, help="walk over C; default: all of it"),
        Param("tile_size", int, None, decides=False),
        Param("num_channels", int, 1, help="splits the innermost dimension of both walks"),
        Param("dtype", object, "bfloat16"),
        Param("src_bound", int, None, help="dimension of src that a call may shorten, as the newest form has it"),
        Param("dst_bound", int, None, help="dimension of dst, likewise"),
    ),
    args=_args,
    flavours={"iron-2026-09": _copy, "exact": _copy},
    tolerance={"*": exact().from_source("amd/IRON iron/operators/copy.py: moves data, gated exactly")},
    raw=True,
    exact_bits=True,
    partial=True,
    values=("in_offset", "out_offset", "src_valid", "dst_valid"),
    source="amd/IRON iron/operators/copy.py (00802545)",
    defects=(
        "Without the output buffer IRON's reference starts from zeros, so a compare that does not hand it over "
        "flags every cache write; right is to keep the old contents.",
    ),
)
