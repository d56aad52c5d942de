# SPDX-License-Identifier: Apache-2.0
"""Finds inputs clobbered between steps: contents other than those that the last step to write there left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fusion_replay.model.byte_spans import ByteSpans
from fusion_replay.model.runlist import SequenceDescription, StepDescription

Operand = tuple[int, int]
"""Step and operand position."""


@dataclass(slots=True)
class _Running:
    """Digests of what the steps of one invocation wrote so far."""

    invocation: int
    written: dict[Operand, bytes]


class Clobbering:
    """Compares each input with the output it should be; one per writer, whose lock is held.

    Only reads of exactly the bytes that one earlier step wrote as a whole can be compared by their digests; of several
    invocations of one sequence that run at a time the newest is followed.
    """

    def __init__(self) -> None:
        self._producers: list[dict[Operand, Operand]] = []
        self._running: dict[int, _Running] = {}
        self._uses: list[tuple[StepDescription, ...]] = []
        self._moved: set[tuple[int, str]] = set()

    def add_sequence(self, sequence: SequenceDescription) -> None:
        self._producers.append(producers(sequence))
        self._uses.append(sequence.steps)

    def moves(self, sequence: int, buffer: str) -> None:
        """Calls have operands in this buffer elsewhere than the runlist says: who should have written what is open."""
        self._moved.add((sequence, buffer))

    def wrote(self, sequence: int, invocation: int, step: int, outputs: Mapping[int, bytes]) -> None:
        """Step ``step`` left these digests, by operand position."""
        running = self._running.get(sequence)
        if running is None or running.invocation < invocation:
            running = self._running[sequence] = _Running(invocation, {})
        if running.invocation == invocation:
            running.written.update({(step, position): digest for position, digest in outputs.items()})

    def found(self, sequence: int, invocation: int, step: int, inputs: Mapping[int, bytes]) -> dict[int, Operand]:
        """Those inputs that differ from what was written: by position, who wrote it."""
        running = self._running.get(sequence)
        if running is None or running.invocation != invocation:
            return {}
        found = {}
        for position, digest in inputs.items():
            producer = self._producers[sequence].get((step, position))
            if (sequence, self._uses[sequence][step].operands[position].buffer) in self._moved:
                continue
            if producer is not None and running.written.get(producer, digest) != digest:
                found[position] = producer
        return found


def producers(sequence: SequenceDescription) -> dict[Operand, Operand]:
    """For every read of exactly the bytes that one earlier step wrote, unless others wrote into them since: that step.

    A step that reads what it writes itself (in place) reads first.
    """
    found: dict[Operand, Operand] = {}
    last: ByteSpans[tuple[int, int, Operand]] = ByteSpans()  # all that an operand wrote
    for step in sequence.steps:
        for position, use in enumerate(step.operands):
            if use.spec.reads:
                spans = last.read(use.buffer, use.start, use.end)
                writer = spans[0].writer if len(spans) == 1 else None
                if writer is not None and writer[:2] == (use.start, use.end):
                    found[step.index, position] = writer[2]
        for position, use in enumerate(step.operands):
            if use.spec.writes:
                last.write(use.buffer, use.start, use.end, (use.start, use.end, (step.index, position)))
    return found
