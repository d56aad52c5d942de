# SPDX-License-Identifier: Apache-2.0
"""Softmax over each row, its first ``vector_size`` elements valid, exact zeros behind them.

``vector_size`` is a runtime value, else the compiled ``rtp_vector_size``, else the whole row. IRON's references up to
August 2026 ignored it; every flavour here honours it, since that is what the operator computes. September's form fills
the masked part with the lowest bf16 value, which a row of nothing else can tell from a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.numerics.stages import BF16, RELATIVE, Constant, Numerics, Stage
from fusion_replay.compare.tolerance import Tolerance, relative
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.operators.tiling import Tiling, runs

_LOWEST = -(2.0 - 2.0**-7) * 2.0**127  # the lowest finite bf16


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    size = p.rows * p.cols
    return ArgSpec("A", "in", (size,)), ArgSpec("C", "out", (size,))


def _valid(p: SimpleNamespace, values: Mapping[str, int | float]) -> int:
    """How many elements of each row take part."""
    size = values.get("vector_size", p.rtp_vector_size)
    if size is None:
        return int(p.cols)
    if size < 1:
        raise UsageError(f"Softmax: vector_size {size}: expected at least 1 valid element per row")
    return min(int(size), int(p.cols))


def _softmax(xp: Any, x: Array) -> Array:
    grown = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return grown / xp.sum(grown, axis=-1, keepdims=True)


def _masked(call: Call, a: Array) -> Array:
    xp, p = call.xp, call.params
    valid = _valid(p, call.values)
    x = xp.reshape(a, (p.rows, p.cols))
    if valid == p.cols:
        return _softmax(xp, x)
    return xp.concat((_softmax(xp, x[:, :valid]), xp.zeros_like(x[:, valid:])), axis=-1)


def _filled(call: Call, a: Array) -> Array:
    xp, p = call.xp, call.params
    valid = _valid(p, call.values)
    x = xp.reshape(a, (p.rows, p.cols))
    if valid < p.cols:
        x = xp.concat((x[:, :valid], xp.full_like(x[:, valid:], _LOWEST)), axis=-1)
    return _softmax(xp, x)


def _tolerance(rtol: float, source: str) -> Callable[[SimpleNamespace], Tolerance]:
    """The absolute floor is a tenth of an average element: an unwritten row fails, an underflowed tail passes."""

    def limits(p: SimpleNamespace) -> Tolerance:
        return relative(rtol, 0.1 / p.cols if p.cols else 0.0).from_source(source)

    return limits


def _iron_fails(p: SimpleNamespace, flavour: str) -> str | None:
    if flavour in ("pr117", "iron-2026-08") and _valid(p, getattr(p, "values", {})) < p.cols:
        return "IRON's softmax reference of that time ignores the mask length and takes whole rows"
    return None


def _tiling(p: SimpleNamespace) -> Tiling | None:
    source = "amd/IRON iron/operators/softmax/design.py: a row is a tile"
    return runs(p.rows * p.cols, p.num_aie_columns, channels=p.num_channels, tile=p.cols, source=source)


_EXP2 = Constant(
    -(2.0**-7),
    2.0**-7,
    RELATIVE,
    "amd/IRON aie_kernels/aie2p/softmax.cc: a bf16 instruction; accuracy not given",
    "assumed",
)
_EXP_TABLES = Constant(
    math.exp(-1 / 256) * (1 - 2.0**-8) ** 2 - 1,
    (1 + 2.0**-8) ** 2 - 1,
    RELATIVE,
    "Xilinx/mlir-aie aie_runtime_lib/AIE2/lut_based_ops.h: input cut to 1/256, two bf16 entries",
    "documented",
)
_LOG2_E = 1.4453125  # as bfloat16, 0.18 % too large


def _arrange(
    p: SimpleNamespace, values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    return {"x": inputs[0].reshape(p.rows, p.cols)[:, : _valid(p, values)]}


def _place(p: SimpleNamespace, results: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Zeros behind the valid part; in a row of which nothing is known they are not known either."""
    (valid,) = results
    if valid.shape[1] == p.cols:
        return valid
    out = np.zeros((p.rows, p.cols), np.float32)
    out[:, : valid.shape[1]] = valid
    out[:, valid.shape[1] :] = np.where(np.isfinite(valid[:, :1]), 0, valid[:, :1])
    return out


def _stages(_params: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    """AIE2 takes no maximum off; AIE2P's starts at 0 and is rounded."""
    if device == "npu1":
        table = (Stage("power", "exp", ("x",), BF16, by="exp_tables", error=_EXP_TABLES),)
        powers: tuple[Stage, ...] = (Stage("power", "through", ("x",), BF16, how=table),)
    else:
        powers = (
            Stage("scaled", "mul", ("x", _LOG2_E)),
            Stage("narrow", "same", ("scaled",), BF16),
            Stage("most", "largest", ("narrow",)),
            Stage("top", "maximum", ("most", 0.0)),
            Stage("below", "sub", ("scaled", "top")),
            Stage("power", "exp2", ("below",), BF16, error=_EXP2),
        )
    return (
        *powers,
        Stage("total", "sum", ("power",), how=16 if device == "npu1" else 64),
        Stage("inverse", "reciprocal", ("total",), BF16),
        Stage("y", "mul", ("power", "inverse"), BF16),
    )


_NUMERICS = Numerics(_stages, "amd/IRON aie_kernels/aie2/softmax.cc, aie2p/softmax.cc", _arrange, place=_place)


SPEC = OperatorSpec(
    type="Softmax",
    summary="C = exp(A) / sum(exp(A)) over the valid part of each row, 0 behind it",
    aliases=("softmax", "AIESoftmax"),
    params=(
        Param("rows", int),
        Param("cols", int, help="elements per row"),
        Param("num_aie_columns", int, 1, decides=False),
        Param("num_channels", int, 1, decides=False),
        Param("rtp_vector_size", int, None, help="valid elements per row where no runtime value says otherwise"),
        Param("mask_patch_value", int, 0, decides=False),
        Param("vector_size_parameter", str, None, help="symbol of the runtime value vector_size"),
    ),
    args=_args,
    flavours=every(_masked) | {"iron-2026-09": _filled},
    tolerance={
        "npu2": _tolerance(0.04, "Xilinx/mlir-aie python/iron/kernels/activation.py: 0.04, 0.1 / row length"),
        "*": _tolerance(0.128, "Xilinx/mlir-aie python/utils/verify.py: 0.128 for exp by lookup table, 0.1 / row"),
    },
    values=("vector_size",),
    tiling=_tiling,
    numerics=_NUMERICS,
    source="amd/IRON iron/operators/softmax",
    iron_fails=_iron_fails,
    defects=(
        "Up to August 2026 the mask length is ignored: IRON's compare flags every masked step, where right is a "
        "softmax of the valid part and zeros behind it.",
    ),
)
