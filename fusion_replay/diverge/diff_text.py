# SPDX-License-Identifier: Apache-2.0
"""A diff as plain text: what differs first, where it went, what came from outside, on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion_replay.diverge.explanation import UNCUT
from fusion_replay.model.text import clip, columns, height, wrap
from fusion_replay.replaying import table

if TYPE_CHECKING:
    from fusion_replay.diverge.diff_report import DiffReport
    from fusion_replay.diverge.difference import FinalDifference, StepDifference
    from fusion_replay.diverge.explanation import Explanation

_WORDS = {
    "introduced": "introduced here",
    "inherited": "inherited",
    "masked": "masked again",
    "missing": "missing on one side",
    "removed": "only in the runlist of a",
    "added": "only in the runlist of b",
    "same": "same",
}
_LISTED = ("introduced", "removed", "added")
_HEADER = ("step", "", "max_abs", "max ulp", "rel_l2", "operator and buffers")


def layout(report: DiffReport, *, every: bool = False, why: Explanation | None = None) -> str:
    """The whole report; ``every``: every step that differs, every change of the environment, no limit on lines.

    ``why``: pattern and place of the first step's wrong elements, with ``every`` as a map too.
    """
    head = wrap(report.sentence, "")
    if report.steps or report.outside:
        counts = ", ".join(f"{n:,} {_WORDS[kind]}" for kind, n in report.counts.items())
        head += wrap(f"{counts}; rule {report.rule}, b against a", "  ")
    if report.recorded_on:
        head += wrap(f"run on {' and '.join(report.recorded_on)}", "  ")
    head += [line for note in report.notes for line in wrap(note, "  ")]
    foot = _path(report) + _finals(report, every) + _outside(report, every)
    unanswered = [line for text in report.unanswered for line in wrap(f"not decided: {text}", "")]
    foot += unanswered if every else _fit(unanswered, 3, "lines of what could not be decided")
    if every:
        changes = [f"  {c}" for c in report.environment]
        foot += ["environment, a -> b", *changes] if changes else []
        body = [*(_table(report.steps) if report.steps else []), *_first(report, why), *_map(why)]
        return "\n".join(clip([*head, *body, *foot]))
    first = _first(report, why)
    room = max(height() - len(head) - len(first) - len(foot), 4)
    return "\n".join(clip([*head, *first, *_fit(_others(report), room, "steps"), *foot]))


def _first(report: DiffReport, why: Explanation | None) -> list[str]:
    step = report.first
    if step is None:
        return []
    lines = wrap(f"first: {step.label}", "")
    facts = [("why", step.why)]
    if step.verdict is not None:
        facts.append(("b to a", step.verdict.detail))
    if step.judged is not None:
        facts += [(f"{side} to ref", _judged(j.ok, j.detail)) for side, j in zip("ab", step.judged, strict=True)]
    facts += why.facts if why is not None else []
    for name, fact in facts:
        lines += wrap(fact, f"  {name:<8} ", lines=None if name in (*UNCUT, "why") else 2)
    return lines


def _map(why: Explanation | None) -> list[str]:
    return [] if why is None else [f"  {'':<8} {line}" for line in why.where.lines()[1:]]


def _judged(ok: bool | None, detail: str) -> str:
    return f"{ {True: 'match', False: 'MISMATCH', None: 'not judged'}[ok] }: {detail}"


def _others(report: DiffReport) -> list[str]:
    """Further steps that a person must see: introduced, suspect, missing; inherited ones are counted above."""
    shown = [s for s in report.steps if s is not report.first and (s.kind in _LISTED or s.suspect)]
    gone = report.of_kind("missing")
    lines = ["also", *_table(shown)[1:]] if shown else []
    return [*lines, *wrap(f"missing: {_some(gone)}: {gone[0].why}", "")] if gone else lines


def _some(steps: Sequence[StepDifference]) -> str:
    one = steps[0].label
    return one if len(steps) == 1 else f"{len(steps):,} steps, from {one} to {steps[-1].address}"


def _table(steps: Sequence[StepDifference]) -> list[str]:
    """A row each, marked where a difference that is no honest one began."""
    wrong = (s.kind == "introduced" and s.verdict is not None and not s.verdict.ok for s in steps)
    return table.text([_HEADER, *map(_row, steps)], wrong)


def _row(step: StepDifference) -> tuple[str, ...]:
    flow = step.label.removeprefix(f"{step.address} ")
    kind = "suspect" if step.suspect else step.kind + (", vanishes" if step.vanishes else "")
    if step.verdict is None:
        return (step.address, kind, "", "", "", flow)
    s = step.verdict.stats
    figures = (f"{s.max_abs:.3g}", f"{s.ulp_max:,}", f"{s.rel_l2:.2e}")
    return (step.address, kind, *figures, flow)


def _path(report: DiffReport) -> list[str]:
    lines = []
    if report.masked_faults:
        masked = ", ".join(s.address for s in report.masked_faults)
        lines = wrap(f"masked: {masked}: no output shows it, nothing of it stays in a buffer that is read later", "")
    if not report.path:
        return lines
    steps = [" ".join(label.split(" ", 2)[:2]) for label in report.path]
    shown = steps if len(steps) <= 8 else [*steps[:4], f"({len(steps) - 7} more)", *steps[-3:]]
    return lines + wrap(f"path: {' -> '.join(shown)}", "", lines=3)


def _finals(report: DiffReport, every: bool) -> list[str]:
    lines = [_final(f) for f in report.final]
    return lines if every else _fit(lines, 4, "outputs")


def _final(f: FinalDifference) -> str:
    what = f"output {f.buffer} of invocation {f.invocation}"
    if f.verdict is None:
        return f"{what}: differs ({f.why})"
    s = f.verdict.stats
    word = "within the tolerance" if f.verdict.ok else "MISMATCH"
    return f"{what}: {word}, rel_l2 {s.rel_l2:.2e}, cosine {s.cosine:.6f}, max_abs {s.max_abs:.3g}"


def _outside(report: DiffReport, every: bool) -> list[str]:
    lines = []
    for o in report.outside:
        times = "" if o.reads == 1 else f" and {o.reads - 1:,} more"
        hand = "; outputs differed before: the host may have handed it on" if o.after else ""
        lines += wrap(f"from outside: {o.name}, read by {o.address}{times}: {o.why}{hand}", "")
    return lines if every else _fit(lines, 4, "inputs from outside")


def _fit(lines: list[str], room: int, what: str) -> list[str]:
    if len(lines) <= room or columns() is None:  # what goes to a file or a pipe is whole
        return lines
    return [*lines[: room - 1], f"  ... and {len(lines) - room + 1:,} more {what} (--all shows them)"]


__all__ = ["layout"]
