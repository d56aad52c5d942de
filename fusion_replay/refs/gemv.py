# SPDX-License-Identifier: Apache-2.0
"""GEMV: C = A B, matrix times vector, once or per batch, with an optional fused GELU.

float64 accumulation and one rounding in every flavour: torch's bf16 product of July and August agrees with that in all
but one element in two thousand (and depends on the torch build where not); September's numpy form accumulates in
float32. With ``epilogue="gelu"`` IRON's forms round the product before the activation, ``exact`` does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy.typing as npt

from fusion_replay.compare.numerics.products import Dot
from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import Tolerance, relative
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, iron
from fusion_replay.operators.tiling import Tiling, runs
from fusion_replay.refs._epilogue import check_epilogue, finisher
from fusion_replay.refs._kernels import gelu
from fusion_replay.refs.arithmetic.products import matvec


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    check_epilogue("GEMV", p.epilogue)
    if p.repeat < 1 or p.num_batches % p.repeat:
        raise UsageError(f"GEMV: num_batches {p.num_batches}: expected a multiple of repeat, found {p.repeat}")
    matrices = p.num_batches // p.repeat
    batch = () if p.num_batches == 1 else (p.num_batches,)
    return (
        ArgSpec("A", "in", (p.M, p.K) if matrices == 1 else (matrices, p.M, p.K)),
        ArgSpec("B", "in", (*batch, p.K)),
        ArgSpec("C", "out", (*batch, p.M)),
    )


def _gemv(call: Call, a: Array, b: Array, *, round_before: bool = True) -> Array:
    """Batch i is matrix i // repeat times vector i."""
    xp, p = call.xp, call.params
    finish = finisher(xp, p.epilogue, round_before=round_before, rounder=call.rounder)
    matrices, vectors = xp.reshape(a, (-1, p.M, p.K)), wide(xp.reshape(b, (-1, p.K)))
    rows = [matvec(matrices[i // p.repeat], vectors[i], finish) for i in range(p.num_batches)]
    return rows[0] if len(rows) == 1 else xp.stack(rows)


def _exact(call: Call, a: Array, b: Array) -> Array:
    return _gemv(call, a, b, round_before=False)


def _tolerance(p: SimpleNamespace) -> Tolerance:
    """IRON's, its absolute floor as a share of the largest result: 1e-3 hides whole tensors where results are small.

    IRON's test draws inputs of spread 4, so results run to several hundred and 1e-3 is some 1e-6 to 1e-5 of them;
    float32 lanes over 8192 elements stay inside 1e-4.
    """
    if p.epilogue == "gelu":
        return relative(0.06, 2e-2).from_source("amd/IRON iron/operators/gemv, tolerance() with the gelu epilogue")
    return relative(0.04, 0.0, range_frac=1e-4).from_source("amd/IRON iron/operators/gemv, tolerance()")


def _iron_fails(p: SimpleNamespace, flavour: str) -> str | None:
    if flavour not in ("pr117", "iron-2026-08"):
        return None
    if p.num_batches > 1:
        return (
            "IRON's GEMV reference of that time is plain A @ B: it raises for num_batches > 1, or gives a wrong shape"
        )
    if p.epilogue != "none":
        return "IRON's GEMV reference of that time gives the product without the epilogue"
    return None


def _tiling(p: SimpleNamespace) -> Tiling | None:
    source = "amd/IRON iron/operators/gemv/design.py, C_taps"
    tile = p.tile_size_output or p.tile_size_input
    return runs(p.num_batches * p.M, p.num_aie_columns, tile=tile, batches=p.num_batches, source=source)


def _arrange(
    p: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    return {"a": inputs[0].reshape(-1, p.M, p.K), "b": inputs[1].reshape(-1, p.K)}


_WIDTHS = (64, 32, 16)
"""Elements per vector that mv.cc is built for."""


def lanes(inner: int, widest: int = _WIDTHS[0]) -> int:
    """Elements that the kernel takes of a row at a time: its widest vector that divides the row."""
    return next((w for w in _WIDTHS if w <= widest and inner % w == 0), 1)


def _stages(p: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    """The widest vector up to ``kernel_vector_size`` that divides K; the epilogue works on the stored tile.

    Where IRON chose the size itself (None since September), the narrowest: its bound holds for every wider one.
    """
    width = lanes(p.K, p.kernel_vector_size or _WIDTHS[-1])
    product = Stage("product", "matvec", ("a", "b"), BF16, how=Dot(width, p.repeat))
    if p.epilogue == "none":
        return (product,)
    return product, Stage("y", "through", ("product",), BF16, how=gelu(device))


_NUMERICS = Numerics(_stages, "amd/IRON aie_kernels/generic/mv.cc", _arrange)


SPEC = OperatorSpec(
    type="GEMV",
    summary="C = A B, per batch",
    aliases=("gemv", "AIEGEMV"),
    params=(
        Param("M", int, help="rows of A"),
        Param("K", int, help="columns of A"),
        Param("num_aie_columns", int, 1, decides=False),
        Param("tile_size_input", int, 2, decides=False),
        Param("tile_size_output", int, None, decides=False),
        Param("num_batches", int, 1, help="independent products"),
        Param("kernel_vector_size", int, 64, decides=False),
        Param("epilogue", str, "none", help='"gelu" applies the tanh approximation to the result'),
        Param("repeat", int, 1, help="consecutive batches that share a matrix"),
    ),
    args=_args,
    prepared="B",
    neutral=("num_matrices",),
    flavours=iron(_gemv, exact=_exact),
    tolerance={"*": _tolerance},
    raw=True,
    tiling=_tiling,
    numerics=_NUMERICS,
    source="amd/IRON iron/operators/gemv",
    iron_fails=_iron_fails,
    defects=(
        "Up to August 2026 IRON's reference is plain A @ B: with num_batches > 1 it raises, or gives a wrong "
        "shape where the batch count equals K, and it ignores the epilogue; right is one product per batch, then "
        "the epilogue.",
    ),
)
