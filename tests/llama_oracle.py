# SPDX-License-Identifier: Apache-2.0
"""A Llama in float64, over the whole sequence at once: what the workloads' logits are held against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fusion_replay.simulator.workloads.llama_config import LlamaConfig

Arrays = dict[str, np.ndarray[Any, Any]]


def frequencies(config: LlamaConfig) -> list[float]:
    """Rotation per position of each pair, after transformers' llama3 rule, one by one."""
    found = []
    for pair in range(config.head_dim // 2):
        f = 500000.0 ** (-2 * pair / config.head_dim)
        wavelength = 2 * math.pi / f
        if wavelength > 8192 / 1.0:
            f /= 32.0
        elif wavelength > 8192 / 4.0:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            f = (1 - smooth) * f / 32.0 + smooth * f
        found.append(f)
    return found


def rms_norm(x: Any, w: Any) -> Any:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * w


def rotate(x: Any, config: LlamaConfig) -> Any:
    """(positions, heads, head_dim): the first half pairs with the second (transformers' rotate_half)."""
    half = config.head_dim // 2
    angle = np.arange(len(x))[:, None] * np.array(frequencies(config))[None, :]
    turn = np.exp(1j * angle)[:, None, :]
    z = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([z.real, z.imag], axis=-1)


def llama(config: LlamaConfig, w: Arrays, tokens: list[int], keep: Arrays | None = None) -> Any:
    """Logits (positions, vocab) of a decoder-only pass over ``tokens``; ``keep`` gets the tensors on the way."""
    kept: Arrays = {} if keep is None else keep
    x = w["model.embed_tokens.weight"][tokens]
    n, group = len(tokens), config.heads // config.kv_groups
    future = np.triu(np.full((n, n), -np.inf), 1)
    for i in range(config.layers):
        p = f"model.layers.{i}."
        h = rms_norm(x, w[p + "input_layernorm.weight"])
        q = (h @ w[p + "self_attn.q_proj.weight"].T).reshape(n, config.heads, config.head_dim)
        k = (h @ w[p + "self_attn.k_proj.weight"].T).reshape(n, config.kv_groups, config.head_dim)
        v = (h @ w[p + "self_attn.v_proj.weight"].T).reshape(n, config.kv_groups, config.head_dim)
        q, k = rotate(q, config), rotate(k, config)
        heads = []
        for head in range(config.heads):
            scores = q[:, head] @ k[:, head // group].T / math.sqrt(config.head_dim) + future
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(share / share.sum(axis=1, keepdims=True) @ v[:, head // group])
        kept[f"layers.{i}.context"] = np.concatenate(heads, axis=1)
        x = kept[f"layers.{i}.attended"] = x + kept[f"layers.{i}.context"] @ w[p + "self_attn.o_proj.weight"].T
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"])
        gate = h @ w[p + "mlp.gate_proj.weight"].T
        up = h @ w[p + "mlp.up_proj.weight"].T
        x = kept[f"layers.{i}"] = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
