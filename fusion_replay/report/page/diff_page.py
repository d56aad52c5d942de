# SPDX-License-Identifier: Apache-2.0
"""The page of a diff: the steps of b, coloured by how they differ from a, with the outputs of both as maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay import refs
from fusion_replay.compare.verdict import as_numpy
from fusion_replay.diverge.dataflow import dataflow
from fusion_replay.diverge.explain import tiling_for
from fusion_replay.diverge.pairwise import NOT_KEPT
from fusion_replay.replaying.elements import distance, measure
from fusion_replay.replaying.judge import Plan
from fusion_replay.report.headline import of_diff
from fusion_replay.report.page.around import Around
from fusion_replay.report.page.chunks import Chunks
from fusion_replay.report.page.document import document
from fusion_replay.report.page.panel import (
    CULPRIT_CELLS,
    INPUT_CELLS,
    OTHER_CELLS,
    causes,
    contents,
    operand,
    operator,
)
from fusion_replay.report.page.pictures import input_picture, output_picture
from fusion_replay.report.page.replay_page import BUDGET, IN_FULL, inside, recording
from fusion_replay.report.page.steps import FIGURES, UNSEEN, figures_of, number, rows_of, run_of, runs

if TYPE_CHECKING:
    from fusion_replay.diverge.diff_report import DiffReport
    from fusion_replay.diverge.difference import StepDifference
    from fusion_replay.diverge.explanation import Explanation
    from fusion_replay.model.step import RecordedTensor
    from fusion_replay.snapshot import RecordedStep, Snapshot

SAME, BREAKS, DIFFERS, INHERITS, MASKED, ALONE = "=", "d", "i", "h", "m", "1"
"""States of a step of b against a."""


def diff_page(
    a: Snapshot,
    b: Snapshot,
    report: DiffReport,
    *,
    why: Explanation | None = None,
    invocation: int | None = None,
    op: str | None = None,
    budget: int = BUDGET,
) -> str:
    """HTML of a diff of b against a.

    Args:
        why: of the first step that introduces a difference.
        invocation, op: what of b was compared, where not all of it was.
        budget: bytes for arrays; 0: none.
    """
    chunks = Chunks(budget)
    headline = of_diff(report, why)
    around = Around(b, dataflow(b), Plan(report.rule))
    ranked = sorted(report.steps, key=_rank)
    opened = sorted(ranked, key=lambda s: s.address != headline.address)[:IN_FULL]
    made = {}
    for step in opened:
        if (panel := _panel(a, b, step, around, chunks, why, step.address == headline.address)) is not None:
            made[step.address] = panel
    names = [PurePath(s.path).name for s in (a, b)]
    rows = rows_of(b)
    data = {
        "kind": "diff",
        "title": f"{names[0]} and {names[1]}: {headline.text}",
        "headline": headline.to_dict(),
        "under": _under(report, names),
        "command": "",
        "columns": FIGURES,
        **run_of(b),
        **_states(b, report, invocation, op),
        "worst": [_ranked(s, why) for s in ranked if _place(s) in rows][:10],
        "panels": made,
        "findings": [],
        "run": recording(b),
        "inside": inside(made, [], chunks, len(b)),
        "difference": {
            "steps": [[s.a_address or "", s.address, s.kind, s.op, s.why] for s in report.steps[:2000]],
            "path": list(report.path),
            "outside": [f"{o.name}: {o.why}, read first by {o.address}" for o in report.outside],
            "notes": [*report.notes, *report.unanswered],
            "environment": [[c.name, c.old or "", c.new or ""] for c in report.environment],
        },
    }
    return document(data, chunks)


def _under(report: DiffReport, names: Sequence[str]) -> list[str]:
    counted = ", ".join(f"{n:,} {kind}" for kind, n in report.counts.items())
    on = f"; run on {' and '.join(report.recorded_on)}" if report.recorded_on else ""
    lines = [f"{report.sentence}.", f"B ({names[1]}) against A ({names[0]}): {counted}. Rule {report.rule}{on}."]
    lines += [f"{f.buffer} of invocation {f.invocation} differs at the end: {_said(f)}" for f in report.final]
    return lines + list(report.notes)


def _said(final: Any) -> str:
    return final.why if final.verdict is None else str(final.verdict)


def _place(step: StepDifference) -> tuple[int, int]:
    return step.invocation, step.index


def _rank(step: StepDifference) -> tuple[int, float, int, int]:
    """Steps that break the rule first, then those that introduce a difference, the largest first."""
    kind = 0 if step.breaks else 1 if step.kind == "introduced" else 2 if step.suspect else 3
    far = 0.0 if step.verdict is None else distance(step.verdict)
    return kind, -far, *_place(step)


def _state(step: StepDifference) -> str:
    if step.breaks:
        return BREAKS
    if step.kind in ("missing", "removed", "added"):
        return ALONE
    return {"introduced": DIFFERS, "masked": MASKED}.get(step.kind, DIFFERS if step.suspect else INHERITS)


def _states(b: Snapshot, report: DiffReport, invocation: int | None, op: str | None) -> dict[str, Any]:
    rows = rows_of(b)
    states = [UNSEEN] * len(rows)
    for step in b.steps(invocation=invocation, op=op):
        states[rows[step.invocation, step.index]] = SAME
    judged: list[int] = []
    figures: dict[str, list[Any]] = {name: [] for name in FIGURES}
    for found in report.steps:
        row = rows.get(_place(found))
        if row is None or found.status[1] == "":
            continue  # only a has it: it stands among the differences
        states[row] = _state(found)
        if found.verdict is not None:
            judged.append(row)
            for name, value in zip(FIGURES, figures_of(found.verdict), strict=True):
                figures[name].append(value)
    return {"states": runs(states), "judged": judged, "figures": figures, "marks": [], "reasons": []}


def _ranked(step: StepDifference, why: Explanation | None) -> list[Any]:
    mine = why is not None and why.address in (step.address, step.a_address)
    said = f"{why.cause.name}, {why.cause.grade}" if mine and why is not None else step.kind
    return [step.address, said, 0 if step.verdict is None else number(distance(step.verdict))]


def _panel(
    a: Snapshot,
    b: Snapshot,
    found: StepDifference,
    around: Around,
    chunks: Chunks,
    why: Explanation | None,
    culprit: bool,
) -> dict[str, Any] | None:
    """Both sides of one step; None where b has no record of it."""
    step = b.get(*_place(found))
    if step is None or found.status[1] == "":
        return None
    told = operator(step) | {"address": step.address, "label": step.label, "flow": around.flow(step)}
    facts = [["kind", f"{found.kind}: {found.why}"], ["address in a", found.a_address or "none"]]
    if found.judged is not None:
        facts += [[f"{side} judged", j.detail] for side, j in zip("ab", found.judged, strict=True)]
    facts += [[o.name, str(o.verdict) if o.verdict is not None else o.why] for o in found.outputs]
    told |= {"verdict": "mismatch" if found.breaks else "match", "facts": facts}
    told["causes"] = causes(why, step.label) if culprit and why is not None else []
    told["inputs"] = [
        operand(t)
        | {"sources": around.sources(step, t.position)}
        | ({"changed": "differs from a's"} if t.name in found.inputs else {})
        | contents(t, partial(_input_map, t, chunks))
        for t in step.inputs.in_order()
    ]
    other = None if found.a_address is None else a[found.a_address]
    cells = CULPRIT_CELLS if culprit else OTHER_CELLS
    told["outputs"] = [] if other is None else _outputs(other, step, found, chunks, cells)
    told["empty"] = "Its outputs are the same on both sides." if found.kind == "masked" else NOT_KEPT
    told["readers"] = [{"address": reader} for reader in around.readers(step)[:64]]
    return told


def _input_map(tensor: RecordedTensor, chunks: Chunks) -> dict[str, Any] | None:
    return input_picture(tensor.numpy(), chunks, INPUT_CELLS)


def _outputs(
    old: RecordedStep, new: RecordedStep, found: StepDifference, chunks: Chunks, cells: int
) -> list[dict[str, Any]]:
    """Maps of the outputs that differ and that both recordings have."""
    spec, made = refs.spec_of(new.op), []
    for number_, (before, after) in enumerate(zip(old.outputs.in_order(), new.outputs.in_order(), strict=False)):
        difference = next((o for o in found.outputs if o.name == after.name), None)
        if difference is None or difference.verdict is None or not (before.kept and after.kept):
            continue
        actual, expected = (np.ascontiguousarray(as_numpy(t.numpy())).reshape(-1) for t in (after, before))
        tiling = tiling_for(spec if number_ == 0 else None, new.op.params, actual.size)
        elements = measure(actual, expected, difference.verdict)
        picture = output_picture(elements, difference.verdict, after.shape, tiling, chunks, cells)
        made.append(operand(after) | {"detail": difference.verdict.detail, "ok": difference.verdict.ok} | picture)
    return made


__all__ = ["diff_page"]
