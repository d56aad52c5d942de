# SPDX-License-Identifier: Apache-2.0
"""Which step introduced the error of the final output.

The error of :class:`~fusion_replay.diverge.hybrid.Hybrid` as a function of ``k``, the number of steps taken from the
recording, rises where a step adds to it. One run by reference alone says what the output should be; halving then finds
the step at which the error passes half of what it is in the end.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.diverge.bisection import Crossing, crossing
from fusion_replay.diverge.consistency import Finding, findings
from fusion_replay.diverge.hybrid import METRICS, Hybrid
from fusion_replay.errors import NothingComparedError, UsageError
from fusion_replay.model import serialise
from fusion_replay.model.text import one_line
from fusion_replay.replay import replay
from fusion_replay.replaying.judge import Plan
from fusion_replay.replaying.replay_report import canonical_json
from fusion_replay.system.attempts import Attempts

if TYPE_CHECKING:
    from fusion_replay.replaying.outcome import StepReport
    from fusion_replay.snapshot import Snapshot

FORMAT = "fusion-replay.bisect/1"

HALF = 0.5
"""Of the whole error: what a step must bring to have introduced it."""


@dataclass(frozen=True, slots=True)
class HybridError:
    """One run: the first ``k`` steps recorded, the rest by reference, and the error of the final output."""

    k: int
    error: float

    to_dict = serialise.to_dict


@dataclass(frozen=True, repr=False)
class Divergence:
    """What a bisection found; truthy when something is to blame: a step that mismatches by itself, wherever it stands,
    or a buffer that somebody else wrote.

    Attributes:
        invocation, outputs: whose final output it is.
        metric: how the error is measured.
        total: the error of the recorded output against references alone.
        steps: how many steps the output depends on.
        evaluations: every run that was needed, in order; the one by reference alone is the first (``k`` 0).
        step: judged alone on its recorded inputs: the step at which the error passes half of ``total``; where that one
            matches and others do not, the first of those. None where the recorded output is what the references give,
            bit for bit, and no step mismatches.
        before, after: the error without and with that step's recorded output; ``share`` is the rise, of ``total``.
        monotone, scanned: whether the error only ever rose; if not, how many points were tried for its largest rise.
        stand_ins: addresses of steps without a reference here, whose recorded outputs stood in.
        wrong: the steps that mismatch by themselves and that the output depends on, the first one first.
        elsewhere: those that it does not depend on.
        findings: what only the whole recording shows: buffers that were clobbered, weights that changed.
    """

    invocation: int
    outputs: tuple[str, ...]
    metric: str
    total: float
    steps: int
    evaluations: tuple[HybridError, ...]
    step: StepReport | None
    before: float
    after: float
    share: float
    monotone: bool
    scanned: int
    stand_ins: tuple[str, ...]
    wrong: tuple[StepReport, ...] = ()
    elsewhere: tuple[StepReport, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.wrong or self.elsewhere) or any(f.weight == "certain" for f in self.findings)

    @property
    def introduced(self) -> bool:
        """One step by itself is to blame: it mismatches, and most of the error comes with it."""
        return self.step is not None and not self.step and self.share >= HALF

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        of = f"{' and '.join(self.outputs)} of invocation {self.invocation}"
        if self.introduced and self.step is not None:
            return f"{self.step.label} introduced the error of {of}"
        if self.wrong:
            first = self.wrong[0]
            its = self.step is first
            part = f"{self.share:.0%} of the error of {of} comes with it" if its else f"{of} has its error"
            return f"{first.label} is wrong by itself; {part}"
        certain = next((f.sentence for f in self.findings if f.weight == "certain"), "")
        if self.step is None or self.elsewhere:
            told = f"{of} is what the references give" + ("" if self.total else ", bit for bit")
            if certain or self.elsewhere:
                return f"{told}; {certain or 'steps that it does not depend on mismatch'}"
            return f"{told}: there is nothing to bisect"
        if certain:
            return f"no step by itself is to blame for the error of {of}: {certain}"
        return (
            f"no step by itself is to blame for the error of {of}: {self.step.label} brings the largest part that was "
            "seen and is inside its tolerance; honest rounding adds up"
        )

    @property
    def besides(self) -> list[str]:
        """What else there is, a sentence each: other steps that are wrong, findings."""
        told = []
        if len(self.wrong) > 1:
            listed = ", ".join(s.address for s in self.wrong[:8]) + (", ..." if len(self.wrong) > 8 else "")
            first = self.wrong[0].label
            told.append(f"{len(self.wrong)} steps are wrong by themselves, the first is {first}: {listed}")
        if self.elsewhere:
            n, other = len(self.elsewhere), self.elsewhere[0].label
            what = f"a step mismatches, {other}" if n == 1 else f"{n} steps mismatch, the first is {other}"
            told.append(f"{what}; this output does not depend on {'it' if n == 1 else 'them'}")
        return told + [f.sentence for f in self.findings if f.sentence not in self.sentence]

    @property
    def figures(self) -> str:
        """Errors and evaluations, in words."""
        runs = f"{len(self.evaluations)} evaluations of {self.steps:,} steps"
        if self.step is None:
            return runs
        how = "" if self.monotone else f"; the error is not monotone in the steps: {self.scanned} points scanned"
        errors = f"{self.before:.3g} before it, {self.after:.3g} after it, {self.total:.3g} in the end"
        return f"{self.metric} {errors}; {runs}{how}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **serialise.pick(self, "invocation", "outputs", "metric", "total", "steps", "evaluations", "step"),
            "introduced": self.introduced,
            "wrong": [s.address for s in (*self.wrong, *self.elsewhere)],
            **serialise.pick(self, "besides", "before", "after", "share", "monotone", "scanned", "stand_ins"),
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines: an ``evaluation`` each, then one ``divergence``."""
        yield from ({"type": "evaluation", **e.to_dict()} for e in self.evaluations)
        found = self.to_dict()
        del found["evaluations"]
        yield {"type": "divergence", **found}

    def __repr__(self) -> str:
        return f"<Divergence {one_line(self.sentence)}>"

    def __str__(self) -> str:
        lines = [self.sentence, *self.besides, f"  {self.figures}"]
        if self.stand_ins:
            lines.append(f"  {len(self.stand_ins)} steps have no reference here, their recorded outputs stood in")
        if self.step is not None:
            lines += str(self.step).splitlines()
        return "\n".join(lines)


