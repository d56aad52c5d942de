# SPDX-License-Identifier: Apache-2.0
"""RoPE: two products rounded to bfloat16, then their sum or difference rounded: three roundings.

amd/IRON ``aie_kernels/generic/rope.cc``; it sets no rounding. One angle row serves ``rows / angle_rows`` consecutive
rows (amd/IRON ``iron/operators/rope/op.py``). Angle rows hold pairs: cos, sin, cos, sin, ...
"""

from __future__ import annotations

import numpy as np

from fusion_replay.simulator.core import Core, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel, field, require, require_columns, require_multiple

_TWO_HALVES, _INTERLEAVED = 0, 1


def _rope(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    x = widen(d.inputs[0]).reshape(p.rows, p.cols)
    angles = widen(d.inputs[1]).reshape(-1, p.cols)
    angles = np.repeat(angles, p.rows // len(angles), axis=0)
    cos, sin = angles[:, 0::2], angles[:, 1::2]
    half = p.cols // 2
    interleaved = field(p, "method_type", _TWO_HALVES) == _INTERLEAVED
    first, second = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, half), slice(half, None))
    a, b = x[:, first], x[:, second]
    out = np.empty_like(x)
    out[:, first] = core.round_bf16(core.round_bf16(a * cos) - core.round_bf16(b * sin))
    out[:, second] = core.round_bf16(core.round_bf16(b * cos) + core.round_bf16(a * sin))
    return [core.store_bf16(out)]


def _rules(p: Params, core: Core) -> None:
    columns, angle_rows = field(p, "num_aie_columns", 1), field(p, "angle_rows", p.rows)
    method = field(p, "method_type", _TWO_HALVES)
    require_columns("RoPE", columns, core)
    require_multiple("RoPE", "cols", p.cols, 32, "two vectors of 16")
    require(method in (_TWO_HALVES, _INTERLEAVED), "RoPE", "method_type", "0 (halves) or 1 (interleaved)", method)
    require_multiple("RoPE", "rows", p.rows, angle_rows, "angle_rows")
    require_multiple("RoPE", "rows", p.rows, columns, "num_aie_columns")
    require_multiple("RoPE", "angle_rows", angle_rows, columns, "num_aie_columns")


KERNELS = (Kernel("RoPE", _rope, _rules, source="amd/IRON aie_kernels/generic/rope.cc"),)
