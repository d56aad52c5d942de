# SPDX-License-Identifier: Apache-2.0
"""What a recording shows today, in the form that a golden keeps: every step judged, every content by its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_replay.compare.deviation import Stats
from fusion_replay.golden.document import GoldenStep
from fusion_replay.golden.tolerances import limits_from_dict, limits_to_dict
from fusion_replay.model import serialise
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.replaying.judge import NotComparedError, Plan, evaluate_step, judge, skip
from fusion_replay.snapshot.schema import digest_of

if TYPE_CHECKING:
    from fusion_replay.compare.tolerance import Tolerance
    from fusion_replay.model.step import Step
    from fusion_replay.replaying.judge import Evaluation
    from fusion_replay.replaying.outcome import Skip, StepReport
    from fusion_replay.snapshot import Snapshot

_STATS = ("max_abs", "rel_l2", "ulp_max", "ulp_mean", "ulp_signed_mean")  # of the numbers alone, whatever the limits
_DIGITS = 6  # of a statistic: enough to review, few enough to be the same on every machine


@dataclass(frozen=True, slots=True)
class Observation:
    """The judged steps of a recording in its order, and the others with their reasons."""

    steps: tuple[GoldenStep, ...]
    skips: tuple[Skip, ...]


def observe(snapshot: Snapshot, tolerances: Mapping[str, Tolerance] | None = None) -> Observation:
    """Judge every step by rule ``tolerance`` (limits are part of a golden) on its recorded inputs.

    Args:
        snapshot: the recording.
        tolerances: limits that replace an operator's own, by address or operator type.
    """
    known: set[str | None] = set()
    plan = Plan("tolerance", tolerances=tolerances or {})
    steps: list[GoldenStep] = []
    skips: list[Skip] = []
    for step in snapshot.steps():
        try:
            evaluation = evaluate_step(step, plan)
        except NotComparedError as why:
            skips.append(skip(step, why))
            continue
        actual = [t.numpy() for t in step.outputs.in_order()]
        report = judge(step, plan, evaluation, actual)
        steps.append(_golden_step(step, evaluation, report, known))
        known.update(t.digest for t in step.outputs.in_order())
    return Observation(tuple(steps), tuple(skips))


def _golden_step(step: Step, evaluation: Evaluation, report: StepReport, known: set[str | None]) -> GoldenStep:
    outputs, expected, stats = {}, {}, {}
    for tensor, result, judged in zip(step.outputs.in_order(), evaluation.results, report.outputs, strict=True):
        outputs[tensor.name] = tensor.digest or ""
        digest = digest_of(flat_bytes(result)).hex()
        if digest != tensor.digest:
            expected[tensor.name] = digest
            stats[tensor.name] = _rounded(judged.verdict.stats)
    return GoldenStep(
        address=step.address,
        op=step.op.type,
        flow=step.description.flow,
        inputs={t.name: t.digest or "" for t in step.inputs.in_order() if t.digest not in known},
        outputs=outputs,
        expected=expected,
        stats=stats,
        limits=limits_from_dict(limits_to_dict(report.verdict.tolerance), step.address),  # without their source
        verdict="match" if report else "mismatch",
    )


def _rounded(stats: Stats) -> dict[str, Any]:
    found = {}
    for name in _STATS:
        value = serialise.json_data(getattr(stats, name))
        found[name] = float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
    return found


__all__ = ["Observation", "observe"]
