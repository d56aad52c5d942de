# SPDX-License-Identifier: Apache-2.0
"""LayerNorm without weight and bias: each row of ``tile_size`` elements of A, shifted and scaled to mean 0, variance 1.

torch's layer_norm (float32 inside) and the numpy form round once, so one form serves every flavour. Where a row's
squares overflow float32 they give zeros; the true row is kept.
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
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs._kernels import rsqrt
from fusion_replay.refs.rms_norm import rows_of

_EPSILON = 1e-5  # torch.nn.functional.layer_norm's default, and the kernel's (Xilinx/mlir-aie layer_norm.cc)


def _epsilon(p: SimpleNamespace) -> float:
    """The kernel's; a search of causes tries others."""
    return float(getattr(p, "epsilon", _EPSILON))


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    size = math.prod(rows_of("LayerNorm", p))
    return ArgSpec("A", "in", (size,)), ArgSpec("C", "out", (size,))


def _layer_norm(call: Call, a: Array) -> Array:
    xp = call.xp
    x = xp.reshape(a, rows_of("LayerNorm", call.params))
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    return centred / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + _epsilon(call.params))


def _arrange(
    p: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    return {"x": inputs[0].reshape(rows_of("LayerNorm", p))}


def _stages(p: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    """The sum is kept in bfloat16 lanes and the variance is a difference: rows with a large mean come out wrong."""
    lanes, count = 16 if device == "npu1" else 32, float(p.tile_size)
    if p.tile_size % lanes:
        raise UsageError(
            f"LayerNorm: tile_size {p.tile_size}: the kernel's arithmetic is known for multiples of {lanes}"
        )
    return (
        Stage("sum", "lossy_sum", ("x",), how=lanes),
        Stage("mean", "div", ("sum", count)),
        Stage("squares", "mul", ("x", "x")),
        Stage("total", "sum", ("squares",), how=lanes),
        Stage("mean square", "div", ("total", count)),
        Stage("squared mean", "mul", ("mean", "mean")),
        Stage("variance", "sub", ("mean square", "squared mean")),
        Stage("shifted", "add", ("variance", _epsilon(p))),
        rsqrt("scale", "shifted", device, BF16),
        Stage("centre", "same", ("mean",), BF16),
        Stage("centred", "sub", ("x", "centre"), BF16),
        Stage("y", "mul", ("centred", "scale"), BF16),
    )


_NUMERICS = Numerics(
    _stages, "amd/IRON aie_kernels/aie2/layer_norm.cc, aie2p/layer_norm.cc", _arrange, sets=sets_conv_even
)


SPEC = OperatorSpec(
    type="LayerNorm",
    summary="C = (A - mean(A)) / sqrt(var(A) + 1e-5), row by row, biased variance",
    aliases=("layer_norm", "AIELayerNorm"),
    params=(
        Param("size", int, None, help="elements in all"),
        Param("num_aie_columns", int, 1, decides=False),
        Param("num_channels", int, 1, decides=False),
        Param("tile_size", int, help="elements per row"),
        Param("rows", int, None, help="in place of size since September 2026 (iron/common/elementwise.py, Rowwise)"),
    ),
    args=_args,
    flavours=every(_layer_norm),
    tolerance={"*": relative(0.1, 0.1).from_source("amd/IRON iron/operators/layer_norm: the kernel sums in bf16")},
    tiling=lambda p: streamed(SimpleNamespace(**{**vars(p), "size": math.prod(rows_of("LayerNorm", p))})),
    numerics=_NUMERICS,
    source="amd/IRON iron/operators/layer_norm",
    no_reference=("pr117",),
)
