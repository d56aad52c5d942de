# SPDX-License-Identifier: Apache-2.0
"""Steps evaluated exactly, without any rounding, on given contents: what the runlist means, not what a device made.

Contents are float64 from end to end. A step reads what the steps before it gave here, where they take part, else what
was recorded; the dataflow of the recording says which bytes came from whom. Steps of several invocations are joined
where one read, bit for bit, what another had written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.diverge.dataflow import CHANGED
from fusion_replay.errors import FusionReplayError
from fusion_replay.model.arrays import as_dtype
from fusion_replay.model.bf16 import unrounded, wide
from fusion_replay.model.runlist import DTYPE_BYTES, ArgSpec, OperatorDescription
from fusion_replay.operators import OperatorSpec, evaluate
from fusion_replay.sources.describe import keeps_old_contents
from fusion_replay.system.messages import in_words

if TYPE_CHECKING:
    from fusion_replay.diverge.dataflow import Dataflow
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import Snapshot

Floats = npt.NDArray[np.float64]
Spot = tuple[int, int]
"""Row of a step, position of one of its operands."""

_FLOATS = ("bfloat16", "float16", "float32", "float64")


class ReadPiece(NamedTuple):
    """Elements ``start`` to ``stop`` of what is read are those from ``first`` on of what ``producer`` wrote."""

    start: int
    stop: int
    producer: Spot
    first: int


@dataclass(frozen=True)
class RunlistChange:
    """Steps that run otherwise than the runlist says: inputs, outputs, operators or runtime values, by row.

    ``reads`` gets the inputs in the order of the runlist entry, each flat, and gives those to run on; ``writes`` gets
    the outputs. ``operands`` says which step's input of the same number is read instead.
    """

    reads: Mapping[int, Callable[[list[Floats]], list[Floats]]] = field(default_factory=dict)
    writes: Mapping[int, Callable[[list[Floats]], list[Floats]]] = field(default_factory=dict)
    operators: Mapping[int, OperatorDescription] = field(default_factory=dict)
    values: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    operands: Mapping[int, Mapping[int, int]] = field(default_factory=dict)


UNCHANGED = RunlistChange()


class Exact:
    """The steps of a recording that take part, ready to be evaluated.

    Attributes:
        stand_ins: addresses of steps that can't be evaluated, with the reason: what they recorded stands in.
    """

    def __init__(self, snapshot: Snapshot, graph: Dataflow, rows: Sequence[int]) -> None:
        self._snapshot = snapshot
        self._steps = {row: snapshot.at(row) for row in rows}
        self._pieces = _pieces(graph, self._steps)
        self.stand_ins: dict[str, str] = {}
        self._outside: dict[str, dict[str, RecordedTensor]] | None = None
        self._settled: set[int] = set()

    def step(self, row: int) -> Step:
        return self._steps[row]

    def reads(self, row: int) -> list[tuple[int, list[ReadPiece]]]:
        """By operand position, what a step reads of the other steps' outputs: old contents of its own output too."""
        self._settle(row)
        return self._pieces[row]

    def alike(self, tensor: RecordedTensor) -> list[tuple[str, Floats]]:
        """Other contents from outside in buffers whose names differ from this one's in numbers alone."""
        if self._outside is None:
            self._outside = {}
            for row, step in self._steps.items():
                inner = {p for p, pieces in self._pieces[row] if pieces}
                for t in step.inputs.in_order():
                    if t.position not in inner and t.kept:
                        self._outside.setdefault(_plain(t.use.buffer), {}).setdefault(t.buffer, t)
        others = self._outside.get(_plain(tensor.use.buffer), {})
        return [
            (label, self._recorded(t))
            for label, t in others.items()
            if t.row != tensor.row and (t.dtype, t.use.spec.size) == (tensor.dtype, tensor.use.spec.size)
        ]

    def rows_between(self, row: int, stops: frozenset[Spot]) -> tuple[list[int], frozenset[Spot]]:
        """The steps that ``row`` depends on, itself included, up to these outputs; and which of those it reads."""
        needed, reached, todo = {row}, set(), [row]
        while todo:
            for piece in (p for _, pieces in self.reads(todo.pop()) for p in pieces):
                if piece.producer in stops:
                    reached.add(piece.producer)
                elif piece.producer[0] not in needed:
                    needed.add(piece.producer[0])
                    todo.append(piece.producer[0])
        return sorted(needed), frozenset(reached)

    def run(
        self,
        rows: Iterable[int],
        given: Mapping[Spot, Floats],
        outside: Mapping[int, Floats],
        *,
        change: RunlistChange = UNCHANGED,
        rounds: bool = False,
        recorded: Callable[[RecordedTensor, Floats], Floats] | None = None,
    ) -> dict[Spot, Floats]:
        """What these steps write, in order, each output flat.

        Args:
            given: outputs of other steps, instead of what they recorded.
            outside: contents that come from outside, by the number of what was recorded.
            change: what is done otherwise.
            rounds: every output is rounded to its buffer's dtype.
            recorded: makes of what was recorded what is to be read instead (to see how sensitive the result is).
        """
        made: dict[Spot, Floats] = dict(given)

        def read(tensor: RecordedTensor, pieces: Sequence[ReadPiece], *, widen: bool = True) -> Floats:
            if tensor.row is not None and tensor.row in outside:
                return outside[tensor.row]
            known = [p for p in pieces if p.producer in made]
            size = tensor.use.spec.size
            if not (known or widen or (recorded is not None and not pieces)):
                return tensor.numpy().reshape(-1)  # a weight of many gigabytes is widened block by block
            if len(known) == 1 and (known[0].start, known[0].stop) == (0, size):
                whole = made[known[0].producer]
                return whole[known[0].first : known[0].first + size]
            base = self._recorded(tensor)
            base = recorded(tensor, base) if recorded is not None and not pieces else base
            if not known:
                return base
            found = base.copy()
            for p in known:
                found[p.start : p.stop] = made[p.producer][p.first : p.first + p.stop - p.start]
            return found

        for row in rows:
            step, reads = self._steps[row], dict(self.reads(row))
            if all((row, t.position) in given for t in step.outputs.in_order()):
                continue
            widen = row in change.reads
            arrays = [read(t, reads.get(t.position, ()), widen=widen) for t in step.inputs.in_order()]
            for index, other in change.operands.get(row, {}).items():
                theirs = self._steps[other].inputs.in_order()[index]
                arrays[index] = read(theirs, dict(self.reads(other)).get(theirs.position, ()))
            if row in change.reads:
                arrays = change.reads[row](arrays)
            old = [
                read(t.previous, reads.get(t.position, ())) if t.previous is not None else None
                for t in step.outputs.in_order()
            ]
            values = {**step.values, **change.values.get(row, {})}
            results = self._results(step, change.operators.get(row, step.op), values, arrays, old)
            if row in change.writes:
                results = change.writes[row](results)
            for tensor, result in zip(step.outputs.in_order(), results, strict=True):
                rounded = wide(as_dtype(result, tensor.dtype)) if rounds and tensor.dtype in _FLOATS else result
                made.setdefault((row, tensor.position), np.asarray(rounded, np.float64))
        return made

    def recorded_output(self, spot: Spot) -> Floats:
        """What a step left in an output, flat."""
        outputs = self._steps[spot[0]].outputs.in_order()
        return self._recorded(next(t for t in outputs if t.position == spot[1]))

    def _results(
        self,
        step: Step,
        op: OperatorDescription,
        values: Mapping[str, Any],
        arrays: list[Floats],
        old: list[Floats | None],
    ) -> list[Floats]:
        outputs = step.outputs.in_order()
        try:
            spec = refs.coverage(op, step.description.operands).spec
            if spec is None:
                raise FusionReplayError("no reference is known")
            return _evaluate(spec, op, step, values, arrays, old)
        except Exception as error:  # a user's operator may raise anything
            self.stand_ins.setdefault(step.address, in_words(error))
            return [self._recorded(t) for t in outputs]

    def _settle(self, row: int) -> None:
        """Old contents that an output keeps nothing of come from nowhere: seen by writing over NaN."""
        if row in self._settled:
            return
        self._settled.add(row)
        step = self._steps[row]
        inner = {t.position for t in step.inputs.in_order()}
        old = [t for t in step.outputs.in_order() if t.previous is not None and t.position not in inner]
        if not old or not any(pieces for p, pieces in self._pieces[row] if p not in inner):
            return
        given = [self._recorded(t) for t in step.inputs.in_order()]
        nothing: list[Floats | None] = [np.full(t.use.spec.size, np.nan) for t in step.outputs.in_order()]
        results = self._results(step, step.op, step.values, given, nothing)
        if not any(np.isnan(r).any() for r in results):
            self._pieces[row] = [(p, pieces) for p, pieces in self._pieces[row] if p in inner]

    def _recorded(self, tensor: RecordedTensor) -> Floats:
        return np.asarray(wide(tensor.numpy()), np.float64).reshape(-1)


