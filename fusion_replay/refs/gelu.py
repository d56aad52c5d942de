# SPDX-License-Identifier: Apache-2.0
"""GELU, tanh approximation: C = 0.5 A (1 + tanh(sqrt(2/pi) (A + 0.044715 A^3))).

Every form of IRON rounds once; theirs is computed in float32, which loses the negative tail to cancellation, ours in
float64 and without that loss. ``exact`` differs for inputs below 2**-60 only, where half the input may lie on a tie.
"""

from __future__ import annotations

from fusion_replay.compare.tolerance import relative
from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, OperatorSpec
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._activation import gelu_tanh, gelu_tanh_exact
from fusion_replay.refs._elementwise import CHANNELLED_PARAMS, no_reference, unary_args

_KERNELS = "Xilinx/mlir-aie python/iron/kernels/activation.py"


def _gelu(call: Call, a: Array) -> Array:
    return gelu_tanh(call.xp, a)


def _exact(call: Call, a: Array) -> Array:
    return gelu_tanh_exact(call.xp, a)


SPEC = OperatorSpec(
    type="GELU",
    summary="C = 0.5 A (1 + tanh(sqrt(2/pi) (A + 0.044715 A^3)))",
    aliases=("gelu", "AIEGELU"),
    params=CHANNELLED_PARAMS,
    args=unary_args,
    flavours={"pr117": _gelu, "iron-2026-08": _gelu, "iron-2026-09": _gelu, "exact": _exact},
    tolerance={
        "npu2": relative(0.05, 0.02).from_source(f"{_KERNELS}: gelu by vtanh, measured on npu2"),
        "*": relative(0.128, 0.02).from_source(f"{_KERNELS}: canonical limit of lookup-table kernels, floor as npu2"),
    },
    tiling=streamed,
    source="amd/IRON iron/operators/gelu",
    iron_fails=no_reference("GELU"),
    defects=(
        "In float32 the negative tail cancels: IRON's forms are up to 13,000 ULP off where the result is tiny; it"
        " is kept right here, judge the tail by absolute error.",
    ),
)
