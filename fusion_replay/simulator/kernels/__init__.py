# SPDX-License-Identifier: Apache-2.0
"""The kernels of the software NPU, one file per family: a functional model of AIE2 (npu1) and AIE2P (npu2) numerics.

Nothing here imports the references or their rounding: the two are written apart, from public sources, so that their
agreement means something. What is modelled: where results are narrowed to bfloat16 and by which rounding, the order and
width of sums, the tables, block floating point. What is not: time, memory layout, data races.
"""

from __future__ import annotations

from fusion_replay.errors import UnknownOperatorError
from fusion_replay.simulator.kernels._base import Kernel
from fusion_replay.simulator.kernels.builtin import builtin_kernels
from fusion_replay.simulator.kernels.user import user_kernel, user_kernels


def find_kernel(op_type: str) -> Kernel:
    """The kernel of an operator, by IRON's class name; a user's (:mod:`.user`) comes before the software NPU's own.

    Raises:
        UnknownOperatorError: the software NPU has none.
    """
    found = user_kernel(op_type) or builtin_kernels().get(op_type)
    if found is None:
        known = ", ".join(sorted({*builtin_kernels(), *user_kernels()}))
        raise UnknownOperatorError(
            f"the software NPU has no kernel for operator {op_type!r}; it has: {known}. "
            f"Declare one with @fusion_replay.kernel({op_type!r})"
        )
    return found


def has_kernel(op_type: str) -> bool:
    """Whether :func:`find_kernel` would find one."""
    return user_kernel(op_type) is not None or op_type in builtin_kernels()


__all__ = ["Kernel", "builtin_kernels", "find_kernel", "has_kernel"]