# --- parts ----------------------------------------------------------------------------------------------------------


def _evaluate(
    spec: OperatorSpec,
    op: OperatorDescription,
    step: Step,
    values: Mapping[str, Any],
    arrays: list[Floats],
    old: list[Floats | None],
) -> list[Floats]:
    outputs = step.outputs.in_order()
    declared = spec.arg_specs(op.params)
    widened = replace(spec, args=lambda p: tuple(_unrounded(s) for s in spec.args(p)))
    names = [t.name for t in step.inputs.in_order()]
    own = [s.name for s in declared if s.reads]
    by_name = len(set(names)) == len(names) and sorted(names) == sorted(own)
    given = [_as_declared(a, t.dtype) for a, t in zip(arrays, step.inputs.in_order(), strict=True)]
    results, _ = evaluate(
        widened,
        op.params,
        dict(zip(names, given, strict=True)) if by_name else given,
        "exact",
        previous=old if spec.partial else None,
        values=values,
        outputs=[_unrounded(t.use.spec) for t in outputs],
        rounder=unrounded,
    )
    written = [s.name for s in declared if s.writes]
    named = sorted(written) == sorted(t.name for t in outputs)
    order = [written.index(t.name) for t in outputs] if named else range(len(outputs))
    return [np.asarray(results[i], np.float64).reshape(-1) for i in order]


