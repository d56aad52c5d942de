# SPDX-License-Identifier: Apache-2.0
"""Recipes: a golden too large to keep, as the digests of what it holds and what was to be expected of it.

A recording on the software NPU from seeded inputs can be made again at any time. Its recipe says what must come out:
of every step the digests of contents from outside, of the outputs, and of the reference's outputs. A digest that
differs later names the step and which side moved: the inputs, the software NPU, or the reference. Statistics of the
deviation are there for whoever reviews a change.

The file is canonical JSON, one step per line, so that a change is a diff that a person can read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.deviation import Stats, json_number
from fusion_replay.diverge.moved import Digests, StepFacts, What, moved
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.judging.history import WriteHistory
from fusion_replay.judging.judge import NotComparedError, Plan, evaluate_step, judge, tensors
from fusion_replay.judging.results import canonical_json
from fusion_replay.snapshot.schema import digest_of

if TYPE_CHECKING:
    from fusion_replay.judging.judge import Evaluation
    from fusion_replay.judging.outcome import StepReport
    from fusion_replay.snapshot import RecordedStep, Snapshot

FORMAT = "fusion-replay.recipe/1"

_STATS = ("max_abs", "rel_l2", "ulp_max", "ulp_mean", "ulp_signed_mean")  # of the numbers alone, whatever the limits
_DIGITS = 6  # of a statistic: enough to review, few enough to be the same on every machine


@dataclass(frozen=True, slots=True)
class RecipeStep:
    """One step of the golden.

    Attributes:
        address: "INVOCATION:STEP".
        step: operator and data flow, in words.
        inputs: digests of the inputs that no earlier step of the recording has written.
        outputs: what the software NPU wrote.
        expected: what the reference says, for the outputs that it does not match bit for bit.
        stats: deviation of those, by output.
    """

    address: str
    step: str
    inputs: Digests
    outputs: Digests
    expected: Digests
    stats: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"address": self.address, "step": self.step, "outputs": dict(self.outputs)}
        optional = {"inputs": self.inputs, "expected": self.expected, "stats": self.stats}
        return found | {k: dict(v) for k, v in optional.items() if v}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A golden as digests.

    Attributes:
        name: of the golden, and of its file.
        made_from: what to record again, as JSON data.
        steps: every step, in the order of the recording.
        mismatches: labels of the steps that rule ``auto`` rejected when the recipe was made; empty for a golden.
    """

    name: str
    made_from: Mapping[str, Any]
    steps: tuple[RecipeStep, ...]
    mismatches: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Canonical JSON, keys sorted, one step per line."""
        head = {"format": FORMAT, "name": self.name, "made_from": dict(self.made_from)}
        lines = ",\n".join(canonical_json(s.to_dict()) for s in self.steps)
        return canonical_json(head)[:-1] + ',"steps":[\n' + lines + "\n]}\n"

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in a file.

        Raises:
            UsageError: it cannot be read, or is no recipe of this format.
        """
        try:
            data = json.loads(path.read_text("utf-8"))
            if data["format"] != FORMAT:
                raise UsageError(f"{path}: format {data['format']!r}: expected {FORMAT}")
            steps = tuple(
                RecipeStep(
                    s["address"],
                    s["step"],
                    s.get("inputs", {}),
                    s["outputs"],
                    s.get("expected", {}),
                    s.get("stats", {}),
                )
                for s in data["steps"]
            )
            return cls(data["name"], data["made_from"], steps)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: no recipe: {type(error).__name__}: {error}") from None


def recipe_of(snapshot: Snapshot, name: str, made_from: Mapping[str, Any]) -> Recipe:
    """The recipe of a recording: every step judged by rule ``auto``, every content by its digest.

    Raises:
        MissingError: a step that has no reference or never finished: nothing that a golden may hold.
    """
    known: set[str | None] = set()
    plan, history = Plan(), WriteHistory(snapshot)
    steps, mismatches = [], []
    for step in snapshot.steps():
        try:
            evaluation = evaluate_step(step, plan, lambda tensor: tensor.numpy())
        except NotComparedError as why:
            raise MissingError(f"{name}: {step.label} cannot be part of a golden: {why}") from None
        actual = [t.numpy() for t in tensors(step.outputs)]
        report = judge(step, plan, evaluation, actual, lambda output, step=step: history.explains(step, output))  # type: ignore[misc]
        steps.append(_recipe_step(step, evaluation, report, known))
        if not report:
            mismatches.append(report.label)
        known.update(t.digest for t in tensors(step.outputs))
    return Recipe(name, made_from, tuple(steps), tuple(mismatches))


def differences(stored: Recipe, made: Recipe) -> tuple[str, ...]:
    """What of ``stored`` did not come out again, in words; empty where everything did.

    Only the first step that differs is taken apart: what follows it follows from it.
    """
    if [s.address for s in stored.steps] != [s.address for s in made.steps]:
        return (f"{made.name}: {len(made.steps)} steps were recorded, the recipe has {len(stored.steps)}",)
    differing = [(old, new) for old, new in zip(stored.steps, made.steps, strict=True) if _moved(old, new)]
    if not differing:
        return ()
    found = _moved(*differing[0])
    if len(differing) > 1:
        found.append(f"{len(differing) - 1} later steps differ too, the last is {differing[-1][1].address}")
    return tuple(found)


# --- parts ----------------------------------------------------------------------------------------------------------


def _recipe_step(step: RecordedStep, evaluation: Evaluation, report: StepReport, known: set[str | None]) -> RecipeStep:
    outputs, expected, stats = {}, {}, {}
    for tensor, result, judged in zip(tensors(step.outputs), evaluation.results, report.outputs, strict=True):
        outputs[tensor.name] = tensor.digest or ""
        digest = digest_of(np.ascontiguousarray(result).reshape(-1).view(np.uint8)).hex()
        if digest != tensor.digest:
            expected[tensor.name] = digest
            stats[tensor.name] = _rounded(judged.verdict.stats)
    return RecipeStep(
        address=step.address,
        step=f"{step.op.type} {step.description.flow}",
        inputs={t.name: t.digest or "" for t in tensors(step.inputs) if t.digest not in known},
        outputs=outputs,
        expected=expected,
        stats=stats,
    )


def _rounded(stats: Stats) -> dict[str, Any]:
    found = {}
    for name in _STATS:
        value = json_number(getattr(stats, name))
        found[name] = float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
    return found


def _moved(old: RecipeStep, new: RecipeStep) -> list[str]:
    """What moved, one line per digest; a recipe leaves out what the reference says where the output says the same."""
    found = moved(*(StepFacts(s.inputs, s.outputs, {**s.outputs, **s.expected}, step=s.step) for s in (old, new)))
    where = f"{new.address} {new.step}"
    if "runlist" in found.what:
        return [f"{where}: the recipe has {old.step} here"]
    return [
        f"{where}: {_SIDES[side].format(c.name)} (digest {c.new or 'none'}, the recipe has {c.old or 'none'})"
        for side, changes in found.changes.items()
        for c in changes
    ]


_SIDES: Mapping[What, str] = {
    "inputs": "input {}: the seeded inputs moved",
    "npu": "output {}: the software NPU moved",
    "reference": "output {}: the reference moved",
}


__all__ = ["FORMAT", "Recipe", "RecipeStep", "differences", "recipe_of"]
