# SPDX-License-Identifier: Apache-2.0
"""``explain()``: of one step's wrong output, what caused it, as far as that is proved, and where it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.compare.verdict import as_numpy
from fusion_replay.diverge.causes import Case, find
from fusion_replay.diverge.causes.case import Version
from fusion_replay.diverge.evidence import Evidence
from fusion_replay.diverge.explanation import Explanation
from fusion_replay.diverge.limits import bound_of
from fusion_replay.diverge.rounding import leak_at
from fusion_replay.diverge.where import locate
from fusion_replay.errors import UsageError
from fusion_replay.model.arrays import as_dtype
from fusion_replay.operators.tiling import Tiling, ruler
from fusion_replay.replaying.judge import NotComparedError, Plan, evaluate_step, own_tolerance

if TYPE_CHECKING:
    from fusion_replay.diverge.diff_report import DiffReport
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.operators import OperatorSpec
    from fusion_replay.replaying.outcome import StepReport
    from fusion_replay.replaying.replay_report import ReplayReport
    from fusion_replay.snapshot import Snapshot

NDArray = npt.NDArray[Any]


def explain(
    step: Step,
    snapshot: Snapshot,
    against: Step | None = None,
    *,
    plan: Plan | None = None,
    output: int | None = None,
    repeats: Sequence[Step] = (),
    evidence: Evidence | None = None,
) -> Explanation | None:
    """What is wrong with a step's output; None where nothing is, or where it cannot be judged.

    Args:
        step: of ``snapshot``.
        against: the same step of a recording that is right: its bits are what is expected. Without it the reference
            is, within the operator's limits.
        plan: reference, rule and arrays, as a replay has them.
        output: number of the output, in runtime order; by default the first that is wrong.
        repeats: the same step of other runs on the same inputs.
        evidence: of ``snapshot``, where several steps are explained.
    """
    expected, tolerance = _expected(step, against, plan or Plan())
    known = evidence or Evidence(snapshot)
    outputs = step.outputs.in_order()
    for number in range(len(outputs)) if output is None else (output,):
        if number >= len(expected) or not outputs[number].kept:
            continue
        case = _case(step, outputs[number], number, expected[number], tolerance, known, plan, repeats)
        if case.count:
            causes = find(case)
            leak = leak_at(step, known) if causes[0].name == "rounding" else None
            source = "the reference" if against is None else "the other recording"
            return Explanation(
                step.address, outputs[number].name, source, causes, locate(case.wrong, case.tiling), leak
            )
    return None


def explain_difference(a: Step, b: Step, snapshots: tuple[Snapshot, Snapshot]) -> Explanation | None:
    """Why the outputs of two recordings' step differ: of b against a; of a against b where a alone breaks its rule.

    ``snapshots`` are those of a and b.
    """
    wrong = [not _holds(step) for step in (a, b)]
    if wrong == [True, False]:
        return explain(a, snapshots[0], b)
    return explain(b, snapshots[1], a)


def explain_diff(report: DiffReport, a: Snapshot, b: Snapshot) -> Explanation | None:
    """Why the first step that introduces a difference does; None without any, or where it has no outputs to compare.

    Where its inputs differ as well, what a made of its own says nothing of b's output: its reference is asked.
    """
    first = report.first
    if first is None or first.a_address is None or first.status != ("complete", "complete"):
        return None
    if first.inputs:
        return explain(b[first.address], b)
    return explain_difference(a[first.a_address], b[first.address], (a, b))


def diagnose(
    actual: npt.ArrayLike,
    expected: npt.ArrayLike,
    op: str = "",
    params: Mapping[str, Any] | None = None,
    *,
    tolerance: Tolerance | None = None,
    previous: npt.ArrayLike | None = None,
    versions: Mapping[str, npt.ArrayLike] | None = None,
    repeats: Sequence[npt.ArrayLike] = (),
) -> Explanation | None:
    """What caused the errors of an array, and where they were made; None where nothing is wrong.

    Args:
        actual, expected: of one size and dtype.
        op, params: the operator that made it, for its tiling; without, places are told in eighths.
        tolerance: how far an honest device may be off; None: ``expected`` is a device's own output, bits count.
        previous: what the output held before.
        versions: earlier contents of the same buffer by what they are called, the newest first.
        repeats: the output of other runs on the same inputs.

    Raises:
        UsageError: sizes or dtypes that don't go together, an unknown operator.
    """
    right = _flat(expected)
    given = {"actual": actual, "previous": previous, **(versions or {})}
    arrays = {k: None if v is None else _like(k, v, right) for k, v in given.items()}
    held = arrays["actual"]
    assert held is not None
    tiling = tiling_for(refs.find(op) if op else None, params or {}, right.size)
    older = tuple(Version(k, partial(_like, k, v, right)) for k, v in (versions or {}).items())
    case = Case(
        held,
        right,
        tiling,
        tolerance,
        previous=arrays["previous"],
        versions=older,
        shape=np.shape(expected),
        repeats=tuple(_like("repeats", r, right) for r in repeats),
    )
    if not case.count:
        return None
    return Explanation("", op or "array", "the expected array", find(case), locate(case.wrong, case.tiling))


def _flat(x: npt.ArrayLike) -> NDArray:
    return np.ascontiguousarray(as_numpy(x)).reshape(-1)


def _like(what: str, x: npt.ArrayLike, right: NDArray) -> NDArray:
    found = _flat(x)
    if found.shape != right.shape or found.dtype != right.dtype:
        raise UsageError(
            f"{what}: expected {right.size} elements of {right.dtype} as in expected, found {found.size} of "
            f"{found.dtype}; give arrays of one size and dtype"
        )
    return found


def _holds(step: Step) -> bool:
    """Is every output within the operator's limits of its reference, as far as that can be said?"""
    expected, limits = _expected(step, None, Plan())
    pairs = zip(step.outputs.in_order(), expected, strict=False)
    return not any(Case(t.numpy().reshape(-1), e, ruler(e.size), limits).count for t, e in pairs if t.kept)


