# SPDX-License-Identifier: Apache-2.0
"""ElementwiseAdd: C = A + B.

IRON's torch form (bf16 operands, float32 inside, one rounding) and its numpy form are both the correctly rounded
sum, so one form serves every flavour. float64 cannot hold every sum of two bf16 values, but where it drops bits the
larger operand is the correctly rounded result anyway.
"""

from __future__ import annotations

from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, OperatorSpec, every
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._elementwise import BINARY_PARAMS, ONE_ULP, binary_args
from fusion_replay.refs._kernels import elementwise


def _add(call: Call, a: Array, b: Array) -> Array:
    return a + b


SPEC = OperatorSpec(
    type="ElementwiseAdd",
    summary="C = A + B",
    aliases=("elementwise_add", "AIEElementwiseAdd"),
    params=BINARY_PARAMS,
    args=binary_args,
    elementwise=True,
    flavours=every(_add),
    tolerance={"*": ONE_ULP},
    tiling=streamed,
    numerics=elementwise("add", "amd/IRON aie_kernels/generic/add.cc"),
    source="amd/IRON iron/operators/elementwise_add",
)
