# SPDX-License-Identifier: Apache-2.0
"""One step: evaluate its reference on given contents and compare every output."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay import operators, refs
from fusion_replay.compare.rules import OURS
from fusion_replay.compare.tolerance import Tolerance, bf16_ulps, relative
from fusion_replay.compare.verdict import IronVerdict, Stats, as_numpy, compare, deviation, iron_verdict
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.model.arrays import to_torch
from fusion_replay.model.bf16 import round_bf16
from fusion_replay.model.runlist import WHOLE_CALL, ArgSpec
from fusion_replay.model.withheld import AS_IN, AS_REFERENCE, FILTERED
from fusion_replay.replaying.bounds import bound_of
from fusion_replay.replaying.outcome import NoiseFloor, OutputReport, Skip, StepReport
from fusion_replay.replaying.specials import born
from fusion_replay.snapshot.read.store import NOT_KEPT
from fusion_replay.system.messages import in_words, line_in, way_of

if TYPE_CHECKING:
    from fusion_replay.compare.within import Within
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.operators import OperatorSpec
    from fusion_replay.replaying.write_history import WriteHistory

NDArray = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """How steps are judged: the rule, the reference as asked for, and which arrays it computes on.

    ``reference``: a flavour, "auto" (the flavour the recording names), or one of :data:`FOREIGN`. ``array``: one of
    :data:`ARRAYS`. ``tolerances``: limits that replace an operator's own, by step address or operator type.
    ``rtol``, ``atol``: limits that were typed, by operator type, "" for all others; with any rule.
    """

    rule: str = "auto"
    reference: str = "auto"
    array: str = "numpy"
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    rtol: Mapping[str, float] = field(default_factory=dict)
    atol: Mapping[str, float] = field(default_factory=dict)

    def flavour(self, step: Step) -> str:
        recorded = step.sequence.origin.get("flavour", "exact")
        return recorded if self.reference in ("auto", *FOREIGN) else self.reference

    def tolerance_given(self, step: Step, spec: OperatorSpec | None) -> Tolerance | None:
        """The limits that the user gave for this step or its operator."""
        keys = (step.address, step.op.type if spec is None else spec.type)
        return next((self.tolerances[key] for key in keys if key in self.tolerances), self.typed(step, spec))

    def typed(self, step: Step, spec: OperatorSpec | None) -> Tolerance | None:
        """The limits made of ``rtol`` and ``atol``; of one alone, the other is the operator's own."""
        op = step.op.type if spec is None else spec.type
        rtol, atol = (given.get(op, given.get("")) for given in (self.rtol, self.atol))
        if rtol is None and atol is None:
            return None
        own = own_tolerance(step, spec)
        limits = relative(own.rtol if rtol is None else rtol, own.atol if atol is None else atol)
        return limits.from_source("given: rtol, atol")

    def tolerance(self, step: Step, spec: OperatorSpec | None) -> Tolerance:
        """The limits for this step: those given, or its operator's."""
        given = self.tolerance_given(step, spec)
        return own_tolerance(step, spec) if given is None else given


_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_REFERENCES = os.path.join(_PACKAGE, "refs", "")


def _is_reference(file: str) -> bool:
    """An operator's file of the catalogue; what begins with an underscore there serves all operators."""
    return file.startswith(_REFERENCES) and not os.path.basename(file).startswith("_")


def own_tolerance(step: Step, spec: OperatorSpec | None) -> Tolerance:
    """The operator's own limits: the catalogue's, or IRON's where it is not covered, or its folds are IRON's to judge.

    ``gate()`` of an operator with folds composes the limits of all its kernels (amd/IRON
    ``iron/common/declare/operator.py``).
    """
    recorded = Tolerance.of_iron(step.op.gate)
    folded = bool(step.op.params.get("finish") or step.op.params.get("prepare"))
    if spec is None or (folded and step.op.given is not None and recorded is not None):
        return recorded or bf16_ulps(2)
    return spec.tolerance_for(step.sequence.origin.get("device"), step.op.params)


FOREIGN = ("installed", "stored")
"""References that are not ours: IRON's own, as installed here; what the recording kept of it."""

