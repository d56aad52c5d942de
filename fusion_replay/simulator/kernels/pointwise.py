# SPDX-License-Identifier: Apache-2.0
"""Pointwise: one core program of three kernels, ElementwiseAdd's, ElementwiseMul's and GELU's, chosen by ``mode``.

``iron/operators/pointwise/design.py`` of a fork of amd/IRON; AIE2P's GELU is built for it alone.
"""

from __future__ import annotations

from dataclasses import replace

from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels import activation, elementwise
from fusion_replay.simulator.kernels._base import Kernel, require, streamed_rules

_TYPE = "Pointwise"
_OF_MODE = {
    "add": elementwise.ADD,
    "mul": elementwise.MUL,
    "gelu": next(k for k in activation.KERNELS if k.type == "GELU"),
}


def _pointwise(d: Dispatch) -> list[Array]:
    inputs = d.inputs[:1] if d.params.mode == "gelu" else d.inputs
    return _OF_MODE[d.params.mode].compute(replace(d, inputs=inputs))


def _rules(p: Params, core: Core) -> None:
    require(core.generation == "npu2", _TYPE, "device", "npu2, for whose GELU it is built", core.generation)
    require(p.mode in _OF_MODE, _TYPE, "mode", "'add', 'mul' or 'gelu'", repr(p.mode))
    streamed_rules(_TYPE)(p, core)


def _note(p: Params, core: Core) -> str:
    return _OF_MODE[p.mode].note(p, core)


KERNELS = (Kernel(_TYPE, _pointwise, _rules, _note, "amd/IRON aie_kernels/generic/add.cc, mul.cc, aie2p/gelu.cc"),)
