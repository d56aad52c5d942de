# SPDX-License-Identifier: Apache-2.0
"""DepthwiseConv1d: five taps over the rows up to the present one, channel by channel, zeros before the first row.

amd/IRON ``iron/operators/depthwise_conv1d.py`` and Xilinx/mlir-aie ``aie_kernels/conv/dwconv1d_channels_last.cc``: the
oldest tap multiplies, the others accumulate in float32 one after another, one rounding by the register at the end.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.simulator.core import Core, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import ONE_SUM, Kernel, field, require, require_columns, require_multiple

TAPS = 5
_LANES = 32


def _conv(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    x = widen(d.inputs[0]).reshape(p.rows, p.channels)
    taps = widen(d.inputs[1]).reshape(TAPS, p.channels)
    window = np.concatenate([np.zeros((TAPS - 1, p.channels), np.float32), x])
    total = window[: p.rows] * taps[0]
    for t in range(1, TAPS):
        total += window[t : t + p.rows] * taps[t]
    return [core.store_bf16(total)]


def _rules(p: Params, core: Core) -> None:
    op, columns = "DepthwiseConv1d", field(p, "num_aie_columns", 1)
    require_columns(op, columns, core)
    require_multiple(op, "channels", p.channels, _LANES, "the kernel's vector")
    require_multiple(op, "rows", p.rows, columns, "num_aie_columns")
    run = p.rows // columns
    require(run >= TAPS - 1, op, "rows", f"at least {TAPS - 1} rows for each of {columns} columns", p.rows)


KERNELS = (
    Kernel("DepthwiseConv1d", _conv, _rules, ONE_SUM, "Xilinx/mlir-aie aie_kernels/conv/dwconv1d_channels_last.cc"),
)
