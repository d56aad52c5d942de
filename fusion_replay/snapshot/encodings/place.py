# SPDX-License-Identifier: Apache-2.0
"""Where in a sequence a content was seen, and how other steps slice its buffer: by this encodings look for sources.

Tested in tests/snapshot/write/test_deduplication.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fusion_replay.model.runlist import OperandUse, SequenceDescription

Region = tuple[int, str, int, int]
"""Sequence, buffer, first byte, bytes."""

SMALL = 1 << 12
"""Contents below this many bytes are stored as they are: less would hardly be saved than is written about it."""


@dataclass(frozen=True, slots=True)
class Place:
    """An operand of a step of an invocation, and its role."""

    sequence: int
    invocation: int
    step: int
    position: int
    role: int
    use: OperandUse

    @property
    def region(self) -> Region:
        return region(self.sequence, self.use)


def region(sequence: int, use: OperandUse) -> Region:
    return sequence, use.buffer, use.start, use.spec.nbytes


@dataclass(slots=True)
class Regions:
    """Who uses which part of a sequence's buffers."""

    written: set[str] = field(default_factory=set)
    fed: set[str] = field(default_factory=set)
    of: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    inside: dict[tuple[str, int, int], tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @classmethod
    def describe(cls, sequence: SequenceDescription) -> Regions:
        regions = cls(fed=set(sequence.input_args))
        for step in sequence.steps:
            for use in step.operands:
                regions.of.setdefault(use.buffer, set()).add((use.start, use.spec.nbytes))
                if use.spec.writes:
                    regions.written.add(use.buffer)
        return regions

    def is_static(self, buffer: str) -> bool:
        """Whether no step writes this buffer and it is no input of the call."""
        return buffer not in self.written and buffer not in self.fed

    def slices(self, use: OperandUse) -> tuple[tuple[int, int], ...]:
        """``(offset, nbytes)`` of the parts of this use that other operands have for themselves, in order."""
        start, nbytes = use.start, use.spec.nbytes
        key = use.buffer, start, nbytes
        if key not in self.inside:
            self.inside[key] = tuple(
                (at - start, n)
                for at, n in sorted(self.of.get(use.buffer, ()))
                if n >= SMALL and n < nbytes and start <= at and at + n <= start + nbytes
            )
        return self.inside[key]


__all__ = ["SMALL", "Place", "Region", "Regions", "region"]
