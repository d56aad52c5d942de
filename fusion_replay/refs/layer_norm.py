# SPDX-License-Identifier: Apache-2.0
"""LayerNorm without weight and bias: each row of ``tile_size`` elements of A, shifted and scaled to mean 0, variance 1.

torch's layer_norm (float32 inside) and the numpy form round once, so one form serves every flavour.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

from fusion_replay.compare.tolerance import relative
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, every
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs.rms_norm import rows_of

_EPSILON = 1e-5  # torch.nn.functional.layer_norm's default, and the kernel's (Xilinx/mlir-aie layer_norm.cc)


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    size = math.prod(rows_of("LayerNorm", p))
    return ArgSpec("A", "in", (size,)), ArgSpec("C", "out", (size,))


def _layer_norm(call: Call, a: Array) -> Array:
    xp = call.xp
    x = xp.reshape(a, rows_of("LayerNorm", call.params))
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    return centred / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + _EPSILON)


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
    source="amd/IRON iron/operators/layer_norm",
    no_reference=("pr117",),
)
