# SPDX-License-Identifier: Apache-2.0
"""ReLU: C = A where A is positive, else 0.

As torch's relu, which the forms of July and August call: NaN stays NaN and -0 stays -0 (equal to +0 under every rule).
"""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import exact
from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, OperatorSpec, every
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._elementwise import CHANNELLED_PARAMS, unary_args


def _relu(call: Call, a: Array) -> Array:
    return call.xp.where(a < 0, call.xp.zeros_like(a), a)


def _stages(_params: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
    return (Stage("y", "select", ("x", 0.0), BF16, how="max"),)


SPEC = OperatorSpec(
    type="ReLU",
    summary="C = max(A, 0)",
    aliases=("relu", "AIEReLU", "AIERELU"),
    params=CHANNELLED_PARAMS,
    args=unary_args,
    elementwise=True,
    flavours=every(_relu),
    tolerance={"*": exact().from_source("Xilinx/mlir-aie python/iron/kernels/activation.py: a selection is exact")},
    tiling=streamed,
    numerics=Numerics(_stages, "amd/IRON aie_kernels/aie2/relu.cc, aie2p/relu.cc", unary=True),
    source="amd/IRON iron/operators/relu",
)