ARRAYS = ("numpy", "torch", "cuda")
"""What references compute on. The bits agree, but for the last one of sums and functions that a library computes."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the outputs should be, in the recorded order and shapes.

    ``meaning``: the flavour's own meaning rounded once, where the flavour itself rounds on the way; else None.
    ``given``: what the kernel read, in arg-spec order, where these are the step's recorded inputs; else None.
    """

    flavour: str
    results: tuple[NDArray, ...]
    meaning: tuple[NDArray, ...] | None
    given: tuple[NDArray, ...] | None = None


class NotComparedError(Exception):
    """Carries the reason why a step can't be compared."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


def evaluate_step(step: Step, plan: Plan) -> Evaluation:
    """The step's reference on its inputs.

    Raises:
        NotComparedError: the step never finished, contents were not kept, or no reference can take it.
    """
    if step.status != "complete":
        what = "in flight: the kernel had not come back" if step.status == "in_flight" else "failed"
        raise NotComparedError(step.status, f"{what}{f' ({step.error})' if step.error else ''}")
    if step.sequence.origin.get("dispatch") == WHOLE_CALL:
        why = "a whole call: no step inside was seen; record with separate dispatch to judge steps"
        raise NotComparedError("whole_call", why)
    covered = refs.coverage(step.op, step.description.operands)
    spec = covered.spec
    inputs, outputs = step.inputs.in_order(), step.outputs.in_order()
    stored = plan.reference == "stored"
    if spec is None and plan.reference not in FOREIGN:
        if not any(t.reference is not None for t in outputs):
            raise NotComparedError("unknown_operator", _uncovered(step, covered.why))
        stored = True
    old = [t.previous for t in outputs] if spec is not None and spec.partial and not stored else []
    _need_kept(step, () if stored else inputs, outputs, old)
    if stored:
        return _stored(outputs)
    recorded = arrays = [t.numpy() for t in inputs]
    previous = [t.numpy() for t in old if t is not None]
    try:
        if plan.reference == "installed" or spec is None:
            from fusion_replay.replaying.installed import installed_reference

            results = installed_reference(step.op, arrays, previous, step.values)
            return Evaluation("installed", _as_recorded(results, outputs, range(len(outputs))), None)
        if plan.array != "numpy":
            device = "cuda" if plan.array == "cuda" else "cpu"
            arrays, previous = ([to_torch(x, device) for x in given] for given in (arrays, previous))
        evaluation = _evaluate(step, spec, plan.flavour(step), inputs, arrays, outputs, previous)
        return replace(evaluation, given=tuple(_in_order(step, spec, inputs, recorded)))
    except (UsageError, MissingError) as error:
        raise NotComparedError("reference", str(error)) from error
    except Exception as error:
        # A user's operator is a user's function: whatever it raises is no verdict on the device.
        raise NotComparedError("reference", f"its reference raised {in_words(error)}{_where(error)}") from error


def judge(
    step: Step,
    plan: Plan,
    evaluation: Evaluation,
    actual: Sequence[NDArray],
    history: WriteHistory | None = None,
) -> StepReport:
    """Compare every output; only with ``history`` a wrong one that kept its old contents is called never written."""
    spec = refs.coverage(step.op, step.description.operands).spec
    tolerance = plan.tolerance(step, spec)
    fails = None if spec is None else spec.iron_failure(step.op.params, plan.flavour(step), step.values)
    exact_bits = spec is not None and spec.exact_bits
    ours = plan.rule in OURS
    limit = tolerance if ours else plan.typed(step, spec)
    bounded: Within | str = ""
    if plan.rule in ("auto", "bound") and len(actual) == 1:
        own = plan.tolerance_given(step, spec) is not None
        bounded = bound_of(step, spec, evaluation, actual[0], rule=plan.rule, own=own)
    known = None if isinstance(bounded, str) else bounded
    reports = []
    for i, tensor in enumerate(step.outputs.in_order()):
        expected = evaluation.results[i]
        against = partial(compare, actual[i], expected, plan.rule, tolerance=limit, exact_bits=exact_bits, within=known)
        verdict = against()
        if ours and not verdict and tensor.unchanged and history is not None and not history.explains(step, tensor):
            verdict = against(unchanged=True)
        if isinstance(bounded, str) and bounded:
            verdict = replace(verdict, unbound=bounded)
        floor = None
        if evaluation.meaning is not None:
            floor = _noise_floor(actual[i], expected, evaluation.meaning[i])
        iron = _iron_verdict(step, actual[i], expected, verdict.stats, fails)
        reports.append(OutputReport(tensor.name, tensor.position, tensor.buffer, verdict, iron, floor))
    return StepReport(
        address=step.address,
        invocation=step.invocation,
        index=step.index,
        op=step.op,
        label=step.label,
        flavour=evaluation.flavour,
        outputs=tuple(reports),
        born=born(step, [o.verdict.stats for o in reports]),
    )


def _iron_verdict(step: Step, actual: NDArray, expected: NDArray, stats: Stats, fails: str | None) -> IronVerdict:
    """What IRON's compare mode says: up to August 2026 by its whole-tensor rule, from V5 on by the operator's limits.

    A limit that is relative to the range is not used there, element by element (amd/IRON
    ``iron/common/image/callable.py``, ``FALLBACK_TOLERANCE``).
    """
    if step.op.given is None or step.sequence.origin.get("variant") not in ("V5", "V6"):
        return iron_verdict(stats, fails)
    limits = Tolerance.of_iron(step.op.gate)
    if limits is None or limits.range_frac is not None:
        limits = relative(0.025, 1e-2)
    return IronVerdict(compare(actual, expected, "auto", tolerance=limits).ok)


def _uncovered(step: Step, why: str) -> str:
    """Why a step has no judge, and what gives it one."""
    template = f"`{refs.template_command(step.op.type)}` prints a description to fill in, --import reads it"
    own = getattr(step, "noticed", {}).get("reference")
    if own is not None:
        return f"{why}, and IRON's own was not kept: {own}; {template}"
    return f"{why}; {template}"


def skip(step: Step, why: NotComparedError) -> Skip:
    """The step as one that was not compared, with its reason."""
    return Skip(step.address, step.invocation, step.index, step.op.type, step.label, why.kind, why.reason)


def _stored(outputs: Sequence[RecordedTensor]) -> Evaluation:
    found = [t.reference for t in outputs if t.reference is not None and t.reference.kept]
    if len(found) < len(outputs):
        raise NotComparedError("reference", "no reference was stored with it: record(..., with_reference=True) does")
    return Evaluation("stored", tuple(t.numpy() for t in found), None)


# --- parts ----------------------------------------------------------------------------------------------------------


def _need_kept(
    step: Step,
    inputs: Sequence[RecordedTensor],
    outputs: Sequence[RecordedTensor],
    old: Sequence[RecordedTensor | None],
) -> None:
    if not outputs:
        raise NotComparedError("not_kept", "no output was recorded")
    if not any(tensor.use.spec.size for tensor in outputs):
        raise NotComparedError("empty", "its outputs have no elements")
    needed = (*inputs, *outputs)
    if step.withheld is not None and not all(tensor.kept for tensor in needed):
        advice = "record without the filter" if step.withheld == FILTERED else "record with a higher limit"
        if step.withheld.startswith((AS_IN, AS_REFERENCE)):
            advice = "record with keep 'all'"
        raise NotComparedError("not_kept", f"its contents were not kept, {step.withheld}: {advice} to judge it")
    for tensor in needed:
        if not tensor.kept:
            kind = "not_kept" if tensor.absent == NOT_KEPT else "weights"
            raise NotComparedError(kind, f"the contents of {tensor.name} {tensor.absent}")
    for before in old:
        if before is None or not before.kept:
            raise NotComparedError("not_kept", "the output's old contents, which it keeps in part, were not recorded")


def _where(error: BaseException) -> str:
    """``, in my_op.py, line 12``: the line of the reference itself, whose file is the first behind our own code."""
    files = (file for file, _ in way_of(error))
    own = next((f for f in files if not f.startswith(_PACKAGE) or _is_reference(f)), None)
    return "" if own is None else f", in {os.path.basename(own)}, line {line_in(own, error)}"


def _evaluate(
    step: Step,
    spec: OperatorSpec,
    flavour: str,
    inputs: Sequence[RecordedTensor],
    arrays: list[NDArray],
    outputs: Sequence[RecordedTensor],
    previous: list[NDArray],
) -> Evaluation:
    bound = step.op.params.get("bound_values")
    for name in bound if isinstance(bound, Mapping) else ():
        if name in spec.values and name not in step.values:
            raise MissingError(f"{spec.type}: runtime value {name} is bound per call, and was not recorded")
    declared = spec.arg_specs(step.op.params)
    given = _given(step, declared, inputs, arrays)
    order = _output_order([t.name for t in outputs], [s.name for s in declared if s.writes])
    old = [previous[order.index(i)] for i in range(len(order))] if previous else None
    rounded = False

    def noting(x: NDArray) -> NDArray:
        nonlocal rounded
        rounded = True
        result: NDArray = round_bf16(x)
        return result

    def run(rounder: Callable[[NDArray], NDArray]) -> tuple[tuple[NDArray, ...], str]:
        results, used = operators.evaluate(
            spec,
            step.op.params,
            given,
            flavour,
            previous=old,
            values=step.values,
            outputs=[t.use.spec for t in outputs],
            rounder=rounder,
        )
        return _as_recorded(tuple(as_numpy(r) for r in results), outputs, order), used

    results, used = run(noting)
    meaning = run(lambda x: x)[0] if rounded else None
    return Evaluation(used, results, meaning)


def _as_recorded(
    results: Sequence[NDArray], outputs: Sequence[RecordedTensor], order: Sequence[int]
) -> tuple[NDArray, ...]:
    """A reference's results in the recorded outputs' order and shapes; ``order`` has a result's number per output."""
    if len(results) != len(outputs):
        raise UsageError(f"the reference gives {len(results)} outputs, recorded were {len(outputs)}")
    for tensor, at in zip(outputs, order, strict=True):
        if results[at].size != tensor.use.spec.size:
            found = f"{results[at].size} elements {results[at].shape} for output {tensor.name}"
            raise UsageError(f"the reference gives {found}, recorded were {tensor.use.spec.size} {tensor.shape}")
    return tuple(results[at].reshape(t.shape) for t, at in zip(outputs, order, strict=True))


