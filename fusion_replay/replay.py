# SPDX-License-Identifier: Apache-2.0
"""``replay()``: choose the steps, judge each, collect the report."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import NothingComparedError, UsageError
from fusion_replay.judging.ahead import ReadAhead
from fusion_replay.judging.chain import Chain, follow
from fusion_replay.judging.history import WriteHistory
from fusion_replay.judging.installed import require_iron
from fusion_replay.judging.judge import ARRAYS, FOREIGN, NotComparedError, Plan, skip, tensors
from fusion_replay.judging.outcome import FinalOutput, Skip, StepReport
from fusion_replay.judging.processes import judge_in_processes
from fusion_replay.judging.results import ReplayReport
from fusion_replay.judging.series import Outcome, judge_evaluated, judge_series, near_reuse, pieces, roles_read
from fusion_replay.keeping import AS_IN, AS_REFERENCE
from fusion_replay.model import parse_buffer
from fusion_replay.operators import FLAVOURS
from fusion_replay.rules import RULES
from fusion_replay.tensors import need_torch

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot

MODES = ("isolated", "cumulative")

_SHARES = 8  # of the work, per process: few enough that weights are decoded once, many enough that all end together

Progress = Callable[[int, int], object]


def replay(
    snapshot: str | os.PathLike[str] | Snapshot,
    reference: str = "auto",
    rule: str = "auto",
    mode: str = "isolated",
    workers: int = 1,
    steps: str | tuple[int, int] | Iterable[str | tuple[int, int]] | None = None,
    op: str | None = None,
    buffer: str | None = None,
    invocation: int | None = None,
    fail_fast: bool = False,
    progress: Progress | None = None,
    array: str = "numpy",
    cache_bytes: int | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> ReplayReport:
    """Judge every recorded step against its reference.

    Args:
        snapshot: a file, or an open Snapshot (left open).
        reference: a flavour ("pr117", "iron-2026-08", "iron-2026-09", "exact"), or "auto": the one the recording names,
            "installed": the reference() of the IRON that is installed here, or "stored": what that gave while it was
            recorded (``record(..., with_reference=True)``).
        rule: one of :data:`fusion_replay.rules.RULES`.
        mode: "isolated": each reference gets the step's recorded inputs. "cumulative": references are chained from the
            recorded external inputs, and the sequences' outputs are judged at the end of the chain.
        workers: processes that share the steps; the report is the same for any number. They are started afresh
            (``spawn``), so a script needs ``if __name__ == "__main__":``. One process judges while a thread of it reads
            ahead; BLAS threads are divided between several unless the environment says how many. Mode cumulative is
            sequential: one step's outputs are the next one's inputs.
        steps: only these, as "INVOCATION:STEP" or pairs. ``op``, ``buffer``, ``invocation``: as ``Snapshot.steps``.
        fail_fast: stop after the first mismatch.
        progress: called with (steps done, steps in all).
        array: what references compute on: "numpy", "torch", or "cuda" (torch on a GPU).
        weights: the side file with the weights that the recording left out, where ``snapshot`` is a path; None: the
            one that it names, beside it.
        cache_bytes: decoded contents held in memory, at most, by all workers together; by default the snapshot's own
            budget (``fr.open(path, cache_bytes=...)``, 512 MiB). One step's tensors come on top where they are larger
            than that, in each worker.

    Raises:
        UsageError: an unknown name, or filters that match nothing.
        MissingError: a reference that is not here.
        NothingComparedError: no step could be compared.
        SnapshotError: no usable snapshot, or one whose contents are damaged.
    """
    _check_names(reference, rule, mode, array)
    _check_numbers(mode, workers, cache_bytes)
    from fusion_replay.snapshot import opened

    with opened(snapshot, weights=weights) as snap:
        selected = select(snap, steps, op, buffer, invocation)
        budget = snap.store.budget if cache_bytes is None else cache_bytes
        run = _Run(snap, Plan(rule, reference, array), budget, progress, fail_fast)
        if mode == "isolated":
            outcomes = run.isolated(selected, workers)
            final: tuple[FinalOutput, ...] = ()
        else:
            outcomes, final = run.cumulative(selected)
        recorded = recorded_on(snap)
    report = ReplayReport(
        mode=mode,
        rule=rule,
        reference=reference,
        recorded_on=recorded,
        steps=tuple(o for o in outcomes if isinstance(o, StepReport)),
        skips=tuple(o for o in outcomes if isinstance(o, Skip)),
        final=final,
    )
    if not report.steps:
        why = _none_deviated(selected) or "; ".join(report.skip_lines) or "the recording holds no step"
        unknown = dict.fromkeys(s.op for s in report.skips if s.kind == "unknown_operator")
        raise NothingComparedError(f"{snap.path}: nothing was compared: {why}", tuple(unknown))
    return report


class _Run:
    """One replay under way."""

    def __init__(
        self, snapshot: Snapshot, plan: Plan, cache_bytes: int, progress: Progress | None, fail_fast: bool
    ) -> None:
        self.snapshot = snapshot
        self.plan = plan
        self.cache_bytes = cache_bytes
        self.progress = progress
        self.fail_fast = fail_fast

    def isolated(self, steps: Sequence[RecordedStep], workers: int) -> list[Outcome]:
        """In the order that reads least; whoever wants to stop at the first mismatch goes by the recording's own."""
        order = list(range(len(steps))) if self.fail_fast else near_reuse(steps)
        if workers == 1:
            return self._collect(judge_series(self.snapshot, steps, order, self.plan, self.cache_bytes), len(steps))
        shares = pieces(steps, order, workers * _SHARES)
        outcomes = judge_in_processes(self.snapshot, steps, shares, self.plan, self.cache_bytes, workers)
        return self._collect(outcomes, len(steps))

    def cumulative(self, selected: Sequence[RecordedStep]) -> tuple[list[Outcome], tuple[FinalOutput, ...]]:
        """Every step up to the last selected one is evaluated, the selected ones are judged."""
        finals: dict[tuple[int, str, int], FinalOutput] = {}
        found = self._collect(self._chained(selected, finals), len(selected))
        return found, tuple(finals[key] for key in sorted(finals))

    def _chained(
        self, selected: Sequence[RecordedStep], finals: dict[tuple[int, str, int], FinalOutput]
    ) -> Generator[tuple[int, Outcome], None, None]:
        numbers = {s.address: i for i, s in enumerate(selected)}
        last = max(((s.invocation, s.index) for s in selected), default=(-1, -1))
        steps = [s for s in self.snapshot.steps() if (s.invocation, s.index) <= last]
        chains: dict[int, Chain] = {}
        history = WriteHistory(self.snapshot)
        with ReadAhead(self.snapshot, steps, roles_read(self.plan), self.cache_bytes) as ahead:
            for position, step in enumerate(steps):
                chain = chains.setdefault(id(step.sequence), Chain())
                outcome = self._judge_chained(step.reading_from(ahead), chain, history, step.address in numbers)
                if isinstance(outcome, StepReport):
                    _note_final(finals, step, outcome)
                if outcome is not None:
                    yield numbers[step.address], outcome
                ahead.done(position)

    def _collect(self, outcomes: Generator[tuple[int, Outcome], None, None], total: int) -> list[Outcome]:
        """In the order of the recording; up to the first mismatch if one is enough."""
        found: dict[int, Outcome] = {}
        with closing(outcomes):
            for i, outcome in outcomes:
                found[i] = outcome
                if self.progress is not None:
                    self.progress(len(found), total)
                if self.fail_fast and isinstance(outcome, StepReport) and not outcome:
                    break
        return [found[i] for i in sorted(found)]

    def _judge_chained(self, step: RecordedStep, chain: Chain, history: WriteHistory, wanted: bool) -> Outcome | None:
        try:
            evaluation = follow(step, self.plan, chain)
        except NotComparedError as why:
            return skip(step, why) if wanted else None
        return judge_evaluated(step, self.plan, evaluation, history) if wanted else None