def explain_first(snapshot: Snapshot, report: ReplayReport) -> Explanation | None:
    """Why the first mismatch of a replay is one, or without any the first step outside its bound; None without either,
    and in mode cumulative, whose references are not those of the step's own inputs."""
    first = next(iter((*report.mismatches, *report.outside)), None)
    if first is None or report.mode != "isolated":
        return None
    return explain_step(snapshot, first, report.reference, report.rule)


def explain_step(
    snapshot: Snapshot,
    judged: StepReport,
    reference: str = "auto",
    rule: str = "auto",
    evidence: Evidence | None = None,
) -> Explanation | None:
    """Why a step that was judged on its recorded inputs mismatches, or is outside its bound: of the output that is."""
    wrong = judged.deciding if judged.outside is None else judged.outside
    number = next(i for i, o in enumerate(judged.outputs) if o is wrong)
    return explain(snapshot[judged.address], snapshot, plan=Plan(rule, reference), output=number, evidence=evidence)


def _expected(step: Step, against: Step | None, plan: Plan) -> tuple[list[NDArray], Tolerance | None]:
    if against is not None:
        outputs = against.outputs.in_order()
        return [t.numpy().reshape(-1) for t in outputs] if all(t.kept for t in outputs) else [], None
    try:
        results = evaluate_step(step, plan).results
    except NotComparedError:
        return [], None
    limits = own_tolerance(step, refs.spec_of(step.op))
    return [as_dtype(r, t.dtype).reshape(-1) for r, t in zip(results, step.outputs.in_order(), strict=True)], limits


def tiling_for(spec: OperatorSpec | None, params: Mapping[str, Any], size: int) -> Tiling:
    """The operator's tiling of its first output, where it fits an output of this size; else equal parts, and why."""
    if spec is None or spec.tiling is None:
        return ruler(size)
    found = spec.tiling_of(params)
    if found is None:
        return ruler(size, "the parameters do not divide the output into columns and tiles")
    if found.size != size:
        return ruler(size, f"the parameters give {found.size:,} elements, the array has {size:,}")
    return found


def _case(
    step: Step,
    tensor: RecordedTensor,
    number: int,
    expected: NDArray,
    tolerance: Tolerance | None,
    known: Evidence,
    plan: Plan | None,
    repeats: Sequence[Step],
) -> Case:
    actual = tensor.numpy().reshape(-1)
    spec = refs.spec_of(step.op)
    tiling = tiling_for(spec if number == 0 else None, step.op.params, actual.size)
    kernel = known.kernel(step, number)
    bound, decides = None, False
    if tolerance is not None and kernel is not None:
        bound, decides = bound_of(step, kernel, plan or Plan())
    bare = Case(actual, expected, tiling, tolerance, bound, decides, _rows(step, tensor))
    if not bare.count:
        return bare
    others = [r.outputs.in_order()[number] for r in repeats]
    return replace(
        bare,
        previous=known.previous(step, tensor),
        versions=known.versions(step, tensor),
        kernel=kernel,
        repeats=tuple(t.numpy().reshape(-1) for t in others if t.kept),
    )


def _rows(step: Step, tensor: RecordedTensor) -> tuple[int, ...]:
    """The output's shape; of a flat one whose operator works on rows, these."""
    shape = tensor.shape
    width = step.op.params.get("cols") or (step.op.params.get("tile_size") if step.op.type == "LayerNorm" else None)
    if len(shape) == 1 and isinstance(width, int) and 1 < width < shape[0] and shape[0] % width == 0:
        return shape[0] // width, width
    return shape


__all__ = [
    "diagnose",
    "explain",
    "explain_diff",
    "explain_difference",
    "explain_first",
    "explain_step",
    "tiling_for",
]
