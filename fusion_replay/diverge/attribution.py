# SPDX-License-Identifier: Apache-2.0
"""Introduced or inherited: every step's own error beside the error it was handed, and its share of the final one.

Two passes over the steps that a final output depends on: each step alone on its recorded inputs (its own error, as
``replay`` judges it), and the references chained (the error that has built up). What a step adds to the final output
is the difference of two neighbouring :meth:`~fusion_replay.diverge.hybrid.Hybrid.run`: with and without its recorded
output, the references carrying it on. Those differences add up to the whole error vector exactly, so their projections
on it, the *shares*, add up to 1. A share may be negative: a step that happens to undo what others did.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.compare.sums import dot, norm
from fusion_replay.diverge.array_chains import Chains
from fusion_replay.diverge.consistency import Finding, findings
from fusion_replay.diverge.hybrid import Floats, Hybrid, difference, rel_l2
from fusion_replay.model import serialise
from fusion_replay.model.text import block, one_line
from fusion_replay.replay import replay
from fusion_replay.replaying.chain import follow
from fusion_replay.replaying.judge import NotComparedError, Plan

if TYPE_CHECKING:
    from fusion_replay.model.step import Step
    from fusion_replay.replaying.outcome import StepReport
    from fusion_replay.snapshot import Snapshot

FORMAT = "fusion-replay.attribution/1"

SUSPECTS = 12
"""Steps whose share is computed unless all are asked for: those with the largest errors of their own."""

ROUNDING = 2.0**-9 / math.sqrt(3)
"""Relative error of rounding once to bf16: at most 2**-9 (half a unit of its 8 bits), evenly spread."""

BEYOND = 3.0
"""How far the final error may exceed the root of the summed squares of the steps' own errors (independent errors that
nothing amplifies) before it counts as not explained by them."""


@dataclass(frozen=True, slots=True)
class StepShare:
    """One step. Errors are relative L2 norms of its outputs taken together.

    Attributes:
        isolated: its own error, on the inputs that it really had; None where it has no reference.
        above_floor: its error in multiples of the noise floor: of what the reference's own rounding on the way comes
            to, else :data:`ROUNDING`. None where it could not be judged.
        inherited: the largest error of an input against the chained references; 0 where all come from outside.
        cumulative: the error of its outputs against the chained references.
        share: of the final error, in the direction of that error; None where it was not computed.
        ok: whether it matches, judged alone; None where it could not be judged.
    """

    address: str
    label: str
    op: str
    isolated: float | None
    above_floor: float | None
    inherited: float
    cumulative: float
    share: float | None
    ok: bool | None

    @property
    def amplification(self) -> float | None:
        """``cumulative`` over ``inherited``; None where nothing was inherited."""
        return self.cumulative / self.inherited if self.inherited else None

    @property
    def origin(self) -> str:
        """ "introduced" where its own error exceeds what it was handed, else "inherited"; "none" without any."""
        if not self.cumulative:
            return "none"
        return "introduced" if self.isolated is not None and self.isolated >= self.inherited else "inherited"

    def to_dict(self) -> dict[str, Any]:
        first = ("address", "label", "op", "origin", "ok", "isolated", "above_floor", "inherited", "cumulative")
        return serialise.pick(self, *first, "amplification", "share")


@dataclass(frozen=True, repr=False)
class Attribution:
    """Where the error of a final output comes from.

    Attributes:
        total: relative L2 of the recorded final output against the chained references.
        steps: every step that it depends on, in order.
        expected: what the steps' own errors come to if nothing amplifies them: the root of their summed squares.
        elsewhere: steps that mismatch by themselves and that the final output does not depend on.
        findings: what only the whole recording shows: buffers that were clobbered, weights that changed.
    """

    invocation: int
    outputs: tuple[str, ...]
    total: float
    expected: float
    steps: tuple[StepShare, ...]
    elsewhere: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def bad(self) -> bool:
        """What ends a command with 1: a step that mismatches, wherever it stands, an output that is not reached, or a
        certain finding."""
        wrong = any(s.ok is False for s in self.steps) or bool(self.elsewhere)
        return wrong or not self.reached or any(f.weight == "certain" for f in self.findings)

    @property
    def besides(self) -> list[str]:
        """What the final output does not show, a sentence each."""
        told = [f.sentence for f in self.findings]
        wrong = [s.label for s in self.steps if s.ok is False]
        if len(wrong) > 1:
            told.insert(0, f"{len(wrong)} steps are wrong by themselves, the first is {wrong[0]}")
        if self.elsewhere:
            n = len(self.elsewhere)
            what = "a step mismatches" if n == 1 else f"{n} steps mismatch, the first is"
            told.insert(0, f"{what} {self.elsewhere[0]}: this output does not depend on it")
        return told

    @property
    def attributed(self) -> tuple[StepShare, ...]:
        """The steps whose share was computed, the largest first."""
        known = [s for s in self.steps if s.share is not None]
        return tuple(sorted(known, key=lambda s: -(s.share or 0.0)))

    @property
    def suspects(self) -> tuple[StepShare, ...]:
        """The steps with the largest errors of their own, whether or not a share could be computed."""
        return tuple(sorted(self.steps, key=lambda s: -(s.isolated or 0.0))[:SUSPECTS])

    @property
    def rest(self) -> float | None:
        """The share of all the others together; None where no share could be computed."""
        known = [s.share for s in self.steps if s.share is not None]
        return 1.0 - sum(known) if known else None

    @property
    def reached(self) -> bool:
        """False where every step agrees and the final output is nevertheless not what the references give."""
        agree = all(s.ok is not False for s in self.steps)
        return not agree or self.total <= BEYOND * self.expected or not self.total

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        of = f"{' and '.join(self.outputs)} of invocation {self.invocation}"
        if not self.total:
            return f"{of} is what the references give, bit for bit"
        if not self.reached:
            return (
                f"every step agrees, but {of} is not what the chained references give: rel_l2 {self.total:.3g}, where "
                f"the steps' own errors come to about {self.expected:.3g}; something changed between steps"
            )
        head = f"{of}: rel_l2 {self.total:.3g} against the chained references"
        if not self.attributed:
            return f"{head}: it holds elements that are no numbers, so no share can be computed"
        most = self.attributed[0]
        return f"{head}; the largest share, {most.share:.0%}, comes from {most.label}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **serialise.pick(self, "invocation", "outputs", "total", "expected", "reached", "rest", "besides", "steps"),
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines: a ``share`` for each step, then one ``attribution``."""
        whole = self.to_dict()
        yield from ({"type": "share", **s} for s in whole.pop("steps"))
        yield {"type": "attribution", **whole}

    def __repr__(self) -> str:
        return f"<Attribution {one_line(self.sentence)}>"

    def __str__(self) -> str:
        shares = (f"  {s.share:7.1%}  {s.label}" for s in self.attributed)
        return block([self.sentence, *self.besides, *shares])


