# SPDX-License-Identifier: Apache-2.0
"""What an honest device may give for one step's inputs, per element: the one place where causes ask for a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion_replay.compare.numerics.evaluator import Bound, bound
from fusion_replay.diverge.causes.kernel import Kernel
from fusion_replay.diverge.causes.spans import Span, hull
from fusion_replay.errors import FusionReplayError
from fusion_replay.operators.spec import runtime_values
from fusion_replay.replaying.bounds import ARRAYS, SIMULATOR
from fusion_replay.replaying.judge import Plan

if TYPE_CHECKING:
    from fusion_replay.model.step import Step


def bound_of(step: Step, kernel: Kernel, plan: Plan) -> tuple[Span | None, bool]:
    """The interval of each element, None where it cannot be computed; and whether it alone says what is wrong."""
    spec, models = kernel.spec, kernel.models
    if spec.numerics is None or spec.exact_bits or not models or plan.rule not in ("auto", "bound"):
        return None, False
    variant = step.sequence.origin.get("variant")
    flushes = variant != SIMULATOR
    try:
        values = runtime_values(spec, kernel.bound_params, step.values)
        given = (spec.numerics, kernel.bound_params, kernel.inputs, values)
        span = _span(bound(*given, models, "P", flushes=flushes))
        if not kernel.large and any(s.op == "matmul" for s in spec.numerics.stages_of(kernel.bound_params, models[0])):
            for model in models:  # conversion errors of a constant operand add up, and the model knows it
                span = hull(span, _span(bound(*given, [model], "M", flushes=flushes)))
    except FusionReplayError:
        return None, False
    own = plan.tolerance_given(step, spec) is not None
    assumed = variant != SIMULATOR and spec.numerics.assumed(kernel.bound_params, kernel.device)
    decides = plan.rule == "bound" or (not own and variant != ARRAYS and not assumed)
    return span, decides


def _span(found: Bound) -> Span:
    return Span(np.asarray(found.lo, np.float64), np.asarray(found.hi, np.float64))
