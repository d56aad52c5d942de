# SPDX-License-Identifier: Apache-2.0
"""A replay as rows of a table, and as a plot of every step's distance from its reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.compare.deviation import Stats
from fusion_replay.model.notebook import axes, plain
from fusion_replay.replaying.outcome import Skip, StepReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fusion_replay.replaying.replay_report import ReplayReport

_FLAT = [f.name for f in fields(Stats) if f.name not in ("metrics", "ulp_histogram")]


def rows(report: ReplayReport) -> Iterator[dict[str, Any]]:
    """One per step, in the order of the recording: figures of the output that decides; of a skipped one, why."""
    both: list[StepReport | Skip] = [*report.steps, *report.skips]
    for step in sorted(both, key=lambda s: (s.invocation, s.index)):
        about = {"address": step.address, "invocation": step.invocation, "step": step.index, "label": step.label}
        yield {**about, **({"op": step.op, "skipped": step.reason} if isinstance(step, Skip) else figures(step))}


def figures(step: StepReport) -> dict[str, Any]:
    """All figures of the output that decides, and the verdicts."""
    verdict, stats = step.verdict, step.stats
    return {
        "op": step.op.type,
        "ok": verdict.ok,
        "outside_bound": step.outside is not None,
        "born": step.born,
        "flavour": step.flavour,
        "output": step.deciding.name,
        "buffer": step.deciding.buffer,
        "rule": verdict.rule,
        "decided_by": verdict.decided_by,
        "iron_ok": step.iron.ok,
        **{name: getattr(stats, name) for name in (*_FLAT, "nrmse", "sqnr")},
        **dict(stats.metrics),
        "detail": verdict.detail,
    }


def plot(report: ReplayReport, ax: Axes | None) -> Axes:
    """``rel_l2`` of every compared step in the order they ran, mismatches marked by shape and colour."""
    on = axes(ax)
    for wrong, marker, colour, label in ((False, ".", "#4477aa", "match"), (True, "X", "#cc3311", "mismatch")):
        at = [(i, s.stats.rel_l2) for i, s in enumerate(report.steps) if bool(s) is not wrong]
        values = np.array([value for _, value in at], np.float64)
        finite = np.isfinite(values)
        top = float(values[finite].max(initial=1.0))
        shown = np.where(finite, np.maximum(values, 1e-9), top * 10)
        on.plot([i for i, _ in at], shown, marker, color=colour, label=f"{label} ({len(at):,})")
    on.set_yscale("log")
    on.set_xlabel("step, in the order they ran")
    on.set_ylabel("rel_l2")
    on.set_title(plain(report.sentence), fontsize="small", loc="left")
    on.legend(fontsize="small")
    return on


__all__ = ["figures", "plot", "rows"]
