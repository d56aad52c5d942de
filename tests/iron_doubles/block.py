# SPDX-License-Identifier: Apache-2.0
"""One layer of a llama decode in small: in-place steps, slices, partial cache writes, batched GEMV.

The order of steps is that of amd/IRON ``iron/applications/llama_3.2_1b/llama_npu.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from iron_doubles.operators import BF16

EMB, HEADS, KV, DIM, LENGTH, HIDDEN = 128, 4, 2, 32, 32, 256
INPUTS, OUTPUTS = ["x", "rope_angles"], ["logits"]
ONE_HEAD = LENGTH * DIM * 2
SIZES = {
    "keys_cache": KV * ONE_HEAD,
    "values_cache": KV * ONE_HEAD,
    "attn_scores_values": HEADS * ONE_HEAD,
    "attn_scores_values_t": HEADS * ONE_HEAD,
}
SHAPES = {
    "W_norm1": EMB,
    "W_query": EMB * EMB,
    "W_key": KV * DIM * EMB,
    "W_value": KV * DIM * EMB,
    "keys_cache": KV * LENGTH * DIM,
    "values_cache": KV * LENGTH * DIM,
    "scale": HEADS * LENGTH,
    "W_out": EMB * EMB,
    "W_gate": HIDDEN * EMB,
    "W_up": HIDDEN * EMB,
    "W_down": EMB * HIDDEN,
    "W_head": HIDDEN * EMB,
}


@dataclass
class Block:
    runlist: list[tuple[Any, ...]]
    in_place: tuple[int, ...]


def block(ops: Any, values: bool) -> Block:
    """``values``: offset and length are per-call values (by symbol), not compiled in."""
    offset = {"output_offset_parameter": "cache_offset"} if values else {}
    length = {"vector_size_parameter": "softmax_vector_size"} if values else {}
    norm = ops.RMSNorm(EMB, tile_size=EMB)
    query, kv = ops.GEMV(EMB, EMB, 8), ops.GEMV(KV * DIM, EMB, 8)
    rope_q, rope_k = ops.RoPE(HEADS, DIM), ops.RoPE(KV, DIM)
    cache = ops.StridedCopy(
        (KV, DIM), (DIM, 1), 0, (KV, DIM), (LENGTH * DIM, 1), 0, KV * DIM, KV * LENGTH * DIM, bare_shape=True, **offset
    )
    repeat = ops.Repeat(KV, LENGTH * DIM, HEADS // KV)
    scores, scale = ops.GEMV(LENGTH, DIM, 8, num_batches=HEADS), ops.ElementwiseMul(HEADS * LENGTH)
    softmax, turn = ops.Softmax(HEADS, LENGTH, **length), ops.Transpose(LENGTH, DIM)
    context = ops.GEMV(DIM, LENGTH, 8, num_batches=HEADS)
    add, up, silu, mul = ops.ElementwiseAdd(EMB), ops.GEMV(HIDDEN, EMB), ops.SiLU(HIDDEN), ops.ElementwiseMul(HIDDEN)
    down = ops.GEMV(EMB, HIDDEN)
    runlist: list[tuple[Any, ...]] = [
        (norm, "x", "W_norm1", "x_norm"),
        (query, "W_query", "x_norm", "queries"),
        (kv, "W_key", "x_norm", "keys"),
        (kv, "W_value", "x_norm", "values"),
        (rope_q, "queries", "rope_angles", "queries"),
        (rope_k, "keys", "rope_angles", "keys"),
        (cache, "keys", "keys_cache"),
        (cache, "values", "values_cache"),
        (repeat, "keys_cache", "attn_scores_keys"),
        (repeat, "values_cache", "attn_scores_values"),
        (scores, "attn_scores_keys", "queries", "attn_scores"),
        (scale, "attn_scores", "scale", "attn_scores"),
        (softmax, "attn_scores", "attn_weights"),
    ]
    for head in range(HEADS):
        part = f"[{head * ONE_HEAD}:{(head + 1) * ONE_HEAD}]"
        runlist.append((turn, f"attn_scores_values{part}", f"attn_scores_values_t{part}"))
    runlist += [
        (context, "attn_scores_values_t", "attn_weights", "attn_context"),
        (query, "W_out", "attn_context", "attn_output"),
        (add, "x", "attn_output", "x"),
        (norm, "x", "W_norm1", "x_norm"),
        (up, "W_gate", "x_norm", "ffn_gate"),
        (up, "W_up", "x_norm", "ffn_up"),
        (silu, "ffn_gate", "ffn_gate"),
        (mul, "ffn_gate", "ffn_up", "ffn_hidden"),
        (down, "W_down", "ffn_hidden", "ffn_output"),
        (add, "x", "ffn_output", "x"),
        (up, "W_head", "x", "logits"),
    ]
    in_place = tuple(i for i, (_, *names) in enumerate(runlist) if names[-1] in names[:-1])
    return Block(runlist, in_place)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {n: (rng.standard_normal(size) * 0.2).astype(BF16) for n, size in SHAPES.items()}


def token(invocation: int) -> dict[str, np.ndarray]:
    """What the host writes before a call."""
    rng = np.random.default_rng(100 + invocation)
    angle = rng.uniform(0, 6, DIM // 2)
    pairs = np.stack([np.cos(angle), np.sin(angle)], -1).reshape(-1)
    return {"x": rng.standard_normal(EMB).astype(BF16), "rope_angles": pairs.astype(BF16)}


def values(invocation: int) -> dict[str, np.generic]:
    return {"cache_offset": np.int32((3 + invocation) * DIM), "softmax_vector_size": np.int32(4 + invocation)}
