# SPDX-License-Identifier: Apache-2.0
"""The software NPU's own kernels, by operator type.

Tested in tests/simulator/test_catalogue.py.
"""

from __future__ import annotations

from functools import cache

from fusion_replay.simulator.kernels import (
    activation,
    conv,
    dequant,
    dual_gemv,
    elementwise,
    emit,
    flowkv,
    gemm,
    gemv,
    gqa,
    mha,
    movement,
    norm,
    pointwise,
    rope,
    sample,
    softmax,
)
from fusion_replay.simulator.kernels._base import Kernel

_FAMILIES = (
    elementwise,
    activation,
    pointwise,
    norm,
    softmax,
    rope,
    gemv,
    dual_gemv,
    gemm,
    mha,
    gqa,
    flowkv,
    conv,
    dequant,
    sample,
    emit,
    movement,
)


@cache
def builtin_kernels() -> dict[str, Kernel]:
    return {kernel.type: kernel for family in _FAMILIES for kernel in family.KERNELS}


__all__ = ["builtin_kernels"]
