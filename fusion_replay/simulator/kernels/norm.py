# SPDX-License-Identifier: Apache-2.0
"""RMSNorm, WeightedRMSNorm and LayerNorm, row by row of ``tile_size`` elements.

All set the rounding to conv_even and leave it so.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.simulator.core import Core, Float32, lane_sum, rsqrt, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel, Rules, field, require, require_multiple, streamed_rules

_RMS_LANES = 32
_LAYER_LANES = {"npu1": 16, "npu2": 32}
_NEWTON_STEPS = {"npu1": 1, "npu2": 2}
_LAYER_EPSILON = np.float32(1e-5)


def _rms_norm(d: Dispatch) -> list[Array]:
    return _normalised(d, weighted=field(d.params, "weighted", False))


def _weighted_rms_norm(d: Dispatch) -> list[Array]:
    return _normalised(d, weighted=True)


def _normalised(d: Dispatch, *, weighted: bool) -> list[Array]:
    """float32 sum of squares in 32 lanes, then x times the reciprocal root, rounded; the weight rounds once more.

    amd/IRON ``aie_kernels/aie2p/rms_norm.cc`` and ``aie2/rms_norm.cc``. AIE2 has no float32 vector multiply: its scale
    rides in a pair of bfloat16 values whose products are added in float32. The weighted design has a second core
    multiply by the weight, hence two roundings (amd/IRON ``iron/operators/rms_norm/design_weighted.py``).
    """
    core, p = d.core, d.params
    core.rounding = "conv_even"
    x = widen(d.inputs[0]).reshape(-1, p.tile_size)
    mean = _sum_of_squares(x) / np.float32(p.tile_size) + np.float32(field(p, "epsilon", 1e-5))
    scale = rsqrt(mean, _NEWTON_STEPS[core.generation])[:, None]
    if core.generation == "npu1":
        high = core.round_bf16(scale)
        normal = core.round_bf16(x * high + x * core.round_bf16(scale - high))
    else:
        normal = core.round_bf16(x * scale)
    if weighted:
        normal = core.round_bf16(normal * widen(d.inputs[1]).reshape(1, p.tile_size))
    return [core.store_bf16(normal)]


def _sum_of_squares(x: Float32) -> Float32:
    """Squares of bfloat16 values are exact in float32. What is left over after whole vectors is added one by one."""
    squares = x * x
    whole = squares.shape[-1] // _RMS_LANES * _RMS_LANES
    total = lane_sum(squares[:, :whole], _RMS_LANES) if whole else np.zeros(len(x), np.float32)
    for i in range(whole, squares.shape[-1]):
        total = total + squares[:, i]
    return total


def _layer_norm(d: Dispatch) -> list[Array]:
    """Sum in bfloat16 lanes (lossy), sum of squares in float32, difference and product rounded to bfloat16.

    amd/IRON ``aie_kernels/aie2/layer_norm.cc`` (16 lanes) and ``aie2p/layer_norm.cc`` (32). The variance is the mean
    square minus the squared mean, so a row whose mean is large against its spread comes out wrong: so it does there.
    """
    core, p = d.core, d.params
    core.rounding = "conv_even"
    lanes = _LAYER_LANES[core.generation]
    x = widen(d.inputs[0]).reshape(-1, p.tile_size)
    count = np.float32(p.tile_size)
    mean = _bf16_sum(core, x, lanes) / count
    variance = lane_sum(x * x, lanes) / count - mean * mean
    scale = core.round_bf16(rsqrt(variance + _LAYER_EPSILON, _NEWTON_STEPS[core.generation]))
    centred = core.round_bf16(x - core.round_bf16(mean)[:, None])
    return [core.store_bf16(centred * scale[:, None])]


def _bf16_sum(core: Core, x: Float32, lanes: int) -> Float32:
    parts = x.reshape(len(x), -1, lanes)
    sums = parts[:, 0]
    for i in range(1, parts.shape[1]):
        sums = core.round_bf16(sums + parts[:, i])
    while sums.shape[-1] > 1:
        middle = sums.shape[-1] // 2
        sums = core.round_bf16(sums[:, :middle] + sums[:, middle:])
    return sums[:, 0]


def _by_rows(op: str) -> Rules:
    """As an operator that streams its elements; those of September 2026 count them as ``rows`` of ``tile_size``."""

    def rules(p: Params, core: Core) -> None:
        size = field(p, "size") or p.rows * p.tile_size
        streamed_rules(op)(Params(**{**vars(p), "size": size}), core)

    return rules


def _rms_rules(p: Params, core: Core) -> None:
    _by_rows("RMSNorm")(p, core)
    if field(p, "weighted", False):
        channels = field(p, "num_channels", 1)
        require(channels == 1, "RMSNorm", "num_channels", "1 with weighted=True", channels)


def _layer_rules(p: Params, core: Core) -> None:
    _by_rows("LayerNorm")(p, core)
    lanes = _LAYER_LANES[core.generation]
    require_multiple("LayerNorm", "tile_size", p.tile_size, lanes, f"the kernel's vector on {core.generation}")


def _rms_note(p: Params, core: Core) -> str:
    if core.generation == "npu2":
        return "float32 up to each rounding, to nearest even (set by the kernel): off only where they cross a tie"
    return ""


KERNELS = (
    Kernel(
        "RMSNorm", _rms_norm, _rms_rules, _rms_note, source="amd/IRON aie_kernels/aie2/rms_norm.cc, aie2p/rms_norm.cc"
    ),
    Kernel(
        "WeightedRMSNorm",
        _weighted_rms_norm,
        _by_rows("WeightedRMSNorm"),
        _rms_note,
        source="amd/IRON aie_kernels/aie2/rms_norm.cc, aie2p/rms_norm.cc, generic/mul.cc",
    ),
    Kernel(
        "LayerNorm", _layer_norm, _layer_rules, source="amd/IRON aie_kernels/aie2/layer_norm.cc, aie2p/layer_norm.cc"
    ),
)
