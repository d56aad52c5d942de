# SPDX-License-Identifier: Apache-2.0
"""Which device model each kernel of a recording fits: the one that reproduces most of its steps, and what leaves it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay import refs
from fusion_replay.compare.within import within
from fusion_replay.errors import UsageError
from fusion_replay.operators import runtime_values
from fusion_replay.replaying.bounds import HonestKernel
from fusion_replay.replaying.judge import NotComparedError, Plan, evaluate_step
from fusion_replay.system.messages import count

if TYPE_CHECKING:
    from fusion_replay.model.step import Step


@dataclass(frozen=True, slots=True)
class KernelModel:
    """One operator type of a recording.

    Attributes:
        model: the device and mode that reproduce the most of its steps, the order of float32 sums left free.
        fits: how many.
        leaves: addresses of the others.
    """

    op: str
    model: str
    fits: int
    leaves: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        return {
            "type": "kernel_model",
            "op": self.op,
            "model": self.model,
            "fits": self.fits,
            "leaves": list(self.leaves),
        }

    def __str__(self) -> str:
        steps = self.fits + len(self.leaves)
        if not self.leaves:
            return f"{self.op}: all {steps:,} as {self.model}"
        if not self.fits:
            return f"{self.op}: none of {count(steps, 'step')} as any"
        others = f"{len(self.leaves):,} not, first {self.leaves[0]}"
        return f"{self.op}: {self.fits:,} of {steps:,} as {self.model}, {others}"


@dataclass
class _Tally:
    fitted: dict[str, set[str]] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)


def kernel_models(steps: Iterable[Step]) -> tuple[KernelModel, ...]:
    """For each operator whose arithmetic is stated, in the order of its first step, as far as contents were kept."""
    tallies: dict[str, _Tally] = {}
    for step in steps:
        fitted = _fitted(step)
        if fitted is None:
            continue
        tally = tallies.setdefault(step.op.type, _Tally())
        tally.steps.append(step.address)
        for model, fits in fitted.items():
            tally.fitted.setdefault(model, set()).update([step.address] if fits else [])
    found = []
    for op, tally in tallies.items():
        model, inside = max(tally.fitted.items(), key=lambda item: len(item[1]))
        leaves = tuple(address for address in tally.steps if address not in inside)
        found.append(KernelModel(op, model, len(inside), leaves))
    return tuple(found)


def _fitted(step: Step) -> dict[str, bool] | None:
    """Model -> whether each element of the output is one that it can give; None where that can't be asked."""
    spec = refs.spec_of(step.op)
    if spec is None or spec.numerics is None or len(step.outputs) != 1:
        return None
    try:
        evaluation = evaluate_step(step, Plan("tolerance"))
        params = spec.bind(step.op.params)
        variant, device = (step.sequence.origin.get(key) for key in ("variant", "device"))
        models = spec.numerics.models(params, device)
        values = runtime_values(spec, params, step.values)
        actual = step.outputs[0].numpy()
        if evaluation.given is None:
            return None
        honest = HonestKernel(spec.numerics, params, evaluation.given, values, models, device, variant)
        nowhere = np.full(actual.shape, np.nan, np.float32)  # that a value is the reference's says nothing here
        return {str(model): not within(actual, nowhere, one).n_outside for model, one in honest.of_each().items()}
    except (NotComparedError, UsageError):
        return None


__all__ = ["KernelModel", "kernel_models"]
