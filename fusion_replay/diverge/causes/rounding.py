# SPDX-License-Identifier: Apache-2.0
"""Every element nearly right, all off to one side: rounded down where to nearest was meant, or the other way round.

A store of bf16 under *floor* gives the next lower value for about half of all results that *nearest even* rounds up
(Xilinx/mlir-aie pull request 3587), so of the elements that differ (nearly) all are one ULP lower. Kernels that round
several times on the way spread that, but the bias stays: the sign test says whether chance could have made it. Where
small results come of cancellation (the negative tail of a GELU), what was rounded on the way shows in them magnified
and with either sign; there the large elements speak alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.causes.case import Case, Pattern, ordinal
from fusion_replay.model.bf16 import BFLOAT16

_NEAR = 4  # ULPs
_MOST = 0.75
_SMALL = 2.0**-6  # relative L2: two bf16 ULPs everywhere


def patterns(case: Case) -> Iterator[Pattern]:
    if case.actual.dtype != BFLOAT16 or not np.isfinite(case.a).all() or not np.isfinite(case.e).all():
        return
    step = ordinal(case.actual) - ordinal(case.expected)
    norm = float(np.dot(case.e, case.e))
    if not step.any() or case.energy > _SMALL**2 * norm:
        return
    if not _is_near(step):
        step = step[case.e**2 >= norm / case.e.size]  # at least their root mean square
        if not _is_near(step):
            return
    off = step[step != 0]
    lower = float(np.count_nonzero(off < 0))
    upper = off.size - lower
    z = abs(lower - upper) / math.sqrt(off.size)
    one_sided = max(lower, upper) / off.size
    down = lower > upper
    how = "towards minus infinity (floor)" if down else "to nearest, where floor is expected"
    mean = float(step.mean())
    detail = f"rounded {how}: {one_sided:.0%} of the elements that differ are {'lower' if down else 'higher'}, "
    # Two-sided sign test by its normal tail; few elements prove nothing.
    confidence = math.erf(z / math.sqrt(2)) if off.size >= 3 else 0.5
    yield Pattern("rounding", min(confidence, 0.99), case.count, case.count, f"{detail}signed mean {mean:+.3f} ulp")


def _is_near(step: npt.NDArray[np.int64]) -> bool:
    """Whether some elements are off, and most of those by little."""
    off = step[step != 0]
    return off.size > 0 and float(np.mean(np.abs(off) <= _NEAR)) >= _MOST
