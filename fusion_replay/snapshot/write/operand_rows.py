# SPDX-License-Identifier: Apache-2.0
"""The operands of a step as the journal lists them: position, role, content; and what they say of the steps before.

Tested in tests/snapshot/test_roundtrip.py and write/test_clobbering.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import OperandUse, SequenceDescription
from fusion_replay.snapshot.encodings.place import Place
from fusion_replay.snapshot.journal.payloads import Address, Row
from fusion_replay.snapshot.schema import INPUT, WATCHED
from fusion_replay.snapshot.write.clobbering import Clobbering
from fusion_replay.snapshot.write.intake import Intake, JournalBatch

Arrays = Mapping[int, npt.NDArray[Any]]
NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Rows:
    """Knows the sequences and which of them each invocation is of; one per writer, whose lock is held.

    Attributes:
        sequences: as they were added.
        invocations: the sequence of each, by number.
    """

    def __init__(self, intake: Intake, notice: Callable[[str, str], None]) -> None:
        self.sequences: list[SequenceDescription] = []
        self.invocations: dict[int, int] = {}
        self._intake, self._notice = intake, notice
        self._clobbering = Clobbering()
        self._places: dict[tuple[int, int], Mapping[int, int]] = {}  # of the steps that run, where a call moves any

    def add_sequence(self, sequence: SequenceDescription) -> None:
        self.sequences.append(sequence)
        self._intake.add_sequence(sequence)
        self._clobbering.add_sequence(sequence)

    def place(self, invocation: int, step: int, places: Mapping[int, int]) -> None:
        """In this call these operands of a step that begins are elsewhere than the runlist says, until it has ended.

        Raises:
            UsageError: they lie outside their buffers, or there are no such operands.
        """
        if not places:
            return
        sequence = self._sequence(invocation, step)
        sizes = {b.name: b.nbytes for b in sequence.buffers}
        for position, start in places.items():
            if not 0 <= position < len(sequence.steps[step].operands):
                raise UsageError(f"step {invocation}:{step}: operand {position} of its call is not in the runlist")
            use = sequence.steps[step].operands[position]
            if start < 0 or start + use.spec.nbytes > sizes[use.buffer]:
                raise UsageError(
                    f"step {invocation}:{step}: argument {use.spec.name} of this call is bytes {start} to "
                    f"{start + use.spec.nbytes} of buffer {use.buffer!r}, which has {sizes[use.buffer]}; its per-call "
                    "offset is wrong, or the buffer's size"
                )
            self._clobbering.moves(self.invocations[invocation], use.buffer)
        self._places[invocation, step] = dict(places)

    def ended(self, invocation: int, step: int) -> None:
        self._places.pop((invocation, step), None)

    def of(
        self,
        batch: JournalBatch,
        invocation: int,
        step: int,
        role: int,
        arrays: Arrays,
        keep: bool,
        digests: Mapping[tuple[int, int], bytes] = NOTHING,
    ) -> list[Row]:
        """What these arrays are, by operand position; ``digests``: by role and position, as far as they are known.

        Raises:
            UsageError: they do not fit the runlist.
        """
        if not arrays:
            return []
        self._sequence(invocation, step)
        sequence, operands = self.invocations[invocation], self._operands(invocation, step)
        keep = keep and role != WATCHED
        rows = []
        for position, array in arrays.items():
            if not 0 <= position < len(operands):
                raise UsageError(f"step {invocation}:{step}: operand {position} of {len(operands)}")
            place = Place(sequence, invocation, step, position, role, operands[position])
            known = None if digests is NOTHING else digests.get((role, position))
            rows.append((position, role, self._intake.content(batch, array, place.use.spec, keep, place, known)))
        return rows

    def assumed(self, invocation: int, step: int, assumed: Mapping[int, int]) -> list[Row]:
        """Inputs that were not read, and the content that each is taken to have still."""
        for position in assumed:
            self._intake.bytes_seen += self.operand(invocation, step, position).spec.nbytes
        return [(position, INPUT, content) for position, content in assumed.items()]

    def address(self, invocation: int, step: int) -> Address:
        """As frames have it; of an invocation that was never begun, sequence 0."""
        return invocation, self.invocations.get(invocation, 0), step

    def operand(self, invocation: int, step: int, position: int) -> OperandUse:
        return self._operands(invocation, step)[position]

    def _operands(self, invocation: int, step: int) -> tuple[OperandUse, ...]:
        """Where this call has them."""
        described = self.sequences[self.invocations[invocation]].steps[step]
        places = self._places.get((invocation, step))
        return described.operands if places is None else described.placed(places).operands

    def _sequence(self, invocation: int, step: int) -> SequenceDescription:
        """
        Raises:
            UsageError: there is no such step.
        """
        if invocation not in self.invocations:
            raise UsageError(f"step {invocation}:{step}: invocation {invocation} was never begun")
        sequence = self.sequences[self.invocations[invocation]]
        if step >= len(sequence.steps):
            raise UsageError(f"step {invocation}:{step}: its sequence has {len(sequence.steps)} steps")
        return sequence

    def wrote(self, invocation: int, step: int, rows: list[Row]) -> None:
        """The step left these outputs."""
        if rows:
            digests = {position: self._intake.digests[content] for position, _, content in rows}
            self._clobbering.wrote(self.invocations[invocation], invocation, step, digests)

    def clobbered(self, invocation: int, step: int, rows: list[Row]) -> dict[str, Any]:
        """Inputs that are not what an earlier step left there, by argument name: that step and its argument."""
        if not rows:
            return {}
        digests = {position: self._intake.digests[content] for position, _, content in rows}
        found = {}
        for position, (writer, output) in self._clobbering.found(
            self.invocations[invocation], invocation, step, digests
        ).items():
            use = self.operand(invocation, step, position)
            found[use.spec.name] = [writer, self.operand(invocation, writer, output).spec.name]
            self._notice("inputs clobbered between steps", f"{invocation}:{step} {use.spec.name} of {use.label}")
        return found


__all__ = ["NOTHING", "Arrays", "Rows"]
