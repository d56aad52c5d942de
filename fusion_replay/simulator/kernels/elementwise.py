# SPDX-License-Identifier: Apache-2.0
"""ElementwiseAdd, ElementwiseMul, AXPY, ReLU, LeakyReLU, Clamp: float32 arithmetic or a selection, one store.

None of the kernels sets the rounding (amd/IRON ``aie_kernels/generic/add.cc``, ``mul.cc``, ``axpy.cc``,
``aie_kernels/aie2*/relu.cc``, ``leaky_relu.cc``), so the arithmetic ones take what the register holds: up to one ULP
low under floor (amd/IRON issue 180; Xilinx/mlir-aie pull request 3587 counts 1538 of 2046 sums equal to numpy's),
correctly rounded under conv_even. The float32 accumulator does no harm there: the product of two bfloat16 values is
exact in it, and a sum that is not lies far from any tie.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fusion_replay.simulator.core import BFLOAT16, Core, Float32, nearest_bf16, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import (
    ONE_ROUNDING,
    Compute,
    Kernel,
    always,
    field,
    require,
    require_multiple,
    streamed_rules,
)

_SELECTS = always("selects and computes nothing: exact under every rounding state")
_CLAMP_LANES = 32
_AXPY_LANES = 64
_LEAKY_LEAST = 64  # elements of a tile: the trip count that the kernels promise their compiler


def _binary(operation: Callable[[Float32, Float32], Float32]) -> Compute:
    def compute(d: Dispatch) -> list[Array]:
        return [d.core.store_bf16(operation(widen(d.inputs[0]), widen(d.inputs[1])))]

    return compute


def _axpy(d: Dispatch) -> list[Array]:
    """The core narrows the float32 scalar to bfloat16 itself, so under floor it is cut: Xilinx/mlir-aie pull request
    3599 found ``saxpy`` with a truncated scalar. Product and sum stay in float32."""
    core, p = d.core, d.params
    scalar = core.round_bf16(np.float32(field(p, "scalar_factor", 3.0)))
    return [core.store_bf16(widen(d.inputs[0]) * scalar + widen(d.inputs[1]))]


def _relu(d: Dispatch) -> list[Array]:
    bits = d.inputs[0].view(np.uint16)
    negative = (bits >= 0x8000) & (bits <= 0xFF80)  # NaN passes, -0 becomes +0
    return [np.where(negative, np.uint16(0), bits).view(BFLOAT16)]


def _leaky_relu(d: Dispatch) -> list[Array]:
    """``max(x, alpha * x)``, the product rounded by the register; alpha is a bfloat16 constant of the design."""
    x = widen(d.inputs[0])
    product = d.core.round_bf16(x * nearest_bf16(field(d.params, "alpha", 0.01)))
    return [_selected(d.inputs[0], product, product > x)]


def _clamp(d: Dispatch) -> list[Array]:
    """amd/IRON ``iron/operators/clamp.py``: the host rounds the bounds to bfloat16, the core selects."""
    p = d.params
    x = widen(d.inputs[0])
    low, high = nearest_bf16(p.low), nearest_bf16(p.high)
    raised = _selected(d.inputs[0], np.broadcast_to(low, x.shape), low > x)
    return [_selected(raised, np.broadcast_to(high, x.shape), high < widen(raised))]


def _selected(x: Array, other: Float32, take_other: npt.NDArray[np.bool_]) -> Array:
    """``x`` bit for bit, ``other`` (bfloat16 values as float32) where it is taken."""
    bits = (np.ascontiguousarray(other).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return np.where(take_other, bits, x.view(np.uint16)).view(BFLOAT16)


def _axpy_rules(p: Params, core: Core) -> None:
    streamed_rules("AXPY")(p, core)
    if field(p, "tile_size") is not None:
        require_multiple("AXPY", "tile_size", p.tile_size, _AXPY_LANES, "the kernel's vector")


def _leaky_rules(p: Params, core: Core) -> None:
    streamed_rules("LeakyReLU")(p, core)
    tile = field(p, "tile_size", _LEAKY_LEAST)
    require(tile >= _LEAKY_LEAST, "LeakyReLU", "tile_size", f"at least {_LEAKY_LEAST} elements", tile)


def _clamp_rules(p: Params, core: Core) -> None:
    streamed_rules("Clamp")(p, core)
    require(bool(np.float32(p.low) <= np.float32(p.high)), "Clamp", "low", f"at most high={p.high}", p.low)
    if field(p, "tile_size") is not None:
        require_multiple("Clamp", "tile_size", p.tile_size, _CLAMP_LANES, "the kernel's vector")


ADD = Kernel(
    "ElementwiseAdd",
    _binary(np.add),
    streamed_rules("ElementwiseAdd"),
    ONE_ROUNDING,
    "amd/IRON aie_kernels/generic/add.cc",
)
MUL = Kernel(
    "ElementwiseMul",
    _binary(np.multiply),
    streamed_rules("ElementwiseMul"),
    ONE_ROUNDING,
    "amd/IRON aie_kernels/generic/mul.cc",
)
AXPY = Kernel(
    "AXPY",
    _axpy,
    _axpy_rules,
    ONE_ROUNDING,
    "amd/IRON aie_kernels/generic/axpy.cc, Xilinx/mlir-aie aie_kernels/datamovement/axpy.cc",
)
RELU = Kernel("ReLU", _relu, streamed_rules("ReLU"), _SELECTS, "amd/IRON aie_kernels/aie2/relu.cc, aie2p/relu.cc")
LEAKY_RELU = Kernel(
    "LeakyReLU", _leaky_relu, _leaky_rules, source="amd/IRON aie_kernels/aie2/leaky_relu.cc, aie2p/leaky_relu.cc"
)
CLAMP = Kernel("Clamp", _clamp, _clamp_rules, _SELECTS, "amd/IRON iron/operators/clamp.py")
KERNELS = (ADD, MUL, AXPY, RELU, LEAKY_RELU, CLAMP)
