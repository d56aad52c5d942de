# SPDX-License-Identifier: Apache-2.0
"""FusedDequantGEMV: output = W vector, W stored as 4-bit integers with a bf16 scale per group of a row.

The weights lie in tiles of ``tile_size_input`` rows, each packed as Dequant's tile: the rows' nibbles, then their
scales. IRON's golden generator rounds each weight to bf16 before the product, as the kernel does; ``exact`` does not.
"""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.tolerance import relative
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, narrow, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, iron
from fusion_replay.operators.tiling import Tiling, runs
from fusion_replay.refs import dequant
from fusion_replay.refs.arithmetic.products import matvec


def _packed(p: SimpleNamespace) -> SimpleNamespace:
    """The weights as a Dequant of its own.

    Raises:
        UsageError: groups or tiles that do not divide the rows.
    """
    if p.group_size < 1 or p.K % p.group_size:
        raise UsageError(f"FusedDequantGEMV: K {p.K}: expected a multiple of group_size, found {p.group_size}")
    columns, tile = p.num_aie_columns, p.tile_size_input
    if columns < 1 or tile < 1 or p.M % (columns * tile):
        raise UsageError(
            f"FusedDequantGEMV: M {p.M}: expected a multiple of num_aie_columns * tile_size_input, found "
            f"{columns} * {tile}"
        )
    return SimpleNamespace(size=p.M * p.K, tile_size=tile * p.K, group_size=p.group_size)


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    tiles, _, nbytes = dequant.geometry(_packed(p))
    return (
        ArgSpec("packed_weights", "in", (tiles * nbytes,), "uint8"),
        ArgSpec("vector", "in", (p.K,)),
        ArgSpec("output", "out", (p.M,)),
    )


def _weights(call: Call, packed: Array) -> Array:
    """(M, K), float64, exact."""
    inner = Call(_packed(call.params), call.xp)
    return call.xp.reshape(dequant.products(inner, packed), (call.params.M, call.params.K))


def _rounded(call: Call, packed: Array, vector: Array) -> Array:
    return matvec(call.round(_weights(call, packed)), wide(vector), narrow)


def _exact(call: Call, packed: Array, vector: Array) -> Array:
    return matvec(_weights(call, packed), wide(vector), narrow)


def _tiling(p: SimpleNamespace) -> Tiling | None:
    source = "amd/IRON iron/operators/fused_dequant_gemv/design.py"
    return runs(p.M, p.num_aie_columns, tile=p.tile_size_output, source=source)


SPEC = OperatorSpec(
    type="FusedDequantGEMV",
    summary="output = W vector, W of 4-bit integers times their group's bf16 scale",
    aliases=("fused_dequant_gemv", "AIEFusedDequantGEMV"),
    params=(
        Param("M", int, help="rows of W"),
        Param("K", int, help="columns of W"),
        Param("num_aie_columns", int, 4, decides=False),
        Param("tile_size_input", int, 1, help="rows per packed tile, scales behind each"),
        Param("tile_size_output", int, None, decides=False),
        Param("group_size", int, 32, help="values per scale"),
    ),
    args=_args,
    flavours=iron(_rounded, exact=_exact),
    tolerance={
        "*": relative(0.07, 0.0, range_frac=0.001).from_source(
            "amd/IRON iron/operators/fused_dequant_gemv/test.py: 0.07; range: each weight's rounding, in place of its "
            "absolute 0.7"
        )
    },
    raw=True,
    tiling=_tiling,
    source="amd/IRON iron/operators/fused_dequant_gemv/{op,reference}.py (116b2477, 50e35ad9)",
    no_reference=("pr117", "iron-2026-08", "iron-2026-09"),
)
