# SPDX-License-Identifier: Apache-2.0
"""GQAContext: ctx[g, h] = sum over positions l of weights[g, h, l] cache[g, l], decode attention's context.

IRON's reference adds in the kernel's order, so its test asks for equal bits: position lanes * i + j belongs to lane j,
a lane adds its products in order of i, and the lanes are then folded in halves, every addition in float32 (a product
of two bf16 values is exact there). ``exact`` sums in float64 and rounds once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy.typing as npt

from fusion_replay.compare.numerics.products import Dot
from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage, sets_conv_even
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param
from fusion_replay.operators.tiling import Tiling, grid

_WIDTHS = (64, 32, 16)  # vector widths of the kernel


def lanes(seq_len: int) -> int:
    """Partial sums per output: the widest vector that divides ``seq_len`` twice or more.

    Raises:
        UsageError: none does.
    """
    for width in _WIDTHS:
        if seq_len % width == 0 and seq_len >= 2 * width:
            return width
    raise UsageError(f"GQAContext: seq_len {seq_len}: expected a multiple of 16, at least 32")


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    return (
        ArgSpec("cache", "in", (p.groups, p.seq_len, p.head_dim)),
        ArgSpec("weights", "in", (p.groups, p.heads_per_group, p.seq_len)),
        ArgSpec("ctx", "out", (p.groups, p.heads_per_group, p.head_dim)),
    )


def _in_lanes(call: Call, cache: Array, weights: Array) -> Array:
    xp, p = call.xp, call.params
    width = lanes(p.seq_len)
    heads = [_head(xp, cache[g], weights[g, h], width) for g in range(p.groups) for h in range(p.heads_per_group)]
    return xp.astype(xp.stack(heads), xp.float64)


def _head(xp: Any, cache: Array, weights: Array, width: int) -> Array:
    """(L, D) and (L,) float64 -> (D,) float32."""
    products = xp.astype(cache * weights[:, None], xp.float32)
    rounds = xp.reshape(products, (-1, width, cache.shape[1]))
    sums = rounds[0]
    for i in range(1, rounds.shape[0]):
        sums = sums + rounds[i]
    while width > 1:
        width //= 2
        sums = sums[:width] + sums[width:]
    return sums[0]


def _exact(call: Call, cache: Array, weights: Array) -> Array:
    return weights @ cache


def _tiling(p: SimpleNamespace) -> Tiling | None:
    axes = (("column", p.groups), ("row", p.heads_per_group), ("", p.head_dim))
    return grid(
        p.groups * p.heads_per_group * p.head_dim,
        axes,
        "amd/IRON iron/operators/gqa_context/op.py: one column per group, one core per head",
    )


def _arrange(
    p: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    cache = inputs[0].reshape(p.groups, p.seq_len, p.head_dim).swapaxes(1, 2)
    return {"cache": cache, "weights": inputs[1].reshape(-1, p.seq_len)}


def _stages(p: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
    how = Dot(lanes(p.seq_len), p.heads_per_group)
    return (Stage("ctx", "matvec", ("cache", "weights"), BF16, how=how),)


_NUMERICS = Numerics(_stages, "amd/IRON iron/operators/gqa_context.py", _arrange, sets=sets_conv_even)


SPEC = OperatorSpec(
    type="GQAContext",
    summary="ctx = weights cache, per group of heads",
    aliases=("gqa_context",),
    params=(
        Param("groups", int, help="key-value heads"),
        Param("heads_per_group", int, help="query heads that share one"),
        Param("seq_len", int, help="positions of the cache"),
        Param("head_dim", int, 64),
        Param("chunk", int, None, decides=False),
    ),
    args=_args,
    flavours={"iron-2026-09": _in_lanes, "exact": _exact},
    tolerance={
        "*": Tolerance(ulps=1, range_frac=1e-4).from_source(
            "amd/IRON iron/operators/gqa_context.py: exact but for a last bit on signed operands; range: float32 sums"
        )
    },
    tiling=_tiling,
    numerics=_NUMERICS,
    source="amd/IRON iron/operators/gqa_context.py (507a54ff)",
)
