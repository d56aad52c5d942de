# SPDX-License-Identifier: Apache-2.0
"""One step: evaluate its reference on given contents and compare every output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay import operators
from fusion_replay.bf16 import round_bf16
from fusion_replay.compare import compare, deviation, iron_verdict
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.replay.outcome import NoiseFloor, OutputReport, Skip, StepReport

if TYPE_CHECKING:
    from fusion_replay.operators import OperatorSpec
    from fusion_replay.snapshot import RecordedStep, RecordedTensor

NDArray = npt.NDArray[Any]
Read = Callable[["RecordedTensor"], NDArray]
"""Where a step's contents come from: the recording itself, or the chain of references."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How steps are judged: the rule, and the reference as asked for ("auto": the flavour the recording names)."""

    rule: str = "auto"
    reference: str = "auto"

    def flavour(self, step: RecordedStep) -> str:
        return step.sequence.origin.get("flavour", "exact") if self.reference == "auto" else self.reference


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the outputs should be, in the recorded order and shapes.

    ``meaning``: the flavour's own meaning rounded once, where the flavour itself rounds on the way; else None.
    """

    flavour: str
    results: tuple[NDArray, ...]
    meaning: tuple[NDArray, ...] | None


class NotComparedError(Exception):
    """Carries the reason why a step can't be compared."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


def tensors(side: Mapping[Any, Any]) -> list[RecordedTensor]:
    """A step's inputs or outputs as a list, in runtime order."""
    return [side[i] for i in range(len(side))]


def evaluate_step(step: RecordedStep, plan: Plan, read: Read) -> Evaluation:
    """The step's reference on contents from ``read``.

    Raises:
        NotComparedError: the step never finished, contents were not kept, or no reference can take it.
    """
    if step.status != "complete":
        what = "in flight: the kernel had not come back" if step.status == "in_flight" else "failed"
        raise NotComparedError(step.status, f"{what}{f' ({step.error})' if step.error else ''}")
    spec = operators.lookup(step.op.type)
    if spec is None:
        template = operators.template_command(step.op.type)
        why = (
            f"no reference for operator {step.op.type}; `{template}` prints a description to fill in, --import reads it"
        )
        raise NotComparedError("unknown_operator", why)
    inputs, outputs = tensors(step.inputs), tensors(step.outputs)
    old = [t.previous for t in outputs] if spec.partial else []
    _need_kept(step, [*inputs, *outputs], old)
    arrays = [read(t) for t in inputs]
    previous = [read(t) for t in old if t is not None]
    try:
        return _evaluate(step, spec, plan.flavour(step), inputs, arrays, outputs, previous)
    except (UsageError, MissingError) as error:
        raise NotComparedError("reference", str(error)) from error
    except Exception as error:
        # A user's operator is a user's function: whatever it raises is no verdict on the device.
        raise NotComparedError("reference", f"its reference raised {type(error).__name__}: {error}") from error


def judge(
    step: RecordedStep,
    plan: Plan,
    evaluation: Evaluation,
    actual: Sequence[NDArray],
    excused: Callable[[RecordedTensor], bool],
) -> StepReport:
    """Compare every output; ``excused`` says whether one that kept its old contents has a good reason to."""
    spec = operators.find(step.op.type)
    tolerance = spec.tolerance_for(step.sequence.origin.get("device"), step.op.params) if plan.rule == "auto" else None
    fails = spec.iron_failure(step.op.params, plan.flavour(step), step.values)
    reports = []
    for i, tensor in enumerate(tensors(step.outputs)):
        expected = evaluation.results[i]
        verdict = compare(actual[i], expected, plan.rule, tolerance=tolerance, exact_bits=spec.exact_bits)
        if tensor.unchanged and plan.rule == "auto" and not verdict.stats.bit_equal and not excused(tensor):
            verdict = compare(
                actual[i], expected, plan.rule, tolerance=tolerance, unchanged=True, exact_bits=spec.exact_bits
            )
        floor = None
        if evaluation.meaning is not None:
            floor = _noise_floor(actual[i], expected, evaluation.meaning[i])
        iron = iron_verdict(verdict.stats, fails)
        reports.append(OutputReport(tensor.name, tensor.position, tensor.buffer, verdict, iron, floor))
    return StepReport(
        address=step.address,
        invocation=step.invocation,
        index=step.index,
        op=step.op,
        label=step.label,
        flavour=evaluation.flavour,
        outputs=tuple(reports),
    )


def skip(step: RecordedStep, why: NotComparedError) -> Skip:
    return Skip(step.address, step.invocation, step.index, step.op.type, step.label, why.kind, why.reason)


# --- parts ----------------------------------------------------------------------------------------------------------


def _need_kept(step: RecordedStep, needed: list[RecordedTensor], old: list[RecordedTensor | None]) -> None:
    if not step.outputs:
        raise NotComparedError("not_kept", "no output was recorded")
    for tensor in needed:
        if not tensor.kept:
            raise NotComparedError("not_kept", f"the contents of {tensor.name} were not kept")
    for before in old:
        if before is None or not before.kept:
            raise NotComparedError("not_kept", "the output's old contents, which it keeps in part, were not recorded")


def _evaluate(
    step: RecordedStep,
    spec: OperatorSpec,
    flavour: str,
    inputs: list[RecordedTensor],
    arrays: list[NDArray],
    outputs: list[RecordedTensor],
    previous: list[NDArray],
) -> Evaluation:
    declared = spec.arg_specs(step.op.params)
    by_arrays = step.sequence.origin.get("variant") == "arrays"
    given = _by_name_or_place([t.name for t in inputs], [s.name for s in declared if s.reads], arrays, by_arrays)
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
        if len(results) != len(outputs):
            raise UsageError(f"the reference gives {len(results)} outputs, recorded were {len(outputs)}")
        for tensor, at in zip(outputs, order, strict=True):
            if results[at].size != tensor.use.spec.size:
                found = f"{results[at].size} elements {results[at].shape} for output {tensor.name}"
                raise UsageError(f"the reference gives {found}, recorded were {tensor.use.spec.size} {tensor.shape}")
        return tuple(results[at].reshape(t.shape) for t, at in zip(outputs, order, strict=True)), used

    results, used = run(noting)
    meaning = run(lambda x: x)[0] if rounded else None
    return Evaluation(used, results, meaning)


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