def _given(
    step: Step, declared: Sequence[ArgSpec], inputs: Sequence[RecordedTensor], arrays: list[NDArray]
) -> Mapping[str, NDArray] | list[NDArray]:
    by_arrays = step.sequence.origin.get("variant") == "arrays"
    return _by_name_or_place([t.name for t in inputs], [s.name for s in declared if s.reads], arrays, by_arrays)


def _in_order(step: Step, spec: OperatorSpec, inputs: Sequence[RecordedTensor], arrays: list[NDArray]) -> list[NDArray]:
    """The inputs in the order of the operator's arg specs."""
    declared = spec.arg_specs(step.op.params)
    given = _given(step, declared, inputs, arrays)
    return [given[s.name] for s in declared if s.reads] if isinstance(given, Mapping) else given


def _by_name_or_place(
    names: list[str], declared: list[str], arrays: list[NDArray], by_name: bool
) -> Mapping[str, NDArray] | list[NDArray]:
    """By name where the names are the operator's own (or a user gave them); else in runtime order."""
    if by_name or (sorted(names) == sorted(declared) and len(set(names)) == len(names)):
        return dict(zip(names, arrays, strict=True))
    return arrays


def _output_order(names: list[str], declared: list[str]) -> list[int]:
    """For each recorded output the number of the reference's result."""
    if len(set(names)) == len(names) and sorted(names) == sorted(declared):
        return [declared.index(n) for n in names]
    return list(range(len(names)))


def _noise_floor(actual: NDArray, reference: NDArray, meaning: NDArray) -> NoiseFloor:
    device, honest = deviation(actual, meaning), deviation(reference, meaning)
    return NoiseFloor(device.ulp_mean, device.rel_l2, honest.ulp_mean, honest.rel_l2)
