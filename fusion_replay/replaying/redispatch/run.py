# SPDX-License-Identifier: Apache-2.0
"""``redispatch()``: recorded steps on a device again, each alone on its recorded inputs.

The question after a toolchain or driver update: does the same work still give the same bits, or at least right ones?
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.compare.rules import RULES
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.model.runlist import WHOLE_CALL
from fusion_replay.replaying.judge import Evaluation, NotComparedError, Plan, evaluate_step, judge
from fusion_replay.replaying.redispatch import outcome as verdicts
from fusion_replay.replaying.redispatch.attempt_log import TryJournal
from fusion_replay.replaying.redispatch.memory import Memory, lay_out
from fusion_replay.replaying.redispatch.outcome import StepOutcome
from fusion_replay.replaying.redispatch.redispatch_report import RedispatchReport
from fusion_replay.replaying.redispatch.repetition import Repetitions
from fusion_replay.replaying.redispatch.targets import CannotRunError, NpuTarget, Runner, SimTarget, Target
from fusion_replay.replaying.replayer import recorded_on
from fusion_replay.system.messages import in_words

if TYPE_CHECKING:
    from fusion_replay.compare.tolerance import Tolerance
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.replaying.judge import NDArray
    from fusion_replay.snapshot import Snapshot
    from fusion_replay.sources.protocol import DispatchResult

TIMEOUT = 10.0
"""Seconds for one dispatch; the slowest of a decode takes milliseconds."""

_TICK = 0.01
"""Seconds by which a kernel's own clock may end a wait early."""

Progress = Callable[[int, int], object]


