# SPDX-License-Identifier: Apache-2.0
"""A BERT encoder with mean pooling as a runlist of IRON operators.

What IRON has no operator for is composed: a bias is repeated to every row and added, LayerNorm's weight and bias are
a multiplication and an addition after it, heads are byte slices of head-major buffers. Padding columns are masked by
Softmax's runtime vector size; padding rows are computed and then left out by the pooling weights (zero there).
The product of attention weights and values is native bf16 even where the others are block floating point: a weight
beside one near 1 loses all its bits in a shared exponent (measured here: 22 % relative L2 in heads that look at [SEP]).
IRON's GELU is the tanh approximation where BERT was trained with erf (at most 5e-4 apart), and its LayerNorm has an
epsilon of 1e-5 where BERT has 1e-12.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from fusion_replay.simulator.workloads.base import SequenceSpec
from fusion_replay.simulator.workloads.minilm_model import BertConfig

VECTOR_SIZE = "softmax_vector_size"
"""Runtime value: the number of real tokens, beyond which Softmax masks."""

POOL_ROWS = 64
"""Rows of the pooling product, the fewest that GEMM computes; row 0 is the sentence."""

_BF16 = 2  # bytes per element
_Step = tuple[Any, ...]


def plan(config: BertConfig, length: int, columns: int, bfp16: bool) -> SequenceSpec:
    """The encoder for ``length`` (padded) tokens on ``columns`` columns; ``bfp16`` multiplies in block floats."""
    builder = _Encoder(config, length, columns, bfp16)
    runlist = builder.embeddings()
    for i in range(config.num_hidden_layers):
        runlist += builder.attention(i)
        runlist += builder.feed_forward(i)
    runlist += builder.pooling()
    hidden = length * config.hidden_size * _BF16
    scores = config.num_attention_heads * length * length * _BF16
    return SequenceSpec(
        name="minilm",
        runlist=runlist,
        input_args=("words", "positions", "token_types", "pool_weights"),
        output_args=("embedding",),
        buffer_sizes={
            **dict.fromkeys(("queries_heads", "keys_heads", "values_transposed", "context_transposed"), hidden),
            "attn_scores": scores,
            "attn_weights": scores,
        },
    )


class _Encoder:
    """Emits the steps of each part; operators of equal parameters are one object, hence one kernel."""

    def __init__(self, config: BertConfig, length: int, columns: int, bfp16: bool) -> None:
        from fusion_replay.simulator import operators

        self._iron = operators
        self._config = config
        self._length = length
        self._columns = columns
        self._bfp16 = bfp16
        self._operator = lru_cache(maxsize=None)(lambda name, **params: getattr(operators, name)(**params))

    def embeddings(self) -> list[_Step]:
        width = self._config.hidden_size
        return [
            (self._add(width), "words", "positions", "hidden"),
            (self._repeat(width), "token_types", "row_bias"),
            (self._add(width), "hidden", "row_bias", "hidden"),
            *self._layer_norm("embed_norm"),
        ]

    def attention(self, i: int) -> list[_Step]:
        c, s = self._config, self._length
        head = s * c.head_dim * _BF16
        square = s * s * _BF16
        scores = self._gemm(s, c.head_dim, s, b_col_maj=True)
        context = self._gemm(s, s, c.head_dim, b_col_maj=True, c_col_maj=True, native=True)
        return [
            *self._linear(f"query_{i}", "hidden", "queries", c.hidden_size, c.hidden_size),
            *self._linear(f"key_{i}", "hidden", "keys", c.hidden_size, c.hidden_size),
            *self._linear(f"value_{i}", "hidden", "values", c.hidden_size, c.hidden_size),
            (self._split_heads(), "queries", "queries_heads"),
            (self._split_heads(), "keys", "keys_heads"),
            (self._transpose(s, c.hidden_size), "values", "values_transposed"),
            *(
                (
                    scores,
                    f"queries_heads{_slice(h, head)}",
                    f"keys_heads{_slice(h, head)}",
                    f"attn_scores{_slice(h, square)}",
                )
                for h in range(c.num_attention_heads)
            ),
            (self._mul(s, rows=c.num_attention_heads * s), "attn_scores", "attn_scale_factor", "attn_scores"),
            (self._softmax(), "attn_scores", "attn_weights"),
            *(
                (
                    context,
                    f"attn_weights{_slice(h, square)}",
                    f"values_transposed{_slice(h, head)}",
                    f"context_transposed{_slice(h, head)}",
                )
                for h in range(c.num_attention_heads)
            ),
            (self._transpose(c.hidden_size, s), "context_transposed", "context"),
            *self._linear(f"attn_output_{i}", "context", "attn_output", c.hidden_size, c.hidden_size),
            (self._add(c.hidden_size), "hidden", "attn_output", "hidden"),
            *self._layer_norm(f"attn_norm_{i}"),
        ]

    def feed_forward(self, i: int) -> list[_Step]:
        h, wide = self._config.hidden_size, self._config.intermediate_size
        return [
            *self._linear(f"ffn_up_{i}", "hidden", "ffn_hidden", h, wide),
            (self._channelled("GELU", wide), "ffn_hidden", "ffn_hidden"),
            *self._linear(f"ffn_down_{i}", "ffn_hidden", "ffn_output", wide, h),
            (self._add(h), "hidden", "ffn_output", "hidden"),
            *self._layer_norm(f"ffn_norm_{i}"),
        ]

    def pooling(self) -> list[_Step]:
        """The mean over real tokens: row 0 of a product with the pooling weights, whose other rows are zero."""
        h, s = self._config.hidden_size, self._length
        return [(self._gemm(POOL_ROWS, s, h), "pool_weights", "hidden", "embedding")]

    def _linear(self, name: str, source: str, target: str, inputs: int, outputs: int) -> list[_Step]:
        return [
            (self._gemm(self._length, inputs, outputs, b_col_maj=True), source, f"W_{name}", target),
            (self._repeat(outputs), f"b_{name}", _row("row_bias", outputs, self._config.hidden_size)),
            (self._add(outputs), target, _row("row_bias", outputs, self._config.hidden_size), target),
        ]

    def _layer_norm(self, name: str) -> list[_Step]:
        width = self._config.hidden_size
        return [
            (self._channelled("LayerNorm", width), "hidden", "normed"),
            (self._repeat(width), f"W_{name}", "row_scale"),
            (self._mul(width), "normed", "row_scale", "normed"),
            (self._repeat(width), f"b_{name}", "row_bias"),
            (self._add(width), "normed", "row_bias", "hidden"),
        ]

    def _gemm(
        self, m: int, k: int, n: int, b_col_maj: bool = False, c_col_maj: bool = False, native: bool = False
    ) -> Any:
        columns = next(c for c in (8, 4, 2, 1) if c <= self._columns and n % (16 * c) == 0)
        return self._operator(
            "GEMM",
            M=m,
            K=k,
            N=n,
            tile_m=16,
            tile_k=math.gcd(k, 64),
            tile_n=max(t for t in (16, 32, 48, 64) if n % (t * columns) == 0),
            b_col_maj=b_col_maj,
            c_col_maj=c_col_maj,
            num_aie_columns=columns,
            emulate_bf16_mmul_with_bfp16=self._bfp16 and not native,
        )

    def _add(self, width: int) -> Any:
        return self._operator(
            "ElementwiseAdd", size=self._length * width, tile_size=width, num_aie_columns=self._columns
        )

    def _mul(self, width: int, rows: int | None = None) -> Any:
        size = (self._length if rows is None else rows) * width
        return self._operator("ElementwiseMul", size=size, tile_size=width, num_aie_columns=self._columns)

    def _channelled(self, name: str, width: int) -> Any:
        return self._operator(
            name, size=self._length * width, num_aie_columns=self._columns, num_channels=1, tile_size=width
        )

    def _repeat(self, width: int) -> Any:
        return self._operator("Repeat", rows=1, cols=width, repeat=self._length)

    def _transpose(self, m: int, n: int) -> Any:
        return self._operator("Transpose", M=m, N=n, num_aie_columns=2, num_channels=1, m=math.gcd(m, 256), n=32, s=8)

    def _softmax(self) -> Any:
        return self._operator(
            "Softmax",
            rows=self._config.num_attention_heads * self._length,
            cols=self._length,
            num_aie_columns=1,
            num_channels=1,
            rtp_vector_size=self._length,
            vector_size_parameter=VECTOR_SIZE,
        )

    def _split_heads(self) -> Any:
        """(tokens, heads, head_dim) -> (heads, tokens, head_dim)."""
        heads, s, dim, h = (
            self._config.num_attention_heads,
            self._length,
            self._config.head_dim,
            self._config.hidden_size,
        )
        return self._operator(
            "StridedCopy",
            input_sizes=(heads, s, dim),
            input_strides=(dim, h, 1),
            input_offset=0,
            output_sizes=(heads, s, dim),
            output_strides=(s * dim, dim, 1),
            output_offset=0,
            input_buffer_size=s * h,
            output_buffer_size=s * h,
            num_aie_channels=1,
        )


def _slice(index: int, nbytes: int) -> str:
    return f"[{index * nbytes}:{(index + 1) * nbytes}]"


def _row(name: str, width: int, hidden: int) -> str:
    """Buffers have one size each, so the wide layer's rows need a buffer of their own."""
    return name if width == hidden else f"{name}_wide"


__all__ = ["POOL_ROWS", "VECTOR_SIZE", "plan"]
