# SPDX-License-Identifier: Apache-2.0
"""Every recorded step in one line, by columns: its state, its distance to the limit and its figures.

Tested in tests/report/page/test_replay_page.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fusion_replay.model.runlist import parse_address
from fusion_replay.replaying.elements import distance
from fusion_replay.replaying.outcome import StepReport
from fusion_replay.report.page.runlist import described
from fusion_replay.snapshot.schema import STATUS

if TYPE_CHECKING:
    from fusion_replay.compare.verdict import Verdict
    from fusion_replay.diverge.consistency import Finding
    from fusion_replay.replaying.replay_report import ReplayReport
    from fusion_replay.snapshot import Snapshot

MATCH, MISMATCH, OUTSIDE, IN_FLIGHT, FAILED, SKIPPED, UNSEEN = ".", "M", "O", "F", "X", "-", "_"
"""States of a step; UNSEEN: it was not selected."""

FIGURES = ("distance", "max_abs", "ulp_max", "rel_l2", "cosine", "failing")
"""Columns of the list, of the output that decides."""


def run_of(snapshot: Snapshot) -> dict[str, Any]:
    """Sequences, invocations, and which steps of each were recorded, as runs of rows."""
    rows = snapshot.index.steps
    runs: list[list[int]] = []  # invocation, first step, how many
    for invocation, step in zip(rows["invocation"].tolist(), rows["step"].tolist(), strict=True):
        last = runs[-1] if runs else [-1, 0, 0]
        if last[0] == invocation and last[1] + last[2] == step:
            last[2] += 1
        else:
            runs.append([invocation, step, 1])
    return {
        "sequences": [described(s) for s in snapshot.sequences],
        "invocations": [[i.index, i.sequence, i.status] for i in snapshot.invocations],
        "runs": runs,
    }


def rows_of(snapshot: Snapshot) -> dict[tuple[int, int], int]:
    """(invocation, step) -> row of the table of steps."""
    rows = snapshot.index.steps
    return {pair: row for row, pair in enumerate(zip(rows["invocation"].tolist(), rows["step"].tolist(), strict=True))}


def runs(states: Iterable[str]) -> list[list[Any]]:
    """[state, how many in a row]."""
    return [[state, sum(1 for _ in run)] for state, run in groupby(states)]


def replayed(snapshot: Snapshot, report: ReplayReport, found: Iterable[Finding]) -> dict[str, Any]:
    """State of each row of the table of steps, figures of those that were judged, marks of what is to be seen at
    once."""
    rows, numbers = snapshot.index.steps, rows_of(snapshot)
    states = [UNSEEN] * len(rows)
    judged: list[int] = []
    figures: dict[str, list[Any]] = {name: [] for name in FIGURES}
    marks: dict[int, list[str]] = {}
    reasons: dict[str, list[int]] = {}
    for step in report.steps:
        row = numbers[step.invocation, step.index]
        states[row] = OUTSIDE if step.outside is not None else MATCH if step else MISMATCH
        for name, value in zip(FIGURES, _figures(step), strict=True):
            figures[name].append(value)
        judged.append(row)
        if step.born:
            marks.setdefault(row, []).append(step.born)
    for skip in report.skips:
        row = numbers[skip.invocation, skip.index]
        states[row] = {"in_flight": IN_FLIGHT, "failed": FAILED}.get(skip.kind, SKIPPED)
        reasons.setdefault(skip.reason, []).append(row)
    for row, status in enumerate(rows["status"].tolist()):
        if STATUS[status] != "complete":
            states[row] = IN_FLIGHT if STATUS[status] == "in_flight" else FAILED
    for finding in found:
        if finding.weight != "note":
            for address in finding.addresses:
                if (at := numbers.get(parse_address(address))) is not None:
                    marks.setdefault(at, []).append(finding.kind)
    return {
        "states": runs(states),
        "judged": judged,
        "figures": figures,
        "marks": [[row, names] for row, names in sorted(marks.items())],
        "reasons": [[reason, at] for reason, at in reasons.items()],
    }


def worst(report: ReplayReport, n: int = 10) -> list[StepReport]:
    """Mismatches first, then steps outside their bound, then by distance; of equals the earliest."""

    def rank(step: StepReport) -> tuple[int, float, int, int]:
        kind = 0 if not step else 1 if step.outside is not None else 2
        return kind, -_largest(step), step.invocation, step.index

    return sorted(report.steps, key=rank)[:n]


def _largest(step: StepReport) -> float:
    return max(distance(o.verdict) for o in step.outputs)


def _figures(step: StepReport) -> tuple[Any, ...]:
    return (number(_largest(step)), *figures_of(step.verdict)[1:])


def figures_of(verdict: Verdict) -> tuple[Any, ...]:
    """:data:`FIGURES` of one output."""
    s = verdict.stats
    return tuple(map(number, (distance(verdict), s.max_abs, s.ulp_max, s.rel_l2, s.cosine, s.n_failing)))


def number(x: float) -> float | int | str:
    """With six digits; what JSON has no number for as its name."""
    if isinstance(x, int):
        return x
    return float(f"{x:.6g}") if math.isfinite(x) else "NaN" if x != x else "Inf" if x > 0 else "-Inf"


__all__ = ["FIGURES", "UNSEEN", "figures_of", "number", "replayed", "rows_of", "run_of", "runs", "worst"]
