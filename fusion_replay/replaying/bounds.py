# SPDX-License-Identifier: Apache-2.0
"""The bound of one recorded step: computed from its inputs and its kernel's arithmetic, and whether it decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay.compare.numerics.evaluator import Bound, bound
from fusion_replay.compare.numerics.stages import DEVICES, Model, Numerics
from fusion_replay.compare.within import Within, within
from fusion_replay.errors import UsageError
from fusion_replay.operators import runtime_values

if TYPE_CHECKING:
    from fusion_replay.model.step import Step
    from fusion_replay.operators import OperatorSpec
    from fusion_replay.replaying.judge import Evaluation

NDArray = npt.NDArray[Any]

SIMULATOR, ARRAYS = "simulator", "arrays"
"""Variants of a recording: the software NPU, whose arithmetic is stated twice; arrays, whose device is unknown."""


@dataclass(frozen=True, slots=True)
class StepBound:
    """What an honest device may give for one step's inputs.

    Attributes:
        bound: per element of its one output.
        also: bounds of which one is enough, where an element is outside ``bound``.
        steps_below: as in :func:`~fusion_replay.compare.within.within`.
        assumed: what of the hardware it assumes, in words.
        decides: it, and not the tolerance, says whether the output matches, unless a rule or user says otherwise.
    """

    bound: Bound
    also: tuple[Bound, ...]
    steps_below: int
    assumed: tuple[str, ...]
    decides: bool


def bound_of(
    step: Step,
    spec: OperatorSpec | None,
    evaluation: Evaluation,
    actual: NDArray,
    *,
    always: bool = False,
    never: bool = False,
) -> Within | str:
    """The step's one output against its bound, or why there is none.

    ``always``, ``never``: whether it decides, whatever it rests on; else it does on the software NPU and where nothing
    in it is assumed.
    """
    found = step_bound(step, spec, evaluation, actual)
    if isinstance(found, str):
        return found
    decides = always or (not never and found.decides)
    expected = evaluation.results[0]
    return within(
        actual,
        expected,
        found.bound,
        also=found.also,
        steps_below=found.steps_below,
        assumed=found.assumed,
        decides=decides,
    )


def step_bound(step: Step, spec: OperatorSpec | None, evaluation: Evaluation, actual: NDArray) -> StepBound | str:
    """The bound of each element of the step's one output, or why there is none."""
    if spec is not None and spec.exact_bits:
        return ""  # it moves bits: any difference fails
    if spec is None or spec.numerics is None:
        return f"{step.op.type}: how its kernel computes is not stated"
    if evaluation.given is None:
        return "its reference was not evaluated on its recorded inputs"
    variant, device = (step.sequence.origin.get(key) for key in ("variant", "device"))
    if device is not None and device not in DEVICES:
        return f"device {device!r}: its arithmetic is not stated"
    try:
        params = spec.bind(step.op.params)
        values = runtime_values(spec, params, step.values)
        models = spec.numerics.models(params, device)
        flushes = variant != SIMULATOR
        found = bound(spec.numerics, params, evaluation.given, values, models, "P", flushes=flushes)
    except UsageError as why:
        return str(why)
    if found.lo.size != actual.size:
        return f"{step.op.type}: its bound has {found.lo.size} elements, its output {actual.size}"
    assumed = () if variant == SIMULATOR else spec.numerics.assumed(params, device)
    below = 0 if variant == SIMULATOR else 1
    also: tuple[Bound, ...] = ()
    product = any(s.op == "matmul" for s in spec.numerics.stages_of(params, models[0]))
    if product and within(actual, evaluation.results[0], found, steps_below=below).n_outside:
        # Conversion errors of a constant operand add up instead of cancelling: a model reproduces them.
        also = tuple(_models(spec.numerics, params, evaluation.given, values, models, flushes))
    return StepBound(found, also, below, assumed, variant != ARRAYS and not assumed)


def _models(
    numerics: Numerics,
    params: SimpleNamespace,
    given: tuple[NDArray, ...],
    values: Mapping[str, int | float],
    models: tuple[Model, ...],
    flushes: bool,
) -> list[Bound]:
    return [bound(numerics, params, given, values, [model], "M", flushes=flushes) for model in models]
