# SPDX-License-Identifier: Apache-2.0
"""BERT's encoder as torch modules under Hugging Face's names, with the package's weights: an oracle of its own.

Follows the structure of BertModel (github.com/huggingface/transformers, models/bert/modeling_bert.py): the module
paths are those, the arithmetic is torch's, float32. It shares no code with the workload.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Embeddings(nn.Module):
    def __init__(self, c: Any, eps: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.position_embeddings = nn.Embedding(c.max_position_embeddings, c.hidden_size)
        self.token_type_embeddings = nn.Embedding(2, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, eps=eps)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        at = torch.arange(ids.shape[1])[None]
        found = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids))
        return self.LayerNorm(found + self.position_embeddings(at))


class SelfAttention(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.heads = c.num_attention_heads
        for name in ("query", "key", "value"):
            setattr(self, name, nn.Linear(c.hidden_size, c.hidden_size))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        b, t, h = x.shape
        q, k, v = (f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(h // self.heads), -1)
        return ((weights @ v).transpose(1, 2).reshape(b, t, h),)


class Output(nn.Module):
    def __init__(self, inputs: int, c: Any, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, eps=eps)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nn.Module):
    def __init__(self, c: Any, eps: float) -> None:
        super().__init__()
        self.self = SelfAttention(c)
        self.output = Output(c.hidden_size, c, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.self(x)[0], x)


class Intermediate(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(c.hidden_size, c.intermediate_size)
        self.intermediate_act_fn = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.intermediate_act_fn(self.dense(x))


class Layer(nn.Module):
    def __init__(self, c: Any, eps: float) -> None:
        super().__init__()
        self.attention = Attention(c, eps)
        self.intermediate = Intermediate(c)
        self.output = Output(c.intermediate_size, c, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended = self.attention(x)
        return self.output(self.intermediate(attended), attended)


class Encoder(nn.Module):
    def __init__(self, c: Any, eps: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(c, eps) for _ in range(c.num_hidden_layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class MeanPooling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


class Bert(nn.Module):
    def __init__(self, c: Any, eps: float = 1e-12) -> None:
        super().__init__()
        self.embeddings = Embeddings(c, eps)
        self.encoder = Encoder(c, eps)
        self.pooling = MeanPooling()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.pooling(self.encoder(self.embeddings(ids)))


def load(folder: Path, config: Any, eps: float = 1e-12) -> Bert:
    """The model with the weights of ``model.safetensors`` in ``folder``."""
    from safetensors.torch import load_file

    model = Bert(config, eps).eval()
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("pooler") and "position_ids" not in k})
    return model
