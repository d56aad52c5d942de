# SPDX-License-Identifier: Apache-2.0
"""The decode runlist of IRON's Llama application, buffer for buffer: 55 steps a layer (at 32 heads) and two more.

Source: amd/IRON iron/applications/llama_3.2_1b/llama_npu.py: operators, parameters, buffer names, slices and explicit
sizes. The per-token numbers (where the cache is written, how many positions exist) are runtime values, as IRON passes
them since August 2026. npu1 has four columns where the application's design uses eight; tile sizes stay.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads.base import SequenceSpec
from fusion_replay.simulator.workloads.llama_config import LlamaConfig

CACHE_OFFSET = "cache_offset"
"""Runtime value: elements from the start of each head's cache to the row of this token (position * head_dim)."""
VECTOR_SIZE = "softmax_vector_size"
"""Runtime value: how many positions the softmax sees (position + 1)."""

_BF16 = 2  # bytes per element


def plan(config: LlamaConfig, context: int, columns: int, *, own_names: bool = False) -> SequenceSpec:
    """The sequence that decodes one token with room for ``context`` of them, on ``columns`` columns.

    ``own_names``: each layer's intermediates have names of their own, as in a graph that was recorded
    (amd/IRON ``iron/common/image/allocator.py``); the application shares one set by hand.

    Raises:
        UsageError: a context that the attention's operators cannot be built for.
    """
    if context % 64 or not 64 <= context <= config.max_context:
        raise UsageError(
            f"llama-decode {config.name}: context {context}: expected a multiple of 64 from 64 to {config.max_context}"
        )
    ops = _operators(config, context, columns)
    head_bytes = context * config.head_dim * _BF16
    runlist: list[tuple[Any, ...]] = []
    for i in range(config.layers):
        layer = _attention(ops, config, i, head_bytes) + _feed_forward(ops, i)
        runlist += [_renamed(entry, i) for entry in layer] if own_names else layer
    runlist += [
        (ops.rms_norm, "x", "W_final_norm", "x"),
        (ops.out_head, "W_out_head", "x", "logits"),
    ]
    caches = [f"{kind}_cache_{i}" for kind in ("keys", "values") for i in range(config.layers)]
    return SequenceSpec(
        name="llama-decode",
        runlist=runlist,
        input_args=("x", "rope_angles"),
        output_args=("logits",),
        buffer_sizes={
            **dict.fromkeys(caches, config.kv_groups * head_bytes),
            "attn_scores_values": config.heads * head_bytes,
            "attn_scores_values_transposed": config.heads * head_bytes,
        },
    )


def _renamed(entry: tuple[Any, ...], layer: int) -> tuple[Any, ...]:
    """Its intermediates as this layer's own; buffers with an explicit size are the host's, and keep their names."""
    op, *names = entry
    shared = ("x", "rope_angles", "attn_scale_factor", "attn_scores_values", "attn_scores_values_transposed")
    own = f"_{layer}"
    return (op, *(n if "[" in n or n in shared or n.endswith(own) else n + own for n in names))


def _attention(ops: SimpleNamespace, config: LlamaConfig, i: int, head_bytes: int) -> list[tuple[Any, ...]]:
    heads = [f"[{h * head_bytes}:{(h + 1) * head_bytes}]" for h in range(config.heads)]
    return [
        (ops.rms_norm, "x", f"W_norm1_{i}", "x_norm"),
        (ops.query, f"W_attn_query_{i}", "x_norm", "queries"),
        (ops.key_value, f"W_attn_key_{i}", "x_norm", "keys"),
        (ops.key_value, f"W_attn_value_{i}", "x_norm", "values"),
        (ops.rope_queries, "queries", "rope_angles", "queries"),
        (ops.rope_keys, "keys", "rope_angles", "keys"),
        (ops.cache, "keys", f"keys_cache_{i}"),
        (ops.cache, "values", f"values_cache_{i}"),
        (ops.repeat, f"keys_cache_{i}", "attn_scores_keys"),
        (ops.repeat, f"values_cache_{i}", "attn_scores_values"),
        (ops.scores, "attn_scores_keys", "queries", "attn_scores"),
        (ops.scale, "attn_scores", "attn_scale_factor", "attn_scores"),
        (ops.softmax, "attn_scores", "attn_weights"),
        *((ops.transpose, f"attn_scores_values{h}", f"attn_scores_values_transposed{h}") for h in heads),
        (ops.context, "attn_scores_values_transposed", "attn_weights", "attn_context"),
        (ops.attn_output, f"W_attn_output_decode_{i}", "attn_context", "attn_output"),
        (ops.residual, "x", "attn_output", "x"),
    ]


