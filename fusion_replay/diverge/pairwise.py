# SPDX-License-Identifier: Apache-2.0
"""One aligned step of two recordings: b's outputs against a's, and each side against its own reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusion_replay import refs
from fusion_replay.compare.rules import OURS
from fusion_replay.compare.tolerance import Tolerance, exact
from fusion_replay.compare.verdict import compare
from fusion_replay.diverge.difference import Judged, OutputDifference, StepDifference
from fusion_replay.diverge.propagated import excuse
from fusion_replay.replaying.judge import Evaluation, NotComparedError, Plan, evaluate_step, judge, own_tolerance
from fusion_replay.replaying.write_history import WriteHistory

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import Snapshot

NOT_KEPT = "only digests were kept, so nobody can say by how much it differs; record both with their contents"

_NOISE = 4.0
"""b may be this many times further from its reference than a is from its own before rounding no longer explains it:
the deviation of one kernel on other inputs of the same kind varies by less. A choice that decides no exit status. On
the software NPU 45 pairs of clean recordings (tokens, seeds of weights, npu1 against npu2; 12,646 aligned steps, nearly
all with other inputs) have no suspect."""


@dataclass(frozen=True)
class Pairwise:
    """How pairs of steps are judged; safe to use from several threads."""

    plan: Plan
    history_a: WriteHistory
    history_b: WriteHistory

    @classmethod
    def of(cls, a: Snapshot, b: Snapshot, plan: Plan) -> Pairwise:
        return cls(plan, WriteHistory(a), WriteHistory(b))

    def outputs(self, a: Step, b: Step, positions: Iterable[int], *, same_inputs: bool) -> tuple[OutputDifference, ...]:
        """b's outputs at these positions judged against a's.

        On the same inputs by the limits of the operator. On others an operator that selects or moves numbers hands on
        what it was given: the limits of the rule itself are meant for that.
        """
        theirs = {t.position: t for t in a.outputs.in_order()}
        wanted = set(positions)
        ours = [t for t in b.outputs.in_order() if t.position in wanted]
        return tuple(self.output(theirs.get(t.position), t, b, same_inputs=same_inputs) for t in ours)

    def output(
        self, theirs: RecordedTensor | None, ours: RecordedTensor, b: Step, *, same_inputs: bool
    ) -> OutputDifference:
        """One output of step ``b`` against what a has in its place."""
        limit, exact_bits = self._limits(b) if same_inputs else (self._loose(b), False)
        if theirs is None or theirs.row is None or ours.row is None:
            return OutputDifference(ours.name, ours.buffer, None, "not recorded on one side")
        if not (theirs.kept and ours.kept):
            return OutputDifference(ours.name, ours.buffer, None, NOT_KEPT)
        if (theirs.shape, theirs.dtype) != (ours.shape, ours.dtype):
            forms = f"{theirs.shape} of {theirs.dtype} in a, {ours.shape} of {ours.dtype} in b"
            return OutputDifference(ours.name, ours.buffer, None, forms)
        verdict = compare(ours.numpy(), theirs.numpy(), self.plan.rule, tolerance=limit, exact_bits=exact_bits)
        return OutputDifference(ours.name, ours.buffer, verdict)

    def judged(self, a: Step, b: Step, *, same_inputs: bool) -> tuple[Judged, Judged]:
        """Each side against its own reference on its own inputs. Where b alone breaks the rule on inputs that differ,
        and they may be why (:mod:`~fusion_replay.diverge.propagated`), its ``ok`` is None, its detail that reason."""
        ours, theirs = self._evaluated(b), self._evaluated(a)
        judged = self._judge(a, theirs, self.history_a), self._judge(b, ours, self.history_b)
        if same_inputs or not newly_wrong(judged):
            return judged
        assert isinstance(ours, Evaluation)
        assert isinstance(theirs, Evaluation)
        why = self._excuse(b, ours, theirs)
        return judged[0], replace(judged[1], ok=None, detail=why) if why else judged[1]

    def _excuse(self, b: Step, ours: Evaluation, theirs: Evaluation) -> str:
        """One reason for every output that breaks the rule; "" where one has none."""
        limits, exact_bits = self._limits(b)
        if exact_bits:
            return ""
        inputs, reasons = [t.numpy() for t in b.inputs.in_order()], []
        for tensor, expected, usual in zip(b.outputs.in_order(), ours.results, theirs.results, strict=True):
            actual = tensor.numpy()
            if not compare(actual, expected, self.plan.rule, tolerance=limits):
                reasons.append(excuse(actual, expected, usual, inputs, self.plan.rule, limits))
        return reasons[0] if reasons and all(reasons) else ""

    def _evaluated(self, step: Step) -> Evaluation | str:
        """What its reference makes of the step's inputs, or why there is none."""
        try:
            return evaluate_step(step, self.plan)
        except NotComparedError as why:
            return why.reason

    def _judge(self, step: Step, evaluation: Evaluation | str, history: WriteHistory) -> Judged:
        if isinstance(evaluation, str):
            return Judged(None, evaluation)
        actual = [t.numpy() for t in step.outputs.in_order()]
        report = judge(step, self.plan, evaluation, actual, history)
        worst = max((o.verdict.stats for o in report.outputs), key=lambda s: s.rel_l2)
        return Judged(report.verdict.ok, report.verdict.detail, worst.rel_l2, worst.ulp_max)

    def _limits(self, step: Step) -> tuple[Tolerance | None, bool]:
        spec = refs.spec_of(step.op)
        if spec is None or self.plan.rule not in OURS:
            return None, False
        return own_tolerance(step, spec), spec.exact_bits

    def _loose(self, step: Step) -> Tolerance | None:
        limit = self._limits(step)[0]
        return None if limit == exact() else limit


def newly_wrong(judged: tuple[Judged, Judged]) -> bool:
    """b breaks the rule against its own reference and a did not: no inherited difference does that."""
    a, b = judged
    return b.ok is False and a.ok is True


def suspects(steps: Iterable[StepDifference]) -> list[StepDifference]:
    """The steps, those inherited ones marked that keep the rule and that rounding does not explain all the same: b is
    much further from its reference than a ever was in this operator, and than b itself is in its other steps of it."""
    listed = list(steps)
    by_op: dict[str, list[tuple[int, Judged, Judged]]] = defaultdict(list)
    for number, step in enumerate(listed):
        if step.judged is not None and step.judged[0].ok and step.judged[1].ok:
            by_op[step.op].append((number, *step.judged))
    for group in by_op.values():
        limit_l2 = _NOISE * max(*(a.rel_l2 for _, a, _ in group), _median([b.rel_l2 for _, _, b in group]))
        limit_ulp = _NOISE * max(*(a.ulp_max for _, a, _ in group), _median([b.ulp_max for _, _, b in group]), 1)
        for number, a, b in group:
            if listed[number].kind == "inherited" and b.rel_l2 > limit_l2 and b.ulp_max > limit_ulp:
                why = (
                    f"its inputs differ; inside the tolerance, but {b.ulp_max:,} ULP from its reference where a was "
                    f"{a.ulp_max:,}: rounding does not explain it"
                )
                listed[number] = replace(listed[number], suspect=True, why=why)
    return listed


def _median(values: Sequence[float]) -> float:
    """The lower one of the middle two; 0 for a single value, which is no measure of itself."""
    return sorted(values)[(len(values) - 1) // 2] if len(values) > 1 else 0.0


__all__ = ["Pairwise", "newly_wrong", "suspects"]
