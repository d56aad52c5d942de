# SPDX-License-Identifier: Apache-2.0
"""What moved between a golden and what its recording, or a new one, shows today: step by step, one side at a time.

A digest that differs names the side: inputs before outputs before reference, because each follows from the one
before. Limits are looked at only where the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fusion_replay.diverge.changed_sides import StepFacts, moved
from fusion_replay.diverge.environment import Change
from fusion_replay.golden.check_report import CheckedStep, Problem, Question
from fusion_replay.golden.document import Golden, GoldenStep
from fusion_replay.golden.observe import Observation

WORDS = {
    "reference": "reference moved",
    "npu": "NPU moved",
    "tolerance": "tolerance moved",
    "inputs": "inputs moved",
    "contents": "contents moved",
    "steps": "steps moved",
    "verdict": "verdict moved",
    "statistics": "statistics moved",
}
_SHOWN = 12  # digits of a digest in a sentence; the document has all
_SKIPS = {"reference": "reference_missing"}

Near = Callable[[GoldenStep], str | None]
"""Of a step whose outputs differ: how far they are, where that is inside its limits; else None."""


def of_recording(golden: Golden, seen: Observation) -> tuple[list[CheckedStep], list[Problem]]:
    """The golden's own contents, judged today: inputs and outputs can't have moved without somebody's hand."""
    return _compare(golden, seen, "reference", {"inputs": "contents", "npu": "contents"}, None)


def of_remade(
    golden: Golden, seen: Observation, near: Near | None, *, reference_too: bool
) -> tuple[list[CheckedStep], list[Problem]]:
    """A recording made again from the recipe.

    Args:
        near: judges outputs that are not the same to the bit; None where only the bits count.
        reference_too: ask what the reference says as well: of a thin golden nothing else tells it.
    """
    return _compare(golden, seen, "npu", {}, near, reference_too=reference_too)


def _compare(
    golden: Golden,
    seen: Observation,
    question: Question,
    kinds: Mapping[str, str],
    near: Near | None,
    *,
    reference_too: bool = True,
) -> tuple[list[CheckedStep], list[Problem]]:
    made = {s.address: s for s in seen.steps}
    skips = {s.address: s for s in seen.skips}
    outcomes: list[CheckedStep] = []
    device_moved = False
    for old in golden.steps:
        new, skip = made.get(old.address), skips.get(old.address)
        if skip is not None:
            kind = _SKIPS.get(skip.kind, skip.kind)
            outcomes.append(CheckedStep(question, old.address, old.label, "not_compared", kind, skip.reason))
            continue
        if new is None:
            text = f"{WORDS['steps']}: the golden has this step, the recording has not"
            outcomes.append(CheckedStep(question, old.address, old.label, "moved", "steps", text))
            continue
        outcome = _step(old, new, question, kinds, near, reference_too)
        if device_moved and outcome.kind in ("npu", "inputs"):  # a consequence, as far as digests can tell
            outcome = CheckedStep(question, old.address, old.label, "follows", outcome.kind, outcome.text)
        device_moved |= outcome.state == "moved" and outcome.kind in ("npu", "inputs")
        outcomes.append(outcome)
    return outcomes, _unknown_steps(golden, seen)


def _unknown_steps(golden: Golden, seen: Observation) -> list[Problem]:
    """Steps that were recorded and have no line: somebody deleted it, or the recipe runs more than it did."""
    known = {s.address for s in golden.steps}
    here = [(s.address, s.label) for s in seen.steps] + [(s.address, s.label) for s in seen.skips]
    extra = [label for address, label in here if address not in known]
    if not extra:
        return []
    text = f"{len(extra):,} of {len(here):,} recorded steps are not in the golden, first {extra[0]}; restore its lines"
    return [Problem("steps", golden.name, f"{WORDS['steps']}: {text}")]


def _step(
    old: GoldenStep,
    new: GoldenStep,
    question: Question,
    kinds: Mapping[str, str],
    near: Near | None,
    reference_too: bool,
) -> CheckedStep:
    found = moved(_facts(old, reference_too), _facts(new, reference_too))
    sides = list(found.what)
    if "npu" in sides and near is not None and (distance := near(new)) is not None:
        sides.remove("npu")
        if not sides:
            return CheckedStep(question, old.address, new.label, "within", "npu", distance)
    if not sides:
        if reference_too and old.stats != new.stats:  # same digests, other figures: our own code
            text = f"{WORDS['statistics']}: digests are the same{_figures(old, new)}"
            return CheckedStep(question, old.address, new.label, "moved", "statistics", text)
        return CheckedStep(question, old.address, new.label, "same")
    side = sides[0]
    kind = kinds.get(side, _KINDS.get(side, side))
    text = _WHAT[side](old, new, found.changes.get(side, ()))
    if kind == "npu" and near is not None:
        text += f", outside {old.limits}"
    judged = f"; was a {old.verdict}, is a {new.verdict.upper()} now" if old.verdict != new.verdict else ""
    text = f"{WORDS[kind]}: {text}{judged if reference_too else ''}"
    return CheckedStep(question, old.address, new.label, "moved", kind, text)


def _facts(step: GoldenStep, reference_too: bool) -> StepFacts:
    facts = StepFacts(step.inputs, step.outputs, step=f"{step.op} {step.flow}")
    if not reference_too:
        return facts
    return replace(facts, expected=step.reference, tolerance=step.limits, verdict=step.verdict == "match")


def _digests(argument: str, changes: Sequence[Change]) -> str:
    """The first of the contents that differ, the others counted."""
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    first = changes[0]
    new, old = ((side or "none")[:_SHOWN] for side in (first.new, first.old))
    return f"{argument} {first.name}{more}: digest {new}, accepted {old}"


_KINDS = {"runlist": "steps", "environment": "verdict"}  # the verdict changed, and nothing that is known to decide it

_WHAT: Mapping[str, Callable[[GoldenStep, GoldenStep, Sequence[Change]], str]] = {
    "runlist": lambda old, _, __: f"the golden has {old.label} here",
    "inputs": lambda _, __, changes: _digests("input", changes),
    "npu": lambda _, __, changes: _digests("output", changes),
    "reference": lambda old, new, changes: _digests("output", changes) + _figures(old, new),
    "tolerance": lambda old, new, _: f"limits were {old.limits}, are {new.limits} now",
    "environment": lambda _, __, ___: "digests and limits are the same",
}


def _figures(old: GoldenStep, new: GoldenStep) -> str:
    """Deviation of the first output whose figures changed, then and now."""
    for name in sorted({*old.stats, *new.stats}):
        then, now = old.stats.get(name, {}), new.stats.get(name, {})
        changed = [n for n in ("rel_l2", "ulp_max", "max_abs", *now) if then.get(n, 0) != now.get(n, 0)]
        if changed:
            return f"; {changed[0]} {_number(then, changed[0])} -> {_number(now, changed[0])}"
    return ""


def _number(stats: Mapping[str, Any], name: str) -> str:
    value = stats.get(name, 0)
    return f"{value:.3g}" if isinstance(value, (int, float)) else str(value)


__all__ = ["WORDS", "Near", "of_recording", "of_remade"]
