# SPDX-License-Identifier: Apache-2.0
"""SiLUMul: C = silu(A) * B in one kernel.

IRON's golden generator is torch, operation by operation: the activation is rounded to bf16 before the product, as the
kernel does; ``exact`` rounds once. In float32 exp(-A) overflows below -88.7 and the activation is -0: times a large B
the true one, up to 3e-37, is not small.
"""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import relative
from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, OperatorSpec, iron
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._elementwise import ACTIVATIONS, CHANNELLED_PARAMS, binary_args, through_float32
from fusion_replay.refs._kernels import sigmoid
from fusion_replay.refs.arithmetic.activation import silu


def _rounded(call: Call, a: Array, b: Array) -> Array:
    return call.round(a / (1.0 + through_float32(call.xp, call.xp.exp(-a)))) * b


def _exact(call: Call, a: Array, b: Array) -> Array:
    return silu(call.xp, a) * b


def _stages(_params: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    return (
        *sigmoid(device),
        Stage("activated", "mul", ("x", "gate"), BF16),
        Stage("z", "mul", ("activated", "y"), BF16),
    )


SPEC = OperatorSpec(
    type="SiLUMul",
    summary="C = silu(A) * B",
    aliases=("silu_mul", "AIESiLUMul"),
    params=CHANNELLED_PARAMS,
    args=binary_args,
    elementwise=True,
    flavours=iron(_rounded, exact=_exact),
    tolerance={
        # IRON's test draws [0, 4) alone and has 0.04 / 1e-6. Below 0 the sigmoid made of a bf16 tanh is off by up to
        # 0.015, or by a table's segment, times the other factor.
        "npu2": relative(0.08, 0.0, range_frac=0.02).from_source(
            f"{ACTIVATIONS}: silu by vtanh, 0.08 measured on npu2; range: its loss below 0, times B"
        ),
        "*": relative(0.128, 0.0, range_frac=0.02).from_source(
            f"{ACTIVATIONS}: canonical limit of lookup-table kernels; range: their loss below 0, times B"
        ),
    },
    tiling=streamed,
    numerics=Numerics(_stages, "amd/IRON aie_kernels/aie2/silu_mul.cc, aie2p/silu_mul.cc"),
    source="amd/IRON iron/operators/silu_mul/op.py (50e35ad9), reference.py (24d4d055)",
    no_reference=("pr117", "iron-2026-08", "iron-2026-09"),
)
