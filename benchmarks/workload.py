# SPDX-License-Identifier: Apache-2.0
"""The tensors that the benchmarks record: four tokens of a decode of eight layers, 20 steps a layer.

640 steps with 1,856 operand rows; 309 MB of weights that every token reads, two caches of 1.31 MB a layer of which
every token changes eight rows: 1,495 MB seen, 417 MB different. All of it is made before anything is timed. Contents
are synthetic (gaussian weights with a scale per row, gaussian activations): no step's output is computed from its
inputs, so this is for storing, not for judging.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import xxhash

from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.encodings.side_file import WEIGHTS_FROM
from fusion_replay.snapshot.write.write_report import WriteReport
from fusion_replay.sources.protocol import StepObserver, StepResult

BF16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of the decode; elements. The default is the workload that the documented figures are of."""

    layers: int = 8
    tokens: int = 4
    emb: int = 1536
    hidden: int = 2816
    kv_heads: int = 8
    head_dim: int = 64
    context: int = 1280
    filled: int = 160  # positions of the caches that hold something when the first token comes

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim


TINY = Size(layers=2, tokens=2, emb=64, hidden=128, kv_heads=2, head_dim=32, context=64, filled=8)


@dataclass(slots=True)
class Step:
    """One step of one invocation; arrays by operand position."""

    invocation: int
    index: int
    inputs: dict[int, np.ndarray]
    outputs: dict[int, np.ndarray]
    previous: dict[int, np.ndarray] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)

    def arrays(self) -> Iterator[np.ndarray]:
        yield from self.inputs.values()
        yield from self.previous.values()
        yield from self.outputs.values()


@dataclass(frozen=True)
class Workload:
    """A runlist and every tensor that its invocations see, in the order in which a recorder sees them."""

    sequence: SequenceDescription
    steps: list[Step]

    def arrays(self) -> Iterator[np.ndarray]:
        for step in self.steps:
            yield from step.arrays()

    @property
    def bytes_seen(self) -> int:
        return sum(a.nbytes for a in self.arrays())

    def unique(self) -> list[np.ndarray]:
        """Every content once, in the order of its first appearance."""
        return list({xxhash.xxh3_128_digest(a.reshape(-1).view(np.uint8)): a for a in self.arrays()}.values())


def record(workload: Workload, writer: SnapshotWriter) -> WriteReport:
    """Record all of it and seal."""
    dispatch(workload, writer)
    return writer.close()


def dispatch(workload: Workload, writer: SnapshotWriter) -> None:
    """What the dispatching thread does; sealing is left to the caller."""
    sequence = writer.add_sequence(workload.sequence)
    invocation = -1
    for step in workload.steps:
        if step.invocation != invocation:
            if invocation >= 0:
                writer.end_invocation(invocation)
            invocation = writer.begin_invocation(sequence)
        writer.begin_step(invocation, step.index, step.inputs, previous=step.previous, values=step.values)
        writer.end_step(invocation, step.index, step.outputs, elapsed_ns=1000)
    writer.end_invocation(invocation)