def _plain(name: str) -> str:
    return re.sub("[0-9]+", "#", name)


def _unrounded(spec: ArgSpec) -> ArgSpec:
    return replace(spec, dtype="float64") if spec.dtype in _FLOATS else spec


def _as_declared(array: Floats, dtype: str) -> npt.NDArray[Any]:
    return array if dtype in _FLOATS else array.astype(dtype)


def _pieces(graph: Dataflow, steps: Mapping[int, Step]) -> dict[int, list[tuple[int, list[ReadPiece]]]]:
    """Row -> (position, where its bytes came from), of steps that take part alone."""
    found: dict[int, list[tuple[int, list[ReadPiece]]]] = {}
    written: dict[str, Spot] = {}
    for row, step in steps.items():
        keeps = keeps_old_contents(step.op)
        uses = list(step.inputs.in_order())
        uses += [t for t in step.outputs.in_order() if keeps and t.direction == "out"]
        its = []
        for tensor in uses:
            edges = graph.sources(row, tensor.position).tolist()
            pieces = [p for e in edges if (p := _piece(e, tensor, steps)) is not None]
            joined = written.get(tensor.digest) if tensor.digest is not None and tensor.direction != "out" else None
            if not pieces and joined is not None:
                pieces = [ReadPiece(0, tensor.use.spec.size, joined, 0)]
            its.append((tensor.position, pieces))
        found[row] = its
        for tensor in step.outputs.in_order():
            if tensor.digest is not None:
                written[tensor.digest] = row, tensor.position
    return found


def _piece(edge: Any, tensor: RecordedTensor, steps: Mapping[int, Step]) -> ReadPiece | None:
    producer, wrote, consumer, _, start, stop, state = edge
    if producer not in steps or state == CHANGED:
        return None
    source = next((t for t in steps[producer].outputs.in_order() if t.position == wrote), None)
    if source is None or source.dtype != tensor.dtype:
        return None
    width = DTYPE_BYTES[tensor.dtype]
    # Steps given as arrays have no buffers in common: what was read is all that was written.
    handed = source.use.buffer != tensor.use.buffer or steps[producer].sequence is not steps[consumer].sequence
    first = start - tensor.use.start if handed else start - source.use.start
    begin, end = start - tensor.use.start, stop - tensor.use.start
    if any(n % width for n in (first, begin, end)) or first < 0:
        return None
    return ReadPiece(begin // width, end // width, (producer, wrote), first // width)


__all__ = ["UNCHANGED", "Exact", "ReadPiece", "RunlistChange", "Spot"]
