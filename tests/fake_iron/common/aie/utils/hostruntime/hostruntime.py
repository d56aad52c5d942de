# SPDX-License-Identifier: Apache-2.0
from abc import ABC, abstractmethod


class HostRuntimeError(RuntimeError):
    pass


class KernelResult:
    def __init__(self, npu_time, ret):
        self.npu_time, self.ret = npu_time, ret


class HostRuntime(ABC):
    @abstractmethod
    def load(self, npu_kernel, **kwargs): ...

    @abstractmethod
    def run(self, kernel_handle, args, **kwargs): ...

    def load_and_run(self, npu_kernel, run_args, **kwargs):
        handle = self.load(npu_kernel, **kwargs)
        return handle, self.run(handle, list(run_args))
