# SPDX-License-Identifier: Apache-2.0
"""Random runlists that mostly move data, run on plain numpy: what a recording of them must give back is kept here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import Snapshot, SnapshotWriter
from snapshot_maker import BF16, bits

ROWS, COLUMNS = 256, 64  # of the cache: 32 KiB, eight blocks of 4 KiB


@dataclass
class Machine:
    """Buffers and a runlist over them; :meth:`run` records one invocation and remembers every operand's bytes."""

    seed: int
    fault_rate: float = 0.0
    seen: dict[tuple[int, int, str, int], bytes] = field(default_factory=dict)
    """(invocation, step, side, position) -> bytes."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.operators: list[OperatorDescription] = []
        self.steps: list[StepDescription] = []
        size = ROWS * COLUMNS
        self.memory = {
            "cache": self._noise(size),
            "row": self._noise(COLUMNS),
            "wide": self._noise(2 * size),
            "turned": self._noise(2 * size),
            "other": self._noise(2 * size),
        }
        for _ in range(int(self.rng.integers(4, 12))):
            getattr(self, str(self.rng.choice(["_noise_row", "_write_row", "_repeat", "_turn_halves", "_read_all"])))()
        buffers = tuple(BufferDescription(name, data.nbytes) for name, data in self.memory.items())
        self.sequence = SequenceDescription("moves", tuple(self.operators), buffers, tuple(self.steps))

    def _noise(self, n: int) -> np.ndarray:
        return self.rng.standard_normal(n).astype(np.float32).astype(BF16)

    def _add(self, kind: str, params: dict[str, Any], *uses: OperandUse) -> None:
        self.operators.append(OperatorDescription(kind, params))
        self.steps.append(StepDescription(len(self.steps), len(self.operators) - 1, uses))

    def _noise_row(self) -> None:
        self._add("Noise", {}, OperandUse(ArgSpec("C", "out", (COLUMNS,)), "row"))

    def _write_row(self) -> None:
        size = ROWS * COLUMNS
        params = {
            "input_sizes": [COLUMNS], "input_strides": [1], "input_offset": 0,
            "output_sizes": [COLUMNS], "output_strides": [1], "output_offset": 0,
            "input_buffer_size": COLUMNS, "output_buffer_size": size,
        }  # fmt: skip
        use = OperandUse(ArgSpec("C", "out", (size,)), "cache")
        self._add("StridedCopy", params, OperandUse(ArgSpec("A", "in", (COLUMNS,)), "row"), use)

    def _repeat(self) -> None:
        params = {"rows": 2, "cols": ROWS * COLUMNS // 2, "repeat": 2}
        a = ArgSpec("A", "in", (2, ROWS * COLUMNS // 2))
        c = ArgSpec("C", "out", (4, ROWS * COLUMNS // 2))
        self._add("Repeat", params, OperandUse(a, "cache"), OperandUse(c, "wide"))

    def _turn_halves(self) -> None:
        size, target = ROWS * COLUMNS, str(self.rng.choice(["turned", "other"]))
        for start in (0, 2 * size):
            spec = ArgSpec("A", "in", (size,)), ArgSpec("C", "out", (size,))
            uses = (OperandUse(s, b, start, start + 2 * size) for s, b in zip(spec, ("wide", target), strict=True))
            self._add("Transpose", {"M": ROWS, "N": COLUMNS}, *uses)

    def _read_all(self) -> None:
        name = str(self.rng.choice(["turned", "other", "wide", "cache"]))
        use = OperandUse(ArgSpec("A", "in", (len(self.memory[name]),)), name)
        self._add("Look", {}, use, OperandUse(ArgSpec("C", "out", (COLUMNS,)), "row"))

    def run(self, writer: SnapshotWriter, sequence: int) -> int:
        invocation = writer.begin_invocation(sequence)
        for step in self.steps:
            self._step(writer, invocation, step)
        writer.end_invocation(invocation)
        return invocation

    def _step(self, writer: SnapshotWriter, invocation: int, step: StepDescription) -> None:
        kind, views = self.operators[step.operator].type, [self._view(use) for use in step.operands]
        reads = {i: views[i] for i, use in enumerate(step.operands) if use.spec.reads}
        writes = {i: views[i] for i, use in enumerate(step.operands) if use.spec.writes}
        values = {"output_offset": int(self.rng.integers(ROWS)) * COLUMNS} if kind == "StridedCopy" else {}
        old = dict(writes) if kind in ("StridedCopy", "Noise") else {}
        for side, arrays in (("in", reads), ("old", old)):
            for i, array in arrays.items():
                self.seen[invocation, step.index, side, i] = bits(array)
        watched = {i: a for i, a in writes.items() if i not in old}
        writer.begin_step(invocation, step.index, reads, previous=old, watched=watched, values=values)
        match kind:
            case "Noise" | "Look":
                views[-1][:] = self._noise(COLUMNS)
            case "StridedCopy":
                views[1][values["output_offset"] :][:COLUMNS] = views[0]
            case "Repeat":
                half = len(views[0]) // 2
                views[1][:] = np.concatenate([views[0][:half], views[0][:half], views[0][half:], views[0][half:]])
            case "Transpose":
                for i in range(ROWS):
                    views[1][i::ROWS] = views[0][i * COLUMNS : (i + 1) * COLUMNS]
        if self.rng.random() < self.fault_rate:
            (target,) = writes.values()
            target[int(self.rng.integers(len(target)))] = self._noise(1)[0]
        for i, array in writes.items():
            self.seen[invocation, step.index, "out", i] = bits(array)
        writer.end_step(invocation, step.index, writes)

    def _view(self, use: OperandUse) -> np.ndarray:
        return self.memory[use.buffer][use.start // 2 : use.start // 2 + use.spec.size]

    def check(self, snap: Snapshot, *, all_there: bool = True) -> int:
        """Every operand that the recording has against what was there; how many were compared."""
        compared = 0
        for step in snap:
            sides = {"in": step.inputs.values(), "out": step.outputs.values()}
            sides["old"] = [t.previous for t in step.outputs.values() if t.previous is not None]
            for side, tensors in sides.items():
                for tensor in tensors:
                    if tensor.row is None and not all_there:
                        continue
                    if not tensor.kept and (not all_there or side == "old"):
                        continue
                    was = self.seen[step.invocation, step.index, side, tensor.position]
                    assert bits(tensor.numpy()) == was, f"{step.label} {tensor.name}"
                    compared += 1
        return compared


def recorded(path: Path, machine: Machine, invocations: int, *, close: bool = True) -> Path:
    """A recording of ``invocations`` of the machine's runlist; its path, of the journal where it was not closed."""
    writer = SnapshotWriter(path)
    sequence = writer.add_sequence(machine.sequence)
    for _ in range(invocations):
        machine.run(writer, sequence)
    if close:
        return writer.close().path
    writer.abandon()
    return path.with_name(path.name + ".journal")
