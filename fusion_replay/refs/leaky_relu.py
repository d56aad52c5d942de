# SPDX-License-Identifier: Apache-2.0
"""LeakyReLU: C = A where A is positive, else alpha A.

IRON's forms are torch's leaky_relu: alpha and the product in float32, then bf16. Those are two roundings, and a product
of 32 significant bits can tell them from one, so the float32 step is kept there. ``exact`` multiplies by alpha as given
and rounds once. The kernel takes alpha as bf16 (amd/IRON iron/operators/leaky_relu.py), 0.1 % off for 0.01: that is the
device's deviation, which the tolerance covers.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage
from fusion_replay.compare.tolerance import relative
from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, OperatorSpec, Param, iron
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._elementwise import CHANNELLED_PARAMS, through_float32, unary_args
from fusion_replay.refs._kernels import bf16_constant
from fusion_replay.refs.arithmetic.sums import add_to_odd


def _torch(call: Call, a: Array) -> Array:
    xp = call.xp
    alpha = through_float32(xp, xp.full_like(a, call.params.alpha))
    return xp.where(a > 0, a, through_float32(xp, alpha * a))


def _exact(call: Call, a: Array) -> Array:
    """The product of 53 and 8 bits in two halves that float64 holds, their sum rounded to odd: one rounding in all."""
    xp = call.xp
    mantissa, exponent = math.frexp(call.params.alpha)
    upper = math.ldexp(round(math.ldexp(mantissa, 26)), exponent - 26)
    lower = xp.where(xp.isfinite(a), (call.params.alpha - upper) * a, xp.zeros_like(a))
    return xp.where(a > 0, a, add_to_odd(xp, upper * a, lower))


def _stages(params: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
    return (
        Stage("product", "mul", ("x", bf16_constant(params.alpha)), BF16),
        Stage("y", "select", ("x", "product"), BF16, how="max"),
    )


SPEC = OperatorSpec(
    type="LeakyReLU",
    summary="C = A where A > 0, else alpha A",
    aliases=("leaky_relu", "AIELeakyReLU"),
    params=(*CHANNELLED_PARAMS, Param("alpha", float, 0.01, help="slope of the negative side")),
    args=unary_args,
    elementwise=True,
    flavours=iron(_torch, exact=_exact),
    tolerance={"*": relative(0.04, 1e-6).from_source("amd/IRON iron/operators/leaky_relu: 0.04 / 1e-6")},
    tiling=streamed,
    numerics=Numerics(_stages, "amd/IRON aie_kernels/aie2/leaky_relu.cc, aie2p/leaky_relu.cc", unary=True),
    source="amd/IRON iron/operators/leaky_relu.py (1a475cbe), iron/operators/leaky_relu/",
    no_reference=("pr117",),
    defects=(
        "IRON's reference multiplies by alpha in float32, the kernel takes it as bf16 (0.01 becomes 0.01001): up "
        "to 1 ULP of every negative element is that.",
    ),
)