class Live:
    """A step as a source shows it to a recorder: arrays by what its buffers hold, weights named."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._held: dict[str, np.ndarray] = {}
        written = {u.buffer for s in workload.sequence.steps for u in s.operands if u.spec.writes}
        large = {b.name for b in workload.sequence.buffers if b.nbytes >= WEIGHTS_FROM}
        self.static = frozenset(large - written - set(workload.sequence.input_args))
        self.description = workload.sequence.steps[0]
        self.values: Mapping[str, int] = {}
        self.places: Mapping[int, int] = {}

    def put(self, step: Step) -> None:
        """Before the kernel of ``step``."""
        self.description, self.values = self._workload.sequence.steps[step.index], step.values
        self._hold({**step.previous, **step.inputs})

    def compute(self, step: Step) -> None:
        self._hold(step.outputs)

    def read(self, position: int) -> np.ndarray:
        use = self.description.operands[position]
        held = self._held.get(use.buffer)
        return np.zeros(use.spec.shape, BF16) if held is None else held

    def _hold(self, arrays: Mapping[int, np.ndarray]) -> None:
        for position, array in arrays.items():
            self._held[self.description.operands[position].buffer] = array


def watch(workload: Workload, observer: StepObserver) -> None:
    """As :func:`dispatch`, through what watches a source: weights are looked at once, old contents of outputs too."""
    live = Live(workload)
    invocation = -1
    for step in workload.steps:
        if step.invocation != invocation:
            if invocation >= 0:
                observer.invocation_finished()
            observer.invocation_started(workload.sequence)
            invocation = step.invocation
        live.put(step)
        observer.before(live)
        live.compute(step)
        observer.after(live, StepResult(1000))
    observer.invocation_finished()


def make(size: Size | None = None, seed: int = 0) -> Workload:
    """The workload, from ``seed`` alone."""
    return _Maker(size or Size(), seed).make()


class _Maker:
    def __init__(self, size: Size, seed: int) -> None:
        self.size = size
        self._rng = np.random.default_rng(seed)
        self._noise = self._rng.standard_normal(1 << 20, np.float32)
        self._operators: dict[str, OperatorDescription] = {}
        self._runlist: list[StepDescription] = []
        self._steps: list[Step] = []
        self._state: dict[str, np.ndarray] = {}

    def make(self) -> Workload:
        s = self.size
        for layer in range(s.layers):
            for name, shape in self._weights().items():
                self._state[f"{name}_{layer}"] = self._tensor(shape)
            for name in ("keys", "values"):
                cache = np.zeros((s.kv_heads, s.context, s.head_dim), BF16)
                cache[:, : s.filled] = self._tensor((s.kv_heads, s.filled, s.head_dim))
                self._state[f"{name}_cache_{layer}"] = cache
        for token in range(s.tokens):
            self._state["x"] = self._tensor((s.emb,))
            self._state["angles"] = self._tensor((s.head_dim,))
            for layer in range(s.layers):
                self._layer(token, layer)
        operators = list(self._operators)
        sequence = SequenceDescription(
            name="decode",
            operators=tuple(self._operators.values()),
            buffers=tuple(
                BufferDescription(n, a.nbytes, "input" if n in ("x", "angles") else "scratch", _is_external(n))
                for n, a in self._state.items()
            ),
            steps=tuple(self._runlist),
            input_args=("x", "angles"),
            output_args=("x",),
            origin={"variant": "benchmark"},
        )
        assert len(operators) == len(set(operators))
        return Workload(sequence, self._steps)

    def _weights(self) -> dict[str, tuple[int, ...]]:
        s = self.size
        return {
            "W_norm1": (s.emb,),
            "W_query": (s.emb, s.emb),
            "W_key": (s.kv, s.emb),
            "W_value": (s.kv, s.emb),
            "W_output": (s.emb, s.emb),
            "W_norm2": (s.emb,),
            "W_gate": (s.hidden, s.emb),
            "W_up": (s.hidden, s.emb),
            "W_down": (s.emb, s.hidden),
        }

    def _layer(self, token: int, i: int) -> None:
        s = self.size
        self._step(token, i, 0, "RMSNorm", {"A": "x", "B": f"W_norm1_{i}"}, "C", "x_norm", (s.emb,))
        self._step(token, i, 1, "GEMV", {"A": f"W_query_{i}", "B": "x_norm"}, "C", "queries", (s.emb,))
        self._step(token, i, 2, "GEMV", {"A": f"W_key_{i}", "B": "x_norm"}, "C", "keys", (s.kv,))
        self._step(token, i, 3, "GEMV", {"A": f"W_value_{i}", "B": "x_norm"}, "C", "values", (s.kv,))
        self._step(token, i, 4, "RoPE", {"A": "queries", "angles": "angles"}, "C", "queries", (s.emb,))
        self._step(token, i, 5, "RoPE", {"A": "keys", "angles": "angles"}, "C", "keys", (s.kv,))
        self._cache(token, i, 6, "keys")
        self._cache(token, i, 7, "values")
        scores = (s.kv_heads, s.context)
        self._step(token, i, 8, "GEMV", {"A": f"keys_cache_{i}", "B": "queries"}, "C", "scores", scores)
        self._step(token, i, 9, "ElementwiseMul", {"A": "scores", "B": "scores"}, "C", "scaled", scores)
        self._step(token, i, 10, "Softmax", {"A": "scaled"}, "B", "shares", scores)
        self._step(token, i, 11, "GEMV", {"A": f"values_cache_{i}", "B": "shares"}, "C", "context", (s.emb,))
        self._step(token, i, 12, "GEMV", {"A": f"W_output_{i}", "B": "context"}, "C", "attended", (s.emb,))
        self._step(token, i, 13, "ElementwiseAdd", {"A": "x", "B": "attended"}, "C", "x", (s.emb,))
        self._step(token, i, 14, "RMSNorm", {"A": "x", "B": f"W_norm2_{i}"}, "C", "x_norm", (s.emb,))
        self._step(token, i, 15, "GEMV", {"A": f"W_gate_{i}", "B": "x_norm"}, "C", "gate", (s.hidden,))
        self._step(token, i, 16, "GEMV", {"A": f"W_up_{i}", "B": "x_norm"}, "C", "up", (s.hidden,))
        self._step(token, i, 17, "SiLU", {"A": "gate"}, "B", "gate", (s.hidden,))
        self._step(token, i, 18, "ElementwiseMul", {"A": "gate", "B": "up"}, "C", "hidden", (s.hidden,))
        self._step(token, i, 19, "GEMV", {"A": f"W_down_{i}", "B": "hidden"}, "C", "x", (s.emb,))

    def _step(
        self, token: int, layer: int, at: int, op: str, reads: dict[str, str], name: str, out: str, shape: tuple
    ) -> None:
        made = self._tensor(shape)
        inputs = {i: self._state[buffer] for i, buffer in enumerate(reads.values())}
        uses = [OperandUse(ArgSpec(arg, "in", self._state[b].shape), b) for arg, b in reads.items()]
        uses.append(OperandUse(ArgSpec(name, "out", shape), out))
        self._state[out] = made
        key = f"{op}_{at}"
        self._operators.setdefault(key, OperatorDescription(op, {"size": made.size}))
        self._add(token, layer, at, key, uses, Step(token, self._index(layer, at), inputs, {len(reads): made}))

    def _cache(self, token: int, layer: int, at: int, what: str) -> None:
        """One row of each head goes into its cache, as IRON's StridedCopy with an offset of the call does it."""
        s = self.size
        name = f"{what}_cache_{layer}"
        new, old, position = self._state[what], self._state[name], s.filled + token
        cache = old.copy()
        cache[:, position] = new.reshape(s.kv_heads, s.head_dim)
        self._state[name] = cache
        params = {
            "input_sizes": [s.kv_heads, s.head_dim],
            "input_strides": [s.head_dim, 1],
            "input_offset": 0,
            "output_sizes": [1, s.kv_heads, s.head_dim],
            "output_strides": [0, s.context * s.head_dim, 1],
            "output_offset": 0,
            "input_buffer_size": s.kv,
            "output_buffer_size": cache.size,
            "num_aie_channels": 1,
            "output_offset_parameter": "cache_offset",
        }
        self._operators.setdefault("StridedCopy", OperatorDescription("StridedCopy", params))
        uses = [OperandUse(ArgSpec("A", "in", new.shape), what), OperandUse(ArgSpec("B", "out", cache.shape), name)]
        values = {"cache_offset": position * s.head_dim}
        step = Step(token, self._index(layer, at), {0: new}, {1: cache}, {1: old}, values)
        self._add(token, layer, at, "StridedCopy", uses, step)

    def _add(self, token: int, layer: int, at: int, operator: str, uses: list[OperandUse], step: Step) -> None:
        self._steps.append(step)
        if token == 0:
            number = list(self._operators).index(operator)
            self._runlist.append(StepDescription(self._index(layer, at), number, tuple(uses)))

    def _index(self, layer: int, at: int) -> int:
        return 20 * layer + at

    def _tensor(self, shape: tuple[int, ...]) -> np.ndarray:
        """Gaussian, with a scale per row; no two alike."""
        count = int(np.prod(shape))
        start = int(self._rng.integers(0, self._noise.size))
        values = np.resize(np.roll(self._noise, -start), count).reshape(shape)
        if len(shape) > 1:
            values = values * self._rng.uniform(0.01, 0.05, (*shape[:-1], 1)).astype(np.float32)
        return _bf16(values)


def _bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest even; the inputs are finite."""
    words: Any = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(np.uint16).view(BF16)


def _is_external(buffer: str) -> bool:
    return buffer in ("x", "angles") or buffer.startswith("W_") or "_cache_" in buffer