def _feed_forward(ops: SimpleNamespace, i: int) -> list[tuple[Any, ...]]:
    return [
        (ops.rms_norm, "x", f"W_norm2_{i}", "x_norm"),
        (ops.gate_up, f"W_ffn_gate_{i}", "x_norm", "ffn_gate"),
        (ops.gate_up, f"W_ffn_up_{i}", "x_norm", "ffn_up"),
        (ops.silu, "ffn_gate", "ffn_gate"),
        (ops.ffn_mul, "ffn_gate", "ffn_up", "ffn_hidden"),
        (ops.down, f"W_ffn_down_{i}", "ffn_hidden", "ffn_output"),
        (ops.residual, "x", "ffn_output", "x"),
    ]


def _operators(config: LlamaConfig, context: int, columns: int) -> SimpleNamespace:
    """The 19 operator objects; steps share them, and each is one kernel on the device."""
    from fusion_replay.simulator import operators as iron

    emb, hidden, dim = config.emb_dim, config.hidden_dim, config.head_dim

    def gemv(m: int, k: int, tile_output: int, tile_input: int = 4, batches: int = 1) -> Any:
        return iron.GEMV(
            M=m,
            K=k,
            num_aie_columns=columns,
            tile_size_input=tile_input,
            tile_size_output=tile_output,
            num_batches=batches,
        )

    return SimpleNamespace(
        rms_norm=iron.RMSNorm(size=emb, num_aie_columns=1, num_channels=1, tile_size=emb, weighted=True),
        query=gemv(config.query_dim, emb, dim // 2),
        key_value=gemv(config.kv_dim, emb, dim // 2),
        rope_queries=iron.RoPE(rows=config.heads, cols=dim, angle_rows=1),
        rope_keys=iron.RoPE(rows=config.kv_groups, cols=dim, angle_rows=1),
        cache=iron.StridedCopy(
            input_sizes=(config.kv_groups, dim),
            input_strides=(dim, 1),
            input_offset=0,
            output_sizes=(1, config.kv_groups, dim),
            output_strides=(0, context * dim, 1),
            output_offset=0,
            input_buffer_size=config.kv_dim,
            output_buffer_size=config.kv_groups * context * dim,
            num_aie_channels=1,
            output_offset_parameter=CACHE_OFFSET,
        ),
        repeat=iron.Repeat(
            rows=config.kv_groups, cols=context * dim, repeat=config.heads // config.kv_groups, transfer_size=dim
        ),
        scores=gemv(context, dim, context // 8, batches=config.heads),
        scale=iron.ElementwiseMul(size=config.heads * context, tile_size=context // 8, num_aie_columns=columns),
        softmax=iron.Softmax(
            rows=config.heads,
            cols=context,
            num_aie_columns=1,
            num_channels=1,
            rtp_vector_size=context,
            vector_size_parameter=VECTOR_SIZE,
        ),
        transpose=iron.Transpose(
            M=context, N=dim, num_aie_columns=2, num_channels=1, m=math.gcd(context, 256), n=32, s=8
        ),
        context=gemv(dim, context, 4, batches=config.heads),
        attn_output=gemv(emb, config.query_dim, emb // 8),
        residual=iron.ElementwiseAdd(size=emb, tile_size=emb // 8, num_aie_columns=columns),
        gate_up=gemv(hidden, emb, hidden // 8),
        silu=iron.SiLU(size=hidden, tile_size=hidden // 8, num_aie_columns=columns),
        ffn_mul=iron.ElementwiseMul(size=hidden, tile_size=hidden // 8, num_aie_columns=columns),
        down=gemv(emb, hidden, emb // 8, tile_input=1),
        out_head=gemv(config.vocab, emb, 32),
    )


__all__ = ["CACHE_OFFSET", "VECTOR_SIZE", "plan"]
