# SPDX-License-Identifier: Apache-2.0
"""Runs one replay: chooses the steps, judges each on its recorded inputs in the order that reads least, or chained."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from fusion_replay import refs
from fusion_replay.compare.rules import RULES
from fusion_replay.errors import UsageError
from fusion_replay.model.arrays import need_torch
from fusion_replay.model.withheld import AS_IN, AS_REFERENCE
from fusion_replay.operators import FLAVOURS
from fusion_replay.replaying.chain import Chain, follow
from fusion_replay.replaying.installed import require_iron
from fusion_replay.replaying.judge import ARRAYS, FOREIGN, NotComparedError, Plan, skip
from fusion_replay.replaying.outcome import FinalOutput, StepReport
from fusion_replay.replaying.read_ahead import ReadAhead
from fusion_replay.replaying.series import Outcome, judge_evaluated, judge_series, near_reuse, pieces, roles_read
from fusion_replay.replaying.worker_processes import judge_in_processes
from fusion_replay.replaying.write_history import WriteHistory

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot

MODES = ("isolated", "cumulative")

_SHARES = 8  # of the work, per process: few enough that weights are decoded once, many enough that all end together

Progress = Callable[[int, int], object]


class Replayer:
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
        """In the order that reads least; with ``fail_fast`` in the recording's own."""
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


def check_numbers(mode: str, workers: int, cache_bytes: int | None) -> None:
    if workers < 1:
        raise UsageError(f"workers {workers}: expected at least 1")
    if workers > 1 and mode == "cumulative":
        raise UsageError(f"workers {workers}: mode cumulative is sequential, expected 1; leave workers out")
    if cache_bytes is not None and cache_bytes < 0:
        raise UsageError(f"cache_bytes {cache_bytes}: expected 0 or more")


def check_names(reference: str, rule: str, mode: str, array: str) -> None:
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


def by_operator(limit: float | Mapping[str, float] | None, name: str) -> dict[str, float]:
    """Limits as they are given, by the operator types of the catalogue; "" for all others.

    Raises:
        UsageError: a number that is none, or an operator nobody knows.
    """
    given = {} if limit is None else limit if isinstance(limit, Mapping) else {"": limit}
    for op, number in given.items():
        if not (math.isfinite(number) and number >= 0):
            raise UsageError(f"{name} {f'{op}=' if op else ''}{number!r}: expected a finite number >= 0")
    return {op and refs.meant(op).type: float(number) for op, number in given.items()}


def none_deviated(steps: Sequence[RecordedStep]) -> str | None:
    """Where a recording of deviating steps alone has none: so."""
    reasons = dict.fromkeys(step.withheld or "" for step in steps)
    if len(reasons) != 1 or not (reason := next(iter(reasons))).startswith((AS_IN, AS_REFERENCE)):
        return None
    return (
        f"none of its {len(steps):,} steps deviated when it was recorded (all {reason}), and contents of deviating "
        "steps alone were kept; record with keep 'all' to judge them"
    )


def recorded_on(snap: Snapshot) -> tuple[str, ...]:
    """What each kind of sequence ran on."""
    return tuple(dict.fromkeys(sequence.ran_on for sequence in snap.sequences))


# --- parts ----------------------------------------------------------------------------------------------------------


def _note_final(finals: dict[tuple[int, str, int], FinalOutput], step: RecordedStep, report: StepReport) -> None:
    """Keep the last write to each part of an output buffer (without declared outputs: what the last step writes)."""
    sequence = step.sequence
    for tensor, output in zip(step.outputs.in_order(), report.outputs, strict=True):
        declared = tensor.use.buffer in sequence.output_args
        if declared or (not sequence.output_args and step.index == len(sequence.steps) - 1):
            key = (step.invocation, tensor.use.buffer, tensor.use.start)
            finals[key] = FinalOutput(step.invocation, tensor.buffer, step.address, output.verdict)


__all__ = [
    "MODES",
    "Progress",
    "Replayer",
    "by_operator",
    "check_names",
    "check_numbers",
    "none_deviated",
    "recorded_on",
]
