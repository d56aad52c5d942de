# SPDX-License-Identifier: Apache-2.0
"""Whether a step that has just run deviates: from what an earlier recording has at its address, or from its reference.

The recorder asks here, on the thread that dispatches, which contents ``keep="mismatch"`` keeps. What can't be judged is
kept: only a step that was looked at and found right is dropped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.errors import SnapshotError
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.runlist import SequenceDescription, StepDescription, format_address
from fusion_replay.model.step import PREVIOUS, WATCHED, OperandKey, OperandMap, Seen, Step
from fusion_replay.model.text import one_line
from fusion_replay.model.withheld import AS_IN, AS_REFERENCE
from fusion_replay.replaying.judge import NotComparedError, Plan, evaluate_step, judge
from fusion_replay.snapshot import open_snapshot
from fusion_replay.snapshot.write.write_report import Deviating
from fusion_replay.system.messages import count, in_words

SAME, DEVIATES, ALONE, UNJUDGED = "same", "deviates", "alone", "unjudged"
_OLD = {WATCHED: PREVIOUS}  # old contents of an output are the same fact, whether kept or looked at


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step that has come back; ``contents`` as far as :attr:`DeviationCheck.reads` asks for them.

    ``withheld``: its contents are left out anyhow, and were not read.
    """

    sequence: SequenceDescription
    invocation: int
    index: int
    values: Mapping[str, int | float]
    contents: Mapping[OperandKey, npt.NDArray[Any]]
    withheld: bool = False
    places: Mapping[int, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return one_line(f"{format_address(self.invocation, self.index)} {self.sequence.operator_of(self.index).type}")


class DeviationCheck:
    """Asked about every step of one recording; counts what it has said.

    Args:
        against: the earlier snapshot; None: each step's own reference, rule and reference ``auto``.

    Raises:
        SnapshotError: no usable snapshot, or nothing in it.
    """

    def __init__(self, against: str | os.PathLike[str] | None) -> None:
        self._against = _Earlier(Path(against)) if against is not None else _Reference()
        self.reads = against is None
        """Whether contents are needed, weights at every step too; digests are enough otherwise."""
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def check(self, sequences: Iterable[SequenceDescription]) -> None:
        """
        Raises:
            SnapshotError: the earlier snapshot has none of these sequences, where there are any.
        """
        self._against.check(list(sequences))

    def decide(self, step: FinishedStep, digests: Mapping[OperandKey, bytes]) -> str | None:
        """Why the contents of the step are not kept; None: they are, or were left out anyhow.

        ``digests``: of all that was seen of it.
        """
        if step.withheld:
            return None
        try:
            found, why = self._against.look(step, digests)
        except Exception as error:  # whatever it is, it is no reason to lose the step
            found, why = UNJUDGED, in_words(error)
        self._counts[found] += 1
        self._first.setdefault(found, step.label + (f": {why}" if why else ""))
        return self._against.reason if found == SAME else None

    @property
    def found(self) -> Deviating:
        """What came of it so far."""
        return Deviating(
            than=self._against.name,
            looked_at=self._counts.total(),
            deviating=self._counts[DEVIATES],
            first=self._first.get(DEVIATES),
            alone=self._counts[ALONE],
            first_alone=self._first.get(ALONE),
            unjudged=self._counts[UNJUDGED],
            first_unjudged=self._first.get(UNJUDGED),
        )


class _Earlier:
    """Steps are the same where their contents are, bit for bit: digests tell."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name, self.reason = path.name, f"{AS_IN}{path.name}"
        with open_snapshot(path) as snapshot:
            self._snapshot = snapshot  # its index is enough: no content is read
        if not len(snapshot):
            raise SnapshotError(f"{path}: holds no step to compare with; record it again, or leave it out")

    def check(self, sequences: list[SequenceDescription]) -> None:
        known = {_kind(sequence) for sequence in self._snapshot.sequences}
        if sequences and known.isdisjoint(map(_kind, sequences)):
            has = ", ".join(f"{s.name} of {count(len(s.steps), 'step')}" for s in self._snapshot.sequences)
            wanted = ", ".join(f"{s.name} of {count(len(s.steps), 'step')}" for s in sequences)
            raise SnapshotError(
                f"{self._path}: records {has}, which is not {wanted}: no step could be compared; "
                "give a recording of the same program"
            )

    def look(self, step: FinishedStep, digests: Mapping[OperandKey, bytes]) -> tuple[str, str]:
        earlier = self._snapshot.get(step.invocation, step.index)
        if earlier is None:
            return ALONE, ""
        op, other = step.sequence.operator_of(step.index).type, earlier.op.type
        if refs.canonical(op) != refs.canonical(other):
            return ALONE, f"there it is {other}"
        known = {_key(role, position): digest for (role, position), digest in earlier.digests().items()}
        for (role, position), digest in digests.items():
            key = _key(role, position)
            if key not in known and key[0] != PREVIOUS:
                return ALONE, f"there it is {earlier.status}" if earlier.status != "complete" else "other operands"
            if known.get(key, digest) != digest:
                return DEVIATES, ""
        return SAME, ""


class _Reference:
    """Steps are the same where a replay would say that they match."""

    name, reason = "the reference", AS_REFERENCE

    def __init__(self) -> None:
        self._plan = Plan("tolerance")

    def check(self, sequences: list[SequenceDescription]) -> None:
        pass

    def look(self, step: FinishedStep, digests: Mapping[OperandKey, bytes]) -> tuple[str, str]:
        finished = StepInMemory(step, digests)
        try:
            evaluation = evaluate_step(finished, self._plan)
        except NotComparedError as why:
            return UNJUDGED, why.reason
        actual = [t.numpy() for t in finished.outputs.in_order()]
        report = judge(finished, self._plan, evaluation, actual)
        return (SAME if report else DEVIATES), ""


class StepInMemory(Step):
    """The step that has just run, as a snapshot of it would give it: what was not read has a digest alone."""

    __slots__ = ("_finished", "_seen")

    def __init__(self, finished: FinishedStep, digests: Mapping[OperandKey, bytes]) -> None:
        keys = list(digests)
        self._finished = finished
        self._seen = Seen(
            {key: row for row, key in enumerate(keys)},
            lambda row: digests[keys[row]].hex(),
            _Memory([finished.contents.get(key) for key in keys]),
        )

    @property
    def invocation(self) -> int:
        return self._finished.invocation

    @property
    def sequence(self) -> SequenceDescription:
        return self._finished.sequence

    @property
    def description(self) -> StepDescription:
        return self._finished.sequence.steps[self._finished.index].placed(self._finished.places)

    @property
    def status(self) -> str:
        return "complete"

    @property
    def error(self) -> None:
        return None

    @property
    def withheld(self) -> None:
        return None

    @property
    def values(self) -> dict[str, Any]:
        return dict(self._finished.values)

    @property
    def inputs(self) -> OperandMap:
        return self._seen.inputs(self)

    @property
    def outputs(self) -> OperandMap:
        return self._seen.outputs(self)


class _Memory:
    """Contents that are at hand, where they were read."""

    def __init__(self, arrays: list[npt.NDArray[Any] | None]) -> None:
        self._arrays = arrays

    def kept(self, number: int) -> bool:
        return self._arrays[number] is not None

    def absent(self, number: int) -> str:
        return "were not read"

    def read(self, number: int, what: str) -> npt.NDArray[np.uint8]:
        array = self._arrays[number]
        if array is None:
            raise SnapshotError(f"{what}: its contents were not read")
        return flat_bytes(array)


def _kind(sequence: SequenceDescription) -> tuple[str, ...]:
    return tuple(refs.canonical(sequence.operator_of(step.index).type) for step in sequence.steps)


def _key(role: int, position: int) -> OperandKey:
    return _OLD.get(role, role), position


__all__ = ["DeviationCheck", "FinishedStep", "StepInMemory"]
