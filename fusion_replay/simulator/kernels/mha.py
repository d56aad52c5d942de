# SPDX-License-Identifier: Apache-2.0
"""MHA: causal attention with an online softmax over blocks of 64 keys. AIE2P only.

amd/IRON ``iron/operators/mha.py``, ``aie_kernels/aie2p/mha.cc``, ``softmax.cc``. Every stage hands bfloat16 to the
next: the scores, the powers, the running maximum and sum, and the output, which is rescaled and rounded for each block
of keys. log2(e) is folded into the scale as a bfloat16 (0.18 % too large), the running maximum never falls below 0,
both products run in bfp16. All stages set conv_even and leave it so. Rows of padding come out as 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fusion_replay.simulator.core import Core, Float32, halve, nearest_bf16, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params, Values
from fusion_replay.simulator.kernels._base import Kernel, field, require, require_multiple
from fusion_replay.simulator.kernels.bfp16 import Float64, through_bfp16

_HEAD_DIM = 64
_BLOCK = 64  # rows of Q and of K in one step of a pipeline
BAND = 8 * _BLOCK  # rows computed at a time, for the cache's sake; has no influence on the numbers
_STEP = 8  # elements of the reduction in one mmul instruction
_LOG2_E = 1.4453125
_LOWEST = nearest_bf16(-3.3895313892515355e38)  # what masked scores and an empty running maximum hold
_MOST_ON_ONE_SHIM = 6


def _mha(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    core.rounding = "conv_even"
    heads = (p.num_heads, _kv_heads(p), _kv_heads(p))
    q, k, v = (_heads_first(p, x, n) for x, n in zip(d.inputs, heads, strict=True))
    sharing, padded = p.num_heads // _kv_heads(p), q.shape[1]
    valid, keys = _length("s_q", d.values, p.seq_len, padded), _length("s_kv", d.values, padded, padded)
    rows = math.ceil(valid / _BLOCK) * _BLOCK
    out = np.zeros(q.shape, np.float32)
    for head in range(p.num_heads):
        out[head, :rows] = _attend(core, q[head, :rows], k[head // sharing], v[head // sharing], keys)
    out[:, valid:] = 0
    result = out.swapaxes(0, 1) if field(p, "heads_interleaved", False) else out
    return [core.store_bf16(result)]


def _length(name: str, values: Values, default: int, padded: int) -> int:
    length = int(values.get(name, default))
    require(1 <= length <= padded, "MHA", name, f"1 to {padded} rows", length)
    return length


def _heads_first(p: Params, x: Array, heads: int) -> Float32:
    wide = widen(x)
    if field(p, "heads_interleaved", False):
        return wide.reshape(-1, heads, _HEAD_DIM).swapaxes(0, 1)
    return wide.reshape(heads, -1, _HEAD_DIM)


def _attend(core: Core, q: Float32, k: Float32, v: Float32, keys: int) -> Float32:
    """One head, the first ``keys`` rows of K and V; rows of Q are independent, a band of them is computed at a time."""
    queries, k_blocks, v_blocks = through_bfp16(q, core.rounding), [], []
    for at in range(0, min(len(q), keys), _BLOCK):
        k_blocks.append(through_bfp16(k[at : at + _BLOCK], core.rounding))
        v_blocks.append(through_bfp16(v[at : at + _BLOCK].T, core.rounding))
    bands = range(0, len(q), BAND)
    return np.concatenate([_band(core, queries, k_blocks, v_blocks, start, keys) for start in bands])


def _band(
    core: Core, queries: Float64, k_blocks: Sequence[Float64], v_blocks: Sequence[Float64], start: int, keys: int
) -> Float32:
    """Rows from ``start`` on: blocks of keys one after another, each for the rows at or below its diagonal."""
    q = queries[start : start + BAND]
    scale = nearest_bf16(_LOG2_E / math.sqrt(_HEAD_DIM))
    largest = np.full((len(q), 1), _LOWEST)
    total = np.zeros((len(q), 1), np.float32)
    out = np.zeros(q.shape, np.float32)
    for at in range(0, min(start + len(q), len(k_blocks) * _BLOCK), _BLOCK):
        below = slice(max(at - start, 0), None)
        scores = core.round_bf16(_product(q[below], k_blocks[at // _BLOCK]))
        if at >= start:
            scores[:_BLOCK][np.triu_indices(_BLOCK, 1)] = _LOWEST
        scores[:, max(keys - at, 0) :] = _LOWEST
        scaled = scores * scale
        top = np.maximum(core.round_bf16(scaled).max(axis=-1, keepdims=True), np.float32(0))
        top = np.maximum(top, largest[below])
        powers = _exp2(core, scaled - top)
        shrink = _exp2(core, core.round_bf16(largest[below] - top))
        total[below] = core.round_bf16(shrink * total[below] + core.round_bf16(halve(powers))[:, None])
        largest[below] = top
        kept = core.round_bf16(out[below] * shrink) if at else out[below]
        weights = through_bfp16(powers, core.rounding)
        out[below] = core.round_bf16(_product(weights, v_blocks[at // _BLOCK], kept))
    return core.round_bf16(out * core.round_bf16(np.float32(1) / total))


def _exp2(core: Core, x: Float32) -> Float32:
    return core.round_bf16(np.exp2(x.astype(np.float64)))


def _product(a: Float64, b: Float64, onto: Float32 | None = None) -> Float32:
    """``a`` ``(m, K)`` times ``b`` ``(n, K)``, float32 sums that start from ``onto``."""
    c = np.zeros((len(a), len(b)), np.float32) if onto is None else onto.copy()
    for i in range(0, a.shape[1], _STEP):
        np.add(c, a[:, i : i + _STEP] @ b[:, i : i + _STEP].T, out=c, casting="same_kind")
    return c


def _kv_heads(p: Params) -> int:
    return int(field(p, "num_KV_heads", 0) or p.num_heads)  # 0 stands for plain MHA in early versions


def _rules(p: Params, core: Core) -> None:
    op = "MHA"
    require(core.generation == "npu2", op, "device", "npu2, whose eight columns it is placed on", core.generation)
    require(field(p, "d", _HEAD_DIM) == _HEAD_DIM, op, "d", f"{_HEAD_DIM}, the only head dimension it has", p.d)
    for name in ("num_heads", "seq_len"):
        require(getattr(p, name) >= 1, op, name, "at least 1", getattr(p, name))
    require_multiple(op, "num_heads", p.num_heads, _kv_heads(p), "num_KV_heads")
    name = "num_pipelines" if field(p, "num_pipelines") else "num_of_pipelines"
    pipelines = field(p, name, 1)
    require(1 <= pipelines <= core.columns, op, name, f"1 to {core.columns}", pipelines)
    even = pipelines <= _MOST_ON_ONE_SHIM or pipelines % 2 == 0
    require(even, op, name, f"an even number above {_MOST_ON_ONE_SHIM}", pipelines)


KERNELS = (Kernel("MHA", _mha, _rules, source="amd/IRON aie_kernels/aie2p/mha.cc, iron/operators/mha.py"),)
