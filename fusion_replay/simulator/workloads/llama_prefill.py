# SPDX-License-Identifier: Apache-2.0
"""The prefill of IRON's Llama application: individual operators that the host calls one by one, no runlist.

Source: amd/IRON ``iron/applications/llama_3.2_1b/llama_npu.py``: which operators run on the NPU, their parameters and
their order; masking, softmax, the weighted sum of the values and the output projection of the attention stay on the
host. Every operator is built for the prompt padded to whole tiles. Columns are as many as the operator's width fills.
The host's part is float64 rounded to bf16 once, so that every machine gets the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.bf16 import narrow, wide
from fusion_replay.simulator.workloads.base import COLUMNS, SequenceSpec
from fusion_replay.simulator.workloads.llama_config import LlamaConfig, rope_angles

Array = npt.NDArray[Any]
WeightOf = Callable[[str], Array]
"""Buffer name of a weight in the decode runlist -> its values, bf16, (outputs, inputs) or (emb_dim,)."""

PARTITIONS = 4
"""Parts of the output head, which is too wide for one GEMM."""

_TILE = 64
_PROMPT_UNIT = 4 * _TILE  # rows of a GEMM: four rows of cores, a tile each


class Operator:
    """One compiled operator with buffers of its own, called with arrays: IRON's callable of a single operator."""

    def __init__(self, op: Any, names: Sequence[str], label: str, device: str, faults: Sequence[Any]) -> None:
        reads = tuple(dict.fromkeys(names[:-1]))
        mine = [f for f in faults if f.op == type(op).__name__]
        self.callable = SequenceSpec(label, [(op, *names)], reads, (names[-1],), {}).simulate(device, mine)
        self._names = tuple(names)

    def __call__(self, *inputs: Array) -> Array:
        """The output, bf16, flat; a view of the device's buffer that the next call overwrites."""
        for name, values in zip(self._names, inputs, strict=False):
            buffer = self.callable.get_buffer(name)
            with buffer.mutate() as held:
                held.reshape(-1)[: values.size] = values.reshape(-1)
            buffer.to("npu")
        self.callable()
        result: Array = self.callable.get_buffer(self._names[-1]).numpy().reshape(-1)
        return result


def dispatches(config: LlamaConfig) -> int:
    """Kernel calls of one prompt, each an invocation of a recording: 15 and one per head in each layer."""
    return config.layers * (15 + config.heads) + 1 + PARTITIONS


