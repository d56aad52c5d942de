# SPDX-License-Identifier: Apache-2.0
"""What changed between two evaluations of one step (inputs, device, reference, tolerance), told by digests alone.

``from fusion_replay.diverge.changed_sides import Moved, StepFacts, moved``

A verdict that held yesterday and does not today may have five reasons: other inputs, another NPU output on the same
inputs, another answer of the reference to the same inputs, another tolerance, another environment; or the step is no
longer the same step. :func:`moved` takes what both sides say of one step and names what is not the same. Only causes
are named: where the runlist or the inputs moved, outputs and expected values that moved with them are consequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.diverge.environment import Change, environment_changes, in_one_line

What = Literal["runlist", "inputs", "npu", "reference", "tolerance", "environment"]

Digests = Mapping[str, str]
"""Argument name -> digest of the raw bytes."""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What one side says of a step.

    Attributes:
        inputs, outputs: digests of what the NPU read and wrote, by argument name.
        expected: digests of the reference's outputs; empty where no reference was asked.
        tolerance: the limits in force, None where not known.
        verdict: whether the outputs matched, None where it was not judged.
        step: operator and data flow in words, "" where not known: another text is another step.
        environment: provenance, as ``Snapshot.provenance``; time and command line do not count.
    """

    inputs: Digests
    outputs: Digests
    expected: Digests = field(default_factory=dict)
    tolerance: Tolerance | None = None
    verdict: bool | None = None
    step: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moved:
    """Which sides moved, causes first; falsy where none did.

    Attributes:
        what: any of "runlist", "inputs", "npu", "reference", "tolerance", "environment". Where the verdict changed and
            nothing that is known moved, it is "environment": something that was not recorded.
        sentence: the same for people, one line.
        changes: digests and values behind it, by side and name.
    """

    what: tuple[What, ...]
    sentence: str
    changes: Mapping[What, tuple[Change, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.what)

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": list(self.what),
            "sentence": self.sentence,
            "changes": {what: [c.to_dict() for c in changes] for what, changes in self.changes.items()},
        }

    def __str__(self) -> str:
        return self.sentence


def moved(old: StepFacts, new: StepFacts) -> Moved:
    """Which side moved between ``old`` and ``new``."""
    found = {what: changes for what, changes in _changes(old, new).items() if changes}
    what = tuple(found)
    judged = None not in (old.verdict, new.verdict)
    flipped = judged and old.verdict != new.verdict
    if not what and flipped:
        return Moved(("environment",), f"{_flip(new)}, and nothing that was written down moved", {})
    words = "; ".join(_words(side, changes) for side, changes in found.items())
    return Moved(what, f"{_flip(new)}: {words}" if flipped and words else words or "nothing moved", found)


def digest_changes(old: Digests, new: Digests) -> tuple[Change, ...]:
    """The names whose digests differ, missing ones included, in sorted order."""
    return tuple(Change(n, old.get(n), new.get(n)) for n in sorted({*old, *new}) if old.get(n) != new.get(n))


def _changes(old: StepFacts, new: StepFacts) -> dict[What, tuple[Change, ...]]:
    if old.step and new.step and old.step != new.step:
        return {"runlist": (Change("step", old.step, new.step),)}
    found: dict[What, tuple[Change, ...]] = {"inputs": digest_changes(old.inputs, new.inputs)}
    if not found["inputs"]:
        found["npu"] = digest_changes(old.outputs, new.outputs)
        if old.expected and new.expected:
            found["reference"] = digest_changes(old.expected, new.expected)
    if old.tolerance is not None and new.tolerance is not None and _limits(old.tolerance) != _limits(new.tolerance):
        found["tolerance"] = (Change("tolerance", str(old.tolerance), str(new.tolerance)),)
    if old.environment and new.environment:
        found["environment"] = environment_changes(old.environment, new.environment)
    return found


def _limits(tolerance: Tolerance) -> dict[str, Any]:
    return {k: v for k, v in tolerance.to_dict().items() if k != "source"}


def _words(side: What, changes: tuple[Change, ...]) -> str:
    names = ", ".join(c.name for c in changes)
    match side:
        case "runlist":
            return f"it is another step: {changes[0].old} before, {changes[0].new} now"
        case "inputs":
            return f"the inputs moved ({names})"
        case "npu":
            return f"the NPU's output moved on the same inputs ({names})"
        case "reference":
            return f"the reference moved on the same inputs ({names})"
        case "tolerance":
            return f"the tolerance moved ({changes[0].old} -> {changes[0].new})"
        case "environment":
            return f"the environment moved ({in_one_line(changes)})"


def _flip(new: StepFacts) -> str:
    return "newly right" if new.verdict else "newly wrong"


__all__ = ["Digests", "Moved", "StepFacts", "What", "digest_changes", "moved"]
