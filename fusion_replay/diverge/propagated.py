# SPDX-License-Identifier: Apache-2.0
"""Whether a step's mismatch may come from the wrong inputs that it was handed, and not from the step itself.

A fault hands on values that no kernel was made for. Two ways are known in which an honest kernel and its reference part
over those, both seen on the software NPU: values whose squares leave float32 become Inf or NaN in one of them and not
in the other; and a sum whose terms cancel is off by what its terms are off by, however small it comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.compare.verdict import compare

NDArray = npt.NDArray[Any]

EXTREME = 2.0**59
"""Where a sum of 1,024 squares leaves float32 (2**128)."""


def excuse(
    actual: NDArray, expected: NDArray, usual: NDArray, inputs: Sequence[NDArray], rule: str, limits: Tolerance | None
) -> str:
    """Why an output that breaks the rule may be right for these inputs; "" where no reason is known.

    Args:
        actual, expected: the output and its reference, on these inputs.
        usual: the reference on the inputs of the recording that it is compared with.
        inputs: what the step read.
        limits: of the operator; None where the rule has its own.
    """
    if any(_largest(x) >= EXTREME for x in inputs):
        wide_actual, wide_expected = (x.astype(np.float64) for x in (actual, expected))
        finite = np.isfinite(wide_actual) & np.isfinite(wide_expected)
        if not finite.all() and compare(actual[finite], expected[finite], rule, tolerance=limits):
            return "values beyond 2**59 came in, and only NaN and Inf are not what its reference has"
    if limits is not None and limits.range_frac is not None and _largest(usual) > _largest(expected):
        slack = limits.range_frac * _largest(usual)
        if compare(actual, expected, rule, tolerance=_with_slack(limits, slack)):
            return "off by no more than it may be on a's inputs; on b's its terms cancel to less"
    return ""


def _with_slack(limits: Tolerance, slack: float) -> Tolerance:
    return Tolerance.from_dict({**limits.to_dict(), "atol": max(limits.atol, slack)})


def _largest(x: NDArray) -> float:
    """Largest magnitude; infinite where one is Inf or NaN."""
    if not x.size:
        return 0.0
    largest = float(np.abs(x.astype(np.float64)).max())
    return largest if np.isfinite(largest) else float("inf")


__all__ = ["EXTREME", "excuse"]
