# SPDX-License-Identifier: Apache-2.0
"""Dequant: packed 4-bit integers times a bf16 scale per group -> bf16.

A is a run of packed tiles. One tile of ``tile_size`` values is tile_size / 2 bytes of nibbles (value 2k in the low half
of byte k, 2k + 1 in the high half; unsigned, zero point 0) and then tile_size / group_size little-endian bf16 scales:
the scales are *not* gathered at the end of the buffer.

A product of 4 and 8 significant bits is exact in float32. IRON's references leave it there (their compare judges the
device's bf16 against float32); ``exact`` is that product rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, bits_to_float32, is_torch
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, iron
from fusion_replay.operators.tiling import Tiling, runs

_DEFAULT_TILE = 4096  # values; amd/IRON iron/operators/dequant.py, what an operator without tile_size is tuned to


def geometry(p: SimpleNamespace) -> tuple[int, int, int]:
    """(tiles, groups per tile, bytes per packed tile).

    Raises:
        UsageError: tiles that do not divide the size, groups that do not divide a tile.
    """
    tile = _DEFAULT_TILE if p.tile_size is None else p.tile_size
    if tile < 2 or tile % 2 or p.size % tile:
        raise UsageError(f"Dequant: size {p.size}: expected a multiple of tile_size, an even number, found {tile}")
    if p.group_size < 1 or tile % p.group_size:
        raise UsageError(f"Dequant: tile_size {tile}: expected a multiple of group_size, found {p.group_size}")
    groups = tile // p.group_size
    return p.size // tile, groups, tile // 2 + 2 * groups


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    tiles, _, nbytes = geometry(p)
    return ArgSpec("A", "in", (tiles * nbytes,), "uint8"), ArgSpec("C", "out", (p.size,))


def products(call: Call, a: Array) -> Array:
    """float64, exact."""
    xp, p = call.xp, call.params
    tiles, groups, nbytes = geometry(p)
    packed = xp.reshape(a, (tiles, nbytes))
    split = nbytes - 2 * groups
    nibbles = packed[:, :split]
    values = xp.stack((nibbles & 15, nibbles >> 4), axis=-1)
    values = xp.astype(xp.reshape(values, (tiles, groups, p.group_size)), xp.float64)
    scales = _scales(xp, xp.reshape(packed[:, split:], (tiles, groups, 2)))
    return xp.reshape(values * scales[:, :, None], (-1,))


def _scales(xp: Any, pairs: Array) -> Array:
    """Little-endian byte pairs (..., 2) -> the bf16 values they spell, float64."""
    if is_torch(pairs):
        return pairs.contiguous().view(xp.bfloat16)[..., 0].double()
    bits = pairs[..., 0].astype(xp.uint16) | (pairs[..., 1].astype(xp.uint16) << 8)
    return bits_to_float32(bits).astype(xp.float64)


def _float32(call: Call, a: Array) -> Array:
    return call.xp.astype(products(call, a), call.xp.float32)


def _tiling(p: SimpleNamespace) -> Tiling | None:
    tile = _DEFAULT_TILE if p.tile_size is None else p.tile_size
    source = "amd/IRON iron/operators/dequant/design.py"
    return runs(p.size, p.num_aie_columns, channels=p.num_channels, tile=min(tile, 16384), source=source)


def _arrange(
    p: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    tiles, groups, nbytes = geometry(p)
    packed = inputs[0].reshape(tiles, nbytes)
    split = nbytes - 2 * groups
    weights = np.stack((packed[:, :split] & 15, packed[:, :split] >> 4), axis=-1).astype(np.float32)
    scales = np.ascontiguousarray(packed[:, split:]).view(np.dtype("<u2")).astype(np.uint16)
    return {"weight": weights.reshape(tiles * groups, p.group_size), "scale": scales.reshape(-1, 1)}


def _stages(_params: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
    return (Stage("y", "mul", ("weight", "scale"), BF16),)


SPEC = OperatorSpec(
    type="Dequant",
    summary="C = 4-bit integers of A times their group's bf16 scale",
    aliases=("dequant", "AIEDequant"),
    params=(
        Param("size", int, help="values"),
        Param("num_aie_columns", int, 1, decides=False),
        Param("num_channels", int, 1, decides=False),
        Param("tile_size", int, None, help="values per packed tile, scales behind each; default 4096"),
        Param("group_size", int, 32, help="values per scale"),
    ),
    args=_args,
    flavours=iron(_float32, exact=products),
    tolerance={
        "*": Tolerance(ulps=1, atol=2.0**-126).from_source(
            "Xilinx/mlir-aie aie_kernels/generic/expand.cc: an exact product, stored once (IRON's test allows 0.01)"
        )
    },
    raw=True,
    float32=("pr117", "iron-2026-08", "iron-2026-09"),
    tiling=_tiling,
    numerics=Numerics(_stages, "Xilinx/mlir-aie aie_kernels/datamovement/expand.cc", _arrange),
    source="amd/IRON iron/operators/dequant.py (1a475cbe), iron/operators/dequant/reference.py (2df6d082)",
    no_reference=("pr117",),
    defects=(
        "IRON's reference stays float32, so its compare judges a bf16 output against unrounded values: up to half"
        " a ULP of each difference is the missing rounding.",
    ),
)
