# SPDX-License-Identifier: Apache-2.0
"""Dequant: packed 4-bit weights times their group's scale, one rounding.

amd/IRON ``iron/operators/dequant.py`` and Xilinx/mlir-aie ``aie_kernels/datamovement/expand.cc``. The input is a run of
tiles, each ``tile_size / 2`` bytes of nibbles (low one first, 0 to 15) and then one bfloat16 scale per ``group_size``
elements. The product has 12 significant bits and is exact in the accumulator; its store obeys the register.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.simulator.core import BFLOAT16, Core, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import (
    ONE_ROUNDING,
    Kernel,
    field,
    require,
    require_columns,
    require_multiple,
)

_LANES = 32
_MOST_CORES = 16


def _dequant(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    tile, group = _tile(p), field(p, "group_size", 32)
    packed = d.inputs[0].reshape(-1, tile // 2 + tile // group * 2)
    nibbles, scale_bytes = packed[:, : tile // 2], np.ascontiguousarray(packed[:, tile // 2 :])
    weights = np.empty((*nibbles.shape, 2), np.float32)
    weights[..., 0], weights[..., 1] = nibbles & 15, nibbles >> 4
    scales = widen(scale_bytes.view("<u2").astype(np.uint16).view(BFLOAT16))
    return [core.store_bf16(weights.reshape(len(packed), -1, group) * scales[..., None])]


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


KERNELS = (Kernel("Dequant", _dequant, _rules, ONE_ROUNDING, "Xilinx/mlir-aie aie_kernels/datamovement/expand.cc"),)
