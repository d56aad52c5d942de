# SPDX-License-Identifier: Apache-2.0
"""ElementwiseAdd, ElementwiseMul, ReLU: one float32 operation, one store.

amd/IRON ``aie_kernels/generic/add.cc``, ``mul.cc`` and ``aie_kernels/aie2*/relu.cc`` set no rounding, so add and mul
take what the register holds: up to one ULP low under floor (amd/IRON issue 180; Xilinx/mlir-aie pull request 3587
counts 1538 of 2046 sums equal to numpy's), correctly rounded under conv_even. The float32 accumulator does no
harm there: the product of two bfloat16 values is exact in it, and a sum that is not lies far from any tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fusion_replay.sources.simulator.core import BFLOAT16, Core, Float32, widen
from fusion_replay.sources.simulator.kernels._base import Array, Compute, Kernel, Params, Values, streamed_rules


def _binary(operation: Callable[[Float32, Float32], Float32]) -> Compute:
    def compute(
        core: Core, p: Params, inputs: Sequence[Array], previous: Sequence[Array], values: Values
    ) -> list[Array]:
        return [core.store_bf16(operation(widen(inputs[0]), widen(inputs[1])))]

    return compute


def _note(params: Params, core: Core) -> str:
    if core.rounding == "conv_even":
        return "one rounding to nearest even (register conv_even, left by an earlier kernel): the reference's own"
    return ""


def _relu(core: Core, p: Params, inputs: Sequence[Array], previous: Sequence[Array], values: Values) -> list[Array]:
    bits = inputs[0].view(np.uint16)
    negative = (bits >= 0x8000) & (bits <= 0xFF80)  # NaN passes, -0 becomes +0
    return [np.where(negative, np.uint16(0), bits).view(BFLOAT16)]


def _relu_note(params: Params, core: Core) -> str:
    return "selects and computes nothing: exact under every rounding state"


ADD = Kernel(
    "ElementwiseAdd", _binary(np.add), streamed_rules("ElementwiseAdd"), _note, "amd/IRON aie_kernels/generic/add.cc"
)
MUL = Kernel(
    "ElementwiseMul",
    _binary(np.multiply),
    streamed_rules("ElementwiseMul"),
    _note,
    "amd/IRON aie_kernels/generic/mul.cc",
)
RELU = Kernel("ReLU", _relu, streamed_rules("ReLU"), _relu_note, "amd/IRON aie_kernels/aie2/relu.cc, aie2p/relu.cc")
KERNELS = (ADD, MUL, RELU)
