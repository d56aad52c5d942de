# SPDX-License-Identifier: Apache-2.0
"""Pointwise: addition, product or GELU as one core program, chosen by ``mode``; GELU ignores B.

The kernels are those of ElementwiseAdd, ElementwiseMul and GELU, and so are the references. An operator of a fork of
IRON whose sequences share one device among such steps; it has no ``reference()`` of its own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fusion_replay.compare.numerics.stages import Numerics, Stage
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import FLAVOURS, Call, OperatorSpec, Param
from fusion_replay.operators.flavours import FlavourFn
from fusion_replay.operators.tiling import streamed
from fusion_replay.refs import elementwise_add, elementwise_mul, gelu
from fusion_replay.refs._elementwise import binary_args

_OF_MODE = {"add": elementwise_add.SPEC, "mul": elementwise_mul.SPEC, "gelu": gelu.SPEC}


def _of(p: SimpleNamespace) -> OperatorSpec:
    if p.mode not in _OF_MODE:
        raise UsageError(f"Pointwise: mode {p.mode!r}: expected 'add', 'mul' or 'gelu'")
    return _OF_MODE[p.mode]


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    _of(p)
    return binary_args(p)


def _form(flavour: str) -> FlavourFn:
    def form(call: Call, a: Array, b: Array) -> Any:
        inputs = (a,) if call.params.mode == "gelu" else (a, b)
        return _of(call.params).flavour(flavour)[1](call, *inputs)

    return form


def _tolerance(p: SimpleNamespace) -> Tolerance:
    return _OF_MODE["gelu" if p.mode is None else p.mode].tolerance_for("npu2")


def _stages(p: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    numerics = _of(p).numerics
    assert numerics is not None  # all three state theirs
    return numerics.stages(p, device)


SPEC = OperatorSpec(
    type="Pointwise",
    summary="C = A + B, A * B or gelu(A), as mode says",
    aliases=("pointwise",),
    params=(
        Param("size", int, help="elements"),
        Param("tile_size", int, None, decides=False),
        Param("mode", str, help='"add", "mul" or "gelu"'),
        Param("num_aie_columns", int, 8, decides=False),
    ),
    args=_args,
    elementwise=True,
    flavours={flavour: _form(flavour) for flavour in FLAVOURS},
    tolerance={"*": _tolerance},
    devices=("npu2",),
    tiling=streamed,
    numerics=Numerics(
        _stages,
        "amd/IRON aie_kernels/generic/add.cc, generic/mul.cc, aie2p/gelu.cc",
        devices=("npu2",),
    ),
    source="amd/IRON iron/operators/pointwise/{op,design}.py of a fork of September 2026, no commit known",
    no_reference=("pr117", "iron-2026-08", "iron-2026-09"),
)