def redispatch(
    snapshot: str | os.PathLike[str] | Snapshot,
    on: str = "npu",
    build_dir: str | os.PathLike[str] | None = None,
    repeat: int = 1,
    timeout: float = TIMEOUT,
    steps: str | tuple[int, int] | Iterable[str | tuple[int, int]] | None = None,
    force: bool = False,
    *,
    op: str | None = None,
    buffer: str | None = None,
    invocation: int | None = None,
    device: str | None = None,
    rule: str = "auto",
    reference: str = "auto",
    tolerances: Mapping[str, Tolerance] | None = None,
    journal: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> RedispatchReport:
    """Dispatch recorded steps again, and compare what comes out with the recorded output and with the reference.

    Args:
        snapshot: a file, or an open Snapshot (left open).
        on: "npu" (device 0, through pyxrt) or "sim" (the software NPU).
        build_dir: a folder with IRON's build: operators that it has the files of run with those, the others with the
            recorded ones. Only on an NPU.
        repeat: dispatches of each step; more than one gives a determinism certificate.
        timeout: seconds for one dispatch (NPU only: the software NPU cannot hang).
        steps, op, buffer, invocation: which, as :func:`fusion_replay.replay` takes them.
        force: run on another device generation than the recorded one.
        device: on "sim": "npu1" or "npu2"; the recorded one by default.
        rule, reference: as :func:`fusion_replay.replay`.
        tolerances: limits that replace an operator's own, by step address or operator type.
        journal: where to write what is tried, before it is; by default beside the snapshot, on an NPU only. An
            unfinished one of the same plan is continued: finished steps are taken over, what hung is not tried again.
            Removed at the end unless something hung.
        progress: called with (steps done, steps in all).

    Raises:
        UsageError: an unknown name, filters that match nothing, a build folder without a file of any operator.
        MissingError: no step can be run here, with the reason: nothing was dispatched separately, no pyxrt, no device,
            no binaries, another device generation.
        SnapshotError: no usable snapshot, or one whose contents are damaged.
    """
    _check(on, build_dir, repeat, timeout, device, rule)
    from fusion_replay.snapshot import opened
    from fusion_replay.snapshot.selection import select

    with opened(snapshot) as snap:
        selected = select(snap, steps, op, buffer, invocation)
        _need_steps(snap, selected)
        target = _target(snap, selected, on, None if build_dir is None else Path(build_dir), device)
        try:
            if not force:
                _same_generation(snap, selected, target)
            # What is dispatched to need not be what was recorded on, so no bound decides unless it is asked for.
            plan = Plan("tolerance" if rule == "auto" else rule, reference, tolerances=tolerances or {})
            where = Path(journal) if journal is not None else None
            identity = _digest(snap, target, plan, repeat)
            if where is None and on == "npu":
                where = _beside(snap, identity)
            run = _Redispatch(target, plan, repeat, timeout, TryJournal(where, identity))
            outcomes = run.all(selected, progress)
        finally:
            target.close()
        found = RedispatchReport(
            on=on,
            device=_in_full(target),
            recorded_on=recorded_on(snap),
            rule=rule,
            reference=reference,
            repeat=repeat,
            steps=tuple(outcomes),
            journal=None if run.journal_kept is None else str(run.journal_kept),
        )
    if not found.ran and not found.failures:
        reasons = "; ".join(dict.fromkeys(s.detail for s in found.steps))
        raise MissingError(f"{snap.path}: no step could be run: {reasons}")
    return found


class _Redispatch:
    """One redispatch under way."""

    def __init__(self, target: Target, plan: Plan, repeat: int, timeout: float, journal: TryJournal) -> None:
        self.target, self.plan = target, plan
        self.repeat, self.timeout = repeat, timeout
        self.journal = journal
        self.journal_kept: Path | None = None
        self.lost_at: str | None = None

    def all(self, steps: Sequence[Step], progress: Progress | None) -> list[StepOutcome]:
        outcomes: list[StepOutcome] = []
        try:
            for step in steps:
                outcomes.append(self._next(step))
                if progress is not None:
                    progress(len(outcomes), len(steps))
        except BaseException:
            self.journal.close(keep=True)
            raise
        unfinished = any(o.verdict in (verdicts.HUNG, verdicts.LOST) for o in outcomes)
        self.journal_kept = self.journal.path if unfinished else None
        self.journal.close(keep=unfinished)
        return outcomes

    def _next(self, step: Step) -> StepOutcome:
        if step.address in self.journal.done:
            return self.journal.done[step.address]
        if step.address in self.journal.hung:
            why = f"{self.journal.hung[step.address]}, not tried again; remove {self.journal.path} to try"
            return _outcome(step, verdicts.HUNG, why, continued=True)
        if self.lost_at is not None:
            return _outcome(step, verdicts.NOT_RUN, f"the device was lost at {self.lost_at}", missing=True)
        try:
            _need_recorded(step)
        except NotComparedError as why:
            return _outcome(step, verdicts.NOT_RUN, why.reason)
        try:
            runner = self.target.prepare(step)
        except CannotRunError as why:
            return _outcome(step, verdicts.NOT_RUN, str(why), missing=True)
        outcome = self._run(step, runner)
        self.journal.finished(outcome)
        return outcome

    def _run(self, step: Step, runner: Runner) -> StepOutcome:
        memory = lay_out(step, runner.places)
        judged = _Judge(step, self.plan, memory)
        repetitions = Repetitions([t.name for t in step.outputs.in_order()])
        worst: StepOutcome | None = None
        for number in range(self.repeat):
            turn = f", repetition {number + 1} of {self.repeat}" if self.repeat > 1 else ""
            self.journal.trying(step.address)
            try:
                ran = runner.run(memory.contents, memory.uses, self.timeout)
            except Exception as error:  # whatever pyxrt raises: the device's own answer decides what it means
                return self._raised(step, error, turn, runner, again=number > 0)
            if not ran.completed:
                return self._did_not_complete(step, ran, turn, runner)
            outputs = [memory.after(ran.memory, t) for t in step.outputs.in_order()]
            if repetitions.add(outputs):
                found = judged.outcome(outputs, turn)
                if worst is None or verdicts.VERDICTS.index(found.verdict) < verdicts.VERDICTS.index(worst.verdict):
                    worst = found
        assert worst is not None, "repeat is at least 1"
        certificate = repetitions.certificate() if self.repeat > 1 else None
        return replace(worst, binaries=runner.binaries, certificate=certificate)

    def _raised(self, step: Step, error: Exception, turn: str, runner: Runner, *, again: bool) -> StepOutcome:
        misfit = isinstance(error, CannotRunError)
        what = f"{error if misfit else in_words(error)}{turn}"
        if not self.target.alive():
            self.lost_at = step.address
            return _outcome(step, verdicts.LOST, what, binaries=runner.binaries)
        if misfit and not again:
            return _outcome(step, verdicts.NOT_RUN, what, missing=True)
        return _outcome(step, verdicts.FAILED, what, binaries=runner.binaries)

    def _did_not_complete(self, step: Step, ran: DispatchResult, turn: str, runner: Runner) -> StepOutcome:
        after = f"{ran.state}{turn}"
        if ran.hung:
            waited = ran.elapsed_ns / 1e9 >= self.timeout - min(_TICK, self.timeout / 10)
            when = "after {} s" if waited else "before {} s were over: the driver gave it up"
            after = f"{ran.state} {when.format(f'{self.timeout:g}')}{turn}"
        if not self.target.alive():  # contexts are made anew: one that timed out is not used again
            self.lost_at = step.address
            after += "; the device does not answer any more"
        return _outcome(step, verdicts.HUNG if ran.hung else verdicts.FAILED, after, binaries=runner.binaries)


class _Judge:
    """New outputs of one step against the recorded ones and the reference."""

    def __init__(self, step: Step, plan: Plan, memory: Memory) -> None:
        self.step, self.plan, self.memory = step, plan, memory
        self.recorded = [t.numpy() for t in step.outputs.in_order()]
        self.evaluation: Evaluation | None = None
        self.why_not = ""
        self.was_right: bool | None = None
        try:
            self.evaluation = evaluate_step(step, plan)
        except NotComparedError as why:
            self.why_not = why.reason
            return
        self.was_right = bool(judge(step, plan, self.evaluation, self.recorded))

    def outcome(self, outputs: Sequence[NDArray], turn: str) -> StepOutcome:
        same = all(_bits(new) == _bits(old) for new, old in zip(outputs, self.recorded, strict=True))
        if same:
            wrong = "wrong by the reference, as it was recorded" if self.was_right is False else ""
            return self._said(verdicts.UNCHANGED, wrong, self.was_right)
        nothing = f"the run completed, no byte of its outputs changed{turn}"
        if self.evaluation is None:
            # Old contents may be right, an earlier call's; poison is not.
            if self._as_before(outputs) and not any(t.previous or t.use.spec.reads for t in self._outputs):
                return self._said(verdicts.WROTE_NOTHING, nothing, False)
            return replace(self._said(verdicts.UNJUDGED, self.why_not, None), missing=True)
        new = judge(self.step, self.plan, self.evaluation, outputs)
        right, detail = bool(new), f"{new.deciding.name}: {new.verdict.detail}{turn}"
        if not right and self._as_before(outputs):
            return self._said(verdicts.WROTE_NOTHING, nothing, False)
        if self.was_right:
            return self._said(verdicts.INSIDE if right else verdicts.NEWLY_WRONG, detail, right)
        return self._said(verdicts.NEWLY_RIGHT if right else verdicts.STILL_WRONG, detail, right)

    @property
    def _outputs(self) -> tuple[RecordedTensor, ...]:
        return self.step.outputs.in_order()

    def _as_before(self, outputs: Sequence[NDArray]) -> bool:
        pairs = zip(outputs, self._outputs, strict=True)
        return all(_bits(new) == self.memory.before(t).tobytes() for new, t in pairs)

    def _said(self, verdict: str, detail: str, right: bool | None) -> StepOutcome:
        return _outcome(self.step, verdict, detail, right=right, was_right=self.was_right)


def _bits(array: NDArray) -> bytes:
    return bytes(array.tobytes())


def _outcome(step: Step, verdict: str, detail: str, **more: Any) -> StepOutcome:
    return StepOutcome(
        step.address, step.invocation, step.index, step.op.type, step.label, verdict, detail=detail, **more
    )


# --- before anything runs ---------------------------------------------------------------------------------------------


def _check(on: str, build_dir: Any, repeat: int, timeout: float, device: str | None, rule: str) -> None:
    if on not in ("npu", "sim"):
        raise UsageError(f"on {on!r}: expected npu or sim")
    if repeat < 1:
        raise UsageError(f"repeat {repeat}: expected at least 1")
    if not 0 < timeout < 4e6:  # milliseconds of it are an unsigned 32-bit number
        raise UsageError(f"timeout {timeout}: expected seconds, more than 0 and below 4,000,000")
    if rule not in RULES:
        raise UsageError(f"rule {rule!r}: expected one of {', '.join(RULES)}")
    if on == "sim" and build_dir is not None:
        raise UsageError("build_dir: the software NPU runs no binaries; leave it out, or use --on npu")
    if on == "npu" and device is not None:
        raise UsageError("device: the NPU of this machine is what it is; --device is for --on sim")


def _need_steps(snap: Snapshot, selected: Sequence[Step]) -> None:
    if not selected:
        raise MissingError(f"{snap.path}: nothing can be dispatched: the recording holds no step")
    if all(step.sequence.origin.get("dispatch") == WHOLE_CALL for step in selected):
        raise MissingError(
            f"{snap.path}: no separate dispatch in the recording, only whole calls, of which no kernel is known; "
            "record again with dispatch='separate', or fusion-replay record --separate python APP.py"
        )


def _target(snap: Snapshot, selected: Sequence[Step], on: str, build_dir: Path | None, device: str | None) -> Target:
    if on == "npu":
        return NpuTarget(snap, build_dir)
    generation = device or next(iter(_generations(selected)), None)
    if generation is None:
        raise UsageError(f"{snap.path}: the recording names no device; give --device npu1 or npu2")
    return SimTarget(generation)


def _generations(selected: Sequence[Step]) -> list[str]:
    """Of the recorded devices, in order of appearance."""
    named = (step.sequence.origin.get("device") for step in selected)
    return list(dict.fromkeys(device for device in named if device))


def _in_full(target: Target) -> str:
    """Its name and generation; the software NPU is called by its generation anyway."""
    if not target.name:
        return "an NPU that tells no name"
    if target.generation and target.generation in target.name:
        return target.name
    return f"{target.name} ({target.generation or 'unknown generation'})"


def _same_generation(snap: Snapshot, selected: Sequence[Step], target: Target) -> None:
    for recorded in _generations(selected):
        if target.name and recorded != target.generation:  # one without a name is not known to be another
            raise MissingError(
                f"{snap.path}: recorded on {recorded}, the device here is {_in_full(target)}: binaries and bits of one "
                "generation are not the other's; --force runs it all the same"
            )


def _need_recorded(step: Step) -> None:
    """
    Raises:
        NotComparedError: the recording lacks what the dispatch needs, or what it could be compared with.
    """
    if step.status != "complete":
        raise NotComparedError(step.status, f"its recording is {step.status}: there is no output to compare with")
    if step.sequence.origin.get("dispatch") == WHOLE_CALL:
        raise NotComparedError("whole_call", "a whole call: no kernel of it is known")
    for tensor in (*step.inputs.in_order(), *step.outputs.in_order()):
        if not tensor.kept:
            raise NotComparedError("not_kept", f"the contents of {tensor.name} were not kept")


def _digest(snap: Snapshot, target: Target, plan: Plan, repeat: int) -> str:
    """Of all that decides an outcome: only a journal of the same is continued."""
    limits = repr(sorted(plan.tolerances.items(), key=lambda item: item[0]))
    parts = (snap.index.recording, target.fingerprint, plan.rule, plan.reference, limits, str(repeat))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _beside(snap: Snapshot, plan: str) -> Path:
    return snap.path.with_name(f"{snap.path.name}.redispatch-{plan[:8]}.jsonl")


__all__ = ["TIMEOUT", "RedispatchReport", "redispatch"]
