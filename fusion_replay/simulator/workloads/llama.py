# SPDX-License-Identifier: Apache-2.0
"""``llama-decode``: greedy decoding with IRON's Llama 3.2 decode runlist, one invocation per token.

The host's part is what the application's host does: gather the token's embedding into ``x``, write the angles of its
position, pass the cache offset and the number of valid positions, and pick the largest logit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads.base import COLUMNS, Run, SequenceSpec, Workload, WorkloadOption, write_buffer
from fusion_replay.simulator.workloads.llama_config import CONFIGS, LlamaConfig, rope_angles, weights
from fusion_replay.simulator.workloads.llama_runlist import CACHE_OFFSET, VECTOR_SIZE, plan
from fusion_replay.simulator.workloads.weights import fill_all_seeded, fill_seeded, open_tensors


class LlamaDecode(Run):
    """Decodes ``tokens`` tokens from ``position`` on; weights and caches lie in the callable's buffers already."""

    def __init__(
        self, config: LlamaConfig, sequence: SequenceSpec, callable_: Any, *, context: int, position: int, tokens: int
    ):
        self.config = config
        self.callable = callable_
        self.invocations = tokens
        self._context = context
        self._position = position
        self._steps = len(sequence.runlist)
        self._fed = [config.first_token]

    def start_at(self, position: int) -> None:
        """Decode from ``position`` on; the caches must hold what came before (a prompt)."""
        self._position = position

    def feed(self, token: int) -> None:
        """Begin with ``token`` instead of the configuration's first one."""
        self._fed = [token]

    def prepare(self, i: int) -> None:
        position = self._position + i
        # Read, never viewed: a raw view would mark the whole embedding as written by the host.
        embedding = self.callable.get_buffer("W_out_head").numpy().reshape(self.config.vocab, self.config.emb_dim)
        write_buffer(self.callable, "x", embedding[self._fed[i]])
        write_buffer(self.callable, "rope_angles", rope_angles(self.config, position))
        self.callable.write_values({CACHE_OFFSET: position * self.config.head_dim, VECTOR_SIZE: position + 1})

    def finish(self, i: int) -> None:
        logits = self.callable.get_buffer("logits").numpy().reshape(-1)[: self.config.vocab]
        self._fed.append(int(np.argmax(logits.astype(np.float32))))

    def describe(self) -> str:
        c = self.config
        return (
            f"llama-decode {c.name}: {c.layers} layers, {c.heads} heads, context {self._context}, "
            f"{self.invocations} tokens from position {self._position}, {self._steps} steps a token"
        )

    def result(self) -> dict[str, Any]:
        return {
            "first_token": self._fed[0],
            "tokens": self._fed[1:],
            "position": self._position,
            "context": self._context,
        }


def _build(device: str, faults: Sequence[Any], options: SimpleNamespace) -> LlamaDecode:
    config = CONFIGS[options.config]
    if options.layers is not None:
        if options.layers > config.layers:
            raise UsageError(f"llama-decode {config.name}: layers {options.layers}: expected at most {config.layers}")
        config = replace(config, layers=options.layers)
    context = config.context if options.context is None else options.context
    if options.position + options.tokens > context:
        raise UsageError(
            f"llama-decode {config.name}: position {options.position} and {options.tokens} tokens need a context of "
            f"{options.position + options.tokens}, found {context}; give --context or fewer tokens"
        )
    sequence = plan(config, context, COLUMNS[device], own_names=options.intermediates == "own")
    how = {"dispatch": "fused", "folds": options.folds} if options.dispatch == "fused" else {}
    if options.folds and not how:
        raise UsageError(f"llama-decode {config.name}: --folds is for --dispatch fused")
    if options.weights is None:
        callable_ = sequence.simulate(device, faults, options.seed, **how)
        _seed_weights(callable_, config, options.seed)
    else:
        callable_ = _with_weights(sequence, device, faults, options, config, how)
    write_buffer(
        callable_,
        "attn_scale_factor",
        np.full(config.heads * context, 1.0 / math.sqrt(config.head_dim), dtype=np.float32),
    )
    _seed_caches(callable_, config, context, options.position, options.seed)
    return LlamaDecode(config, sequence, callable_, context=context, position=options.position, tokens=options.tokens)


