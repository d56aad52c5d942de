# SPDX-License-Identifier: Apache-2.0
"""Which step introduced the error of the final output.

The error of :class:`~fusion_replay.diverge.hybrid.Hybrid` as a function of ``k``, the number of steps taken from the
recording, rises where a step adds to it. One run by reference alone says what the output should be; halving then finds
the step at which the error passes half of what it is in the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.diverge.hybrid import METRICS, Hybrid
from fusion_replay.diverge.search import Crossing, crossing
from fusion_replay.errors import UsageError
from fusion_replay.model import serialise
from fusion_replay.replay import replay
from fusion_replay.replaying.judge import Plan
from fusion_replay.replaying.replay_report import canonical_json
from fusion_replay.system.attempts import Tries

if TYPE_CHECKING:
    from fusion_replay.replaying.outcome import StepReport
    from fusion_replay.snapshot import Snapshot

FORMAT = "fusion-replay.bisect/1"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One run: the first ``k`` steps recorded, the rest by reference, and the error of the final output."""

    k: int
    error: float

    to_dict = serialise.to_dict


@dataclass(frozen=True)
class Divergence:
    """What a bisection found; truthy when one step by itself is to blame.

    Attributes:
        invocation, outputs: whose final output it is.
        metric: how the error is measured.
        total: the error of the recorded output against references alone.
        steps: how many steps the output depends on.
        evaluations: every run that was needed, in order; the one by reference alone is the first (``k`` 0).
        step: the step at which the error passes half of ``total``, judged alone on its recorded inputs. None where
            the recorded output is what the references give, bit for bit.
        before, after: the error without and with that step's recorded output; ``share`` is the rise, of ``total``.
        monotone, scanned: whether the error only ever rose; if not, how many points were tried for its largest rise.
        stand_ins: addresses of steps without a reference here, whose recorded outputs stood in.
    """

    invocation: int
    outputs: tuple[str, ...]
    metric: str
    total: float
    steps: int
    evaluations: tuple[Evaluation, ...]
    step: StepReport | None
    before: float
    after: float
    share: float
    monotone: bool
    scanned: int
    stand_ins: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.step is not None and not self.step

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        of = f"{' and '.join(self.outputs)} of invocation {self.invocation}"
        if self.step is None:
            return f"{of} is what the references give, bit for bit: there is nothing to bisect"
        if self:
            return f"{self.step.label} introduced the error of {of}"
        return (
            f"no step by itself is to blame for the error of {of}: {self.step.label} brings the largest part that was "
            "seen and is inside its tolerance; honest rounding adds up"
        )

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
            "introduced": bool(self),
            **serialise.pick(self, "before", "after", "share", "monotone", "scanned", "stand_ins"),
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines: an ``evaluation`` each, then one ``divergence``."""
        yield from ({"type": "evaluation", **e.to_dict()} for e in self.evaluations)
        found = self.to_dict()
        del found["evaluations"]
        yield {"type": "divergence", **found}

    def __str__(self) -> str:
        lines = [self.sentence, f"  {self.figures}"]
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
        progress: called with (evaluations made, evaluations expected).

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
        tries = Tries(None if journal is None else Path(journal), plan)
        finished = False
        try:
            found = _search(snap, hybrid, metric, tries, progress, rule, reference)
            finished = True
            return found
        finally:
            tries.close(keep=not finished)


def _search(
    snap: Snapshot,
    hybrid: Hybrid,
    metric: str,
    tries: Tries,
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
        if str(k) not in tries.done:
            tries.begin(str(k))
            tries.end(str(k), float(measure(hybrid.run(k), truth)))
        return evaluated(k, float(tries.done[str(k)]))

    total = measure(hybrid.recorded(), truth)
    where = crossing(error, n, total) if total else Crossing(0, 0.0, 0.0, 0.0, True, 0)
    step = hybrid.steps[where.k] if total else None
    judged = None
    if step is not None:
        judged = replay(snap, steps=[step.address], rule=rule, reference=reference, workers=1).steps[0]
    return Divergence(
        invocation=hybrid.invocation,
        outputs=hybrid.outputs,
        metric=metric,
        total=total,
        steps=n,
        evaluations=tuple(Evaluation(k, value) for k, value in made.items()),
        step=judged,
        before=where.before,
        after=where.after,
        share=where.share,
        monotone=where.monotone,
        scanned=where.scanned,
        stand_ins=tuple(hybrid.stand_ins),
    )


__all__ = ["Divergence", "Evaluation", "bisect"]