# --- choosing -------------------------------------------------------------------------------------------------------


def _check_numbers(mode: str, workers: int, cache_bytes: int | None) -> None:
    if workers < 1:
        raise UsageError(f"workers {workers}: expected at least 1")
    if workers > 1 and mode == "cumulative":
        raise UsageError(f"workers {workers}: mode cumulative is sequential, expected 1; leave workers out")
    if cache_bytes is not None and cache_bytes < 0:
        raise UsageError(f"cache_bytes {cache_bytes}: expected 0 or more")


def _check_names(reference: str, rule: str, mode: str, array: str) -> None:
    if mode not in MODES:
        raise UsageError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    if rule not in RULES:
        raise UsageError(f"rule {rule!r}: expected one of {', '.join(RULES)}")
    known = ("auto", *FOREIGN, *FLAVOURS)
    if reference not in known:
        raise UsageError(f"reference {reference!r}: expected one of {', '.join(known)}")
    if array not in ARRAYS:
        raise UsageError(f"array {array!r}: expected one of {', '.join(ARRAYS)}")
    if reference == "installed":
        require_iron()
    if array != "numpy":
        need_torch("cuda" if array == "cuda" else "cpu")


def select(
    snap: Snapshot, steps: Any, op: str | None, buffer: str | None, invocation: int | None
) -> list[RecordedStep]:
    """The steps that these filters mean.

    Raises:
        UsageError: there are none of them.
    """
    found = list(snap.steps(invocation=invocation, op=op, buffer=buffer))
    if steps is not None:
        alone = isinstance(steps, str) or (isinstance(steps, tuple) and len(steps) == 2 and isinstance(steps[0], int))
        wanted = {snap[address].address for address in ([steps] if alone else steps)}
        found = [s for s in found if s.address in wanted]
    filters = {"steps": steps, "op": op, "buffer": buffer, "invocation": invocation}
    asked = ", ".join(f"{k} {v!r}" for k, v in filters.items() if v is not None)
    if asked and not found and len(snap):
        if buffer is not None:
            snap.buffer(parse_buffer(buffer)[0])
        known = sorted({o.type for s in snap.sequences for o in s.operators})
        has = f"operators {', '.join(known)}; invocations 0 to {len(snap.invocations) - 1}"
        raise UsageError(f"{snap.path}: no recorded step matches {asked}; it has {has}")
    return found


