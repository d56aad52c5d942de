# SPDX-License-Identifier: Apache-2.0
"""What an honest device may give for one step's inputs, per element: the one place where causes ask for a bound."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from fusion_replay.compare.numerics.evaluator import Bound
from fusion_replay.diverge.causes.kernel import Kernel
from fusion_replay.diverge.causes.spans import Span, hull
from fusion_replay.errors import FusionReplayError
from fusion_replay.operators.spec import runtime_values
from fusion_replay.replaying.bounds import HonestKernel
from fusion_replay.replaying.judge import Plan

if TYPE_CHECKING:
    from fusion_replay.model.step import Step


def bound_of(step: Step, kernel: Kernel, plan: Plan) -> tuple[Span | None, bool]:
    """The interval of each element, None where it cannot be computed; and whether it alone says what is wrong."""
    spec, params = kernel.spec, kernel.bound_params
    if spec.numerics is None or spec.exact_bits or not kernel.models or plan.rule not in ("auto", "bound"):
        return None, False
    try:
        values = runtime_values(spec, params, step.values)
        variant = step.sequence.origin.get("variant")
        honest = HonestKernel(spec.numerics, params, kernel.inputs, values, kernel.models, kernel.device, variant)
        span = _span(honest.bound())
        if honest.adds_up and not kernel.large:
            span = reduce(hull, map(_span, honest.of_each().values()), span)
    except FusionReplayError:
        return None, False
    return span, honest.decides(plan.rule, plan.tolerance_given(step, spec) is not None)


def _span(found: Bound) -> Span:
    return Span(np.asarray(found.lo, np.float64), np.asarray(found.hi, np.float64))
