# SPDX-License-Identifier: Apache-2.0
"""Stages that several operators' kernels share: tanh, sigmoid, SiLU and GELU on either device, reciprocal roots.

AIE2P has a bfloat16 tanh instruction, AIE2 reads tables. None of these sets the rounding mode.

Tested in tests/refs/test_numerics.py and tests/compare/numerics/test_functions.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from fusion_replay.compare.numerics.intervals import even_bf16
from fusion_replay.compare.numerics.stages import ABSOLUTE, BF16, FLOAT32, RELATIVE, ULPS, Constant, Numerics, Stage

_LUT = "Xilinx/mlir-aie aie_runtime_lib/AIE2/lut_based_ops.h"

TANH = {
    "npu1": Constant(
        -0.0085,
        0.0085,
        ABSOLUTE,
        f"{_LUT}: 32 linear segments of 1/4; largest distance of chords with bf16 slopes",
        "assumed",
    ),
    "npu2": Constant(
        -1, 1, ULPS, "amd/IRON aie_kernels/aie2p/tanh.cc: a bf16 instruction; accuracy not given", "assumed"
    ),
}
RSQRT = {
    "npu1": Constant(
        -1.76e-3, 5e-7, RELATIVE, "amd/IRON aie_kernels/aie2/aie2_math.h: magic number, one Newton step", "documented"
    ),
    "npu2": Constant(
        -6e-6, 5e-7, RELATIVE, "Xilinx/mlir-aie python/utils/aie2p_emulation.py: two Newton steps", "documented"
    ),
}
_GELU_TABLE = Constant(
    -0.0025, 0.0025, ABSOLUTE, "Xilinx/mlir-aie python/utils/aie2p_emulation.py: 64 segments of 1/8, chords", "assumed"
)


def bf16_constant(x: float) -> float:
    """A constant that a compiler rounded to the nearest bfloat16."""
    return float(even_bf16(np.array([x], np.float32))[0])


def tanh(name: str, of: str, device: str) -> Stage:
    by = "tanh_segments" if device == "npu1" else None
    return Stage(name, "tanh", (of,), BF16, by=by, error=TANH[device], within=(-1.0, 1.0))


def sigmoid(device: str) -> tuple[Stage, ...]:
    """``(1 + tanh(x / 2)) / 2``: amd/IRON aie_kernels/aie2/sigmoid.cc, aie2p/sigmoid.cc."""
    return (
        Stage("half", "mul", ("x", 0.5), BF16 if device == "npu1" else FLOAT32),
        tanh("t", "half", device),
        Stage("sum", "add", ("t", 1.0), BF16),
        Stage("gate", "mul", ("sum", 0.5), BF16),
    )


def silu(device: str) -> tuple[Stage, ...]:
    """amd/IRON aie_kernels/aie2/silu.cc, aie2p/silu.cc."""
    return (*sigmoid(device), Stage("y", "mul", ("x", "gate"), BF16))


def gelu(device: str) -> tuple[Stage, ...]:
    """AIE2: a table. AIE2P: every result a bfloat16 vector, tanh's argument in the accumulator (aie2p/gelu.cc)."""
    if device == "npu1":
        return (Stage("y", "gelu", ("x",), BF16, by="gelu_segments", error=_GELU_TABLE),)
    return (
        Stage("square", "mul", ("x", "x"), BF16),
        Stage("cube", "mul", ("x", "square"), BF16),
        Stage("bent", "mul", ("cube", bf16_constant(0.044715)), BF16),
        Stage("inner", "add", ("x", "bent"), BF16),
        Stage("argument", "mul", ("inner", bf16_constant(0.7978845608028654))),
        tanh("t", "argument", device),
        Stage("sum", "add", ("t", 1.0), BF16),
        Stage("weight", "mul", ("sum", 0.5), BF16),
        Stage("y", "mul", ("x", "weight"), BF16),
    )


def _silu(_params: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    return silu(device)


def _gelu(_params: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    return gelu(device)


def _sigmoid(_params: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    return sigmoid(device)


def _tanh(_params: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    return (tanh("y", "x", device),)


SILU = Numerics(_silu, "amd/IRON aie_kernels/aie2/silu.cc, aie2p/silu.cc", unary=True)
GELU = Numerics(_gelu, "amd/IRON aie_kernels/aie2p/gelu.cc", unary=True)
SIGMOID = Numerics(_sigmoid, "amd/IRON aie_kernels/aie2/sigmoid.cc, aie2p/sigmoid.cc", unary=True)
TANH_KERNEL = Numerics(_tanh, "amd/IRON aie_kernels/aie2/tanh.cc, aie2p/tanh.cc", unary=True)


def elementwise(op: str, source: str) -> Numerics:
    """float32 result of two bfloat16 elements, stored once in whatever mode the core is."""

    def stages(_params: SimpleNamespace, _device: str) -> tuple[Stage, ...]:
        return (Stage("z", op, ("x", "y"), BF16),)

    return Numerics(stages, source)


def rsqrt(name: str, of: str, device: str, store: str = FLOAT32) -> Stage:
    return Stage(name, "rsqrt", (of,), store, by="newton1" if device == "npu1" else "newton2", error=RSQRT[device])
