# SPDX-License-Identifier: Apache-2.0
"""``diff_fused()``: recorded whole calls against a recording of the steps: are the steps right and their fusion not?

Each whole call is set against the invocation of the separate recording that it belongs to, if both began with the same
contents. What the call left in every buffer that could be read is compared with what the last step that wrote it left.
Calls that follow each other on identical contents are repeats, and should give identical results.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.diverge.boundary import Boundary, Bytes, HeldBytes, boundary, collected
from fusion_replay.diverge.chained_bound import FirstWrong, Wrong, first_wrong
from fusion_replay.diverge.environment import environment_changes
from fusion_replay.diverge.fusion_report import CallState, FusedCall, FusionOutcome, FusionReport
from fusion_replay.diverge.fusion_suspects import Layout, Suspect, suspects
from fusion_replay.errors import MissingError, NothingComparedError, UsageError
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.runlist import WHOLE_CALL
from fusion_replay.replay import replay

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.replaying.replay_report import ReplayReport
    from fusion_replay.snapshot import Snapshot


def is_fused_pair(a: Snapshot, b: Snapshot) -> bool:
    """Whether ``a`` has steps, and ``b`` whole calls of a sequence that ``a`` has by name."""
    names = {s.name for s in a.sequences if s.origin.get("dispatch") != WHOLE_CALL}
    return any(s.origin.get("dispatch") == WHOLE_CALL and s.name in names for s in b.sequences)


def diff_fused(
    separate: str | os.PathLike[str] | Snapshot,
    fused: str | os.PathLike[str] | Snapshot,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> FusionReport:
    """Compare recorded whole calls of a fused sequence with the recording of its steps.

    Args:
        separate: a recording of separate dispatch, with contents.
        fused: one of whole calls of the same sequence (``record --whole-calls``, with ``--repeat-calls N`` to know
            whether identical calls differ).
        progress: called with (calls compared, calls).

    Raises:
        UsageError: not such a pair; recordings of other weights are told as inputs that differ.
        MissingError: contents that are needed were not recorded.
        SnapshotError: no usable snapshot.
    """
    from fusion_replay.snapshot import opened

    with ExitStack() as stack:
        a, b = (stack.enter_context(opened(given)) for given in (separate, fused))
        return _Comparison(a, b).report(progress)


class _Comparison:
    def __init__(self, a: Snapshot, b: Snapshot) -> None:
        if not is_fused_pair(a, b):
            raise UsageError(
                f"{a.path} and {b.path}: expected a recording of separate dispatch, then one of whole calls of the "
                "same sequence (record --whole-calls)"
            )
        self.a, self.b = a, b
        number, self.whole = next(
            (i, s)
            for i, s in enumerate(b.sequences)
            if s.origin.get("dispatch") == WHOLE_CALL and s.name in {x.name for x in a.sequences}
        )
        of = next(i for i, s in enumerate(a.sequences) if s.name == self.whole.name)
        self.sequence = a.sequences[of]
        self.layout: Layout = self.whole.operators[0].params.get("layout") or {}
        self._calls = [i.index for i in b.invocations if i.sequence == number]
        self._against = [i.index for i in a.invocations if i.sequence == of and i.status == "complete"]
        self._edges: dict[int, tuple[list[Step], Boundary]] = {}
        self._wrong: dict[int, Wrong] = {}

    def report(self, progress: Callable[[int, int], object] | None) -> FusionReport:
        groups = [list(g) for _, g in groupby(self._calls, self._begins)]
        calls: list[FusedCall] = []
        varying = []
        kind: FusionOutcome | None = None
        for group in groups:
            at = self._counterpart(group[0], len(calls), groups.index(group))
            found = []
            for repeat, invocation in enumerate(group):
                found.append(self._compare(invocation, at, repeat))
                if progress is not None:
                    progress(len(calls) + len(found), len(self._calls))
            calls += found
            differ = len({self._ends(i) for i in group}) > 1
            if differ:
                varying.append(group[0])
            kind = kind or _kind(found, differ, first=group[0] == self._calls[0])
        bad = next((c for c in calls if c.state == "wrong"), None)
        judged, mismatches = self._steps(None if bad is None else bad.against) if kind is not None else (None, ())
        between, ranked, label = self._explained(bad) if bad is not None else (None, (), "")
        states = {c.state for c in calls}
        overall: FusionOutcome = "inside" if "inside" in states else "equal" if "equal" in states else "inputs differ"
        if not states & {"equal", "inside", "wrong", "inputs differ"}:
            raise MissingError(f"{self.b.path}: no call could be compared with {self.a.path}: {calls[0].why}")
        return FusionReport(
            sequence=self.whole.name,
            steps=len(self.sequence.steps),
            kind=kind or overall,
            calls=tuple(calls),
            varying=tuple(varying),
            repeated=any(len(g) > 1 for g in groups),
            right=judged,
            mismatches=mismatches,
            suspects=ranked,
            between=between,
            label=label,
            overlaid=tuple(n for n in self.layout if n not in {u.buffer for u in self.whole.steps[0].operands}),
            environment=environment_changes(self.a.provenance, self.b.provenance),
            recorded_on=(self.sequence.ran_on, self.whole.ran_on),
        )

    # --- calls ------------------------------------------------------------------------------------------------------

    def _begins(self, invocation: int) -> tuple[Any, ...]:
        step = self.b[invocation, 0]
        return (*(t.digest for t in step.inputs.in_order()), *sorted(step.values.items()))

    def _ends(self, invocation: int) -> tuple[Any, ...]:
        step = self.b.get(invocation, 0)
        return () if step is None else tuple(t.digest for t in step.outputs.in_order())

    def _counterpart(self, invocation: int, calls: int, group: int) -> int | None:
        """The invocation of the separate run that began alike, else the one of the same order."""
        for number in self._against:
            if not self._other_inputs(self.b[invocation, 0], number):
                return number
        return self._against[group] if group < len(self._against) else None

    def _compare(self, invocation: int, at: int | None, repeat: int) -> FusedCall:
        call = self.b[invocation, 0]
        if at is None:
            return FusedCall(invocation, None, repeat, "not compared", why="the separate run has no such call")
        if call.status != "complete":
            return FusedCall(invocation, at, repeat, "not compared", why=call.error or "it never came back")
        other = self._other_inputs(call, at)
        if other:
            return FusedCall(invocation, at, repeat, "inputs differ", inputs=other)
        steps, edge = self._edge(at)
        seen = list(self._seen(call, edge))
        found: FirstWrong = first_wrong(seen, steps)
        unequal = len({p.buffer for p, x, y in seen if not np.array_equal(x, y)})
        compared = len({p.buffer for p, _, _ in seen})
        if found.wrong is not None:
            self._wrong[invocation] = found.wrong
            piece = found.wrong.piece
            return FusedCall(invocation, at, repeat, "wrong", (), piece.step.index, piece.buffer, unequal, compared)
        state: CallState = "equal" if found.differs is None else "inside"
        return FusedCall(invocation, at, repeat, state, (), found.differs, "", unequal, compared)

    def _edge(self, at: int) -> tuple[list[Step], Boundary]:
        if at not in self._edges:
            steps: list[Step] = list(self.a.steps(invocation=at))
            self._edges = {at: (steps, boundary(steps))}
        return self._edges[at]

    def _other_inputs(self, call: Step, at: int) -> tuple[str, ...]:
        """Buffers of which the two runs began with other contents."""
        _, edge = self._edge(at)
        held = {t.use.buffer: t for t in call.inputs.in_order()}
        found = []
        for name, pieces in collected(edge.reads).items():
            if name in held and any(_differ(held[name], piece) for piece in pieces):
                found.append(name)
        return tuple(found)

    def _seen(self, call: Step, edge: Boundary) -> Iterator[tuple[HeldBytes, Bytes, Bytes]]:
        """What was left, as the fused call left it and as the steps did."""
        held = {t.use.buffer: t for t in call.outputs.in_order()}
        for piece in sorted(edge.leaves, key=lambda p: p.step.index):
            if piece.buffer in held:
                raw = flat_bytes(held[piece.buffer].numpy())
                yield piece, raw[piece.start : piece.stop], piece.read()

    # --- why --------------------------------------------------------------------------------------------------------

    def _explained(self, bad: FusedCall) -> tuple[tuple[int, int], tuple[Suspect, ...], str]:
        wrong = self._wrong[bad.invocation]
        assert bad.against is not None
        assert bad.step is not None
        steps, edge = self._edge(bad.against)
        call = self.b[bad.invocation, 0]
        right = [p.step.index for p, x, y in self._seen(call, edge) if p.step.index < bad.step and np.array_equal(x, y)]
        last = bad.step
        begin = _last_certain(steps, right, last)
        before = {t.use.buffer: t for t in call.inputs.in_order()}
        earlier = list(self.a.steps(invocation=bad.against - 1)) if bad.against else []
        ranked = suspects(
            steps[begin : last + 1],
            self.layout,
            wrong,
            before=lambda n: flat_bytes(before[n].numpy()) if n in before and before[n].kept else None,
            values={k: v for s in earlier for k, v in s.values.items()} or None,
        )
        return (begin, last), ranked, steps[last].label

    def _steps(self, invocation: int | None) -> tuple[bool | None, tuple[str, ...]]:
        """Whether the steps are right by themselves."""
        try:
            report: ReplayReport = replay(self.a, invocation=invocation)
        except NothingComparedError:
            return None, ()
        wrong = tuple(s.label for s in report.steps if not s)
        return not wrong, wrong


def _kind(found: Sequence[FusedCall], differ: bool, *, first: bool) -> FusionOutcome | None:
    """None: as it should be, as far as it was compared."""
    states = [c.state for c in found]
    wrong = [s == "wrong" for s in states]
    if differ and first and not wrong[0] and all(wrong[1:]):
        return "first call only"
    if differ:
        return "varies"
    return "wrong" if any(wrong) else None


def _last_certain(steps: Sequence[Step], right: Sequence[int], last: int) -> int:
    """The step behind the last right result that all before ``last`` went through: nothing earlier is to blame.

    A right result on a side branch clears its own branch alone, so one layer is left open: as many steps as lie between
    the last two right results of the same operator and buffers' places.
    """
    if not right:
        return 0
    newest = max(right)
    alike = [r for r in right if steps[r].op is steps[newest].op and r < newest]
    return max(alike, default=-1) + 1


def _differ(tensor: RecordedTensor, piece: HeldBytes) -> bool:
    whole = (piece.start, piece.stop) == (piece.tensor.use.start, piece.tensor.use.end)
    if whole and piece.start == 0 and piece.stop == tensor.nbytes and None not in (tensor.digest, piece.tensor.digest):
        return tensor.digest != piece.tensor.digest
    if not tensor.kept or not piece.tensor.kept:
        return False
    return not np.array_equal(flat_bytes(tensor.numpy())[piece.start : piece.stop], piece.read())


__all__ = ["diff_fused", "is_fused_pair"]
