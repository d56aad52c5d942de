# SPDX-License-Identifier: Apache-2.0
"""What stands around a step: who wrote its inputs, who reads its outputs, and how its error went on from there.

Tested in tests/report/page/test_replay_page.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.compare.verdict import deviation
from fusion_replay.diverge.dataflow import CHANGED, OUTSIDE
from fusion_replay.model.replaced_step import ReplacedStep
from fusion_replay.replaying.judge import NotComparedError, Plan, evaluate_step
from fusion_replay.report.page.steps import number

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusion_replay.diverge.dataflow import Dataflow
    from fusion_replay.model.step import RecordedTensor
    from fusion_replay.snapshot import RecordedStep, Snapshot

LEVELS = 2  # of the dataflow, up and down
_WIDE = 6  # steps shown in a level
READERS = 6
"""Steps whose part in handing an error on is computed."""


@dataclass(frozen=True)
class Around:
    """The dataflow of one recording, asked step by step."""

    snapshot: Snapshot
    graph: Dataflow
    plan: Plan

    def sources(self, step: RecordedStep, position: int) -> list[dict[str, Any]]:
        """Who wrote what an operand reads: addresses, "outside" or "not recorded", and what changed on the way."""
        row = self.graph.row(step.invocation, step.index)
        found: dict[str, bool] = {}
        for edge in () if row is None else self.graph.sources(row, position):
            producer = int(edge["producer"])
            name = self.graph.address(producer) if producer >= 0 else "outside" if producer == OUTSIDE else "unseen"
            found[name] = found.get(name, False) or int(edge["state"]) == CHANGED
        return [{"from": name, "changed": changed} for name, changed in found.items()]

    def readers(self, step: RecordedStep) -> list[str]:
        """Addresses of the steps that read what it wrote, in order."""
        row = self.graph.row(step.invocation, step.index)
        edges = () if row is None else self.graph.readers(row)
        return [self.graph.address(r) for r in sorted({int(e["consumer"]) for e in edges})]

    def neighbours(self, step: RecordedStep) -> list[str]:
        """Addresses of the recorded steps next to it in the dataflow."""
        row = self.graph.row(step.invocation, step.index)
        if row is None:
            return []
        producers = sorted({int(e["producer"]) for e in self.graph.sources(row) if e["producer"] >= 0})
        return [*map(self.graph.address, producers), *self.readers(step)[:READERS]]

    def carried(self, step: RecordedStep, output: RecordedTensor, truth: npt.NDArray[Any]) -> list[dict[str, Any]]:
        """Of the first readers of a wrong output: what error they were handed, and what they made of it.

        Each is evaluated on what it read with ``truth`` in the place of that output; what it wrote is then off by
        what it was handed alone, as far as it is right itself.
        """
        row = self.graph.row(step.invocation, step.index)
        if row is None:
            return []
        handed = deviation(output.numpy(), truth).rel_l2
        found = []
        for consumer in sorted({int(e["consumer"]) for e in self.graph.readers(row, output.position)})[:READERS]:
            reader = self.snapshot.at(consumer)
            left = self._left(reader, output, truth)
            told = None if left is None else number(left)
            found.append({"address": reader.address, "handed": number(handed), "left": told})
        return found

    def _left(self, reader: RecordedStep, output: RecordedTensor, truth: npt.NDArray[Any]) -> float | None:
        def read(tensor: RecordedTensor) -> npt.NDArray[Any]:
            recorded = tensor.numpy()
            use, wrote = tensor.use, output.use
            if use.buffer != wrote.buffer or tensor.dtype != output.dtype:
                return recorded
            lo, hi = max(use.start, wrote.start), min(use.end, wrote.end)
            if lo >= hi:
                return recorded
            patched = np.array(recorded).reshape(-1)
            size = patched.dtype.itemsize
            piece = truth.reshape(-1)[(lo - wrote.start) // size : (hi - wrote.start) // size]
            patched[(lo - use.start) // size : (hi - use.start) // size] = piece
            return patched.reshape(recorded.shape)

        if not all(t.kept for t in (*reader.inputs.in_order(), *reader.outputs.in_order())):
            return None
        try:
            right = evaluate_step(ReplacedStep(reader, read=read), self.plan).results
        except NotComparedError:
            return None
        return max(deviation(t.numpy(), r).rel_l2 for t, r in zip(reader.outputs.in_order(), right, strict=True))

    def flow(self, step: RecordedStep) -> dict[str, Any] | None:
        """Nodes by level (negative: upstream) and edges between them, two levels each way."""
        row = self.graph.row(step.invocation, step.index)
        if row is None:
            return None
        nodes, hidden = {row: 0}, 0
        for sign, edges_of, other in ((-1, self.graph.sources, "producer"), (1, self.graph.readers, "consumer")):
            level = [row]
            for depth in range(1, LEVELS + 1):
                met = (int(e[other]) for r in level for e in edges_of(r))
                fresh = list(dict.fromkeys(r for r in met if r >= 0 and r not in nodes))
                level = fresh[:_WIDE]
                hidden += len(fresh) - len(level)
                nodes.update((r, sign * depth) for r in level)
        edges: dict[tuple[int, int, str], int] = {}
        for consumer in nodes:
            operands = self.snapshot.at(consumer).description.operands
            for edge in self.graph.sources(consumer):
                if (producer := int(edge["producer"])) in nodes:
                    key = producer, consumer, operands[int(edge["position"])].buffer
                    edges[key] = edges.get(key, 0) + int(edge["stop"] - edge["start"])
        address = self.graph.address
        return {
            "nodes": [[address(r), level] for r, level in nodes.items()],
            "edges": [[address(p), address(c), buffer, size] for (p, c, buffer), size in edges.items()],
            "hidden": hidden,
        }


def near(addresses: Iterable[str], around: Around) -> list[str]:
    """These and their neighbours, none twice, in that order."""
    chosen = dict.fromkeys(addresses)
    for address in list(chosen):
        chosen.update(dict.fromkeys(around.neighbours(around.snapshot[address])))
    return list(chosen)


__all__ = ["Around", "near"]
