# SPDX-License-Identifier: Apache-2.0
"""What a stretch of recorded steps takes from before it and what it leaves, as bytes of buffers.

Tested in tests/diverge/test_bisect_fused.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.errors import MissingError
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.byte_spans import ByteSpans

if TYPE_CHECKING:
    from fusion_replay.model.runlist import OperatorDescription, SequenceDescription
    from fusion_replay.model.step import RecordedTensor, Step

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class HeldBytes:
    """Bytes ``start`` to ``stop`` of a buffer, as ``tensor`` (an operand of ``step``) holds them."""

    buffer: str
    start: int
    stop: int
    step: Step
    tensor: RecordedTensor

    def read(self) -> Bytes:
        """
        Raises:
            MissingError: its contents were not kept; names step and buffer.
        """
        if not self.tensor.kept:
            raise MissingError(
                f"{self.step.label}: the contents of {self.tensor.buffer} {self.tensor.absent}; record the separate "
                "run with level 'full' and without filters"
            )
        lo = self.start - self.tensor.use.start
        return flat_bytes(self.tensor.numpy())[lo : lo + self.stop - self.start]


@dataclass(frozen=True, slots=True)
class Boundary:
    """``reads``: what the steps use before they write it. ``leaves``: what each byte that they write ends as."""

    reads: tuple[HeldBytes, ...]
    leaves: tuple[HeldBytes, ...]


def boundary(steps: Iterable[Step]) -> Boundary:
    """Of steps of one invocation, in their order.

    A step that writes part of its output (a copy into a cache) takes the rest from before it.
    """
    held: ByteSpans[tuple[Step, RecordedTensor]] = ByteSpans()
    reads: list[HeldBytes] = []
    given: ByteSpans[bool] = ByteSpans()

    def take(step: Step, tensor: RecordedTensor) -> None:
        use = tensor.use
        for lo, hi, known in given.read(use.buffer, use.start, use.end):
            if known is None:
                reads.append(HeldBytes(use.buffer, lo, hi, step, tensor))
                given.write(use.buffer, lo, hi, True)

    for step in steps:
        outputs = step.outputs.in_order()
        for tensor in step.inputs.in_order():
            take(step, tensor)
        if _may_keep(step.op):
            for tensor in outputs:
                if tensor.previous is not None:
                    take(step, tensor.previous)
        for tensor in outputs:
            use = tensor.use
            held.write(use.buffer, use.start, use.end, (step, tensor))
            given.write(use.buffer, use.start, use.end, True)
    leaves = (HeldBytes(tensor.use.buffer, lo, hi, step, tensor) for lo, hi, (step, tensor) in held)
    return Boundary(tuple(reads), tuple(leaves))


def needed_after(sequence: SequenceDescription, stop: int) -> ByteSpans[bool]:
    """The bytes that count once the first ``stop`` steps of a runlist have run: read later before they are written,
    an output of the sequence, or kept for its next call."""
    rewritten: ByteSpans[bool] = ByteSpans()
    needed: ByteSpans[bool] = ByteSpans()

    def ask(buffer: str, start: int, end: int) -> None:
        for lo, hi, written in rewritten.read(buffer, start, end):
            if written is None:
                needed.write(buffer, lo, hi, True)

    for step in sequence.steps[stop:]:
        partial = _may_keep(sequence.operators[step.operator])
        for use in step.operands:
            if use.spec.reads or partial:
                ask(use.buffer, use.start, use.end)
        if not partial:
            for use in step.operands:
                if use.spec.writes:
                    rewritten.write(use.buffer, use.start, use.end, True)
    for buffer in sequence.buffers:
        if buffer.external or buffer.name in sequence.output_args:
            ask(buffer.name, 0, buffer.nbytes)
    return needed


def _may_keep(op: OperatorDescription) -> bool:
    """Whether some of what its output held may still be there afterwards: of an operator that nobody knows, too."""
    spec = refs.spec_of(op)
    return spec is None or spec.partial


def collected(pieces: Sequence[HeldBytes]) -> dict[str, list[HeldBytes]]:
    """By buffer."""
    found: dict[str, list[HeldBytes]] = {}
    for piece in pieces:
        found.setdefault(piece.buffer, []).append(piece)
    return found


__all__ = ["Boundary", "Bytes", "HeldBytes", "boundary", "collected", "needed_after"]
