# SPDX-License-Identifier: Apache-2.0
"""MHA: causal scaled-dot-product attention, head by head; with fewer key-value heads, grouped-query attention.

Query head h reads key-value head h // (num_heads / num_KV_heads). Rows are padded to a multiple of 64 per pipeline;
rows from ``seq_len`` on (or the runtime value ``s_q``) come out as zeros, keys from the runtime value ``s_kv`` on are
masked. Every form of IRON rounds to bf16 once: torch's flash attention (pull request 117's golden generator) within 1
ULP of that in up to 6 % of elements, the numpy form in float32. The kernel takes log2(e) as bf16 (1.4453125), 0.18 %
too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import array_api_compat as aac

from fusion_replay.compare.tolerance import Tolerance, relative
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, narrow, unrounded, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.operators.tiling import Tiling, grid

SCORES = 1 << 22  # scores held at a time: 32 MiB of float64 (a head of 16,384 rows has 2**28)


def key_value_heads(p: SimpleNamespace) -> int:
    """``num_KV_heads``, where 0 or None means as many as query heads."""
    heads = int(p.num_KV_heads or p.num_heads)
    if heads < 1 or p.num_heads % heads:
        raise UsageError(f"MHA: num_heads {p.num_heads}: expected a multiple of num_KV_heads, found {heads}")
    return heads


def padded_rows(p: SimpleNamespace) -> int:
    """Rows of every operand: ``seq_pad``, or ``seq_len`` padded to a multiple of ``B_q`` per pipeline."""
    unit = p.B_q * (p.num_pipelines or p.num_of_pipelines or 1)
    if unit < 1:
        raise UsageError(f"MHA: B_q {p.B_q} and num_pipelines {p.num_pipelines}: expected both at least 1")
    rows = int(p.seq_pad or math.ceil(p.seq_len / unit) * unit)
    if p.seq_len < 1 or rows < p.seq_len:
        raise UsageError(f"MHA: seq_len {p.seq_len}: expected 1 to seq_pad {rows}")
    return rows


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    rows, query, shared = padded_rows(p), p.num_heads, key_value_heads(p)

    def shape(heads: int) -> tuple[int, ...]:
        return (rows, heads, p.d) if p.heads_interleaved else (heads, rows, p.d)

    return (
        ArgSpec("Q", "in", shape(query)),
        ArgSpec("K", "in", shape(shared)),
        ArgSpec("V", "in", shape(shared)),
        ArgSpec("O", "out", shape(query)),
    )


def _attention(call: Call, q: Array, k: Array, v: Array) -> Array:
    xp, p = call.xp, call.params
    rows = padded_rows(p)
    queries = _length("s_q", call, p.seq_len, rows)
    keys = _length("s_kv", call, rows, rows)
    if p.heads_interleaved:
        q, k, v = (xp.permute_dims(t, (1, 0, 2)) for t in (q, k, v))
    share = p.num_heads // key_value_heads(p)
    store = unrounded if call.rounder is unrounded else narrow
    heads = [
        _head(xp, q[h], wide(k[h // share]), wide(v[h // share]), queries, keys, store) for h in range(p.num_heads)
    ]
    out = xp.stack(heads)
    return xp.permute_dims(out, (1, 0, 2)) if p.heads_interleaved else out


def _length(name: str, call: Call, default: int, rows: int) -> int:
    length = int(call.values.get(name, default))
    if not 1 <= length <= rows:
        raise UsageError(f"MHA: runtime value {name} {length}: expected 1 to {rows}")
    return length


def _head(xp: Any, q: Array, k: Array, v: Array, queries: int, keys: int, store: Callable[[Array], Array]) -> Array:
    """One head, stored (S, d) queries against float64 keys and values, a band of rows at a time -> stored (S, d)."""
    scale, device = math.sqrt(q.shape[1]), aac.device(q)
    step = max(1, SCORES // max(1, k.shape[0]))
    bands = []
    for start in range(0, queries, step):
        stop = min(start + step, queries)
        seen = min(stop, keys)  # causal: a row sees the keys up to its own position
        scores = (wide(q[start:stop]) @ k[:seen].T) / scale
        row = xp.arange(start, stop, dtype=xp.int64, device=device)[:, None]
        ahead = xp.arange(seen, dtype=xp.int64, device=device)[None, :] > row
        scores = xp.where(ahead, xp.full_like(scores, float("-inf")), scores)
        grown = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
        bands.append(store((grown @ v[:seen]) / xp.sum(grown, axis=-1, keepdims=True)))
    bands.append(store(xp.zeros_like(wide(q[queries:]))))
    return xp.concat(bands, axis=0)


def _tolerance(p: SimpleNamespace) -> Tolerance:
    """IRON's, its floor of 0.15 as a share of the results (up to 4 in its test), its share that may fail bounded.

    IRON lets 0.5 % of the elements fail, which is more than a block of 64 rows in 16,384: a dropped one would pass.
    bfp16 scores put up to 0.3 % beyond 0.04 where their spread is that of IRON's test (measured on the software NPU).
    """
    share = 0.005
    if p.num_heads and p.seq_len:
        share = min(share, 0.25 * p.B_q / (p.num_heads * padded_rows(p)))
    return relative(0.04, 0.0, share, range_frac=0.04).from_source(
        "amd/IRON iron/operators/mha.py: 0.04 / 0.15 with 0.5 % outliers, at most a quarter of a block of rows"
    )


def _tiling(p: SimpleNamespace) -> Tiling | None:
    """Blocks of B_q rows are dealt out to the pipelines, each of which is a column (iron/operators/mha/design.py)."""
    pipelines = p.num_pipelines or p.num_of_pipelines or 1
    rows = (("tile", padded_rows(p) // (p.B_q * pipelines)), ("column", pipelines), ("", p.B_q))
    heads = ("batch", p.num_heads)
    axes = (*rows, heads, ("", p.d)) if p.heads_interleaved else (heads, *rows, ("", p.d))
    return grid(p.num_heads * padded_rows(p) * p.d, axes, "amd/IRON iron/operators/mha/design.py, q_block_bias")


SPEC = OperatorSpec(
    type="MHA",
    summary="O = softmax(Q K^T / sqrt(d), causal) V, per head",
    aliases=("mha", "AIEMHA"),
    params=(
        Param("num_heads", int, help="query heads"),
        Param("seq_len", int, help="rows that are no padding"),
        Param("d", int, 64, help="elements per head"),
        Param("num_KV_heads", int, None, help="key-value heads; 0 or none: one per query head"),
        Param("num_of_pipelines", int, None, help="num_pipelines, as it was called before September 2026"),
        Param("num_pipelines", int, None, help="rows are padded to a multiple of B_q per pipeline"),
        Param("seq_pad", int, None, help="padded rows, where the pipelines do not say"),
        Param("heads_interleaved", bool, False, help="operands are (rows, heads, d)"),
        Param("B_q", int, 64, help="query rows per block"),
        Param("B_kv", int, 64, decides=False),
        Param("emulate_bf16_mmul_with_bfp16", bool, True, decides=False),
    ),
    args=_args,
    flavours=every(_attention),
    tolerance={"*": _tolerance},
    raw=True,
    devices=("npu2",),
    values=("s_q", "s_kv"),
    tiling=_tiling,
    source="amd/IRON iron/operators/mha.py (0274eac8), iron/operators/mha/reference.py (377e020f)",
    no_reference=("pr117",),
    defects=(
        "Before September 2026 rows were padded to (seq_len + 63 p) // (64 p) * 64 p for p pipelines, which for "
        "some lengths is less than seq_len (513 rows, 8 pipelines: 512); right is the next multiple.",
    ),
)
