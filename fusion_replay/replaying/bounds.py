# SPDX-License-Identifier: Apache-2.0
"""The bound of one recorded step: computed from its inputs and its kernel's arithmetic, and whether it decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay.compare.blocks import Mask
from fusion_replay.compare.numerics.evaluator import Bound, bound
from fusion_replay.compare.numerics.stages import DEVICES, Model, Numerics
from fusion_replay.compare.within import Within, outside, within
from fusion_replay.errors import UsageError
from fusion_replay.operators import runtime_values

if TYPE_CHECKING:
    from fusion_replay.model.step import Step
    from fusion_replay.operators import OperatorSpec
    from fusion_replay.replaying.judge import Evaluation

NDArray = npt.NDArray[Any]

SIMULATOR, ARRAYS = "simulator", "arrays"
"""Variants of a recording: the software NPU, whose arithmetic is stated twice; arrays, whose device is unknown."""


@dataclass(frozen=True)
class HonestKernel:
    """A kernel on given inputs, as an honest device computes it.

    Attributes:
        params, inputs, values: as the reference gets them.
        models: the devices and modes that the step may have run on.
        device, variant: of the recording.
    """

    numerics: Numerics
    params: SimpleNamespace
    inputs: Sequence[NDArray]
    values: Mapping[str, int | float]
    models: Sequence[Model]
    device: str | None
    variant: str | None

    def bound(self) -> Bound:
        """What any of the models may give.

        Raises:
            UsageError: these parameters have no stages.
        """
        return self._of(self.models, "P")

    def of_each(self) -> dict[Model, Bound]:
        """What each of the models gives, the order of float32 sums left free. Raises as :meth:`bound`."""
        return {model: self._of([model], "M") for model in self.models}

    @property
    def adds_up(self) -> bool:
        """Whether conversion errors of a constant operand add up instead of cancelling, which a model alone knows."""
        return any(stage.op == "matmul" for stage in self.numerics.stages_of(self.params, self.models[0]))

    @property
    def assumed(self) -> tuple[str, ...]:
        """What of the hardware it rests on that is not documented; the software NPU's arithmetic is stated twice."""
        return () if self.variant == SIMULATOR else self.numerics.assumed(self.params, self.device)

    def decides(self, rule: str, own: bool) -> bool:
        """Whether it alone says what is wrong; not where the user gave limits of their ``own``, or it assumes."""
        return rule == "bound" or not (own or self.variant == ARRAYS or self.assumed)

    def _of(self, models: Sequence[Model], level: str) -> Bound:
        flushes = self.variant != SIMULATOR
        return bound(self.numerics, self.params, self.inputs, self.values, models, level, flushes=flushes)


@dataclass(frozen=True)
class StepBound:
    """What an honest device may give for one step's inputs.

    Attributes:
        honest: the kernel on these inputs.
        bound: per element of its one output.
        steps_below: as of :func:`~fusion_replay.compare.within.within`.
    """

    honest: HonestKernel
    bound: Bound
    steps_below: int

    @cached_property
    def also(self) -> tuple[Bound, ...]:
        """Bounds of which one is enough, where an element is outside ``bound``; only then are they worth computing."""
        return tuple(self.honest.of_each().values()) if self.honest.adds_up else ()

    def outside(self, actual: NDArray, expected: NDArray) -> Mask:
        """Which elements of the flat output are."""
        found = outside(actual, expected, self.bound, steps_below=self.steps_below)
        if found.any() and self.also:
            found = outside(actual, expected, self.bound, also=self.also, steps_below=self.steps_below)
        return found


def bound_of(
    step: Step, spec: OperatorSpec | None, evaluation: Evaluation, actual: NDArray, *, rule: str, own: bool
) -> Within | str:
    """The step's one output against its bound, or why it has none; ``rule``, ``own``: :meth:`HonestKernel.decides`."""
    found = step_bound(step, spec, evaluation, actual)
    if isinstance(found, str):
        return found
    judging = partial(
        within,
        actual,
        evaluation.results[0],
        found.bound,
        steps_below=found.steps_below,
        assumed=found.honest.assumed,
        decides=found.honest.decides(rule, own),
    )
    judged = judging()
    return judging(also=found.also) if judged.n_outside and found.also else judged


def step_bound(step: Step, spec: OperatorSpec | None, evaluation: Evaluation, actual: NDArray) -> StepBound | str:
    """The bound of each element of the step's one output, or why it has none."""
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
        honest = HonestKernel(spec.numerics, params, evaluation.given, values, models, device, variant)
        found = honest.bound()
    except UsageError as why:
        return str(why)
    if found.lo.size != actual.size:
        return f"{step.op.type}: its bound has {found.lo.size} elements, its output {actual.size}"
    return StepBound(honest, found, 0 if variant == SIMULATOR else 1)
