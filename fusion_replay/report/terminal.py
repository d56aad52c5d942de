# SPDX-License-Identifier: Apache-2.0
"""A replay on the terminal: one screen by default, one row per step on request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fusion_replay.compare import metrics
from fusion_replay.compare.verdict import IronVerdict, Stats
from fusion_replay.diverge.explanation import UNCUT
from fusion_replay.model.text import clip, height, printable, wrap
from fusion_replay.replaying import table
from fusion_replay.replaying.outcome import Skip, StepReport
from fusion_replay.report.text import count

if TYPE_CHECKING:
    from fusion_replay.diverge.consistency import Finding
    from fusion_replay.diverge.explanation import Explanation
    from fusion_replay.replaying.models import KernelModel
    from fusion_replay.replaying.replay_report import ReplayReport


FAILING = 10
"""Steps that mismatch, listed unless ``--failed`` asks for all."""


def layout(report: ReplayReport, *, every: bool = False, failed: bool = False, why: Explanation | None = None) -> str:
    """Plain text: the verdict, one row per operator type, the first mismatch in full, what was not compared.

    Args:
        every: one row per step as well (and so no limit on lines); ``failed``: one per step that mismatches.
        why: of the first mismatch (without any, of the first step outside its bound): causes and place, with ``every``
            as a map too.
    """
    head = [*wrap(report.sentence, ""), *wrap(report.terms, "  "), *wrap(report.caution or "", "  ")]
    head += [line for text in report.first_lines for line in wrap(text, "", lines=3)]
    if why is not None and report.first_mismatch is None:
        head += [line for name, text in why.facts for line in wrap(text, f"  {name:<8} ")]
    rows = report.operator_lines
    foot = [line for f in report.final for line in wrap(str(f), "")]
    foot += [line for s in report.skip_lines for line in wrap(s, "")]
    first = mismatch(report.first_mismatch, why) if report.first_mismatch is not None else []
    if every and why is not None:
        first += [f"  {'':<8} {line}" for line in why.where.lines()[1:]]
    if every or failed:
        chosen: list[StepReport | Skip] = [*report.steps, *report.skips] if every else [*report.mismatches]
        return "\n".join([*clip(head), *map(printable, _listed(chosen)), *clip([*rows, *first, *foot])])
    room = height() - len(head) - len(first)
    others = _failing(report, min(FAILING, max(room - 6, 1)))
    room -= len(others)
    foot = _fit(foot, max(room - len(rows), 2), "reasons and outputs")
    rows = _fit(rows, max(room - len(foot), 2), "operator types")
    return "\n".join(clip([*head, *rows, *first, *others, *foot]))


def besides(found: Iterable[Finding], *, agrees: bool) -> str:
    """What the steps together show, notes left to ``--json``; ``agrees``: no step by itself is wrong."""
    told = [f for f in found if f.weight != "note"]
    if not told:
        return ""
    head = "every step agrees, but:" if agrees else "the steps together show:"
    return "\n".join(clip([head, *(line for f in told for line in wrap(f.sentence, "  - "))]))


def fitted(models: Iterable[KernelModel]) -> str:
    """Which device model each kernel fits."""
    lines = [line for model in models for line in wrap(str(model), "  - ")]
    return "\n".join(clip(["steps that a device model reproduces:", *lines])) if lines else ""


def mismatch(step: StepReport, why: Explanation | None, heading: str = "first mismatch") -> list[str]:
    """A step that mismatches, everything known of it."""
    lines = wrap(f"{heading}: {step.label}", "")
    for name, text in facts(step, why):
        lines += wrap(text, f"  {name:<8} ", lines=None if name in UNCUT else 3)
    return lines


def facts(step: StepReport, why: Explanation | None) -> list[tuple[str, str]]:
    """(label, sentence): verdict, causes, limits and figures of a judged step."""
    s, out = step.stats, step.deciding
    min_rtol, min_atol = f"rtol {s.min_rtol:.3g} with atol 0", f"atol {s.min_atol:.3g} with rtol 0"
    told = [
        ("output", f"{out.name} ({out.buffer}), {s.n:,} elements, reference {step.flavour}"),
        ("verdict", step.verdict.detail),
        *(why.facts if why is not None else ()),
        ("limits", f"{step.verdict.limits}{_unbound(step)}; strict would pass {min_rtol}, or {min_atol}"),
        ("ulp", f"max {s.ulp_max:,}, mean {s.ulp_mean:.3g}, signed mean {s.ulp_signed_mean:.3g}"),
        ("vector", f"rel_l2 {s.rel_l2:.3e}, cosine {s.cosine:.6f}, PCC {s.pcc:.6f}, SQNR {s.sqnr:.1f} dB{_over(s)}"),
        *([("yours", ", ".join(f"{name} {value:.4g}" for name, value in s.metrics))] if s.metrics else []),
        ("iron", f"its own rule: {step.iron}; {_iron_figures(step)}"),
    ]
    if step.noise_floor is not None:
        told.append(("floor", str(step.noise_floor)))
    return told


def _unbound(step: StepReport) -> str:
    """Why no bound was computed, where the rule asked for one."""
    return f"; no bound, so the tolerance decided: {step.verdict.unbound}" if step.verdict.unbound else ""


def _over(s: Stats) -> str:
    """Figures that leave out what is not finite say so."""
    return "" if s.n_finite == s.n else f"; ulp over the {s.n_finite:,} of {s.n:,} pairs that are finite"


def _iron_figures(step: StepReport) -> str:
    s = step.stats
    return f"max_abs {s.max_abs:.4g} mean_abs {s.mean_abs:.4g} max_rel {s.max_rel:.4g} ref_max {s.ref_max:.4g}"


def _failing(report: ReplayReport, room: int) -> list[str]:
    """The steps that mismatch, where the first one is not all; at most so many."""
    found = report.mismatches
    if len(found) < 2:
        return []
    more = len(found) - room
    left = [f"  ... and {count(more, 'other')} (--failed lists all)"] if more > 0 else []
    return [f"all {len(found):,} that mismatch:", *_listed(found[:room]), *left]


def _listed(steps: Sequence[StepReport | Skip]) -> list[str]:
    """One row per step, skipped ones in their place."""
    own = metrics.names()
    header = ("step", "verdict", "max_abs", "max ulp", "rel_l2", *own, "IRON's rule", "operator and buffers")
    ordered = sorted(steps, key=lambda s: (s.invocation, s.index))
    if not ordered:
        return []
    return table.text([header, *map(_row, ordered)], (isinstance(s, StepReport) and not s for s in ordered))


def _row(step: StepReport | Skip) -> tuple[str, ...]:
    flow = step.label.removeprefix(f"{step.address} ")
    if isinstance(step, Skip):
        return (step.address, "skipped", "", "", "", *("" for _ in metrics.names()), "", f"{flow}: {step.kind}")
    s = step.stats
    figures: tuple[str, ...] = (f"{s.max_abs:.3g}", f"{s.ulp_max:,}", f"{s.rel_l2:.2e}" if s.rel_l2 else "0")
    own = dict(s.metrics)
    figures += tuple(f"{own[name]:.3g}" if name in own else "" for name in metrics.names())
    return (step.address, "ok" if step else "MISMATCH", *figures, _short(step.iron), flow)


def _short(verdict: IronVerdict) -> str:
    return {True: "ok", False: "fails", None: "raises"}[verdict.ok] + ("*" if verdict.ok and verdict.note else "")


def _fit(lines: list[str], room: int, what: str) -> list[str]:
    """At most ``room`` lines; what is left out is counted."""
    if len(lines) <= room:
        return lines
    kept = lines[: room - 1]
    return [*kept, f"  ... and {count(len(lines) - len(kept), 'line')} of {what} (--all shows them)"]
