# SPDX-License-Identifier: Apache-2.0
"""Clamp: C = A limited to [low, high], the bounds rounded to bf16 as the operator takes them.

A selection, so one form serves every flavour. NaN stays NaN, as in numpy's clip; what the core makes of one was not
established.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import exact
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, round_bf16
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._elementwise import CHANNELLED_PARAMS, unary_args


def bounds(p: SimpleNamespace) -> tuple[float, float]:
    """``low`` and ``high`` as bf16 values."""
    low, high = (float(v) for v in round_bf16(np.array([p.low, p.high], np.float64)))
    return low, high


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    if not np.float32(p.low) <= np.float32(p.high):
        raise UsageError(f"Clamp: low {p.low} and high {p.high}: expected low <= high, neither NaN")
    return unary_args(p)


def _clamp(call: Call, a: Array) -> Array:
    xp = call.xp
    low, high = (xp.full_like(a, bound) for bound in bounds(call.params))
    return xp.where(a < low, low, xp.where(a > high, high, a))


def _stages(params: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
    low, high = bounds(params)
    return Stage("raised", "select", ("x", low), BF16, how="max"), Stage(
        "y", "select", ("raised", high), BF16, how="min"
    )


SPEC = OperatorSpec(
    type="Clamp",
    summary="C = min(max(A, low), high)",
    aliases=("clamp",),
    params=(
        *CHANNELLED_PARAMS,
        Param("low", float, help="rounded to bf16"),
        Param("high", float, help="rounded to bf16"),
    ),
    args=_args,
    elementwise=True,
    flavours={"iron-2026-09": _clamp, "exact": _clamp},
    tolerance={"*": exact().from_source("amd/IRON iron/operators/clamp.py: min and max are exact in bf16")},
    tiling=streamed,
    numerics=Numerics(_stages, "amd/IRON iron/operators/clamp.py", unary=True),
    source="amd/IRON iron/operators/clamp.py (5158403e)",
)
