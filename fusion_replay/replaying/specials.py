# SPDX-License-Identifier: Apache-2.0
"""Where NaN and Inf come from: whether a step made them of inputs that had none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.deviation import Stats
from fusion_replay.model.bf16 import BFLOAT16

if TYPE_CHECKING:
    from fusion_replay.model.step import Step

NAN, NAN_OF_INF, INF = "NaN", "NaN of Inf", "Inf"


def born(step: Step, stats: Sequence[Stats]) -> str:
    """What the step's outputs have and its inputs (old contents included) do not; "" where nothing.

    NaN where every input is finite, NaN of Inf where some are infinite, Inf where every input is finite.

    Inputs are read only where an output is not finite; one whose contents were not kept leaves the question open.
    """
    nan, inf = (sum(getattr(s, f"{kind}_actual") for s in stats) for kind in ("nan", "inf"))
    if not (nan or inf):
        return ""
    read = [*step.inputs.in_order(), *(t.previous for t in step.outputs.in_order() if t.previous is not None)]
    if not all(tensor.kept for tensor in read):
        return ""
    found = [_specials(tensor.numpy()) for tensor in read]
    nans, infs = any(has_nan for has_nan, _ in found), any(has_inf for _, has_inf in found)
    if nan and not nans:
        return NAN_OF_INF if infs else NAN
    return "" if nans or infs else INF


def _specials(x: npt.NDArray[Any]) -> tuple[bool, bool]:
    """Whether it has NaN, and Inf."""
    if x.dtype == BFLOAT16:
        magnitude = x.view(np.uint16) & np.uint16(0x7FFF)
        return bool((magnitude > 0x7F80).any()), bool((magnitude == 0x7F80).any())
    if x.dtype.kind != "f":
        return False, False
    return bool(np.isnan(x).any()), bool(np.isinf(x).any())