def _none_deviated(steps: Sequence[RecordedStep]) -> str | None:
    """Where a recording of deviating steps alone has none: so."""
    reasons = dict.fromkeys(step.withheld or "" for step in steps)
    if len(reasons) != 1 or not (reason := next(iter(reasons))).startswith((AS_IN, AS_REFERENCE)):
        return None
    return (
        f"none of its {len(steps):,} steps deviated when it was recorded (all {reason}), and contents of deviating "
        "steps alone were kept; record with keep 'all' to judge them"
    )


def recorded_on(snap: Snapshot) -> tuple[str, ...]:
    """For people: what each kind of sequence ran on, the software NPU labelled as such."""
    found = []
    for sequence in snap.sequences:
        variant, device = sequence.origin.get("variant", "unknown source"), sequence.origin.get("device", "")
        name = {"simulator": "the software NPU", "arrays": "arrays given by the caller"}.get(variant, f"IRON {variant}")
        found.append(f"{name} ({device})" if device else name)
    return tuple(dict.fromkeys(found))


# --- parts ----------------------------------------------------------------------------------------------------------


def _note_final(finals: dict[tuple[int, str, int], FinalOutput], step: RecordedStep, report: StepReport) -> None:
    """Keep the last write to each part of an output buffer (without declared outputs: what the last step writes)."""
    sequence = step.sequence
    for tensor, output in zip(tensors(step.outputs), report.outputs, strict=True):
        declared = tensor.use.buffer in sequence.output_args
        if declared or (not sequence.output_args and step.index == len(sequence.steps) - 1):
            key = (step.invocation, tensor.use.buffer, tensor.use.start)
            finals[key] = FinalOutput(step.invocation, tensor.buffer, step.address, output.verdict)


__all__ = ["MODES", "ReplayReport", "StepReport", "replay"]
