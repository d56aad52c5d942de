# SPDX-License-Identifier: Apache-2.0
"""FlowKVDecode: one token's attention in two cores, chunk by chunk with an online softmax. AIE2P only.

amd/IRON ``aie_kernels/aie2p/flowkv.cc``. The first core rotates the queries (each product and their sum in bfloat16, in
whatever mode the core is), then sets conv_even; scores, powers, the running sum and the correction are bfloat16, the
sum is added to one power after another. The second core adds the weighted rows of V in float32, position by position,
and divides once at the end. log2(e) is 1.4453125, 0.18 % too large.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.simulator.core import Core, Float32, halve, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel, field, require, require_columns, require_multiple

_TYPE = "FlowKVDecode"
_HEAD_DIM = 64
_LANES = 32
_LOG2_E = np.float32(1.4453125)
_SCALE = np.float32(0.125)  # 1 / sqrt(64)
_LOWEST = np.float32(-1e30)
_MOST_HEADS = 4  # of the cores' buffers
_MOST_CHUNK = 32


def _flowkv(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    group = p.num_heads // p.num_kv_heads
    cache = widen(d.inputs[0]).reshape(p.num_kv_heads, p.seq_len, 2, _HEAD_DIM)
    queries = widen(d.inputs[1]).reshape(p.num_kv_heads, group + 1, _HEAD_DIM)
    rotated = _rotate(core, queries[:, :group], queries[:, group:])
    core.rounding = "conv_even"
    k, v = cache[:, None, :, 0], cache[:, None, :, 1]
    chunk = field(p, "chunk_size", _MOST_CHUNK)
    largest = np.full(rotated.shape[:2], _LOWEST)
    total, out = np.zeros_like(largest), np.zeros_like(rotated)
    for at in range(0, p.seq_len, chunk):
        keys, rows = k[:, :, at : at + chunk], v[:, :, at : at + chunk]
        scores = core.round_bf16(_dot(rotated[:, :, None], keys) * _SCALE)
        top = np.maximum(core.round_bf16(scores.max(axis=-1)), largest)
        shrink = _power(core, largest - top)
        powers = _power(core, scores - top[..., None])
        total, largest = core.round_bf16(shrink * total), top
        out = out * shrink[..., None]
        for i in range(powers.shape[-1]):
            total = core.round_bf16(total + powers[..., i])
            out = out + powers[..., i, None] * rows[:, :, i]
    return [core.store_bf16(out * (np.float32(1) / total)[..., None])]


def _rotate(core: Core, q: Float32, angles: Float32) -> Float32:
    half = _HEAD_DIM // 2
    first, second, cos, sin = q[..., :half], q[..., half:], angles[..., 0::2], angles[..., 1::2]
    upper = core.round_bf16(core.round_bf16(first * cos) - core.round_bf16(second * sin))
    lower = core.round_bf16(core.round_bf16(second * cos) + core.round_bf16(first * sin))
    return np.concatenate([upper, lower], axis=-1)


def _dot(q: Float32, k: Float32) -> Float32:
    """Two vectors of 32 lanes added, then the lanes."""
    products = q * k
    return halve(products[..., :_LANES] + products[..., _LANES:])


def _power(core: Core, x: Float32) -> Float32:
    """e^x as 2^(1.4453125 x), argument and result in bfloat16."""
    return core.round_bf16(np.exp2(core.round_bf16(x * _LOG2_E).astype(np.float64)))


def _rules(p: Params, core: Core) -> None:
    require(core.generation == "npu2", _TYPE, "device", "npu2, for which it has a kernel", core.generation)
    require(p.head_dim == _HEAD_DIM, _TYPE, "head_dim", f"{_HEAD_DIM}, the only head dimension it has", p.head_dim)
    columns, chunk = field(p, "num_cols", 4), field(p, "chunk_size", _MOST_CHUNK)
    require_columns(_TYPE, columns, core)
    require_multiple(_TYPE, "num_kv_heads", p.num_kv_heads, columns, "num_cols")
    require_multiple(_TYPE, "num_heads", p.num_heads, p.num_kv_heads, "num_kv_heads")
    group = p.num_heads // p.num_kv_heads
    require(group <= _MOST_HEADS, _TYPE, "num_heads", f"at most {_MOST_HEADS} for each KV head", p.num_heads)
    require(1 <= chunk <= _MOST_CHUNK, _TYPE, "chunk_size", f"1 to {_MOST_CHUNK}", chunk)
    require_multiple(_TYPE, "seq_len", p.seq_len, chunk, "chunk_size")


KERNELS = (Kernel(_TYPE, _flowkv, _rules, source="amd/IRON aie_kernels/aie2p/flowkv.cc"),)
