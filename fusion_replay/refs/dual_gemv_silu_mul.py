# SPDX-License-Identifier: Apache-2.0
"""DualGEMVSiLUMul: C = silu(A1 B) * (A2 B), two products with one vector fused into a single design.

A holds both matrices, interleaved block by block as the cores take them: ``tile_size_output`` rows of A1, the same rows
of A2, then the next block (default: M / num_aie_columns rows, one block per column). IRON's golden generator, torch,
rounds both products and the activation to bf16; so does the kernel. ``exact`` rounds once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy.typing as npt

from fusion_replay.compare.numerics.products import Dot
from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage, sets_conv_even
from fusion_replay.compare.tolerance import relative
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, iron
from fusion_replay.operators.tiling import Tiling, runs
from fusion_replay.refs import _kernels
from fusion_replay.refs.arithmetic.activation import silu
from fusion_replay.refs.arithmetic.products import matvec


def block_rows(p: SimpleNamespace) -> int:
    """Rows of one matrix that lie together.

    Raises:
        UsageError: columns or blocks that do not divide the rows.
    """
    columns = p.num_aie_columns
    if columns < 1 or p.M % columns:
        raise UsageError(f"DualGEMVSiLUMul: M {p.M}: expected a multiple of num_aie_columns, found {columns}")
    rows = p.M // columns if p.tile_size_output is None else p.tile_size_output
    if rows < 1 or (p.M // columns) % rows:
        raise UsageError(
            f"DualGEMVSiLUMul: tile_size_output {rows}: expected a divisor of M / num_aie_columns = {p.M // columns}"
        )
    return int(rows)


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    block_rows(p)
    return ArgSpec("A", "in", (2 * p.M, p.K)), ArgSpec("B", "in", (p.K,)), ArgSpec("C", "out", (p.M,))


def _products(call: Call, a: Array, b: Array) -> tuple[Array, Array]:
    """A1 B and A2 B, float64."""
    xp, p = call.xp, call.params
    both = xp.reshape(matvec(a, wide(b), lambda product: product), (-1, 2, block_rows(p)))
    return xp.reshape(both[:, 0], (-1,)), xp.reshape(both[:, 1], (-1,))


def _rounded(call: Call, a: Array, b: Array) -> Array:
    left, right = (call.round(product) for product in _products(call, a, b))
    return call.round(silu(call.xp, left)) * right


def _exact(call: Call, a: Array, b: Array) -> Array:
    left, right = _products(call, a, b)
    return silu(call.xp, left) * right


def _tiling(p: SimpleNamespace) -> Tiling | None:
    source = "amd/IRON iron/operators/dual_gemv_silu_mul/design.py, C_taps"
    return runs(p.M, p.num_aie_columns, tile=p.tile_size_output or p.tile_size_input, source=source)


def _arrange(
    p: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    return {"a": inputs[0].reshape(1, 2 * p.M, p.K), "b": inputs[1].reshape(1, p.K)}


def _stages(p: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    shape = (-1, 2, block_rows(p))
    return (
        Stage("both", "matvec", ("a", "b"), BF16, how=Dot(64)),
        Stage("left", "part", ("both",), BF16, how=(shape, 1, 0)),
        Stage("right", "part", ("both",), BF16, how=(shape, 1, 1)),
        Stage("gate", "through", ("left",), BF16, how=_kernels.silu(device)),
        Stage("y", "mul", ("gate", "right"), BF16),
    )


_NUMERICS = Numerics(
    _stages,
    "amd/IRON aie_kernels/aie2/dual_gemv_silu_mul.cc, aie2p/dual_gemv_silu_mul.cc",
    _arrange,
    sets=sets_conv_even,
)


SPEC = OperatorSpec(
    type="DualGEMVSiLUMul",
    summary="C = silu(A1 B) * (A2 B), A1 and A2 interleaved in A",
    aliases=("dual_gemv_silu_mul", "AIEDualGEMVSiLUMul"),
    params=(
        Param("M", int, help="rows of each matrix"),
        Param("K", int, help="columns"),
        Param("num_aie_columns", int, 4, help="gives the interleaving where tile_size_output does not"),
        Param("tile_size_input", int, 4, decides=False),
        Param("tile_size_output", int, None, help="rows of one matrix that lie together; default M / num_aie_columns"),
    ),
    args=_args,
    flavours=iron(_rounded, exact=_exact),
    tolerance={
        "*": relative(0.07, 0.0, range_frac=0.002).from_source(
            "amd/IRON iron/operators/dual_gemv_silu_mul/test.py: 0.07; range: 7e-4 measured on the software NPU"
        )
    },
    raw=True,
    tiling=_tiling,
    numerics=_NUMERICS,
    source="amd/IRON iron/operators/dual_gemv_silu_mul (24d4d055, 116b2477)",
)
