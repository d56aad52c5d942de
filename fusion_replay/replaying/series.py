# SPDX-License-Identifier: Apache-2.0
"""Many steps, each judged on its own recorded inputs: in which order, and how the work is shared out.

A report lists steps in the order of the recording, but nothing obliges a replay to judge them in it. Going through the
runlist once for a band of invocations, instead of once for each, decodes a weight once for the whole band.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING

from fusion_replay.replaying.judge import Evaluation, NotComparedError, Plan, evaluate_step, judge, skip
from fusion_replay.replaying.outcome import Skip, StepReport
from fusion_replay.replaying.read_ahead import ReadAhead
from fusion_replay.replaying.write_history import WriteHistory
from fusion_replay.snapshot.schema import INPUT, OUTPUT, PREVIOUS, REFERENCE

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot

Outcome = StepReport | Skip

BAND = 16
"""Invocations that go through the runlist together: weights are decoded once for all of them, and what changes (a
layer's caches and activations, some 20 MB an invocation for a large model) fits in memory for that many."""


def near_reuse(steps: Sequence[RecordedStep]) -> list[int]:
    """The numbers of ``steps`` in the order in which contents that several of them use lie near together."""
    sequences: dict[int, int] = {}

    def key(i: int) -> tuple[int, int, int, int]:
        s = steps[i]
        return sequences.setdefault(id(s.sequence), len(sequences)), s.invocation // BAND, s.index, s.invocation

    return sorted(range(len(steps)), key=key)


def pieces(steps: Sequence[RecordedStep], order: Sequence[int], n: int) -> list[list[int]]:
    """``order`` cut into at most ``n`` stretches of about the same number of operand bytes."""
    sizes = [1 + sum(use.spec.nbytes for use in steps[i].description.operands) for i in order]
    share, taken = sum(sizes) / n, 0
    found: list[list[int]] = [[]]
    for i, size in zip(order, sizes, strict=True):
        if found[-1] and taken >= share * len(found):
            found.append([])
        found[-1].append(i)
        taken += size
    return found


def roles_read(plan: Plan) -> tuple[int, ...]:
    """Of the operands whose contents a replay by this plan reads."""
    return (OUTPUT, REFERENCE) if plan.reference == "stored" else (INPUT, OUTPUT, PREVIOUS)


def judge_series(
    snapshot: Snapshot, steps: Sequence[RecordedStep], order: Iterable[int], plan: Plan, cache_bytes: int
) -> Generator[tuple[int, Outcome], None, None]:
    """Numbers of ``steps`` and their outcomes, in this order, reading ahead.

    Raises:
        SnapshotError: contents are damaged.
    """
    history = WriteHistory(snapshot)
    order = list(order)
    with ReadAhead(snapshot, [steps[i] for i in order], roles_read(plan), cache_bytes) as ahead:
        for position, i in enumerate(order):
            yield i, _judge_alone(steps[i].reading_from(ahead), plan, history)
            ahead.done(position)


def judge_evaluated(step: RecordedStep, plan: Plan, evaluation: Evaluation, history: WriteHistory) -> StepReport:
    """The step's recorded outputs against ``evaluation``."""
    actual = [t.numpy() for t in step.outputs.in_order()]
    return judge(step, plan, evaluation, actual, history)


def _judge_alone(step: RecordedStep, plan: Plan, history: WriteHistory) -> Outcome:
    try:
        evaluation = evaluate_step(step, plan)
    except NotComparedError as why:
        return skip(step, why)
    return judge_evaluated(step, plan, evaluation, history)
