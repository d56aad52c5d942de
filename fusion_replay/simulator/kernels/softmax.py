# SPDX-License-Identifier: Apache-2.0
"""Softmax over rows of ``cols`` elements, with the runtime vector size that masks a row's tail.

The kernels set no rounding. Masked columns are filled before the row is read, so they come out as 0.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core, Float32, lane_sum, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params, Values
from fusion_replay.simulator.kernels import lut
from fusion_replay.simulator.kernels._base import Kernel, field, require, require_columns, require_multiple

_LANES = {"npu1": 16, "npu2": 64}
_LOG2_E = np.float32(1.4453125)  # log2(e) as bfloat16, 0.18 % too large


def _softmax(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    rows = widen(d.inputs[0]).reshape(p.rows, p.cols).copy()
    rows[:, vector_size(p, d.values) :] = -np.inf
    power = _exp_aie2(core, rows) if core.generation == "npu1" else _exp2_aie2p(core, rows)
    # Reciprocals and sums are float32 scalars; only the reciprocal's cast to bfloat16 loses anything.
    inverse = core.round_bf16(np.float32(1) / lane_sum(power, _LANES[core.generation]))
    return [core.store_bf16(power * inverse[:, None])]


def vector_size(p: Params, values: Values) -> int:
    """How many columns of a row count: this dispatch's value, else the design's, else all.

    Raises:
        UsageError: not a count between 1 and ``cols``.
    """
    size = values.get("vector_size", field(p, "rtp_vector_size", p.cols))
    if not (size == int(size) and 1 <= size <= p.cols):
        raise UsageError(f"Softmax: vector_size={size}: expected a count of columns from 1 to {p.cols}")
    return int(size)


def _exp2_aie2p(core: Core, rows: Float32) -> Float32:
    """bfloat16 powers, the maximum taken off (amd/IRON ``aie_kernels/aie2p/softmax.cc``).

    The running maximum starts at 0, so a row of negative numbers has nothing taken off, and it is rounded to bfloat16.
    """
    scaled = rows * _LOG2_E  # 16 significant bits: exact
    largest = np.maximum(core.round_bf16(scaled).max(axis=-1, keepdims=True), np.float32(0))
    return core.round_bf16(np.exp2((scaled - largest).astype(np.float64)))


def _exp_aie2(core: Core, rows: Float32) -> Float32:
    """bfloat16 exponentials from the tables; no maximum is taken off (amd/IRON ``aie_kernels/aie2/softmax.cc``)."""
    return core.round_bf16(lut.exp(rows))


def _rules(p: Params, core: Core) -> None:
    columns, channels = field(p, "num_aie_columns", 1), field(p, "num_channels", 1)
    require_columns("Softmax", columns, core)
    require(channels >= 1, "Softmax", "num_channels", "at least 1", channels)
    require_multiple("Softmax", "rows", p.rows, 16, "the operator's own rule")
    require_multiple("Softmax", "rows", p.rows, columns * channels, "num_aie_columns * num_channels")
    lanes = _LANES[core.generation]
    require_multiple("Softmax", "cols", p.cols, lanes, f"the kernel's vector on {core.generation}")
    vector_size(p, {})


KERNELS = (Kernel("Softmax", _softmax, _rules, source="amd/IRON aie_kernels/aie2/softmax.cc, aie2p/softmax.cc"),)
