# SPDX-License-Identifier: Apache-2.0
"""Llama decoder dimensions, where each weight lies in a Hugging Face checkpoint, and the angles RoPE rotates by.

The large configuration is Llama 3.2 1B as amd/IRON iron/applications/llama_3.2_1b/llama_inference_harness.py has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """The "llama3" stretch of low rotation frequencies (transformers, modeling_rope_utils.py)."""

    factor: float = 32.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """One Llama model: every count is in elements, ``context`` in tokens.

    ``heads`` is a multiple of 16 because IRON's Softmax takes rows in sixteens (one row per head), and ``head_dim`` is
    64 because its GEMV multiplies in vectors of 64.
    """

    name: str
    emb_dim: int
    layers: int
    heads: int
    kv_groups: int
    hidden_dim: int
    vocab: int
    context: int
    first_token: int
    head_dim: int = 64
    max_context: int = 2048
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling = RopeScaling()

    @property
    def query_dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.kv_groups * self.head_dim


CONFIGS = {
    c.name: c
    for c in (
        LlamaConfig("tiny", 256, 2, 16, 4, 512, 512, context=256, first_token=1),
        LlamaConfig("narrow", 256, 16, 16, 4, 512, 512, context=64, first_token=1),
        LlamaConfig("small", 512, 4, 16, 4, 2048, 8192, context=512, first_token=1),
        LlamaConfig("llama-3.2-1b", 2048, 16, 32, 8, 8192, 128256, context=2048, first_token=128000),
    )
}


@dataclass(frozen=True, slots=True)
class LlamaWeight:
    """One weight: the buffer that holds it, its name in a checkpoint, its shape, and how a seeded one is drawn."""

    buffer: str
    tensor: str
    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 1.0


def weights(config: LlamaConfig) -> Iterator[LlamaWeight]:
    """Every weight of the decode runlist, in the runlist's order; matrices are (outputs, inputs).

    Seeded matrices have the standard deviation 1/sqrt(inputs), which keeps activations near one; norm weights lie
    around one. The output head is the token embedding (tied, as in Llama 3.2 1B).
    """
    for i in range(config.layers):
        layer = f"model.layers.{i}"
        for buffer, tensor, shape in (
            ("W_norm1", "input_layernorm", (config.emb_dim,)),
            ("W_attn_query", "self_attn.q_proj", (config.query_dim, config.emb_dim)),
            ("W_attn_key", "self_attn.k_proj", (config.kv_dim, config.emb_dim)),
            ("W_attn_value", "self_attn.v_proj", (config.kv_dim, config.emb_dim)),
            ("W_attn_output_decode", "self_attn.o_proj", (config.emb_dim, config.query_dim)),
            ("W_norm2", "post_attention_layernorm", (config.emb_dim,)),
            ("W_ffn_gate", "mlp.gate_proj", (config.hidden_dim, config.emb_dim)),
            ("W_ffn_up", "mlp.up_proj", (config.hidden_dim, config.emb_dim)),
            ("W_ffn_down", "mlp.down_proj", (config.emb_dim, config.hidden_dim)),
        ):
            yield _drawn(f"{buffer}_{i}", f"{layer}.{tensor}.weight", shape)
    yield _drawn("W_final_norm", "model.norm.weight", (config.emb_dim,))
    yield _drawn("W_out_head", "model.embed_tokens.weight", (config.vocab, config.emb_dim))


def _drawn(buffer: str, tensor: str, shape: tuple[int, ...]) -> LlamaWeight:
    if len(shape) == 1:
        return LlamaWeight(buffer, tensor, shape, mean=1.0, std=0.1)
    return LlamaWeight(buffer, tensor, shape, std=1.0 / math.sqrt(shape[1]))


def rope_angles(config: LlamaConfig, position: int) -> npt.NDArray[np.generic]:
    """bf16 ``(head_dim,)``: ``[cos0, sin0, cos1, sin1, ...]`` of the token at ``position``, IRON's RoPE table row."""
    angle = position * rope_frequencies(config)
    row = np.empty(config.head_dim)
    row[0::2] = np.cos(angle)
    row[1::2] = np.sin(angle)
    return row.astype(np.float32).astype(ml_dtypes.bfloat16)


def rope_frequencies(config: LlamaConfig) -> npt.NDArray[np.float64]:
    """``(head_dim/2,)`` radians per position: theta^(-2i/d), wavelengths beyond the original context stretched.

    Source: transformers, modeling_rope_utils.py, rope type "llama3".
    """
    scaling = config.rope_scaling
    base = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    turns = scaling.original_context * base / (2 * math.pi)  # full turns within the original context
    keep = np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
    return np.asarray(base * (keep + (1.0 - keep) / scaling.factor), dtype=np.float64)


__all__ = ["CONFIGS", "LlamaConfig", "LlamaWeight", "RopeScaling", "rope_angles", "rope_frequencies", "weights"]
