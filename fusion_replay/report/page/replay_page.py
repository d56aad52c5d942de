# SPDX-License-Identifier: Apache-2.0
"""The page of a replay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fusion_replay.diverge.dataflow import dataflow
from fusion_replay.model.text import shell
from fusion_replay.replaying.elements import distance
from fusion_replay.replaying.judge import Plan
from fusion_replay.report.headline import of_bisection, of_replay
from fusion_replay.report.overview import leaves, overview
from fusion_replay.report.page.around import Around, near
from fusion_replay.report.page.chunks import Chunks
from fusion_replay.report.page.document import document
from fusion_replay.report.page.panel import CULPRIT_CELLS, OTHER_CELLS, Panels
from fusion_replay.report.page.steps import FIGURES, number, replayed, run_of, worst
from fusion_replay.report.text import count, human_bytes

if TYPE_CHECKING:
    from fusion_replay.diverge.attribution import Attribution
    from fusion_replay.diverge.bisect import Divergence
    from fusion_replay.diverge.consistency import Finding
    from fusion_replay.diverge.explanation import Explanation
    from fusion_replay.replaying.outcome import Skip, StepReport
    from fusion_replay.replaying.replay_report import ReplayReport
    from fusion_replay.snapshot import Snapshot

BUDGET = 20 << 20
"""Bytes that the arrays of a page take at most, unless it is told."""

IN_FULL = 40
"""Steps that a page has in full at most, besides their neighbours."""


def replay_page(
    snapshot: Snapshot,
    report: ReplayReport,
    *,
    why: Explanation | None = None,
    found: Sequence[Finding] = (),
    budget: int = BUDGET,
    bisection: Divergence | None = None,
    attribution: Attribution | None = None,
) -> str:
    """HTML of a replay, byte for byte the same for the same recording and options.

    Args:
        why: of the first mismatch (of a bisection: of its step), where it is known already.
        found: what only the whole recording shows.
        budget: bytes for arrays; 0: none.
        bisection, attribution: their pages have the replay too.
    """
    plan = Plan(report.rule, report.reference)
    graph = dataflow(snapshot)
    around = Around(snapshot, graph, plan)
    chunks = Chunks(budget)
    known: dict[str, Explanation | None] = {} if why is None else {why.address: why}
    panels = Panels(snapshot, around, chunks, plan, report.mode == "cumulative", known)
    headline = of_replay(report, why, found)
    if bisection is not None:
        headline = of_bisection(bisection, why)
    ranked = worst(report)
    made, left_out = _panels(panels, report, headline.address, around, ranked)
    name = PurePath(snapshot.path).name
    data = {
        "kind": "replay",
        "title": f"{name}: {headline.text}",
        "headline": headline.to_dict(),
        "under": [x for x in _under(snapshot, report, found) if x not in (headline.text, headline.evidence)],
        "command": f"{shell(['fusion-replay', 'replay', name])} --step {{step}} --html step.html",
        "columns": FIGURES,
        **run_of(snapshot),
        **replayed(snapshot, report, found),
        "worst": [_ranked(panels, step) for step in ranked],
        "panels": made,
        "findings": [[f.weight, f.sentence, list(f.addresses[:20])] for f in found],
        "run": recording(snapshot),
        "inside": inside(made, left_out, chunks, len(snapshot), len(panels.unexplained)),
        "bisection": None if bisection is None else curve(bisection),
        "attribution": None if attribution is None else shares(attribution),
    }
    return document(data, chunks)


def _panels(
    panels: Panels, report: ReplayReport, culprit: str, around: Around, ranked: Sequence[StepReport]
) -> tuple[dict[str, Any], list[str]]:
    """Panels by address, and the addresses of failing steps that there was no room for.

    In full are the step that the sentence is about, other failing ones, their neighbours in the dataflow, and the
    worst of those that match.
    """
    judged: tuple[StepReport | Skip, ...] = (*report.steps, *report.skips)
    outcomes = {o.address: o for o in judged}
    failing = [step.address for step in report.unfinished]
    failing += [step.address for step in (*report.mismatches, *report.outside)]
    chosen = [a for a in dict.fromkeys([culprit, *failing]) if a in outcomes]
    wanted = near(chosen[:IN_FULL], around)
    wanted += [s.address for s in ranked] + [a for a in outcomes if len(outcomes) <= IN_FULL]
    made = {}
    for address in dict.fromkeys(wanted):
        if address in outcomes:
            made[address] = panels.panel(outcomes[address], CULPRIT_CELLS if address == culprit else OTHER_CELLS)
    return made, [a for a in chosen if a not in made]


def _ranked(panels: Panels, step: StepReport) -> list[Any]:
    why = panels.why(step)
    cause = "" if why is None else f"{why.cause.name}, {why.cause.grade}"
    return [step.address, cause, number(max(distance(o.verdict) for o in step.outputs))]


def _under(snapshot: Snapshot, report: ReplayReport, found: Sequence[Finding]) -> list[str]:
    """Below the sentence: how it was judged, on what it ran, what else is wrong, what was not recorded."""
    lines = [f"{report.sentence}." if report.steps else "No step was judged.", f"Judged by {report.terms}."]
    lines += [report.caution] if report.caution else []
    lines += report.first_lines
    lines += [f.sentence for f in found if f.weight != "note"]
    lines += [str(f) for f in report.final]
    skipped = report.skip_lines
    lines += skipped[:3] + ([f"and {count(len(skipped) - 3, 'other reason')}"] if len(skipped) > 3 else [])
    lines += [f"{'Left out' if x.asked_for else 'Lost'}: {x.detail} ({x.count:,})" for x in snapshot.losses]
    lines += list(snapshot.notes)
    if not snapshot.sealed:
        lines.append("The recording is not sealed: it is running, or was killed.")
    return lines


def recording(snapshot: Snapshot) -> dict[str, Any]:
    """Where the recording comes from, and what it holds."""
    seen = overview(snapshot)
    return {
        "holds": str(seen).replace(str(snapshot.path), PurePath(snapshot.path).name).split("\n"),
        "provenance": [list(pair) for pair in leaves(seen.provenance)],
        "losses": [[x.kind, x.detail, x.count] for x in snapshot.losses],
    }


def inside(made: dict[str, Any], left_out: list[str], chunks: Chunks, steps: int, unexplained: int = 0) -> list[str]:
    """What is in the page in full, what is summarised, and what there was no room for."""
    maps = [o for p in made.values() for o in p.get("outputs", ())]
    without = sum(o["maps"] is None for o in maps)
    told = [
        f"{count(steps, 'step')}: {len(made):,} in full (those that fail, their neighbours, the worst that match), "
        f"{steps - len(made):,} as figures alone.",
        f"Arrays take {human_bytes(chunks.used)} of {human_bytes(chunks.budget)} (--html-budget).",
    ]
    if without:
        told.append(f"Left out for want of room: maps of {count(without, 'output')}; a larger --html-budget has them.")
    if unexplained:
        told.append(
            f"Causes were not sought of {count(unexplained, 'failing step')}: a page of one step has its cause."
        )
    if left_out:
        told.append(f"Failing steps as figures alone: {len(left_out):,}, first {left_out[0]}.")
    reduced = sum(1 for o in maps if o["maps"] and "index" in o["maps"])
    if reduced:
        told.append(f"Maps of {count(reduced, 'output')} show the worst element of each block of elements.")
    return told


def curve(found: Divergence) -> dict[str, Any]:
    """A bisection's error by the number of steps that were taken from the recording."""
    points = sorted({(e.k, e.error) for e in found.evaluations} | {(found.steps, found.total)})
    return {
        "metric": found.metric,
        "points": [[k, number(error)] for k, error in points],
        "lines": [*found.besides, found.figures],
        "steps": found.steps,
    }


def shares(found: Attribution) -> dict[str, Any]:
    """What each step introduced and inherited, and its share of the final error."""
    rows = []
    for s in found.steps:
        own = None if s.isolated is None else number(s.isolated)
        share = None if s.share is None else number(s.share)
        rows.append([s.address, own, number(s.inherited), number(s.cumulative), share, s.ok])
    return {"sentence": found.sentence, "besides": found.besides, "steps": rows, "floor": number(_floor())}


def _floor() -> float:
    from fusion_replay.diverge.attribution import ROUNDING

    return ROUNDING


__all__ = ["BUDGET", "IN_FULL", "inside", "recording", "replay_page"]
