# SPDX-License-Identifier: Apache-2.0
"""The device behind the doubles: runs operators on device memory alone and writes down what it saw and wrote.

Kernel and runtime follow Xilinx/mlir-aie ``python/utils/npukernel.py`` at 0097bae1cadd31264f6966047daedcded1a33057 and
``python/utils/hostruntime/xrtruntime/hostruntime.py`` at 032d8b2c9929e4139de73488cf6b8b8654309ff1: every argument goes
``to("npu")`` first, and nothing is claimed or pulled afterwards. Differences: the real one checks types and counts of
arguments and caches contexts; ``run_chain`` is the HRX runtime's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class XRTKernelResult:
    npu_time: int
    ret: str = "ert_cmd_state.ERT_CMD_STATE_COMPLETED"

    def is_success(self) -> bool:
        return True


@dataclass
class Dispatch:
    """Bytes of every argument on the device, before and after the kernel."""

    op: Any
    before: list[np.ndarray]
    after: list[np.ndarray]
    scalars: dict[str, Any]


@dataclass
class Machine:
    designs: dict[str, Any] = field(default_factory=dict)
    log: list[Dispatch] = field(default_factory=list)
    fail_at: int = -1
    broken: Any = None
    """What is wrong with fused images: called after each of their steps with the runlist entry, the dispatches that the
    image has had, and the step's device memory after and before."""

    def run(self, kernel_name: str, args: list[Any], scalars: dict[str, Any]) -> XRTKernelResult:
        op = self.designs[kernel_name]
        for tensor in args:
            tensor.to("npu")
        if len(self.log) == self.fail_at:
            raise RuntimeError("Kernel returned ert_cmd_state.ERT_CMD_STATE_TIMEOUT")
        memory = [tensor.on_device() for tensor in args]
        before = [m.copy() for m in memory]
        op.device(memory, scalars)
        self.log.append(Dispatch(op, before, [m.copy() for m in memory], dict(scalars)))
        return XRTKernelResult(1000 + len(self.log))


MACHINE = Machine()


class Handle:
    def __init__(self, kernel_name: str) -> None:
        self.kernel_name = kernel_name


class Runtime:
    def load(self, kernel: Any) -> Handle:
        return Handle(kernel.kernel_name)

    def run(self, handle: Handle, args: list[Any], **scalars: Any) -> XRTKernelResult:
        return MACHINE.run(handle.kernel_name, list(args), scalars)

    def load_and_run(self, kernel: Any, args: list[Any], **scalars: Any) -> tuple[Handle, XRTKernelResult]:
        handle = self.load(kernel)
        return handle, self.run(handle, args, **scalars)

    def run_chain(self, plan: list[tuple[Handle, list[Any]]]) -> None:
        for handle, args in plan:
            self.run(handle, args)


DefaultNPURuntime = Runtime()


class NPUKernel:
    """Before dispatches took scalars."""

    def __init__(
        self,
        xclbin_path: Any,
        insts_path: Any,
        device_index: int = 0,
        kernel_name: str = "MLIR_AIE",
        trace_config: Any = None,
    ) -> None:
        self.xclbin_path, self.insts_path, self.kernel_name = xclbin_path, insts_path, kernel_name
        self.trace_config = trace_config

    def __call__(self, *args: Any) -> tuple[Handle, XRTKernelResult]:
        return DefaultNPURuntime.load_and_run(self, list(args))


class DispatchKernel(NPUKernel):
    """``NPUKernel`` since late August 2026: ``dispatch_params`` names the scalars of a call."""

    def __init__(
        self,
        xclbin_path: Any = None,
        insts_path: Any = None,
        kernel_name: str = "MLIR_AIE",
        dispatch_params: Any = (),
        dispatch_lib_path: Any = None,
        elf_path: Any = None,
    ) -> None:
        super().__init__(xclbin_path, insts_path, kernel_name=kernel_name)
        self.dispatch_params, self.dispatch_lib_path, self.elf_path = (
            tuple(dispatch_params),
            dispatch_lib_path,
            elf_path,
        )

    def __call__(self, *args: Any, **scalars: Any) -> tuple[Handle, XRTKernelResult]:
        if set(scalars) != set(self.dispatch_params):
            raise TypeError(f"{self.kernel_name} takes {self.dispatch_params}, got {sorted(scalars)}")
        return DefaultNPURuntime.load_and_run(self, list(args), **scalars)
