# SPDX-License-Identifier: Apache-2.0
"""Tanh: C = tanh(A).

torch's form and the numpy form compute in float32 and round to bf16 once, so one form serves every flavour.
"""

from __future__ import annotations

from fusion_replay.compare.tolerance import relative
from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, OperatorSpec, every
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._elementwise import CHANNELLED_PARAMS, table_limit, unary_args
from fusion_replay.refs._kernels import TANH_KERNEL


def _tanh(call: Call, a: Array) -> Array:
    return call.xp.tanh(a)


SPEC = OperatorSpec(
    type="Tanh",
    summary="C = tanh(A)",
    aliases=("tanh", "AIETanh"),
    params=CHANNELLED_PARAMS,
    args=unary_args,
    elementwise=True,
    flavours=every(_tanh),
    tolerance={
        "npu2": relative(0.04, 1e-6).from_source("amd/IRON iron/operators/tanh: 0.04 / 1e-6"),
        "*": table_limit(2.0**-8),
    },
    tiling=streamed,
    numerics=TANH_KERNEL,
    source="amd/IRON iron/operators/tanh.py (1a475cbe), iron/operators/tanh/",
    no_reference=("pr117",),
)
