# SPDX-License-Identifier: Apache-2.0
"""StridedCopy: gathers elements of A by one walk and scatters them into C by another; the rest of C stays as it was.

A walk is offset, sizes and strides in elements, padded to four dimensions on the left, last index fastest. A runtime
offset is added to the static one. With ``num_aie_channels`` > 1 the innermost dimension of *both* walks is split, one
share per channel, and copied channel by channel: not the same as the whole walk where the two shapes differ
(amd/IRON iron/operators/strided_copy/reference.py, and Copy in iron/operators/copy.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import array_api_compat as aac

from fusion_replay.bf16 import Array, wide
from fusion_replay.errors import UsageError
from fusion_replay.model import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param
from fusion_replay.refs._dtypes import dtype_name
from fusion_replay.tolerance import exact


@dataclass(frozen=True)
class _Walk:
    """One channel's share of a walk over a flat buffer, everything in elements."""

    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    def bounds(self) -> tuple[int, int]:
        """Lowest and highest element it touches."""
        reach = [(n - 1) * s for n, s in zip(self.sizes, self.strides, strict=True)]
        return self.offset + sum(r for r in reach if r < 0), self.offset + sum(r for r in reach if r > 0)

    def elements(self, xp: Any, device: Any) -> Array:
        """Flat element numbers in the order they are visited, int64."""
        at = xp.full((1,), self.offset, dtype=xp.int64, device=device)
        for n, stride in zip(self.sizes, self.strides, strict=True):
            at = xp.reshape(at[:, None] + xp.arange(n, dtype=xp.int64, device=device)[None, :] * stride, (-1,))
        return at


def _shares(side: str, p: SimpleNamespace, runtime: int | float) -> Iterator[_Walk]:
    """The channels' shares of the ``side`` ("input" or "output") walk."""
    sizes, strides = getattr(p, f"{side}_sizes"), getattr(p, f"{side}_strides")
    channels = p.num_aie_channels
    if len(sizes) != len(strides):
        raise UsageError(f"StridedCopy: {side}_sizes has {len(sizes)} dimensions, {side}_strides has {len(strides)}")
    if not sizes or min(sizes) < 1:
        raise UsageError(f"StridedCopy: {side}_sizes {tuple(sizes)}: expected at least one dimension, each at least 1")
    if channels < 1 or sizes[-1] % channels:
        raise UsageError(f"StridedCopy: num_aie_channels {channels} does not split {side}_sizes {tuple(sizes)}")
    share = sizes[-1] // channels
    start = getattr(p, f"{side}_offset") + int(runtime)
    for channel in range(channels):
        walk = _Walk(start + channel * share * strides[-1], (*sizes[:-1], share), tuple(strides))
        low, high = walk.bounds()
        size = getattr(p, f"{side}_buffer_size")
        if low < 0 or high >= size:
            raise UsageError(
                f"StridedCopy: the {side} walk touches elements {low} to {high} of a buffer of {size}; "
                f"offset {getattr(p, f'{side}_offset')} plus runtime {int(runtime)}"
            )
        yield walk


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    dtype = dtype_name("StridedCopy", p.dtype)
    if math.prod(p.input_sizes) != math.prod(p.output_sizes):
        raise UsageError(
            f"StridedCopy: input_sizes {p.input_sizes} and output_sizes {p.output_sizes} move different element counts"
        )
    return (
        ArgSpec("A", "in", (p.input_buffer_size,), dtype),
        ArgSpec("C", "out", (p.output_buffer_size,), dtype),
    )


def _copy(call: Call, a: Array) -> Array:
    xp, p = call.xp, call.params
    old = call.previous[0]
    assert old is not None  # evaluate() asks for it: partial=True
    if old.dtype != a.dtype:
        old, a = wide(old), wide(a)
    new = xp.asarray(old, copy=True)
    gather = _shares("input", p, call.values.get("input_offset", 0))
    scatter = _shares("output", p, call.values.get("output_offset", 0))
    device = aac.device(a)
    for source, target in zip(gather, scatter, strict=True):
        new[target.elements(xp, device)] = a[source.elements(xp, device)]
    return new


def _iron_fails(p: SimpleNamespace, flavour: str) -> str | None:
    if flavour == "pr117":
        return "IRON's StridedCopy of pull request 117 has no reference()"
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
    flavours={"pr117": _copy, "iron-2026-08": _copy, "iron-2026-09": _copy, "exact": _copy},
    tolerance={"*": exact().from_source("amd/IRON iron/operators/copy.py: gated exactly")},
    raw=True,
    exact_bits=True,
    partial=True,
    values=("input_offset", "output_offset"),
    source="amd/IRON iron/operators/strided_copy",
    iron_fails=_iron_fails,
)
