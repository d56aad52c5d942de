# SPDX-License-Identifier: Apache-2.0
"""Where a recording may hold a model's tensor: every output, every input from outside, and its place in a layer.

A runlist repeats itself, layer by layer. Two steps of the same flow (numbers in names left out) in different layers are
at the same *spot*: what is found for one layer holds for the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fusion_replay.diverge.dataflow import OUTSIDE
from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import static_buffers

if TYPE_CHECKING:
    from fusion_replay.diverge.dataflow import Dataflow
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import Snapshot

_FLOATS = frozenset(("bfloat16", "float16", "float32", "float64"))


@dataclass(frozen=True, slots=True)
class Location:
    """One content of a step.

    Attributes:
        row: of the step in the recording's table; ``position`` of the operand in its runlist entry.
        output: whether the step wrote it; else it came from outside and the step read it.
        address, buffer: for people.
        elements: how many.
        content: number of the contents; equal for equal ones.
        spot, layer: where in which layer; ``layer`` is None outside the part that repeats.
    """

    row: int
    position: int
    output: bool
    address: str
    buffer: str
    elements: int
    content: int
    spot: tuple[str, int, int]
    layer: int | None

    @property
    def label(self) -> str:
        """``3:412 hidden``."""
        return f"{self.address} {self.buffer}"


@dataclass(frozen=True)
class Places:
    """Of the part of a recording that an oracle is about.

    Attributes:
        rows: its steps' rows, in order.
        all: every place, in the order of the steps.
        hints: lengths of the axes that the runlist knows.
        layers: how often the runlist repeats itself.
        touched: the first row that touches each buffer.
    """

    rows: tuple[int, ...]
    all: tuple[Location, ...]
    hints: frozenset[int]
    layers: int
    touched: Mapping[str, int] = field(default_factory=dict)

    def at(self, like: Location, layer: int) -> Location | None:
        """The place in this layer that is at the spot of ``like``."""
        return self._by_spot.get((like.spot, like.output, layer))

    @cached_property
    def _by_spot(self) -> dict[tuple[tuple[str, int, int], bool, int | None], Location]:
        return {(p.spot, p.output, p.layer): p for p in self.all}


def rows_of(snapshot: Snapshot, invocation: int | None) -> tuple[int, ...]:
    """The steps that an oracle of one call is about: those of one invocation, or of all where each is one step.

    Raises:
        UsageError: no such invocation.
    """
    steps = snapshot.index.steps
    of = steps["invocation"]
    if invocation is None:
        counts = np.bincount(of, minlength=1)
        if counts.max() <= 1:
            return tuple(range(len(steps)))
        longest = [i.index for i in snapshot.invocations if i.status == "complete"] or [int(counts.argmax())]
        most = max(int(counts[i]) for i in longest)
        invocation = max(i for i in longest if counts[i] == most)
    rows = tuple(np.flatnonzero(of == invocation).tolist())
    if not rows:
        raise UsageError(f"{snapshot.path}: no invocation {invocation}; it has {len(snapshot.invocations)}")
    return rows


def places(snapshot: Snapshot, graph: Dataflow, rows: tuple[int, ...]) -> Places:
    """Every content of these steps that may be a tensor of the model: floats that are no weights."""
    steps = [snapshot.at(row) for row in rows]
    spots = _spots(steps)
    weights = {id(s): static_buffers(s) for s in {id(step.sequence): step.sequence for step in steps}.values()}
    found: list[Location] = []
    hints: set[int] = set()
    touched: dict[str, int] = {}
    for step, row, (spot, occurrence, layer) in zip(steps, rows, spots, strict=True):
        for use in step.description.operands:
            touched.setdefault(use.buffer, row)
        outside = set(graph.sources(row)["position"][graph.sources(row)["producer"] == OUTSIDE].tolist())
        reads = [
            t
            for t in step.inputs.in_order()
            if t.position in outside and t.use.buffer not in weights[id(step.sequence)]
        ]
        for output, tensors in ((False, reads), (True, step.outputs.in_order())):
            for tensor in tensors:
                if tensor.dtype in _FLOATS and tensor.kept:
                    hints.update(n for n in tensor.shape if n > 1)
                    found.append(_place(step, row, tensor, output, (spot, occurrence, tensor.position), layer))
    layers = 1 + max((p.layer for p in found if p.layer is not None), default=-1)
    return Places(rows, tuple(found), frozenset(hints), layers, touched)


# --- parts ----------------------------------------------------------------------------------------------------------


def _place(
    step: Step, row: int, tensor: RecordedTensor, output: bool, spot: tuple[str, int, int], layer: int | None
) -> Location:
    assert tensor.row is not None
    size = tensor.use.spec.size
    return Location(row, tensor.position, output, step.address, tensor.buffer, size, tensor.row, spot, layer)


def _spots(steps: Sequence[Step]) -> list[tuple[str, int, int | None]]:
    """Per step: its flow without numbers, how many of that flow came before it in its layer, and the layer."""
    flows = [_flow(step) for step in steps]
    first = _first_of_layer(flows)
    layer: int | None = None
    seen: Counter[str] = Counter()
    found: list[tuple[str, int, int | None]] = []
    for flow in flows:
        if flow == first:
            layer = 0 if layer is None else layer + 1
            seen.clear()
        found.append((flow, seen[flow], layer))
        seen[flow] += 1
    return found


def _flow(step: Step) -> str:
    """Names without their numbers, slices kept; of steps given as arrays, whose names are arguments, the operator."""
    uses = step.description.operands
    names = [f"{re.sub('[0-9]+', '#', u.buffer)}{u.start if u.stop is not None else ''}" for u in uses]
    op = f"{step.op.type} " if len(step.sequence.steps) == 1 else ""
    return f"{op}{' '.join(names)}"


def _first_of_layer(flows: list[str]) -> str | None:
    """The flow that begins each layer: the first of those that come as often as most do; None where nothing repeats."""
    counts = Counter(flows)
    often = Counter(n for n in counts.values() if n > 1)
    if not often:
        return None
    layers = max(often, key=lambda n: (often[n], n))
    return next(flow for flow in flows if counts[flow] == layers)


__all__ = ["Location", "Places", "places", "rows_of"]