def _seed_weights(callable_: Any, config: LlamaConfig, seed: int) -> None:
    slots = list(weights(config))
    buffers = {w.buffer: callable_.get_buffer(w.buffer) for w in slots}
    fill_all_seeded(((buffers[w.buffer].numpy_view(), w.buffer, w.mean, w.std) for w in slots), seed=seed)
    for buffer in buffers.values():
        buffer.to("npu")


def _with_weights(
    sequence: SequenceSpec,
    device: str,
    faults: Sequence[Any],
    options: SimpleNamespace,
    config: LlamaConfig,
    how: dict[str, Any],
) -> Any:
    """The callable with a checkpoint's weights, which are checked before any memory is taken for buffers."""
    slots = list(weights(config))
    with open_tensors(Path(options.weights)) as tensors:
        tensors.check({w.tensor: w.shape for w in slots})
        if "lm_head.weight" in tensors:
            raise UsageError(
                f"weights {tensors.path}: found lm_head.weight; expected an output head tied to the token embedding, "
                "as in Llama 3.2 1B: remove it where it repeats model.embed_tokens.weight"
            )
        callable_ = sequence.simulate(device, faults, options.seed, **how)
        for w in slots:
            buffer = callable_.get_buffer(w.buffer)
            tensors.read_into(w.tensor, buffer.numpy_view())
            buffer.to("npu")
    return callable_


def _seed_caches(callable_: Any, config: LlamaConfig, context: int, position: int, seed: int) -> None:
    """Keys and values of the ``position`` tokens that are taken as decoded; the rest of each cache stays zero."""
    if position == 0:
        return
    for i in range(config.layers):
        for kind in ("keys", "values"):
            name = f"{kind}_cache_{i}"
            buffer = callable_.get_buffer(name)
            cache = buffer.numpy_view().reshape(config.kv_groups, context, config.head_dim)
            rows = np.empty((config.kv_groups, position, config.head_dim), dtype=cache.dtype)
            fill_seeded(rows, seed=seed, name=name)
            cache[:, :position] = rows
            buffer.to("npu")


WORKLOAD = Workload(
    name="llama-decode",
    summary="greedy decoding with the decode runlist of IRON's Llama 3.2 application, one invocation per token",
    options=(
        WorkloadOption("config", str, "tiny", "model dimensions", choices=tuple(CONFIGS)),
        WorkloadOption(
            "context", int, None, "positions the operators are built for (default: the configuration's)", minimum=64
        ),
        WorkloadOption("tokens", int, 2, "tokens to decode, one invocation each", minimum=1),
        WorkloadOption("layers", int, None, "use only the first N layers", minimum=1),
        WorkloadOption("seed", int, 0, "seed of the weights and of the caches that --position fills", minimum=0),
        WorkloadOption(
            "position", int, 0, "decode from this position on, with earlier ones filled from the seed", minimum=0
        ),
        WorkloadOption("weights", str, None, "folder with a Hugging Face model.safetensors, instead of seeded weights"),
        WorkloadOption(
            "dispatch",
            str,
            "separate",
            "fused: one dispatch a token, recorded as a whole call",
            choices=("separate", "fused"),
        ),
        WorkloadOption("folds", bool, False, "with --dispatch fused: elementwise steps skip a rounding"),
        WorkloadOption(
            "intermediates",
            str,
            "shared",
            "own: each layer's intermediates have names of their own, as IRON's graphs record them",
            choices=("shared", "own"),
        ),
    ),
    builder=_build,
)

__all__ = ["WORKLOAD", "LlamaDecode"]
