# SPDX-License-Identifier: Apache-2.0
"""RMSNorm: each row of A over its root mean square, times the weight row B if there is one.

====================  =================================================================================
pr117                 ``x / (sqrt(mean(x*x)) + eps) * w``, torch bf16: a rounding after each of six steps
iron-2026-08          ``x / sqrt(mean(x*x) + eps) * w``, likewise six roundings
iron-2026-09          the normalised row rounded, then its product with the weight (two cores on the device)
exact                 August's meaning, rounded once
====================  =================================================================================

The device puts epsilon under the root: where a row's mean square is not well above epsilon, the form of pull request
117 is far from what any device gives. In float32 the squares of a row with an element above 1.8e19 overflow, and IRON's
form gives zeros; the true row is kept, so that a value that went astray is not another step's error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy.typing as npt

from fusion_replay.compare.numerics.stages import BF16, Numerics, Stage, sets_conv_even
from fusion_replay.compare.tolerance import relative
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param
from fusion_replay.operators.tiling import Tiling, runs
from fusion_replay.refs._kernels import rsqrt


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    shape = rows_of("RMSNorm", p)
    weight = (ArgSpec("B", "in", (p.tile_size,)),) if p.weighted else ()
    return ArgSpec("A", "in", shape), *weight, ArgSpec("C", "out", shape)


def rows_of(op: str, p: SimpleNamespace) -> tuple[int, int]:
    """(rows, tile_size): the rows that a normalisation works on.

    Raises:
        UsageError: ``tile_size`` does not divide ``size``, or neither that nor ``rows`` is there.
    """
    if p.size is None and p.rows is None:
        raise UsageError(f"{op}: parameter 'size' (int) is required, or 'rows', as it is since September 2026")
    if p.size is None:
        return p.rows, p.tile_size
    if p.tile_size < 1 or p.size % p.tile_size or p.rows not in (None, p.size // p.tile_size):
        raise UsageError(f"{op}: size {p.size}: expected whole rows of tile_size elements, found {p.tile_size}")
    return p.size // p.tile_size, p.tile_size


def _mean_square(call: Call, x: Array) -> Array:
    return call.xp.mean(x * x, axis=-1, keepdims=True)


def _mean_square_bf16(call: Call, x: Array) -> Array:
    return call.round(call.xp.mean(call.round(x * x), axis=-1, keepdims=True))


def _weigh(normed: Array, weight: tuple[Array, ...]) -> Array:
    return normed * weight[0] if weight else normed


def _pr117(call: Call, x: Array, *weight: Array) -> Array:
    root = call.round(call.xp.sqrt(_mean_square_bf16(call, x)))
    return _weigh(call.round(x / call.round(root + call.params.epsilon)), weight)


def _august(call: Call, x: Array, *weight: Array) -> Array:
    root = call.round(call.xp.sqrt(call.round(_mean_square_bf16(call, x) + call.params.epsilon)))
    return _weigh(call.round(x / root), weight)


def _september(call: Call, x: Array, *weight: Array) -> Array:
    return _weigh(call.round(x / call.xp.sqrt(_mean_square(call, x) + call.params.epsilon)), weight)


def _exact(call: Call, x: Array, *weight: Array) -> Array:
    return _weigh(x / call.xp.sqrt(_mean_square(call, x) + call.params.epsilon), weight)


def _tiling(p: SimpleNamespace) -> Tiling | None:
    # A row is a tile; amd/IRON iron/operators/rms_norm/design.py gives every column and channel a run of rows.
    source = "amd/IRON iron/operators/rms_norm/design.py"
    size = math.prod(rows_of("RMSNorm", p))
    return runs(size, p.num_aie_columns, channels=p.num_channels, tile=p.tile_size, source=source)


def _arrange(
    p: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    weight = {"w": inputs[1].reshape(1, p.tile_size)} if p.weighted else {}
    return {"x": inputs[0].reshape(-1, p.tile_size), **weight}


def _stages(p: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    """AIE2 has no float32 vector multiply: its scale is a pair of bfloat16 values. The weight is a second core's."""
    normal = Stage("normal", "pair" if device == "npu1" else "mul", ("scale", "x"), BF16)
    weighted = (Stage("y", "mul", ("normal", "w"), BF16),) if p.weighted else ()
    return (
        Stage("squares", "mul", ("x", "x")),
        Stage("total", "sum", ("squares",), how=32),
        Stage("mean", "div", ("total", float(p.tile_size))),
        Stage("shifted", "add", ("mean", p.epsilon)),
        rsqrt("scale", "shifted", device),
        normal,
        *weighted,
    )


NUMERICS = Numerics(
    _stages,
    "amd/IRON aie_kernels/aie2/rms_norm.cc, aie2p/rms_norm.cc, iron/operators/rms_norm/design_weighted.py",
    _arrange,
    sets=sets_conv_even,
)


SPEC = OperatorSpec(
    type="RMSNorm",
    summary="C = A / sqrt(mean(A*A) + epsilon) * B, row by row",
    aliases=("rms_norm", "AIERMSNorm"),
    params=(
        Param("size", int, None, help="elements in all"),
        Param("num_aie_columns", int, 1, decides=False),
        Param("num_channels", int, 1, decides=False),
        Param("tile_size", int, help="elements per row"),
        Param("weighted", bool, False, help="a second input of tile_size elements multiplies each row"),
        Param("epsilon", float, 1e-5),
        Param("rows", int, None, help="in place of size since September 2026 (iron/common/elementwise.py, Rowwise)"),
    ),
    args=_args,
    flavours={"pr117": _pr117, "iron-2026-08": _august, "iron-2026-09": _september, "exact": _exact},
    tolerance={"*": relative(0.04, 1e-6).from_source("amd/IRON iron/common/test_utils.py, run_test defaults")},
    tiling=_tiling,
    numerics=NUMERICS,
    source="amd/IRON iron/operators/rms_norm",
    defects=(
        "Pull request 117 adds epsilon after the root, x / (sqrt(mean(x x)) + epsilon), where later versions and "
        "the device add it inside: its compare differs where rows are tiny.",
    ),
)
