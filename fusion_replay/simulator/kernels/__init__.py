# SPDX-License-Identifier: Apache-2.0
"""The kernels of the software NPU, one file per family: a functional model of AIE2 (npu1) and AIE2P (npu2) numerics.

Nothing here imports the references or their rounding: the two are written apart, from public sources, so that their
agreement means something. What is modelled: where results are narrowed to bfloat16 and by which rounding, the order and
width of sums, the tables, block floating point. What is not: time, memory layout, data races.
"""

from __future__ import annotations

from functools import cache

from fusion_replay.errors import UnknownOperatorError
from fusion_replay.simulator.kernels import (
    activation,
    conv,
    dequant,
    dual_gemv,
    elementwise,
    emit,
    gemm,
    gemv,
    gqa,
    mha,
    movement,
    norm,
    rope,
    sample,
    softmax,
    user,
)
from fusion_replay.simulator.kernels._base import Kernel

_FAMILIES = (
    elementwise,
    activation,
    norm,
    softmax,
    rope,
    gemv,
    dual_gemv,
    gemm,
    mha,
    gqa,
    conv,
    dequant,
    sample,
    emit,
    movement,
)


@cache
def builtin_kernels() -> dict[str, Kernel]:
    """The software NPU's own, by operator type."""
    return {kernel.type: kernel for family in _FAMILIES for kernel in family.KERNELS}


def find_kernel(op_type: str) -> Kernel:
    """The kernel of an operator, by IRON's class name; a user's (:mod:`.user`) comes before the software NPU's own.

    Raises:
        UnknownOperatorError: the software NPU has none.
    """
    found = user.user_kernel(op_type) or builtin_kernels().get(op_type)
    if found is None:
        known = ", ".join(sorted({*builtin_kernels(), *user.user_kernels()}))
        raise UnknownOperatorError(
            f"the software NPU has no kernel for operator {op_type!r}; it has: {known}. "
            f"Declare one with @fusion_replay.kernel({op_type!r})"
        )
    return found


def has_kernel(op_type: str) -> bool:
    """Whether :func:`find_kernel` would find one."""
    return user.user_kernel(op_type) is not None or op_type in builtin_kernels()


__all__ = ["Kernel", "builtin_kernels", "find_kernel", "has_kernel"]
