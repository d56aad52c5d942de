# SPDX-License-Identifier: Apache-2.0
"""Tanh, Sigmoid, SiLU, SiLUMul and GELU: AIE2P has a bfloat16 tanh instruction, AIE2 reads tables.

No kernel here sets the rounding register. Transcendental functions are evaluated in float64 and rounded to what the
instruction delivers, so that recordings do not depend on the host's float32 library.

All but Tanh lose relative accuracy on the negative side: ``1 + tanh`` cancels there and keeps steps of 2**-8. A sigmoid
is then off by an absolute 2**-9, SiLU and GELU by about ``|x| * 2**-9``, and results below that are zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fusion_replay.simulator.core import Core, Float32, nearest_bf16, widen
from fusion_replay.simulator.dispatch import Array, Dispatch
from fusion_replay.simulator.kernels import lut
from fusion_replay.simulator.kernels._base import Compute, Kernel, streamed_rules

_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_SQRT_2_OVER_PI = nearest_bf16(0.7978845608028654)
_BETA = nearest_bf16(0.044715)


def tanh(core: Core, x: Float32) -> Float32:
    """tanh, one rounding. bfloat16 values in and out.

    amd/IRON ``aie_kernels/aie2/tanh.cc`` (the table) and ``aie2p/tanh.cc`` (the instruction).
    """
    if core.generation == "npu1":
        return core.round_bf16(lut.tanh_segments()(x))
    return core.round_bf16(np.tanh(x.astype(np.float64)))


def sigmoid(core: Core, x: Float32) -> Float32:
    """``(1 + tanh(x / 2)) / 2``: tanh is rounded, then the sum; halving loses nothing. bfloat16 values in and out.

    amd/IRON ``aie_kernels/aie2/sigmoid.cc`` and ``aie2p/sigmoid.cc``. The AIE2P kernel hands its tanh the float32
    product, the AIE2 kernel a bfloat16 one; they differ for the smallest subnormal numbers alone.
    """
    half = x * _HALF
    t = tanh(core, core.round_bf16(half) if core.generation == "npu1" else half)
    return core.round_bf16(core.round_bf16(_ONE + t) * _HALF)


def silu(core: Core, x: Float32) -> Float32:
    """``x * sigmoid(x)``, rounded: three roundings in all. bfloat16 values in and out.

    amd/IRON ``aie_kernels/aie2/silu.cc`` and ``aie2p/silu.cc``.
    """
    return core.round_bf16(x * sigmoid(core, x))


def gelu(core: Core, x: Float32) -> Float32:
    """GELU's tanh form. bfloat16 values in and out.

    AIE2P: every operation's result is a bfloat16 vector (amd/IRON ``aie_kernels/aie2p/gelu.cc``). AIE2: one linear
    piece of a table, one rounding.
    """
    if core.generation == "npu1":
        return core.round_bf16(lut.gelu_segments()(x))
    square = core.round_bf16(x * x)
    cube = core.round_bf16(x * square)
    inner = core.round_bf16(x + core.round_bf16(cube * _BETA))
    argument = inner * _SQRT_2_OVER_PI  # stays in the accumulator: tanh reads float32
    t = tanh(core, argument)
    weight = core.round_bf16(core.round_bf16(_ONE + t) * _HALF)
    return core.round_bf16(x * weight)


def _unary(function: Callable[[Core, Float32], Float32]) -> Compute:
    def compute(d: Dispatch) -> list[Array]:
        return [d.core.store_bf16(function(d.core, widen(d.inputs[0])))]

    return compute


def _silu_mul(d: Dispatch) -> list[Array]:
    """SiLU, rounded, times the other input."""
    return [d.core.store_bf16(silu(d.core, widen(d.inputs[0])) * widen(d.inputs[1]))]


KERNELS = (
    Kernel("Tanh", _unary(tanh), streamed_rules("Tanh"), source="amd/IRON aie_kernels/aie2/tanh.cc, aie2p/tanh.cc"),
    Kernel(
        "Sigmoid",
        _unary(sigmoid),
        streamed_rules("Sigmoid"),
        source="amd/IRON aie_kernels/aie2/sigmoid.cc, aie2p/sigmoid.cc",
    ),
    Kernel("SiLU", _unary(silu), streamed_rules("SiLU"), source="amd/IRON aie_kernels/aie2/silu.cc, aie2p/silu.cc"),
    Kernel(
        "SiLUMul",
        _silu_mul,
        streamed_rules("SiLUMul"),
        source="amd/IRON aie_kernels/aie2/silu_mul.cc, aie2p/silu_mul.cc",
    ),
    Kernel("GELU", _unary(gelu), streamed_rules("GELU"), source="amd/IRON aie_kernels/aie2p/gelu.cc"),
)
