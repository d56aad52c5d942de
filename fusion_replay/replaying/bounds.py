# SPDX-License-Identifier: Apache-2.0
"""The bound of one recorded step: computed from its inputs and its kernel's arithmetic, and whether it decides."""

from __future__ import annotations

from collections.abc import Mapping
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
    expected = evaluation.results[0]
    decides = always or (not never and variant != ARRAYS and not assumed)
    below = 0 if variant == SIMULATOR else 1
    judged = within(actual, expected, found, steps_below=below, assumed=assumed, decides=decides)
    if judged.n_outside and any(s.op == "matmul" for s in spec.numerics.stages_of(params, models[0])):
        # Conversion errors of a constant operand add up instead of cancelling: a model reproduces them.
        also = _models(spec.numerics, params, evaluation.given, values, models, flushes)
        judged = within(actual, expected, found, also=also, steps_below=below, assumed=assumed, decides=decides)
    return judged


def _models(
    numerics: Numerics,
    params: SimpleNamespace,
    given: tuple[NDArray, ...],
    values: Mapping[str, int | float],
    models: tuple[Model, ...],
    flushes: bool,
) -> list[Bound]:
    return [bound(numerics, params, given, values, [model], "M", flushes=flushes) for model in models]
