# SPDX-License-Identifier: Apache-2.0
"""ElementwiseAdd: C = A + B.

IRON's torch form (bf16 operands, float32 inside, one rounding) and its numpy form are both the correctly rounded
sum, so one form serves every flavour.
"""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.bf16 import Array
from fusion_replay.model import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param
from fusion_replay.tolerance import relative


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    return ArgSpec("A", "in", (p.size,)), ArgSpec("B", "in", (p.size,)), ArgSpec("C", "out", (p.size,))


def _add(call: Call, a: Array, b: Array) -> Array:
    return a + b


SPEC = OperatorSpec(
    type="ElementwiseAdd",
    summary="C = A + B",
    aliases=("elementwise_add", "AIEElementwiseAdd"),
    params=(
        Param("size", int, help="elements"),
        Param("tile_size", int, None, decides=False),
        Param("num_aie_columns", int, 8, decides=False),
    ),
    args=_args,
    flavours={"pr117": _add, "iron-2026-08": _add, "iron-2026-09": _add, "exact": _add},
    tolerance={"*": relative(0.04, 1e-6).from_source("amd/IRON iron/common/test_utils.py, run_test defaults")},
    source="amd/IRON iron/operators/elementwise_add",
)
