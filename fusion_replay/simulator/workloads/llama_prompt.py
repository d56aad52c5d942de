# SPDX-License-Identifier: Apache-2.0
"""``llama``: a prompt and the tokens after it, as IRON's Llama application runs them.

The prompt goes through individual operators (:mod:`.llama_prefill`) and gives the first token; every further token is
one invocation of the decode runlist (:mod:`.llama_runlist`) on the caches that the prompt left.

Source: amd/IRON ``iron/applications/llama_3.2_1b/llama_inference_harness.py``, with the largest logit taken instead of
a sampled one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads.base import Run, Workload, WorkloadOption
from fusion_replay.simulator.workloads.llama import WORKLOAD as DECODE
from fusion_replay.simulator.workloads.llama import LlamaDecode
from fusion_replay.simulator.workloads.llama_config import CONFIGS, LlamaConfig, weights
from fusion_replay.simulator.workloads.llama_prefill import Prefill, dispatches


class LlamaPrompt(Run):
    """Invocation 0 runs the prompt, operator by operator; each later one decodes a token."""

    def __init__(self, prefill: Prefill, decode: LlamaDecode, prompt: Sequence[int], tokens: int) -> None:
        self.config: LlamaConfig = decode.config
        self.prompt = tuple(prompt)
        self.invocations = tokens
        self.callable = self._forward
        self._prefill, self._decode = prefill, decode
        self._shapes = {w.buffer: w.shape for w in weights(self.config)}
        self._invocation = 0

    @property
    def callables(self) -> tuple[Any, ...]:
        alone = tuple(operator.callable for operator in self._prefill.operators)
        return alone if self.invocations == 1 else (*alone, self._decode.callable)

    @property
    def dispatches(self) -> int:
        return self._prefill.dispatches + (self.invocations - 1) * len(self._decode.callable.op.runlist)

    def prepare(self, i: int) -> None:
        self._invocation = i
        if i > 0:
            self._decode.prepare(i - 1)

    def finish(self, i: int) -> None:
        if i > 0:
            self._decode.finish(i - 1)

    def describe(self) -> str:
        c = self.config
        return (
            f"llama {c.name}: {c.layers} layers, {c.heads} heads, prompt of {len(self.prompt)} tokens, "
            f"{self.invocations} generated, {self.dispatches} kernel calls"
        )

    def result(self) -> dict[str, Any]:
        decoded = self._decode.result()
        return {"prompt": list(self.prompt), "tokens": [decoded["first_token"], *decoded["tokens"]]}

    def _forward(self) -> None:
        if self._invocation > 0:
            self._decode.callable()
            return
        logits, keys, values = self._prefill(self.prompt, self._weight)
        for i in range(self.config.layers):
            self._fill_cache(f"keys_cache_{i}", keys[i])
            self._fill_cache(f"values_cache_{i}", values[i])
        self._decode.feed(int(np.argmax(logits)))

    def _weight(self, buffer: str) -> Any:
        return (
            self._decode.callable.get_buffer(buffer)
            .numpy()
            .reshape(-1)[: _size(self._shapes[buffer])]
            .reshape(self._shapes[buffer])
        )

    def _fill_cache(self, name: str, rows: Any) -> None:
        buffer = self._decode.callable.get_buffer(name)
        with buffer.mutate() as held:
            held.reshape(self.config.kv_groups, -1, self.config.head_dim)[:, : rows.shape[1]] = rows
        buffer.to("npu")


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _build(device: str, faults: Sequence[Any], options: SimpleNamespace) -> LlamaPrompt:
    config = CONFIGS[options.config]
    if options.layers is not None and options.layers > config.layers:
        raise UsageError(f"llama {config.name}: layers {options.layers}: expected at most {config.layers}")
    context = -(-(options.prompt + options.tokens) // 64) * 64
    if context > config.max_context:
        raise UsageError(
            f"llama {config.name}: a prompt of {options.prompt} and {options.tokens} tokens: expected at most "
            f"{config.max_context} together"
        )
    if options.layers is not None:
        config = replace(config, layers=options.layers)
    in_prompt, in_decode = _shared(faults, config, options.tokens)
    given = {"config": options.config, "context": context, "tokens": max(1, options.tokens - 1), "seed": options.seed}
    decode = DECODE.build(device, in_decode, {**given, "layers": options.layers})
    assert isinstance(decode, LlamaDecode)
    decode.start_at(options.prompt)
    drawn = np.random.default_rng(options.seed).integers(0, config.vocab, options.prompt)
    prompt = [config.first_token, *(int(t) for t in drawn[1:])]
    return LlamaPrompt(Prefill(config, options.prompt, device, in_prompt), decode, prompt, options.tokens)


_DECODE_TYPES = frozenset(
    {"RMSNorm", "GEMV", "RoPE", "StridedCopy", "Repeat", "ElementwiseMul", "Softmax", "Transpose", "ElementwiseAdd"}
    | {"SiLU"}
)


def _shared(faults: Sequence[Any], config: LlamaConfig, tokens: int) -> tuple[list[Any], list[Any]]:
    """Which faults strike the prompt and which the decode.

    An operator type strikes wherever it runs. An address is the recording's, where each of the prompt's kernel calls is
    an invocation; only those of the decode can be told beforehand.
    """
    from fusion_replay.simulator.faults import parse_fault

    in_prompt, in_decode = [], []
    first = dispatches(config)
    for given in faults:
        fault = parse_fault(str(given))
        if fault.op is not None:
            strikes = fault.op in Prefill.TYPES, tokens > 1 and fault.op in _DECODE_TYPES
            if not any(strikes):
                raise UsageError(f"llama {config.name}: fault {fault} matches no step: no {fault.op} runs here")
            in_prompt += [fault] if strikes[0] else []
            in_decode += [fault] if strikes[1] else []
        elif fault.invocation is not None and first <= fault.invocation < first + tokens - 1:
            in_decode.append(replace(fault, invocation=fault.invocation - first))
        else:
            last = f" to {first + tokens - 2}" if tokens > 1 else ", of which there are none here"
            raise UsageError(
                f"llama {config.name}: fault {fault}: give an operator type, or an invocation of the decode: from "
                f"{first}{last}"
            )
    return in_prompt, in_decode


WORKLOAD = Workload(
    name="llama",
    summary="a prompt by individual operators, then greedy decoding by the runlist, as IRON's Llama 3.2 application",
    options=(
        WorkloadOption("config", str, "tiny", "model dimensions", choices=tuple(CONFIGS)),
        WorkloadOption("prompt", int, 13, "tokens of the prompt, drawn from the seed", minimum=2),
        WorkloadOption("tokens", int, 2, "tokens to generate; the first comes of the prompt", minimum=1),
        WorkloadOption("layers", int, None, "use only the first N layers", minimum=1),
        WorkloadOption("seed", int, 0, "seed of weights and prompt", minimum=0),
    ),
    builder=_build,
)

__all__ = ["WORKLOAD", "LlamaPrompt"]
