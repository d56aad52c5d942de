# SPDX-License-Identifier: Apache-2.0
import os
import time
import weakref
from pathlib import Path

import numpy as np

from ..hostruntime import HostRuntime, HostRuntimeError, KernelResult
from ..tensor_class import Tensor


def _wide(tensor):
    return tensor._view("npu").astype(np.float32)


def _hang(*_):
    time.sleep(float(os.environ.get("FAKE_HANG", "30")))


def _fail(*_):
    raise HostRuntimeError("Kernel returned ert_cmd_state.ERT_CMD_STATE_TIMEOUT")


def _into(function):
    def run(*tensors):
        *inputs, out = tensors
        out._view("npu")[...] = function(*map(_wide, inputs)).astype(out.dtype)

    return run


KERNELS = {
    "ElementwiseAdd": _into(lambda a, b: a + b),
    "ElementwiseMul": _into(lambda a, b: a * b),
    "ReLU": _into(lambda a: np.maximum(a, 0)),
    "Hang": _hang,
    "Fail": _fail,
}


class XRTKernelHandle:
    def __init__(self, function):
        self.function = function


class XRTHostRuntime(HostRuntime):
    _tensor_class = Tensor

    def __init__(self):
        if log := os.environ.get("FAKE_DEVICE_LOG"):
            with open(log, "a") as file:
                file.write("device opened\n")

    def load(self, npu_kernel, **kwargs):
        text = Path(npu_kernel.elf_path or npu_kernel.xclbin_path).read_text()
        return XRTKernelHandle([KERNELS[name] for name in text.split()])

    def run(self, kernel_handle, args, **kwargs):
        args = [a for a in args if not callable(a)]
        if not all(isinstance(a, self._tensor_class) for a in args):
            raise HostRuntimeError(f"can only take Tensor as arguments, but got: {args}")
        for a in args:
            a.to("npu")
        for function in kernel_handle.function:
            function(*args)
        return KernelResult(1500, "ert_cmd_state.ERT_CMD_STATE_COMPLETED")


class CachedXRTRuntime(XRTHostRuntime):
    def __init__(self):
        super().__init__()
        self._context_cache = {}

    def load(self, npu_kernel, **kwargs):
        handle = super().load(npu_kernel)
        path = Path(npu_kernel.elf_path or npu_kernel.xclbin_path)
        key = (str(path.resolve()), path.stat().st_mtime)
        self._context_cache.setdefault(key, {"handles": []})["handles"].append(weakref.ref(handle))
        return handle

    def run(self, kernel_handle, args, only_if_loaded=False, **kwargs):
        return super().run(kernel_handle, args, **kwargs)

    def load_and_run(self, npu_kernel, run_args, **kwargs):
        return super().load_and_run(npu_kernel, run_args, **kwargs)
