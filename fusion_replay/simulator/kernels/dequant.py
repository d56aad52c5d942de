# SPDX-License-Identifier: Apache-2.0
"""Dequant: packed 4-bit weights times their group's scale, one rounding. FusedDequantGEMV: such weights times a vector.

amd/IRON ``iron/operators/dequant.py`` and Xilinx/mlir-aie ``aie_kernels/datamovement/expand.cc``. The input is a run of
tiles, each ``tile_size / 2`` bytes of nibbles (low one first, 0 to 15) and then one bfloat16 scale per ``group_size``
elements. The product has 12 significant bits and is exact in the accumulator; its store obeys the register.

FusedDequantGEMV (amd/IRON ``aie_kernels/aie2/fused_dequant_gemv.cc``, ``aie2p/``) sets conv_even, rounds each weight to
bfloat16 and adds its products in 32 float32 lanes; a tile is a few rows.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.simulator.core import BFLOAT16, Core, Float32, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import (
    ONE_ROUNDING,
    Kernel,
    always,
    field,
    require,
    require_columns,
    require_multiple,
)
from fusion_replay.simulator.kernels.gemv import dot_rows

_LANES = 32
_MOST_CORES = 16


def _dequant(d: Dispatch) -> list[Array]:
    return [d.core.store_bf16(_unpacked(d.inputs[0], _tile(d.params), field(d.params, "group_size", 32)))]


def _unpacked(data: Array, tile: int, group: int) -> Float32:
    """``(tiles, groups, group)``: each weight times its scale, exact."""
    packed = data.reshape(-1, tile // 2 + tile // group * 2)
    nibbles, scale_bytes = packed[:, : tile // 2], np.ascontiguousarray(packed[:, tile // 2 :])
    weights = np.empty((*nibbles.shape, 2), np.float32)
    weights[..., 0], weights[..., 1] = nibbles & 15, nibbles >> 4
    scales = widen(scale_bytes.view("<u2").astype(np.uint16).view(BFLOAT16))
    return np.asarray(weights.reshape(len(packed), -1, group) * scales[..., None], np.float32)


def _fused(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    core.rounding = "conv_even"
    weights = core.store_bf16(_unpacked(d.inputs[0], field(p, "tile_size_input", 1) * p.K, field(p, "group_size", 32)))
    sums = np.empty(p.M, np.float32)
    dot_rows(weights.reshape(p.M, p.K), widen(d.inputs[1]).reshape(p.K), _LANES, sums)
    return [core.store_bf16(sums)]


def _tile(p: Params) -> int:
    return int(field(p, "tile_size", 4096))


def _rules(p: Params, core: Core) -> None:
    op, columns, channels = "Dequant", field(p, "num_aie_columns", 1), field(p, "num_channels", 1)
    require_columns(op, columns, core)
    require(channels >= 1, op, "num_channels", "at least 1", channels)
    cores = columns * channels
    require(cores <= _MOST_CORES, op, "num_channels", f"at most {_MOST_CORES} cores over {columns} columns", channels)
    group, tile = field(p, "group_size", 32), _tile(p)
    require_multiple(op, "group_size", group, _LANES, "the kernel's block")
    require_multiple(op, "tile_size", tile, group, "group_size")
    require_multiple(op, "tile_size", tile, 2 * _LANES, "a DMA moves whole words of the packed tile")
    require_multiple(op, "size", p.size, tile * cores, "tile_size * num_aie_columns * num_channels")


def _fused_rules(p: Params, core: Core) -> None:
    op, columns = "FusedDequantGEMV", field(p, "num_aie_columns", 4)
    require_columns(op, columns, core)
    group, tile_in = field(p, "group_size", 32), field(p, "tile_size_input", 1)
    require_multiple(op, "group_size", group, _LANES, "the kernel's block")
    require_multiple(op, "K", p.K, group, "group_size")
    tile_out = field(p, "tile_size_output", p.M // columns)
    require_multiple(op, "tile_size_output", tile_out, tile_in, "tile_size_input")
    require_multiple(op, "M", p.M, columns * tile_out, "num_aie_columns * tile_size_output")


KERNELS = (
    Kernel("Dequant", _dequant, _rules, ONE_ROUNDING, "Xilinx/mlir-aie aie_kernels/datamovement/expand.cc"),
    Kernel(
        "FusedDequantGEMV",
        _fused,
        _fused_rules,
        always("float32 sums rounded once to nearest even (set by the kernel): off only where they cross a tie"),
        "amd/IRON aie_kernels/aie2/fused_dequant_gemv.cc, aie2p/fused_dequant_gemv.cc",
    ),
)
