# SPDX-License-Identifier: Apache-2.0
"""Runlists of byte buffers, written down directly: what a step reads and writes is up to the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import SnapshotWriter

SIZE = 8


@dataclass(frozen=True)
class Use:
    buffer: str
    direction: str
    start: int = 0
    stop: int = SIZE


@dataclass(frozen=True)
class Entry:
    uses: tuple[Use, ...]
    op: str = "Mix"


def sequence(entries: Sequence[Entry], outputs: Sequence[str] = ()) -> SequenceDescription:
    names = dict.fromkeys(u.buffer for e in entries for u in e.uses)
    steps = []
    for i, entry in enumerate(entries):
        operands = tuple(
            OperandUse(ArgSpec(f"a{n}", u.direction, (u.stop - u.start,), "uint8"), u.buffer, u.start, u.stop)  # type: ignore[arg-type]
            for n, u in enumerate(entry.uses)
        )
        steps.append(StepDescription(i, i, operands))
    return SequenceDescription(
        name="bytes",
        operators=tuple(OperatorDescription(e.op, {}) for e in entries),
        buffers=tuple(BufferDescription(n, SIZE) for n in names),
        steps=tuple(steps),
        output_args=tuple(outputs),
    )


Kernel = Callable[[int, int, list[np.ndarray]], list[np.ndarray]]
"""(invocation, step, contents of the operands that are read) -> contents of those that are written."""


def mix(invocation: int, step: int, inputs: list[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    """Every output byte depends on every input byte and on the step."""
    seed = [step, *(int(b) for x in inputs for b in x)]
    return [np.random.default_rng([*seed, i]).integers(0, 256, n, np.uint8) for i, n in enumerate(sizes)]


def record(
    path: Path,
    entries: Sequence[Entry],
    *,
    invocations: int = 1,
    outputs: Sequence[str] = (),
    host: Mapping[int, Mapping[str, bytes]] | None = None,
    skipped: Sequence[tuple[int, int]] = (),
    faults: Mapping[tuple[int, int], Callable[[list[np.ndarray]], list[np.ndarray]]] | None = None,
    stop_after: tuple[int, int] | None = None,
    provenance: Mapping[str, object] | None = None,
) -> Path:
    """Run the entries on byte buffers and record them.

    Args:
        host: invocation -> buffer -> bytes that the host writes before it.
        skipped: (invocation, step) that run and are not recorded.
        faults: (invocation, step) -> what becomes of its outputs.
        stop_after: the kernel of this (invocation, step) never comes back.
    """
    description = sequence(entries, outputs)
    memory = {b.name: np.zeros(SIZE, np.uint8) for b in description.buffers}
    writer = SnapshotWriter(path, provenance={"host": "test", **(provenance or {})})
    number = writer.add_sequence(description)
    for i in range(invocations):
        for name, content in (host or {}).get(i, {}).items():
            memory[name][:] = np.frombuffer(content.ljust(SIZE, b"\0"), np.uint8)
        invocation = writer.begin_invocation(number)
        for step in description.steps:
            views = [memory[u.buffer][u.start : u.stop] for u in step.operands]
            reads = {p: views[p].copy() for p, u in enumerate(step.operands) if u.spec.reads}
            writes = [p for p, u in enumerate(step.operands) if u.spec.writes]
            if (i, step.index) not in skipped:
                writer.begin_step(invocation, step.index, reads)
            if (i, step.index) == stop_after:
                return writer.close().path
            results = mix(i, step.index, list(reads.values()), [views[p].size for p in writes])
            results = (faults or {}).get((i, step.index), lambda given: given)(results)
            for p, result in zip(writes, results, strict=True):
                views[p][:] = result
            if (i, step.index) not in skipped:
                writer.end_step(invocation, step.index, {p: views[p].copy() for p in writes})
        writer.end_invocation(invocation)
    return writer.close().path
