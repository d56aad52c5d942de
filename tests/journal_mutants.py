# SPDX-License-Identifier: Apache-2.0
"""Journals with one thing wrong, and what of a recording must survive it: worked out from the frames that are left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fusion_replay.snapshot import Snapshot
from fusion_replay.snapshot.encodings.delta import Delta
from fusion_replay.snapshot.encodings.derived import Derived
from fusion_replay.snapshot.encodings.parts import Parts
from fusion_replay.snapshot.journal import frames, payloads
from fusion_replay.snapshot.schema import INPUT, OPERANDS, OUTPUT, PREVIOUS, WATCHED

Where = tuple[int, int, int, int]
"""Invocation, step, role, operand position."""


def whole_frames(journal: Path) -> list[bytes]:
    """Each with its header."""
    data = journal.read_bytes()
    with open(journal, "rb") as file:
        return [
            data[f.offset - frames.FRAME_HEADER : f.offset + f.length] for f in frames.scan(file, frames.ScanResult())
        ]


def kind_of(frame: bytes) -> int:
    return int(frames.HEADER.unpack_from(frame)[1])


def mutants(whole: Sequence[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Every frame removed, doubled at once and at the end, and exchanged with the next one."""
    for k, frame in enumerate(whole):
        before, after = [*whole[:k]], [*whole[k + 1 :]]
        yield f"frame {k} of kind {kind_of(frame)} removed", before + after
        yield f"frame {k} of kind {kind_of(frame)} twice", [*before, frame, frame, *after]
        if kind_of(frame) != frames.INVOCATION_BEGIN:  # a later one means that the invocation is of another sequence
            yield f"frame {k} of kind {kind_of(frame)} again at the end", [*whole, frame]
        if after:
            yield f"frames {k} and {k + 1} exchanged", [*before, after[0], frame, *after[1:]]


@dataclass
class Left:
    """What these frames say, the last of them counting."""

    sequences: set[int] = field(default_factory=set)
    invocations: dict[int, int] = field(default_factory=dict)
    begun: dict[tuple[int, int], bytes] = field(default_factory=dict)
    ended: dict[tuple[int, int], bytes] = field(default_factory=dict)
    contents: dict[int, payloads.ContentRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, whole: Sequence[bytes]) -> Left:
        left = cls()
        for frame in whole:
            kind, payload = kind_of(frame), frame[frames.FRAME_HEADER :]
            if kind == frames.SEQUENCE:
                left.sequences.add(json.loads(payload)["id"])
            elif kind in (frames.INVOCATION_BEGIN, frames.INVOCATION_END):
                number, sequence = payloads.parse_invocation(kind, payload)
                left.is_of(number, sequence)
            elif kind == frames.CONTENT:
                record = payloads.ContentRecord.parse(payload, 0)
                left.contents[record.content] = record
            elif kind in (frames.STEP_BEGIN, frames.STEP_END):
                step = payloads.parse_step(kind, payload)
                left.is_of(step.invocation, step.sequence)
                (left.begun if kind == frames.STEP_BEGIN else left.ended)[step.invocation, step.step] = step.operands
        return left

    def is_of(self, invocation: int, sequence: int | None) -> None:
        if sequence is not None:
            self.invocations[invocation] = sequence

    def tensors(self) -> Iterator[Where]:
        """Those whose bytes can still be had."""
        for (invocation, step), rows in [*self.begun.items(), *self.ended.items()]:
            if self.invocations.get(invocation) in self.sequences:
                for position, role, content in operands(rows):
                    if role != WATCHED and self.has(content):
                        yield invocation, step, role, position

    def has(self, content: int) -> bool:
        """Under this id, or the same bytes under another."""
        known = self.contents.get(content)
        return known is not None and any(
            self._is_kept(record)
            for record in self.contents.values()
            if (record.digest, record.dtype) == (known.digest, known.dtype)
        )

    def _is_kept(self, record: payloads.ContentRecord) -> bool:
        match record.link:
            case Delta(base=base):
                return self.has(base)
            case Parts(parts=parts):
                return all(self.has(part) for part, _, _ in parts)
            case Derived(invocation=invocation, step=step):
                rows = operands(self.begun.get((invocation, step), b""))
                reads = [c for _, role, c in rows if role in (INPUT, PREVIOUS)]
                known = self.invocations.get(invocation) in self.sequences
                return known and bool(reads) and all(map(self.has, reads))
        return record.where != payloads.DIGEST


def operands(rows: bytes) -> list[tuple[int, int, int]]:
    return [(int(p), int(r), int(c)) for p, r, c in np.frombuffer(rows, OPERANDS).tolist()]


def held_by(snap: Snapshot) -> dict[Where, bytes]:
    """The bytes of every tensor that can be had."""
    found = {}
    for step in snap:
        tensors = [(INPUT, t) for t in step.inputs.values()] + [(OUTPUT, t) for t in step.outputs.values()]
        tensors += [(PREVIOUS, t.previous) for t in step.outputs.values() if t.previous and t.direction == "out"]
        for role, tensor in tensors:
            if tensor.kept:
                found[step.invocation, step.index, role, tensor.position] = tensor.numpy().tobytes()
    return found