def attribute(
    snapshot: str | os.PathLike[str] | Snapshot,
    *,
    invocation: int | None = None,
    output: str | None = None,
    reference: str = "auto",
    rule: str = "auto",
    every: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Say of every step what it introduced, what it inherited, and (of the suspects) its share of the final error.

    Args:
        snapshot: a file, or an open Snapshot (left open).
        invocation, output: which final output; see :func:`fusion_replay.bisect`.
        reference, rule: as in :func:`fusion_replay.replay`.
        every: compute the share of every step, not only of the :data:`SUSPECTS` largest; one run of what comes after
            it for each.
        progress: called with (steps judged, steps in all), (steps chained, in all), then (runs done, runs in all).

    Raises:
        UsageError, MissingError, SnapshotError: as :func:`fusion_replay.bisect`.
    """
    from fusion_replay.snapshot import opened

    with opened(snapshot) as snap:
        plan = Plan(rule, reference)
        hybrid = Hybrid(snap, plan, invocation=invocation, output=output)
        report = replay(snap, rule=rule, reference=reference, progress=progress)
        judged = {s.address: s for s in report.steps}
        chains = Chains(hybrid.graph)
        handed = []
        for step in hybrid.steps:
            handed.append(_handed(step, plan, chains))
            if progress is not None:
                progress(len(handed), len(hybrid.steps))
        recorded, truth = hybrid.recorded(), hybrid.run(0)
        shares = _shares(hybrid, difference(recorded, truth), judged, every, progress)
        steps = tuple(
            _share(step, judged.get(step.address), errors, shares.get(i))
            for i, (step, errors) in enumerate(zip(hybrid.steps, handed, strict=True))
        )
        known = {s.address for s in hybrid.steps}
        elsewhere = tuple(s.label for s in report.mismatches if s.address not in known)
        found = tuple(f for f in findings(snap, hybrid.graph) if f.weight != "note")
    total = rel_l2(recorded, truth)
    own = norm(np.array([s.isolated for s in steps if s.isolated is not None], np.float64))
    return Attribution(hybrid.invocation, hybrid.outputs, total, own, steps, elsewhere, found)


def _handed(step: Step, plan: Plan, chains: Chains) -> tuple[float, float]:
    """(error of its worst input, error of its outputs) against the chain, which goes on from here."""
    chain = chains.of(step)
    inputs = [rel_l2(_flat(t.numpy()), _flat(chain.read(step.invocation, t))) for t in step.inputs.in_order()]
    try:
        follow(step, plan, chain)
    except NotComparedError:
        return max(inputs, default=0.0), 0.0
    outputs = [(t, chain.read(step.invocation, t)) for t in step.outputs.in_order()]
    recorded = np.concatenate([_flat(t.numpy()) for t, _ in outputs])
    return max(inputs, default=0.0), rel_l2(recorded, np.concatenate([_flat(x) for _, x in outputs]))


def _shares(
    hybrid: Hybrid,
    whole: Floats,
    judged: dict[str, StepReport],
    every: bool,
    progress: Callable[[int, int], None] | None,
) -> dict[int, float]:
    """Share of the final error ``whole``, a vector, by the step's number in ``hybrid.steps``."""
    size = dot(whole, whole)
    if not np.isfinite(size) or not size:
        return {}
    own = {i: _own(judged.get(step.address)) or 0.0 for i, step in enumerate(hybrid.steps)}
    suspects = sorted(own, key=lambda i: (-own[i], i))[: None if every else SUSPECTS]
    needed = sorted({k for i in suspects for k in (i, i + 1)})
    runs: dict[int, Floats] = {}
    shares = {}
    for done, k in enumerate(needed):
        runs[k] = hybrid.run(k)
        if k - 1 in runs and k - 1 in suspects:
            shares[k - 1] = dot(difference(runs[k], runs[k - 1]), whole) / size
        runs.pop(k - 1, None)
        if progress is not None:
            progress(done + 1, len(needed))
    return shares


def _share(step: Step, judged: StepReport | None, errors: tuple[float, float], share: float | None) -> StepShare:
    own = _own(judged)
    return StepShare(
        address=step.address,
        label=step.label,
        op=step.op.type,
        isolated=own,
        above_floor=None if own is None or judged is None else _above_floor(own, judged),
        inherited=errors[0],
        cumulative=errors[1],
        share=share,
        ok=None if judged is None else bool(judged),
    )


def _own(judged: StepReport | None) -> float | None:
    if judged is None:
        return None
    stats = [o.verdict.stats for o in judged.outputs]
    agree = all((s.nan_actual, s.inf_actual) == (s.nan_expected, s.inf_expected) for s in stats)
    return max(s.rel_l2 for s in stats) if agree else float("inf")


def _above_floor(own: float, judged: StepReport) -> float:
    floor = judged.noise_floor
    if floor is not None and floor.reference_rel_l2:
        return floor.actual_rel_l2 / floor.reference_rel_l2
    return own / ROUNDING


def _flat(array: Any) -> Floats:
    return np.asarray(array, np.float64).reshape(-1)


__all__ = ["BEYOND", "SUSPECTS", "Attribution", "StepShare", "attribute"]
