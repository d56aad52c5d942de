# SPDX-License-Identifier: Apache-2.0
"""Sigmoid: C = 1 / (1 + exp(-A)).

torch's form (pull request 117's golden generator, August's ``reference()``) and the numpy form compute in float32 and
round to bf16 once, so one form serves every flavour. In float32 exp(-A) overflows below -88.7 and IRON's forms give 0
there; the true value, under 3e-39, is kept here down to the smallest subnormal bf16.
"""

from __future__ import annotations

from fusion_replay.compare.tolerance import relative
from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, OperatorSpec, every
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._elementwise import CHANNELLED_PARAMS, table_limit, unary_args
from fusion_replay.refs._kernels import SIGMOID


def _sigmoid(call: Call, a: Array) -> Array:
    return 1.0 / (1.0 + call.xp.exp(-a))


SPEC = OperatorSpec(
    type="Sigmoid",
    summary="C = 1 / (1 + exp(-A))",
    aliases=("sigmoid", "AIESigmoid"),
    params=CHANNELLED_PARAMS,
    args=unary_args,
    elementwise=True,
    flavours=every(_sigmoid),
    tolerance={
        # A sigmoid made of a bf16 tanh, 0.5 (1 + tanh(A / 2)), steps by 2**-9 where tanh is near -1.
        "npu2": relative(0.04, 2.0**-8).from_source("amd/IRON iron/operators/sigmoid: 0.04; floor: bf16 tanh near -1"),
        "*": table_limit(2.0**-8),
    },
    tiling=streamed,
    numerics=SIGMOID,
    source="amd/IRON iron/operators/sigmoid.py (1a475cbe), iron/operators/sigmoid/",
    no_reference=("pr117",),
    defects=("In float32 exp(-A) overflows below -88.7: IRON's forms give 0 where the true value is up to 3e-39.",),
)
