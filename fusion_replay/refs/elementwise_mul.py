# SPDX-License-Identifier: Apache-2.0
"""ElementwiseMul: C = A * B.

The product of two bf16 values has at most 16 significant bits: float64 holds it exactly, so every form of IRON is the
correctly rounded product.
"""

from __future__ import annotations

from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, OperatorSpec, every
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._elementwise import BINARY_PARAMS, ONE_ULP, binary_args
from fusion_replay.refs._kernels import elementwise


def _mul(call: Call, a: Array, b: Array) -> Array:
    return a * b


SPEC = OperatorSpec(
    type="ElementwiseMul",
    summary="C = A * B",
    aliases=("elementwise_mul", "AIEElementwiseMul"),
    params=BINARY_PARAMS,
    args=binary_args,
    elementwise=True,
    flavours=every(_mul),
    tolerance={"*": ONE_ULP},
    tiling=streamed,
    numerics=elementwise("mul", "amd/IRON aie_kernels/generic/mul.cc"),
    source="amd/IRON iron/operators/elementwise_mul",
)
