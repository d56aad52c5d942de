# SPDX-License-Identifier: Apache-2.0
"""The answer of a report in one sentence, with its evidence and the step that it speaks of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_replay.model import serialise
from fusion_replay.report.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_replay.diverge.bisect import Divergence
    from fusion_replay.diverge.causes import Cause
    from fusion_replay.diverge.consistency import Finding
    from fusion_replay.diverge.diff_report import DiffReport
    from fusion_replay.diverge.explanation import Explanation
    from fusion_replay.replaying.replay_report import ReplayReport

_GRADES = {
    "proved": "Proved: executing it gives {0.reproduced:,} of {0.elements:,} wrong elements bit for bit.",
    "consistent": "Consistent: it explains {0.reproduced:,} of {0.elements:,} wrong elements within the bound.",
    "located": "Located: no cause that was tried explains it, only the place is known.",
}

_SPELLED = {"nan": "NaN", "inf": "Inf"}
"""Causes whose detail counts what only their name says."""


@dataclass(frozen=True, slots=True)
class Headline:
    """``tone``: "bad", "warn" or "good"; ``address``: the step to open, "" where it is about none."""

    text: str
    evidence: str
    address: str
    tone: str

    to_dict = serialise.to_dict


def of_cause(label: str, why: Explanation) -> tuple[str, str]:
    """(what happened, how far that is known) of a step's output."""
    return f"{label}: {told(why.cause)}.", graded(why.cause)


def told(cause: Cause) -> str:
    """What it did and where; a place that is everywhere is none."""
    everywhere = cause.where == "in every element" and cause.detail.startswith("every ")
    detail = f"{_SPELLED[cause.name]}: {cause.detail}" if cause.name in _SPELLED else cause.detail
    return detail if everywhere else f"{detail}, {cause.where}"


def graded(cause: Cause) -> str:
    """How far a cause is known, with its rivals."""
    rivals = f" Explains it as well: {'; '.join(cause.rivals)}." if cause.rivals else ""
    return _GRADES[cause.grade].format(cause) + rivals


def of_replay(report: ReplayReport, why: Explanation | None, found: Sequence[Finding] = ()) -> Headline:
    """The first mismatch, else where the run died, what no single step shows, or that all is well."""
    first = report.first_mismatch
    certain = [f for f in found if f.weight == "certain"]
    if first is not None:
        if why is not None:
            return Headline(*of_cause(first.label, why), first.address, "bad")
        return Headline(f"{first.label}: {first.verdict.detail}.", "", first.address, "bad")
    if report.unfinished:
        last = report.unfinished[-1]
        rest = f"{report.sentence}." if report.steps else ""
        return Headline(f"{last.label}: {last.reason}.", rest, last.address, "bad")
    if certain:
        return Headline(f"{certain[0].sentence}.", f"{report.sentence}.", _first(certain[0]), "bad")
    if not report.steps:
        why_not = next(iter(report.skip_lines), "the recording holds no step").removeprefix("not compared: ")
        at = report.skips[0].address if report.skips else ""
        return Headline(f"Nothing was compared: {why_not}.", "", at, "warn")
    if report.outside:
        step = report.outside[0]
        text, evidence = of_cause(step.label, why) if why is not None else (f"{report.first_lines[0]}.", "")
        return Headline(text, evidence, step.address, "warn")
    born = report.first_nan or report.first_non_finite
    if born is not None:
        return Headline(f"{report.sentence}. {report.first_lines[0]}.", "", born.address, "warn")
    missing = f" {count(len(report.missing), 'step')} could not be judged." if report.missing else ""
    return Headline(f"{report.sentence}.{missing}", "", "", "warn" if missing else "good")


def of_diff(report: DiffReport, why: Explanation | None) -> Headline:
    """The first step that introduces a difference, else that nothing differs."""
    first = report.first
    tone = "bad" if report.mismatch else "good" if report.equal else "warn"
    if first is None:
        alone = [s for s in report.steps if s.kind in ("missing", "removed", "added")]
        at = report.suspects[0].address if report.suspects else alone[0].address if alone else ""
        outside = f" {report.outside[0].name}: {report.outside[0].why}." if report.outside else ""
        return Headline(f"{report.sentence}.{outside}", "", at, tone)
    if why is not None:
        text, evidence = of_cause(first.label, why)
        return Headline(text, evidence, first.address, tone)
    return Headline(f"{first.label}: {first.why}.", "", first.address, tone)


def of_bisection(found: Divergence, why: Explanation | None) -> Headline:
    """The step that introduced the error of the final output."""
    at = "" if found.step is None else found.step.address
    evidence = f"{told(why.cause)}. {graded(why.cause)}" if why is not None else ""
    return Headline(f"{found.sentence}.", evidence, at, "bad" if found else "good")


def _first(finding: Finding) -> str:
    return finding.addresses[0] if finding.addresses else ""


__all__ = ["Headline", "graded", "of_bisection", "of_cause", "of_diff", "of_replay", "told"]
