# SPDX-License-Identifier: Apache-2.0
"""``diff()``: align two recordings, compare digests, and look closely at nothing but what differs.

Per aligned step: the same inputs and other outputs: the difference was *introduced here*. Other inputs and other
outputs: *inherited*, where the step's reference explains both sides; a step that breaks the rule on b's inputs and
kept it on a's introduces a difference of its own, whatever it inherited besides. Other inputs and equal outputs:
*masked again*. What no step made different came from outside.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.compare.rules import RULES
from fusion_replay.diverge.align import MISSING, NOT_IN_RUNLIST, NOT_INVOKED, Alignment, align
from fusion_replay.diverge.changes import Changes, carrying, changes
from fusion_replay.diverge.dataflow import dataflow
from fusion_replay.diverge.diff_report import DiffReport
from fusion_replay.diverge.difference import Judged, Kind, StepDifference
from fusion_replay.diverge.effects import Effects
from fusion_replay.diverge.environment import Change, environment_changes
from fusion_replay.diverge.pairwise import Pairwise, newly_wrong, suspects
from fusion_replay.errors import UsageError
from fusion_replay.model.step import Step
from fusion_replay.operators import FLAVOURS
from fusion_replay.replaying.judge import FOREIGN, Plan
from fusion_replay.snapshot import Snapshot, open_snapshot

if TYPE_CHECKING:
    import numpy.typing as npt

File = str | os.PathLike[str] | Snapshot
Progress = Callable[[int, int], object]


def diff(
    a: File,
    b: File,
    rule: str = "auto",
    *,
    reference: str = "auto",
    invocation: int | tuple[int | None, int | None] | None = None,
    op: str | None = None,
    align_anyway: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> DiffReport:
    """What differs in recording ``b`` against ``a``, what first, and where it went.

    Args:
        a, b: files or open Snapshots (left open); ``"decode.h5@1"`` is invocation 1 of a file alone, so that two
            invocations of one recording can be compared.
        rule: one of :data:`fusion_replay.compare.rules.RULES`; it judges b's outputs against a's, and each side
            against its reference.
        reference: a flavour, or "auto": the one that each recording names.
        invocation: compare only this one; or (one of a, one of b), of which either may be None: the aligned one.
        op: look closely only at steps of this operator type.
        align_anyway: align sequences too that have little in common.
        workers: threads, by default one per core; the report is the same for any number.
        progress: called with (steps looked at, steps that differ).

    Raises:
        UsageError: an unknown name, a filter that matches nothing, or recordings of different sequences.
        SnapshotError: no usable snapshot, or one whose contents are damaged.
    """
    if rule not in RULES:
        raise UsageError(f"rule {rule!r}: expected one of {', '.join(RULES)}")
    if reference not in (known := ("auto", *FOREIGN, *FLAVOURS)):
        raise UsageError(f"reference {reference!r}: expected one of {', '.join(known)}")
    with ExitStack() as stack:
        asked = invocation if isinstance(invocation, tuple) else (invocation, invocation)
        sides, only = [], []
        for given, number in zip((a, b), asked, strict=True):
            file, named = split_invocation(given)
            sides.append(file if isinstance(file, Snapshot) else stack.enter_context(open_snapshot(file)))
            only.append(number if named is None else named)
        alignment = align(sides[0], sides[1], anyway=align_anyway, invocations=(only[0], only[1]))
        run = _Run(sides[0], sides[1], alignment, Plan(rule, reference))
        return run.report(op, workers or os.cpu_count() or 1, progress)


def split_invocation(given: File) -> tuple[File, int | None]:
    """``"x.h5@1"`` -> ``("x.h5", 1)``; a file that is really called so is that file."""
    if isinstance(given, Snapshot):
        return given, None
    text = os.fspath(given)
    name, at, number = text.rpartition("@")
    if at and name and number.isascii() and number.isdigit() and not Path(text).exists():
        return name, int(number)
    return given, None


class _Run:
    """One diff under way."""

    def __init__(self, a: Snapshot, b: Snapshot, alignment: Alignment, plan: Plan) -> None:
        self.a, self.b, self.alignment, self.plan = a, b, alignment, plan
        self.changes: Changes = changes(a, b, alignment)
        self.pairwise = Pairwise.of(a, b, plan)
        self.changed = {(r.a, i): text for r in alignment.runlists for i, text in r.changed.items()}

    def report(self, op: str | None, workers: int, progress: Progress | None) -> DiffReport:
        compared, numbers = len(self.changes.a), self.changes.differing
        if op is not None:
            wanted = self._of_type(op)
            compared, numbers = int(wanted.sum()), numbers[wanted[numbers]]
        notes, lonely = self._notes()
        base = DiffReport(
            rule=self.plan.rule,
            compared=compared,
            environment=_environment(self.a, self.b),
            notes=notes,
            not_compared=lonely,
            recorded_on=tuple(dict.fromkeys(s.ran_on for s in (*self.a.sequences, *self.b.sequences))),
        )
        alone = [] if op is not None else self._alone()
        if not len(numbers) and not alone:
            return base
        steps = [*suspects(self._look(numbers.tolist(), workers, progress)), *alone]
        flow = dataflow(self.b)
        along = carrying(flow, self.changes, self.alignment)
        effects = Effects(self.a, self.b, self.alignment, self.changes, flow, along)
        reaching = effects.reaching()
        steps = [
            replace(s, vanishes=True) if s.kind == "introduced" and _finished(s) and not reaching[s.row] else s
            for s in steps
        ]
        steps.sort(key=lambda s: (s.invocation, s.index, s.kind != "removed"))
        first = next((s for s in steps if s.kind == "introduced" and not s.vanishes), None)
        return replace(
            base,
            steps=tuple(steps),
            outside=effects.outside(),
            final=effects.finals(self.pairwise),
            path=() if first is None else effects.path(first.row),
        )

    # --- steps that differ --------------------------------------------------------------------------------------

    def _look(self, numbers: list[int], workers: int, progress: Progress | None) -> Iterable[StepDifference]:
        with ThreadPoolExecutor(workers, "diff") as pool:
            found = pool.map(self._step, numbers) if workers > 1 else map(self._step, numbers)
            for done, step in enumerate(found, 1):
                if progress is not None:
                    progress(done, len(numbers))
                yield step

    def _step(self, number: int) -> StepDifference:
        found = self.changes
        a, b = self._pair(number)
        inputs_differ, status = bool(found.inputs[number]), (a.status, b.status)
        uses = b.description.operands
        inputs = [uses[p].spec.name for p in found.positions(found.reads, int(found.b[number])) if p < len(uses)]
        inputs += [f"value {n}" for n in _values_changed(a.values, b.values)]
        writes = found.positions(found.writes, int(found.b[number]))
        base = StepDifference(
            kind="masked",
            address=b.address,
            a_address=a.address,
            row=int(found.b[number]),
            op=b.op.type,
            label=b.label,
            why="its inputs differ, its outputs are equal",
            changed=self.changed.get((_sequence_of(self.a, a), a.index), ""),
            status=status,
            inputs=tuple(inputs),
        )
        if status[0] != status[1]:
            error = next((f": {s.error}" for s in (b, a) if s.error), "")
            return replace(base, kind="introduced", why=f"{status[0]} in a, {status[1]} in b{error}", breaks=True)
        if not found.outputs[number]:
            return base
        outputs = self.pairwise.outputs(a, b, writes, same_inputs=not inputs_differ)
        judged = self.pairwise.judged(a, b, same_inputs=not inputs_differ)
        base = replace(base, outputs=outputs, judged=judged)
        beyond = any(o.verdict is not None and not o.verdict for o in outputs)
        if not inputs_differ:
            why = "the same inputs, other outputs"
            if base.changed:
                why += f"; other {base.changed} in the runlist: {_what_changed(a, b, base.changed)}"
            elif judged[0].ok is False and judged[1].ok:
                why += "; b agrees with its reference, a does not"
            elif newly_wrong(judged):
                why += "; a agrees with its reference, b does not"
            return replace(base, kind="introduced", why=why, breaks=beyond)
        if newly_wrong(judged):
            why = "its inputs differ, but b breaks the rule on its own inputs, and a kept it on its"
            return replace(base, kind="introduced", why=why, breaks=True)
        return replace(base, kind="inherited", why=_inherited(judged))

    def _pair(self, number: int) -> tuple[Step, Step]:
        return (
            self.a.at(int(self.changes.a[number])),
            self.b.at(int(self.changes.b[number])),
        )

    # --- what only one side has ---------------------------------------------------------------------------------

    def _alone(self) -> list[StepDifference]:
        found = []
        sides: tuple[tuple[Snapshot, npt.NDArray[np.int64], str, Kind], ...] = (
            (self.a, self.alignment.b_of, "b", "removed"),
            (self.b, self.alignment.a_of, "a", "added"),
        )
        for snapshot, codes, other, in_runlist in sides:
            for row in np.flatnonzero((codes == MISSING) | (codes == NOT_IN_RUNLIST)).tolist():
                step = snapshot.at(row)
                lost = codes[row] == MISSING
                why = f"{other} has no record of it" if lost else f"the runlist of {other} has no such step"
                status = (step.status, "") if other == "b" else ("", step.status)
                kind: Kind = "missing" if lost else in_runlist
                address = step.address if other == "b" else None
                found.append(
                    StepDifference(
                        kind, step.address, address, row, step.op.type, step.label, why, status=status, breaks=lost
                    )
                )
        return found

    def _notes(self) -> tuple[tuple[str, ...], int]:
        notes, lonely = [], 0
        for snapshot, codes, name in ((self.a, self.alignment.b_of, "a"), (self.b, self.alignment.a_of, "b")):
            alone = np.unique(snapshot.index.steps["invocation"][codes == NOT_INVOKED]).tolist()
            if alone:
                lonely += len(alone)
                span = f"invocation{'s' * (len(alone) > 1)} {_spans(alone)}"
                notes.append(f"not compared: {span} of {name}: the other recording has none to set against it")
        for names, name in zip(self.alignment.alone, "ab", strict=True):
            if names:
                notes.append(f"only {name} has the sequence{'s' * (len(names) > 1)} {', '.join(names[:6])}")
        for r in self.alignment.runlists:
            if not r.identical:
                counted = sorted(Counter(r.changed.values()).items())
                kinds = ", ".join(f"{n} with other {what}" for what, n in counted)
                sizes = f"{r.steps[0]} steps in a, {r.steps[1]} in b, {len(r.pairs)} aligned"
                notes.append(f"runlist {self.b.sequences[r.b].name}: {sizes}{f', {kinds}' if kinds else ''}")
        return tuple(notes), lonely

    def _of_type(self, op: str) -> npt.NDArray[np.bool_]:
        wanted = {s.address for s in self.b.steps(op=op)}
        steps = self.b.index.steps[self.changes.b]
        chosen = np.array([f"{i}:{s}" in wanted for i, s in steps[["invocation", "step"]].tolist()], np.bool_)
        if not chosen.any():
            known = sorted({o.type for s in self.b.sequences for o in s.operators})
            raise UsageError(f"{self.b.path}: no aligned step of operator {op!r}; it has {', '.join(known)}")
        return chosen


# --- words ----------------------------------------------------------------------------------------------------------


def _inherited(judged: tuple[Judged, Judged]) -> str:
    a, b = judged
    if b.ok is None or a.ok is None:
        why = b.detail if b.ok is None else a.detail
        return f"its inputs differ; whether it adds to that could not be judged: {why}"
    if not b.ok:
        return "its inputs differ; both sides break the rule against their references"
    return "its inputs differ, and its reference explains what it made of them"


def _values_changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [n for n in sorted({*a, *b}) if a.get(n) != b.get(n)]


def _what_changed(a: Step, b: Step, changed: str) -> str:
    if changed == "operator":
        return f"{a.op.type} -> {b.op.type}"
    if "parameters" in changed:
        names = [n for n in sorted({*a.op.params, *b.op.params}) if a.op.params.get(n) != b.op.params.get(n)]
        return ", ".join(f"{n} {a.op.params.get(n)} -> {b.op.params.get(n)}" for n in names[:4])
    return f"{a.description.flow} before"


def _environment(a: Snapshot, b: Snapshot) -> tuple[Change, ...]:
    """Provenance, and where the sequences say they came from."""
    origins = [
        {k: ", ".join(sorted({s.origin[k] for s in side.sequences if k in s.origin})) for k in ("device", "variant")}
        for side in (a, b)
    ]
    return (*environment_changes(*origins), *environment_changes(a.provenance, b.provenance))


def _sequence_of(snapshot: Snapshot, step: Step) -> int:
    return int(snapshot.index.invocations["sequence"][step.invocation])


def _finished(step: StepDifference) -> bool:
    return step.status == ("complete", "complete")


def _spans(numbers: list[int]) -> str:
    """[2, 3, 4, 7] -> "2 to 4, 7"."""
    spans: list[list[int]] = []
    for n in numbers:
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ", ".join(str(lo) if lo == hi else f"{lo} to {hi}" for lo, hi in spans)


__all__ = ["diff", "split_invocation"]
