# SPDX-License-Identifier: Apache-2.0
"""AXPY: C = s A + B, the scalar rounded to bf16 first.

Up to August the product is rounded to bf16 before the sum (torch, operation by operation). September's form adds in
float32, as the kernel does, and rounds that: where the sum lies next to a tie it is rounded twice, which ``exact`` is
not. A bf16 scalar times a bf16 element has 16 significant bits, which float64 holds; sums are rounded to odd so that
the next rounding is the correct one.
"""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.model.bf16 import Array, round_bf16
from fusion_replay.operators import Call, OperatorSpec, Param
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._elementwise import CHANNELLED_PARAMS, binary_args, through_float32
from fusion_replay.refs.arithmetic.sums import add_to_odd


def _product(call: Call, a: Array) -> Array:
    return round_bf16(call.xp.full_like(a, call.params.scalar_factor)) * a


def _twice(call: Call, a: Array, b: Array) -> Array:
    return add_to_odd(call.xp, call.round(_product(call, a)), b)


def _float32(call: Call, a: Array, b: Array) -> Array:
    product = through_float32(call.xp, _product(call, a))  # a product overflows there, too
    return through_float32(call.xp, add_to_odd(call.xp, product, b))


def _exact(call: Call, a: Array, b: Array) -> Array:
    return add_to_odd(call.xp, _product(call, a), b)


def _stages(params: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
    """The core narrows the float32 scalar itself, so under floor it is cut (Xilinx/mlir-aie pull request 3599)."""
    return (
        Stage("scalar", "same", (params.scalar_factor,), BF16),
        Stage("product", "mul", ("x", "scalar")),
        Stage("z", "add", ("product", "y"), BF16),
    )


SPEC = OperatorSpec(
    type="AXPY",
    summary="C = scalar_factor A + B",
    aliases=("axpy", "AIEAXPY"),
    params=(
        *CHANNELLED_PARAMS,
        Param("scalar_factor", float, 3.0, help="rounded to bf16; default 0.01 before 2026-07"),
    ),
    args=binary_args,
    elementwise=True,
    flavours={"pr117": _twice, "iron-2026-08": _twice, "iron-2026-09": _float32, "exact": _exact},
    tolerance={
        # Two roundings of the reference's against the kernel's one differ by at most a ULP of the product, which
        # cancellation in the sum makes any number of ULPs of the result.
        "*": Tolerance(rtol=0.04, atol=1e-6, ulps=2, range_frac=2.0**-7).from_source(
            "amd/IRON iron/operators/axpy: 0.04 / 1e-6; range: the product's rounding where the sum cancels"
        )
    },
    tiling=streamed,
    numerics=Numerics(_stages, "amd/IRON aie_kernels/generic/axpy.cc"),
    source="amd/IRON iron/operators/axpy.py (1685a4e7), iron/operators/axpy/",
    no_reference=("pr117",),
    defects=(
        "Up to August 2026 the reference rounds the product before the sum and the kernel does not: 26 % of "
        "elements differ by the rounding, which is the reference's error.",
    ),
)
