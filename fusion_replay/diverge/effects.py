# SPDX-License-Identifier: Apache-2.0
"""Where differences came from and where they went, along the dataflow of b."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.align import NOT_IN_RUNLIST, Alignment
from fusion_replay.diverge.changes import Changes
from fusion_replay.diverge.dataflow import CHANGED, UNRECORDED, Dataflow, Final, Piece, dataflow
from fusion_replay.diverge.difference import FinalDifference, OutsideDifference
from fusion_replay.diverge.operands import key_of, place_of
from fusion_replay.model.step import Step

if TYPE_CHECKING:
    from fusion_replay.diverge.pairwise import Pairwise
    from fusion_replay.model.step import RecordedTensor
    from fusion_replay.snapshot import Snapshot

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Effects:
    """Two recordings, what differs in them, and the edges of b's graph along which differences went."""

    a: Snapshot
    b: Snapshot
    alignment: Alignment
    changes: Changes
    flow: Dataflow
    along: Mask

    def reaching(self) -> Mask:
        """Per row of b: does a difference in its outputs reach a sequence's output, or stay in a buffer that keeps
        its contents for later invocations?"""
        return self.flow.backward({*self._final_rows, *self._staying()}, self.along)

    def path(self, row: int) -> tuple[str, ...]:
        """Labels of the steps from ``row`` to the nearest output that differs."""
        return tuple(self._step(r).label for r in self.flow.path(row, self._final_rows, self.along))

    def finals(self, pairwise: Pairwise) -> tuple[FinalDifference, ...]:
        """The outputs of every compared invocation that differ at its end."""
        found = []
        for final, written in self._differing:
            piece = final.piece
            b = self._step(piece.producer)
            size = next((f.nbytes for f in b.sequence.buffers if f.name == final.buffer), None)
            part = "" if (piece.start, piece.stop) == (0, size) else f"[{piece.start}:{piece.stop}]"
            verdict, why = None, "b left in it what an earlier invocation wrote"
            ours = _output_at(b, piece.wrote)
            if b.invocation == final.invocation and ours is not None:
                output = pairwise.output(self._theirs(written), ours, b, same_inputs=False)
                verdict, why = output.verdict, output.why
            found.append(FinalDifference(final.invocation, final.buffer + part, b.address, verdict, why))
        return tuple(found)

    def outside(self) -> tuple[OutsideDifference, ...]:
        """Inputs and runtime values that differ although no recorded step made them so, by buffer."""
        e, reads = self.flow.edges, self.changes.reads
        carried = np.unique(key_of(e["consumer"], e["position"].astype(np.int64), 0)[self.along])
        rows, positions, _ = place_of(np.setdiff1d(reads, carried))
        found: dict[tuple[str, str], OutsideDifference] = {}
        for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
            step = self._step(row)
            _add(found, step.description.operands[position].buffer, self._why(row, position), step, self._after(row))
        for number in np.flatnonzero(self.changes.values).tolist():
            row = int(self.changes.b[number])
            b, a = self._step(row), self.a.at(int(self.changes.a[number]))
            for name in sorted(n for n in {*a.values, *b.values} if a.values.get(n) != b.values.get(n)):
                _add(found, f"value {name}", "another runtime value was given", b, self._after(row))
        return tuple(found.values())

    # --- parts ------------------------------------------------------------------------------------------------------

    @cached_property
    def _differing(self) -> list[tuple[Final, tuple[int, int] | None]]:
        """Outputs of b that differ at the end of an invocation, with a's row and operand that wrote the same bytes, if
        there is one."""
        theirs = {(f.invocation, f.buffer, f.piece.start, f.piece.stop): f.piece for f in self._flow_a.finals}
        to_a = {
            int(self.b.index.steps["invocation"][row]): int(self.a.index.steps["invocation"][other])
            for row, other in zip(self.changes.b.tolist(), self.changes.a.tolist(), strict=True)
        }
        found: list[tuple[Final, tuple[int, int] | None]] = []
        for final in self.flow.finals:
            invocation, piece = to_a.get(final.invocation), final.piece
            if invocation is None or piece.producer < 0:
                continue
            other = theirs.get((invocation, final.buffer, piece.start, piece.stop))
            if other is None or other.producer < 0:
                found.append((final, None))
            elif _digest(self.a, other) != _digest(self.b, piece):
                found.append((final, (other.producer, other.wrote)))
        return found

    def _theirs(self, written: tuple[int, int] | None) -> RecordedTensor | None:
        if written is None:
            return None
        return _output_at(self.a.at(written[0]), written[1])

    @cached_property
    def _final_rows(self) -> list[int]:
        return [final.piece.producer for final, _ in self._differing]

    @cached_property
    def _flow_a(self) -> Dataflow:
        return self.flow if self.a is self.b else dataflow(self.a)

    def _staying(self) -> list[int]:
        """Rows whose differing output is still there when the recording ends, in a buffer that a later invocation
        would read: one whose first contents come from outside and that no caller fills (a cache)."""
        writes = set(self.changes.writes.tolist())
        kept = [{b.name for b in s.buffers if b.external} - {*s.input_args} for s in self.b.sequences]
        found = []
        for row, position in sorted(self.flow.live):
            if int(_key(row, position)) in writes:
                step = self._step(row)
                sequence = int(self.b.index.invocations["sequence"][step.invocation])
                if step.description.operands[position].buffer in kept[sequence]:
                    found.append(row)
        return found

    def _why(self, row: int, position: int) -> str:
        edges = self.flow.sources(row, position)
        producers = set(edges["producer"].tolist())
        row_a = int(self.alignment.a_of[row])
        theirs = [p for p in self._flow_a.sources(row_a, position)["producer"].tolist() if p >= 0] if row_a >= 0 else []
        if any(self.alignment.b_of[p] == NOT_IN_RUNLIST for p in theirs):
            return "written in a by a step that b's runlist lacks"
        if UNRECORDED in producers:
            return "written by a step that was not recorded"
        if all(p < 0 for p in producers):
            return "no step wrote it before: a weight, a prompt, what the caller filled in"
        if (edges["state"] == CHANGED).any():
            return "the host wrote it between two calls"
        return "no step that is compared made this difference: the host wrote it, or it is older"

    def _after(self, row: int) -> bool:
        return any(r < row for r in self._final_rows)

    def _step(self, row: int) -> Step:
        return self.b.at(row)


def _output_at(step: Step, position: int) -> RecordedTensor | None:
    return next((t for t in step.outputs.in_order() if t.position == position), None)


def _digest(snapshot: Snapshot, piece: Piece) -> str | None:
    found = _output_at(snapshot.at(piece.producer), piece.wrote)
    return None if found is None else found.digest


def _key(row: int, position: int) -> int:
    return int(key_of(np.array([row]), np.array([position]), 0)[0])


def _add(found: dict[tuple[str, str], OutsideDifference], name: str, why: str, step: Step, after: bool) -> None:
    known = found.get((name, why))
    if known is None:
        found[name, why] = OutsideDifference(name, step.address, 1, why, after)
    else:
        found[name, why] = replace(known, reads=known.reads + 1)


__all__ = ["Effects"]
