# SPDX-License-Identifier: Apache-2.0
"""V0a and V0b: before pull request 117, amd/IRON ``iron/common/fusion.py``.

V0b follows that file as a branch had it (no commit known): the class itself chooses between full ELF (NPU2) and chained
xclbins, one ``NPUKernel`` call per step; slices are ``XRTSubBuffer`` without a parent. V0a follows andrej/IRON at
14e7b2eb (the eight digits are all that is known): one kernel over three arenas. Differences: nothing is compiled;
V0a's PDI patching is an empty shell.
"""

from __future__ import annotations

import time
from typing import Any

from iron_doubles import layout
from iron_doubles.machine import MACHINE, NPUKernel
from iron_doubles.old_tensors import XRTSubBuffer, XRTTensor
from iron_doubles.operators import BF16
from iron_doubles.whole import FullELF


class FusedMLIROperator:
    full_elf = False  # the file asks the current device

    def __init__(self, name: str, runlist: Any, input_args: Any, output_args: Any, buffer_sizes: Any = None) -> None:
        self.name, self.runlist, self.input_args, self.output_args = name, runlist, input_args, output_args
        self.explicit_buffer_sizes = buffer_sizes or {}

    def _calculate_buffer_layout(self) -> Any:
        return layout.calculate(self.runlist, self.input_args, self.output_args, self.explicit_buffer_sizes)

    def compile(self) -> Any:
        self.subbuffer_layout, self.buffer_sizes, self.slice_info = self._calculate_buffer_layout()
        link(self)
        return self

    def get_callable(self) -> Any:
        return FusedFullELFCallable(self) if self.full_elf else FusedXclbinCallable(self)


def link(seq: Any) -> None:
    """The maps that a compiled sequence of V0b to V1b carries itself."""
    seq.combined_xclbin = "combined.xclbin"
    seq._op_xclbin_map, seq._op_insts_map, seq._op_kernel_name_map = {}, {}, {}
    for index, op in enumerate(layout.unique(seq.runlist)):
        name = layout.label(seq.name, index)
        MACHINE.designs[name] = op
        seq._op_xclbin_map[id(op)], seq._op_insts_map[id(op)] = f"{name}.xclbin", f"{name}.bin"
        seq._op_kernel_name_map[id(op)] = name


class FusedXclbinCallable:
    def __init__(self, op: Any) -> None:
        self.op, self.last_elapsed = op, 0.0
        self._op_callable_map = {
            key: NPUKernel(op.combined_xclbin, op._op_insts_map[key], kernel_name=op._op_kernel_name_map[key])
            for key in op._op_xclbin_map
        }
        self._buffers: dict[str, Any] = {
            name: XRTTensor((max(length, 2) // 2,), BF16) for name, (_, _, length) in op.subbuffer_layout.items()
        }
        self._execution_plan = [
            (self._op_callable_map[id(step_op)], [self._resolve_buffer(name) for name in names])
            for step_op, *names in op.runlist
        ]
        self._buffer_cache: dict[str, Any] = {}
        self.input_buffer, self.output_buffer, self.scratch_buffer = (
            XRTTensor((max(n, 2) // 2,), BF16) for n in op.buffer_sizes
        )

    def _resolve_buffer(self, name: str) -> Any:
        if name not in self._buffers:
            base, start, end = self.op.slice_info[name]
            bo = self._buffers[base].buffer_object()
            self._buffers[name] = self._slice(base, bo, start, end - start)
        return self._buffers[name]

    def _slice(self, base: str, bo: Any, start: int, size: int) -> Any:
        return XRTSubBuffer(parent_bo=bo, offset_bytes=start, size_bytes=size, shape=(size // 2,), dtype=BF16)

    def get_buffer(self, name: str) -> Any:
        return self._buffer_cache.setdefault(name, self._resolve_buffer(name))

    def __call__(self) -> None:
        for name in self.op.input_args:
            self._buffers[name]._sync_to_device()
        t0 = time.perf_counter()
        for kernel, args in self._execution_plan:
            kernel(*args)
        self.last_elapsed = time.perf_counter() - t0
        for name in self.op.subbuffer_layout:
            if name not in self.op.input_args:
                self._buffers[name]._sync_from_device()


class FusedFullELFCallable(FullELF):
    """A buffer is a slice that shares nothing with its arena but memory."""

    tensor = XRTTensor

    def view(self, arena: Any, offset: int, nbytes: int, dtype: Any) -> Any:
        return XRTSubBuffer(arena.buffer_object(), offset, nbytes, (nbytes // 2,), BF16)

    def __call__(self) -> None:
        self.input_buffer._sync_to_device()
        super().__call__()


class FusedXclbinCallableV0a(FusedFullELFCallable):
    """One kernel, ``MLIR_AIE``, for the whole runlist."""

    def __init__(self, op: Any) -> None:
        super().__init__(op)
        self.xrt_kernel = NPUKernel("fused.xclbin", "fused.bin")

    def patch_rtp(self, name: str, value: int) -> None: ...

    def patch_magic(self, value: int, magic: int) -> None: ...

    def reload_insts(self) -> None: ...


FusedXclbinCallableV0a.__name__ = "FusedXclbinCallable"
