# SPDX-License-Identifier: Apache-2.0
"""FlowKVDecode: attention of one token over its cache, its queries rotated on the way (RoPE, two halves).

For query head h of KV head g = h // group: output[h] = softmax(R(Q[h]) K[g]^T / sqrt(d)) V[g]. The cache interleaves K
and V position by position; the queries of a group are followed by the angles, cosine and sine in turn. IRON's golden
generator rounds the rotated query to bf16 and computes the rest in float32; ``exact`` rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

from fusion_replay.compare.tolerance import relative
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, iron
from fusion_replay.operators.tiling import Tiling, grid
from fusion_replay.refs.arithmetic.sums import add_to_odd


def _group(p: SimpleNamespace) -> int:
    """Query heads that share one KV head.

    Raises:
        UsageError: KV heads that do not divide the heads, or an odd head dimension.
    """
    if p.num_kv_heads < 1 or p.num_heads % p.num_kv_heads:
        raise UsageError(
            f"FlowKVDecode: num_heads {p.num_heads}: expected a multiple of num_kv_heads, found {p.num_kv_heads}"
        )
    if p.head_dim < 2 or p.head_dim % 2:
        raise UsageError(f"FlowKVDecode: head_dim {p.head_dim}: expected an even number")
    return int(p.num_heads // p.num_kv_heads)


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    return (
        ArgSpec("kv_cache", "in", (p.num_kv_heads, p.seq_len, 2, p.head_dim)),
        ArgSpec("queries", "in", (p.num_kv_heads, _group(p) + 1, p.head_dim)),
        ArgSpec("output", "out", (p.num_heads, p.head_dim)),
    )


def _attention(call: Call, cache: Array, queries: Array, once: Callable[[Array], Array]) -> Array:
    xp, p, group = call.xp, call.params, _group(call.params)
    heads = []
    for kv in range(p.num_kv_heads):
        k, v = cache[kv, :, 0], cache[kv, :, 1]
        rotated = once(_rotated(call, queries[kv, :group], queries[kv, group]))
        scores = rotated @ k.T / math.sqrt(p.head_dim)
        grown = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
        heads.append(grown / xp.sum(grown, axis=-1, keepdims=True) @ v)
    return xp.concat(heads, axis=0)


def _rotated(call: Call, q: Array, angles: Array) -> Array:
    half = call.params.head_dim // 2
    first, second, cos, sin = q[:, :half], q[:, half:], angles[0::2], angles[1::2]
    pair = (
        add_to_odd(call.xp, first * cos, -(second * sin)),
        add_to_odd(call.xp, second * cos, first * sin),
    )
    return call.xp.concat(pair, axis=-1)


def _rounded(call: Call, cache: Array, queries: Array) -> Array:
    return _attention(call, cache, queries, call.round)


def _exact(call: Call, cache: Array, queries: Array) -> Array:
    return _attention(call, cache, queries, lambda x: x)


def _tiling(p: SimpleNamespace) -> Tiling | None:
    axes = (("column", p.num_cols), ("batch", p.num_heads // max(1, p.num_cols)), ("", p.head_dim))
    return grid(p.num_heads * p.head_dim, axes, "amd/IRON iron/operators/flowkv_decode/design.py: KV heads by column")


SPEC = OperatorSpec(
    type="FlowKVDecode",
    summary="output = softmax(RoPE(Q) K^T / sqrt(d)) V, per query head of one token",
    aliases=("flowkv_decode", "AIEFlowKVDecode"),
    params=(
        Param("num_heads", int, help="query heads"),
        Param("num_kv_heads", int, help="key-value heads"),
        Param("head_dim", int, help="elements of a head"),
        Param("seq_len", int, help="positions of the cache"),
        Param("chunk_size", int, 32, decides=False),
        Param("num_cols", int, 4, decides=False),
    ),
    args=_args,
    flavours=iron(_rounded, exact=_exact),
    tolerance={
        "*": relative(0.07, 0.0, range_frac=0.08).from_source(
            "amd/IRON iron/operators/flowkv_decode/test.py: 0.07; range: the bf16 sum of the powers, 0.055 measured "
            "for 2048 positions on the software NPU; its absolute 1.0 is 0.3 of the largest that this test compares"
        )
    },
    devices=("npu2",),
    tiling=_tiling,
    source="amd/IRON iron/operators/flowkv_decode/{op,reference}.py (116b2477)",
    no_reference=("pr117", "iron-2026-08", "iron-2026-09"),
)