def bisect(
    snapshot: str | os.PathLike[str] | Snapshot,
    *,
    invocation: int | None = None,
    output: str | None = None,
    metric: str = "rel_l2",
    reference: str = "auto",
    rule: str = "auto",
    journal: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Divergence:
    """Find the step that introduced the error of a recording's final output.

    Args:
        snapshot: a file, or an open Snapshot (left open).
        invocation: whose output; by default the last complete one's.
        output: one of its output buffers; by default all of them together.
        metric: one of :data:`~fusion_replay.diverge.hybrid.METRICS`, of all elements in float64.
        reference, rule: as in :func:`fusion_replay.replay`; the rule judges the step that is found.
        journal: a file in which evaluations are kept as they are made; one that lies there is gone on with, and it is
            removed at the end.
        progress: called with (evaluations made, evaluations expected), then with steps judged and steps in all.

    Raises:
        UsageError: an unknown name, invocation or output; a journal of something else.
        MissingError: the recording has no final output, or lacks contents that it depends on.
        SnapshotError: no usable snapshot.
    """
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r}: expected one of {', '.join(METRICS)}")
    from fusion_replay.snapshot import opened

    with opened(snapshot) as snap:
        hybrid = Hybrid(snap, Plan(rule, reference), invocation=invocation, output=output)
        plan = canonical_json(
            {
                "bisect": snap.index.recording,
                "invocation": hybrid.invocation,
                "outputs": list(hybrid.outputs),
                "metric": metric,
                "reference": reference,
            }
        )
        attempts = Attempts(None if journal is None else Path(journal), plan)
        finished = False
        try:
            found = _search(snap, hybrid, metric, attempts, progress, rule, reference)
            finished = True
            return found
        finally:
            attempts.close(keep=not finished)


def _search(
    snap: Snapshot,
    hybrid: Hybrid,
    metric: str,
    attempts: Attempts,
    progress: Callable[[int, int], None] | None,
    rule: str,
    reference: str,
) -> Divergence:
    n = len(hybrid.steps)
    expected = 1 + max(n - 1, 0).bit_length()
    made: dict[int, float] = {}
    measure = METRICS[metric]

    def evaluated(k: int, value: float) -> float:
        made[k] = value
        if progress is not None:
            progress(min(len(made), expected), expected)
        return value

    # What the output should be is needed for every other evaluation, so a resumed bisection computes it again.
    truth = hybrid.run(0)
    evaluated(0, 0.0)

    def error(k: int) -> float:
        if str(k) not in attempts.done:
            attempts.begin(str(k))
            attempts.end(str(k), float(measure(hybrid.run(k), truth)))
        return evaluated(k, float(attempts.done[str(k)]))

    total = measure(hybrid.recorded(), truth)
    where = crossing(error, n, total) if total else Crossing(0, 0.0, 0.0, 0.0, True, 0)
    steps: tuple[StepReport, ...] = ()
    with suppress(NothingComparedError):
        steps = replay(snap, rule=rule, reference=reference, progress=progress).steps
    needed = {s.address for s in hybrid.steps}
    wrong = tuple(s for s in steps if not s and s.address in needed)
    elsewhere = tuple(s for s in steps if not s and s.address not in needed)
    at = hybrid.steps[where.k].address if total else None
    judged = next((s for s in steps if s.address == at), None)
    if wrong and judged is not wrong[0]:
        rise = _rise_at(error, [s.address for s in hybrid.steps].index(wrong[0].address), n, total, where)
        # Of an endless total anything is less than half: what the first one brings is measured by itself.
        if judged is None or judged or where.share < HALF or rise.share >= HALF:
            judged, where = wrong[0], rise
    return Divergence(
        invocation=hybrid.invocation,
        outputs=hybrid.outputs,
        metric=metric,
        total=total,
        steps=n,
        evaluations=tuple(HybridError(k, value) for k, value in made.items()),
        step=judged,
        before=where.before,
        after=where.after,
        share=where.share,
        monotone=where.monotone,
        scanned=where.scanned,
        stand_ins=tuple(hybrid.stand_ins),
        wrong=wrong,
        elsewhere=elsewhere,
        findings=tuple(f for f in findings(snap, hybrid.graph) if f.weight != "note"),
    )


def _rise_at(error: Callable[[int], float], k: int, n: int, total: float, seen: Crossing) -> Crossing:
    """How the error rises with step ``k``."""
    before, after = (0.0 if i == 0 else total if i == n else error(i) for i in (k, k + 1))
    share = (after - before) / total if math.isfinite(total) and total else float(after > before)
    return replace(seen, k=k, before=before, after=after, share=share if math.isfinite(share) else 1.0)


__all__ = ["Divergence", "HybridError", "bisect"]