class Prefill:
    """Everything the NPU does for a prompt of ``length`` tokens; buffers are padded to :attr:`rows`.

    ``faults`` name operator types: each strikes the operators of its type.
    """

    TYPES = frozenset({"RMSNorm", "GEMM", "RoPE", "ElementwiseMul", "ElementwiseAdd", "SiLU"})

    def __init__(self, config: LlamaConfig, length: int, device: str, faults: Sequence[Any] = ()) -> None:
        from fusion_replay.simulator import operators as iron

        self.config, self.length = config, length
        self.rows = rows = -(-length // _PROMPT_UNIT) * _PROMPT_UNIT
        self.head_columns = -(-config.vocab // (_TILE * COLUMNS[device] * PARTITIONS)) * _TILE * COLUMNS[device]
        emb, hidden, dim, cols = config.emb_dim, config.hidden_dim, config.head_dim, COLUMNS[device]

        def one(label: str, op: Any, *names: str) -> Operator:
            return Operator(op, names, f"prefill_{label}", device, faults)

        def gemm(label: str, k: int, n: int, *names: str, **fields: Any) -> Operator:
            columns = next(c for c in (8, 4, 2, 1) if c <= cols and n % (_TILE * c) == 0)
            return one(label, iron.GEMM(M=rows, K=k, N=n, num_aie_columns=columns, **fields), *names)

        norm = iron.RMSNorm(size=rows * emb, num_aie_columns=cols, num_channels=1, tile_size=emb, weighted=True)
        scale = iron.ElementwiseMul(size=config.heads * rows * rows, tile_size=rows, num_aie_columns=cols)
        self.rms_norm = one("rms_norm", norm, "x", "W_norm", "x_norm")
        self.query = gemm("attn_query", emb, config.query_dim, "x_norm", "W_attn_query", "queries")
        self.key = gemm("attn_key", emb, config.kv_dim, "x_norm", "W_attn_key", "keys")
        self.value = gemm("attn_value", emb, config.kv_dim, "x_norm", "W_attn_value", "values")
        self.rope_queries = one(
            "rope_queries",
            iron.RoPE(rows=rows * config.heads, cols=dim, angle_rows=rows),
            *("queries", "rope_angles", "queries"),
        )
        self.rope_keys = one(
            "rope_keys",
            iron.RoPE(rows=rows * config.kv_groups, cols=dim, angle_rows=rows),
            *("keys", "rope_angles", "keys"),
        )
        self.scores = gemm("attn_scores", dim, rows, "queries", "keys", "attn_scores")
        self.scale = one("attn_scale", scale, "attn_scores", "attn_scale_factor", "attn_scores")
        self.residual = one(
            "residual_add",
            iron.ElementwiseAdd(size=rows * emb, tile_size=emb, num_aie_columns=cols),
            *("x", "attn_output", "x"),
        )
        self.gate_up = gemm("ffn_up_gate", emb, hidden, "x_norm", "W_ffn", "ffn_gate")
        self.silu = one(
            "ffn_silu",
            iron.SiLU(size=rows * hidden, tile_size=hidden, num_aie_columns=cols),
            *("ffn_gate", "ffn_gate"),
        )
        self.ffn_mul = one(
            "eltwise_mul_ffn",
            iron.ElementwiseMul(size=rows * hidden, tile_size=hidden, num_aie_columns=cols),
            *("ffn_gate", "ffn_up", "ffn_hidden"),
        )
        self.down = gemm("ffn_down", hidden, emb, "ffn_hidden", "W_ffn_down", "ffn_output")
        self.out_head = gemm(
            "out_head", emb, self.head_columns, "x", "W_out_head", "logits", b_col_maj=True, separate_c_tiles=True
        )

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Every compiled operator, in the order of their first call."""
        return tuple(v for v in vars(self).values() if isinstance(v, Operator))

    @property
    def dispatches(self) -> int:
        """Kernel calls of one prompt."""
        return dispatches(self.config)

    def __call__(self, tokens: Sequence[int], weight: WeightOf) -> tuple[Array, list[Array], list[Array]]:
        """Run the prompt.

        Returns:
            The logits of its last token, float64 ``(vocab,)``, and keys and values of each layer, bf16
            ``(kv_groups, length, head_dim)``.
        """
        c, rows = self.config, self.rows
        x = np.zeros((rows, c.emb_dim), weight("W_out_head").dtype)
        x[: self.length] = weight("W_out_head")[list(tokens)]
        angles = np.stack([rope_angles(c, position) for position in range(rows)])
        keys, values = [], []
        for i in range(c.layers):
            h = self.rms_norm(x, weight(f"W_norm1_{i}")).copy()
            q = self.rope_queries(self.query(h, weight(f"W_attn_query_{i}").T), angles)
            k = self.rope_keys(self.key(h, weight(f"W_attn_key_{i}").T), angles)
            keys.append(self._by_head(k, c.kv_groups))
            values.append(self._by_head(self.value(h, weight(f"W_attn_value_{i}").T), c.kv_groups))
            context = self._attend(self._padded_by_head(q), keys[-1], values[-1])
            attended = np.zeros_like(x)
            attended[: self.length] = narrow(wide(context) @ wide(weight(f"W_attn_output_decode_{i}")).T)
            x = self.residual(x, attended).reshape(x.shape).copy()
            h = self.rms_norm(x, weight(f"W_norm2_{i}")).copy()
            gate = self.gate_up(h, weight(f"W_ffn_gate_{i}").T).copy()
            up = self.gate_up(h, weight(f"W_ffn_up_{i}").T).copy()
            fed = self.down(self.ffn_mul(self.silu(gate), up), weight(f"W_ffn_down_{i}").T)
            x = self.residual(x, fed).reshape(x.shape).copy()
        x = self.rms_norm(x, weight("W_final_norm")).reshape(x.shape).copy()
        return self._logits(x, weight("W_out_head")), keys, values

    def _attend(self, queries: Array, keys: Array, values: Array) -> Array:
        """``(length, query_dim)``: scores on the NPU, a product per head; mask, softmax, weighted sum on the host."""
        c, n, rows = self.config, self.length, self.rows
        scores = np.empty((c.heads, rows, rows), queries.dtype)
        turned = np.zeros((c.kv_groups, c.head_dim, rows), keys.dtype)
        turned[:, :, :n] = keys.transpose(0, 2, 1)
        group = c.heads // c.kv_groups
        for head in range(c.heads):
            scores[head] = self.scores(queries[head], turned[head // group]).reshape(rows, rows)
        factor = np.full(scores.size, 1.0 / math.sqrt(c.head_dim), np.float32).astype(scores.dtype)
        scaled = wide(self.scale(scores, factor).reshape(scores.shape)[:, :n, :n])
        scaled[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        grown = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        attention = wide(narrow(grown / grown.sum(axis=-1, keepdims=True)))
        context = narrow(attention @ np.repeat(wide(values), group, axis=0))
        return np.asarray(context).transpose(1, 0, 2).reshape(n, c.query_dim)

    def _by_head(self, flat: Array, heads: int) -> Array:
        """Buffer of (rows, heads, head_dim) -> copy of (heads, length, head_dim)."""
        held = flat.reshape(self.rows, heads, self.config.head_dim)[: self.length]
        return np.ascontiguousarray(held.transpose(1, 0, 2))

    def _padded_by_head(self, flat: Array) -> Array:
        padded = np.zeros((self.config.heads, self.rows, self.config.head_dim), flat.dtype)
        padded[:, : self.length] = self._by_head(flat, self.config.heads)
        return padded

    def _logits(self, x: Array, head: Array) -> Array:
        """The last token's logits; the padded rows of the last part of the head are zero."""
        parts = []
        for i in range(PARTITIONS):
            part = np.zeros((self.head_columns, head.shape[1]), head.dtype)
            rows = head[i * self.head_columns : (i + 1) * self.head_columns]
            part[: len(rows)] = rows
            parts.append(wide(self.out_head(x, part).reshape(self.rows, -1)[self.length - 1]))
        return np.concatenate(parts)[: self.config.vocab]


__all__ = ["PARTITIONS", "Operator", "Prefill", "dispatches"]
