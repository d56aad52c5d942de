# SPDX-License-Identifier: Apache-2.0
"""``replay()``: the public face of :mod:`fusion_replay.replaying`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fusion_replay.errors import NothingComparedError, UsageError
from fusion_replay.replaying.judge import Plan
from fusion_replay.replaying.outcome import FinalOutput, Skip, StepReport
from fusion_replay.replaying.replay_report import ReplayReport
from fusion_replay.replaying.replayer import (
    MODES,
    Progress,
    Replayer,
    by_operator,
    check_names,
    check_numbers,
    none_deviated,
    recorded_on,
)

if TYPE_CHECKING:
    from fusion_replay.snapshot import Snapshot


def replay(
    snapshot: str | os.PathLike[str] | Snapshot,
    reference: str = "auto",
    rule: str = "auto",
    mode: str = "isolated",
    workers: int = 1,
    steps: str | tuple[int, int] | Iterable[str | tuple[int, int]] | None = None,
    op: str | None = None,
    buffer: str | None = None,
    invocation: int | None = None,
    fail_fast: bool = False,
    progress: Progress | None = None,
    array: str = "numpy",
    cache_bytes: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    rtol: float | Mapping[str, float] | None = None,
    atol: float | Mapping[str, float] | None = None,
) -> ReplayReport:
    """Judge every recorded step against its reference.

    Args:
        snapshot: a file, or an open Snapshot (left open).
        reference: a flavour ("pr117", "iron-2026-08", "iron-2026-09", "exact"), or "auto": the one the recording names,
            "installed": the reference() of the IRON that is installed here, or "stored": what that gave while it was
            recorded (``record(..., with_reference=True)``).
        rule: one of :data:`fusion_replay.compare.rules.RULES`.
        mode: "isolated": each reference gets the step's recorded inputs. "cumulative": references are chained from the
            recorded external inputs, and the sequences' outputs are judged at the end of the chain.
        workers: processes that share the steps; the report is the same for any number. They are started afresh
            (``spawn``), so a script needs ``if __name__ == "__main__":``. One process judges while a thread of it reads
            ahead; BLAS threads are divided between several unless the environment says how many. Mode cumulative is
            sequential: one step's outputs are the next one's inputs.
        steps: only these: "3:412" or pairs of numbers, "10-20", "3:400-412". ``op``, ``buffer``, ``invocation``: as
            ``Snapshot.steps``.
        fail_fast: stop after the first mismatch.
        progress: called with (steps done, steps in all).
        array: what references compute on: "numpy", "torch", or "cuda" (torch on a GPU).
        weights: the side file with the weights that the recording left out, where ``snapshot`` is a path; None: the
            one that it names, beside it.
        cache_bytes: decoded contents held in memory, at most, by all workers together; by default the snapshot's own
            budget (``fr.open(path, cache_bytes=...)``, 512 MiB). One step's tensors come on top where they are larger
            than that, in each worker.
        rtol, atol: limits of the rule's formula instead of each operator's own: for all, or by operator type (``""``:
            all others). One alone leaves the other as it is. Verdicts name them, and bounds no longer decide.

    Raises:
        UsageError: an unknown name, or filters that match nothing.
        MissingError: a reference that is not here.
        NothingComparedError: no step could be compared.
        SnapshotError: no usable snapshot, or one whose contents are damaged.
    """
    check_names(reference, rule, mode, array)
    check_numbers(mode, workers, cache_bytes)
    limits = by_operator(rtol, "rtol"), by_operator(atol, "atol")
    if rule == "bound" and any(limits):
        raise UsageError("rule bound: has limits of its own, that follow from the inputs; leave rtol and atol out")
    from fusion_replay.snapshot import opened
    from fusion_replay.snapshot.selection import select

    with opened(snapshot, weights=weights) as snap:
        selected = select(snap, steps, op, buffer, invocation)
        budget = snap.store.budget if cache_bytes is None else cache_bytes
        plan = Plan(rule, reference, array, rtol=limits[0], atol=limits[1])
        run = Replayer(snap, plan, budget, progress, fail_fast)
        if mode == "isolated":
            outcomes = run.isolated(selected, workers)
            final: tuple[FinalOutput, ...] = ()
        else:
            outcomes, final = run.cumulative(selected)
        recorded = recorded_on(snap)
    report = ReplayReport(
        mode=mode,
        rule=rule,
        reference=reference,
        recorded_on=recorded,
        steps=tuple(o for o in outcomes if isinstance(o, StepReport)),
        skips=tuple(o for o in outcomes if isinstance(o, Skip)),
        final=final,
    )
    if not report.steps:
        why = none_deviated(selected) or "; ".join(report.skip_lines) or "the recording holds no step"
        unknown = dict.fromkeys(s.op for s in report.skips if s.kind == "unknown_operator")
        raise NothingComparedError(f"{snap.path}: nothing was compared: {why}", tuple(unknown), report)
    return report


__all__ = ["MODES", "ReplayReport", "StepReport", "replay"]
