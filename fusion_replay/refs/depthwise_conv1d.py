# SPDX-License-Identifier: Apache-2.0
"""DepthwiseConv1d: a causal convolution over time, five taps per channel, channels last.

y[t, c] = sum over j of weight[j, c] x[t + j - 4, c], with zeros before the first row. One form serves every flavour:
the numpy form adds in float32 and rounds once, here it is float64 and once. An Inf in ``weight`` makes NaN of the zeros
before row 0, as in IRON's form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param
from fusion_replay.operators.tiling import Tiling, runs

TAPS = 5


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    return (
        ArgSpec("x", "in", (p.rows, p.channels)),
        ArgSpec("weight", "in", (TAPS, p.channels)),
        ArgSpec("y", "out", (p.rows, p.channels)),
    )


def _convolution(call: Call, x: Array, weight: Array) -> Array:
    xp, p = call.xp, call.params
    padded = xp.concat((xp.zeros_like(weight[: TAPS - 1]), x), axis=0)
    total = weight[0] * padded[: p.rows]
    for j in range(1, TAPS):
        total = total + weight[j] * padded[j : j + p.rows]
    return total


def _tiling(p: SimpleNamespace) -> Tiling | None:
    source = "amd/IRON iron/operators/depthwise_conv1d.py: a row is a tile"
    return runs(p.rows * p.channels, p.num_aie_columns, tile=p.channels, source=source)


def _arrange(
    p: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    x = inputs[0].view(np.uint16).reshape(p.rows, p.channels)
    padded = np.concatenate((np.zeros((TAPS - 1, p.channels), np.uint16), x))
    taps = inputs[1].view(np.uint16).reshape(1, TAPS, p.channels).swapaxes(1, 2)
    return {"window": np.lib.stride_tricks.sliding_window_view(padded, TAPS, axis=0), "taps": taps}


def _stages(_params: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
    return Stage("products", "mul", ("window", "taps")), Stage("y", "sum", ("products",), BF16, how=1)


SPEC = OperatorSpec(
    type="DepthwiseConv1d",
    summary="y[t] = sum over j of weight[j] x[t + j - 4], per channel",
    aliases=("depthwise_conv1d",),
    params=(
        Param("rows", int, help="time steps"),
        Param("channels", int),
        Param("num_aie_columns", int, None, decides=False),
    ),
    args=_args,
    flavours={"iron-2026-09": _convolution, "exact": _convolution},
    tolerance={
        "*": Tolerance(ulps=1, range_frac=2.0**-20).from_source(
            "Xilinx/mlir-aie python/iron/kernels/conv.py: one bf16 ULP of the store; range: the float32 sum of 5 terms"
        )
    },
    tiling=_tiling,
    numerics=Numerics(_stages, "Xilinx/mlir-aie aie_kernels/conv/dwconv1d_channels_last.cc", _arrange),
    source="amd/IRON iron/operators/depthwise_conv1d.py (073bacfb)",
)
