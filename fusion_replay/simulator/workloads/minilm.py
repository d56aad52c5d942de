# SPDX-License-Identifier: Apache-2.0
"""``minilm``: the all-MiniLM-L6-v2 sentence encoder, real weights on real text, one invocation per text.

The host gathers word, position and token-type embeddings; everything after that, up to the mean over the tokens, are
steps on the device. The last output holds that mean; the result gives it at length one, as the model's card does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads.base import COLUMNS, Run, Workload, WorkloadOption, write_buffer
from fusion_replay.simulator.workloads.minilm_model import (
    BertConfig,
    host_tensors,
    locate,
    padded,
    read_config,
    tokenize,
    weights,
)
from fusion_replay.simulator.workloads.minilm_runlist import POOL_ROWS, VECTOR_SIZE, plan
from fusion_replay.simulator.workloads.weights import TensorFile, open_tensors


class MiniLM(Run):
    """Encodes one text of ``tokens`` tokens: ``words`` are its word embeddings, float32 ``(padded length, hidden)``."""

    invocations = 1

    def __init__(
        self,
        config: BertConfig,
        callable_: Any,
        *,
        text: str,
        tokens: int,
        words: npt.NDArray[np.float32],
        steps: int,
    ):
        self.config = config
        self.callable = callable_
        self._text = text
        self._tokens = tokens
        self._words = words
        self._steps = steps
        self._embedding: list[float] = []

    def prepare(self, i: int) -> None:
        pool = np.zeros((POOL_ROWS, len(self._words)), np.float32)
        pool[0, : self._tokens] = 1.0 / self._tokens
        write_buffer(self.callable, "words", self._words)
        write_buffer(self.callable, "pool_weights", pool)
        self.callable.write_values({VECTOR_SIZE: self._tokens})

    def finish(self, i: int) -> None:
        out = self.callable.get_buffer("embedding").numpy().reshape(-1)[: self.config.hidden_size]
        mean = out.astype(np.float64)
        with np.errstate(all="ignore"):  # a faulty device may leave zeros or NaN, which is no failure of the host
            self._embedding = [float(v) for v in mean / np.linalg.norm(mean)]

    def describe(self) -> str:
        c = self.config
        return (
            f"minilm: {c.num_hidden_layers} layers, {c.num_attention_heads} heads, width {c.hidden_size}, "
            f"{self._tokens} tokens padded to {len(self._words)}, {self._steps} steps"
        )

    def result(self) -> dict[str, Any]:
        return {"text": self._text, "tokens": self._tokens, "embedding": self._embedding}


def _build(device: str, faults: Sequence[Any], options: SimpleNamespace) -> MiniLM:
    folder = locate(options.weights)
    config = read_config(folder)
    ids = tokenize(folder, options.text, config.max_position_embeddings)
    if max(ids) >= config.vocab_size:
        raise UsageError(f"{folder}: the tokenizer gave token {max(ids)}, but the model knows {config.vocab_size}")
    length = padded(len(ids))
    sequence = plan(config, length, COLUMNS[device], bfp16=options.bfp16 and device == "npu2")
    slots = list(weights(config))
    with open_tensors(Path(folder)) as tensors:
        tensors.check({**host_tensors(config), **{w.tensor: w.shape for w in slots}})
        callable_ = sequence.simulate(device, faults, seed=0)
        for w in slots:
            buffer = callable_.get_buffer(w.buffer)
            tensors.read_into(w.tensor, buffer.numpy_view())
            buffer.to("npu")
        words = _write_embeddings(callable_, config, tensors, ids, length)
    scores = config.num_attention_heads * length * length
    write_buffer(callable_, "attn_scale_factor", np.full(scores, 1 / math.sqrt(config.head_dim), np.float32))
    return MiniLM(config, callable_, text=options.text, tokens=len(ids), words=words, steps=len(sequence.runlist))


def _write_embeddings(
    callable_: Any, config: BertConfig, tensors: TensorFile, ids: list[int], length: int
) -> npt.NDArray[np.float32]:
    """Positions and token type go to the device here; the words' rows are returned, [PAD]'s for the padding.

    Padding rows reach no result, but they are computed: with the rows that the model was trained on, their attention
    scores stay below 88, where AIE2's exponential table ends (all zeros in their place gave up to 104).
    """
    table = tensors.read("embeddings.position_embeddings.weight")
    positions = np.zeros((length, config.hidden_size), np.float32)
    known = min(length, len(table))  # a window that is no multiple of the padding has no rows for the last padding
    positions[:known] = table[:known]
    write_buffer(callable_, "positions", positions)
    write_buffer(callable_, "token_types", tensors.read("embeddings.token_type_embeddings.weight")[0])
    return tensors.read("embeddings.word_embeddings.weight")[ids + [config.pad_token_id] * (length - len(ids))]


WORKLOAD = Workload(
    name="minilm",
    summary="all-MiniLM-L6-v2 sentence encoder: real weights, real text, the embedding in the last output",
    options=(
        WorkloadOption("text", str, "The NPU said seven; the reference said eight.", "the text to encode"),
        WorkloadOption("weights", str, None, "folder with model.safetensors, config.json and tokenizer.json"),
        WorkloadOption(
            "bfp16", bool, True, "npu2: multiply matrices in block floating point, IRON's default; off is native"
        ),
    ),
    builder=_build,
)

__all__ = ["WORKLOAD", "MiniLM"]
