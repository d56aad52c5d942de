# SPDX-License-Identifier: Apache-2.0
import os

from .hostruntime import set_current_device
from .hostruntime.tensor_class import Tensor
from .hostruntime.xrtruntime.hostruntime import CachedXRTRuntime

_DefaultNPURuntime = None


def __getattr__(name):
    global _DefaultNPURuntime
    if name == "DEFAULT_TENSOR_CLASS":  # of the runtime that IRON_RUNTIME selects
        return Tensor
    if name != "DefaultNPURuntime":
        raise AttributeError(name)
    if _DefaultNPURuntime is None:
        _DefaultNPURuntime = CachedXRTRuntime()  # opens the device
    return _DefaultNPURuntime


def tensor(array):
    return Tensor.from_numpy(array)


def get_current_device():
    from aie.iron.device import NPU2

    return NPU2()


__all__ = ["CachedXRTRuntime", "get_current_device", "os", "set_current_device", "tensor"]
