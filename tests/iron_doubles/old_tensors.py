# SPDX-License-Identifier: Apache-2.0
"""Doubles of the tensors with a flag each, and of the slices that share nothing with their parent but memory.

``XRTTensor``: Xilinx/mlir-aie ``python/utils/hostruntime/{tensor_class,xrtruntime/tensor}.py`` of 2025 to early 2026
(commit not known). ``XRTSubBuffer``: amd/IRON ``iron/common/utils.py`` before pull request 117. ``FlaggingSubBuffer``:
the same file in the pull request's time, whose ``data`` marks slice and parent as host-written and whose ``to()`` moves
the whole parent. Commits are not known. Differences: new buffers are poisoned on the device side, not filled with
zeros; ``torch_view()`` gives the numpy array; a push sends what the host wrote (see ``Allocation.flush``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from iron_doubles.memory import Allocation


class Bo:
    """A pyxrt buffer object, or a sub-buffer of one."""

    def __init__(self, allocation: Allocation, nbytes: int, offset: int = 0) -> None:
        self.allocation, self.start, self.stop = allocation, offset, offset + nbytes


class XRTTensor:
    def __init__(self, shape: tuple[int, ...], dtype: Any = np.uint32, device: str = "npu") -> None:
        self.dtype, self.device, self._shape = np.dtype(dtype), device, tuple(shape)
        nbytes = math.prod(self._shape) * self.dtype.itemsize
        self._map(Bo(Allocation(nbytes), nbytes))

    def _map(self, bo: Bo) -> None:
        self._bo, self.allocation = bo, bo.allocation
        self._data = bo.allocation.mapped(bo.start, bo.stop).view(self.dtype).reshape(self._shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def data(self) -> np.ndarray:
        return self._data

    @property
    def nbytes(self) -> int:
        return int(self._data.nbytes)

    def buffer_object(self) -> Bo:
        return self._bo

    def to(self, side: str) -> Any:
        if side != self.device:
            self._sync_to_device() if side == "npu" else self._sync_from_device()
            self.device = side
        return self

    def _sync_to_device(self) -> None:
        self.allocation.flush(self._bo.start, self._bo.stop)

    def _sync_from_device(self) -> None:
        self.allocation.pull(self._bo.start, self._bo.stop)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.device == "npu":
            self._sync_from_device()
        return self.data

    def numpy(self) -> np.ndarray:
        return self.__array__()

    def torch_view(self) -> np.ndarray:
        self.device = "cpu"
        return self.data

    def on_device(self) -> np.ndarray:
        """The machine's own access; no file has it."""
        return self.allocation.device[self._bo.start : self._bo.stop]


class XRTSubBuffer(XRTTensor):
    def __init__(self, parent_bo: Bo, offset_bytes: int, size_bytes: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.device, self.dtype, self._shape = "npu", np.dtype(dtype), tuple(shape)
        self._map(Bo(parent_bo.allocation, size_bytes, parent_bo.start + offset_bytes))

    def to(self, side: str) -> Any:
        self._sync_to_device() if side == "npu" else self._sync_from_device()
        return self


class FlaggingSubBuffer(XRTTensor):
    def __init__(
        self,
        parent_bo: Bo,
        offset_bytes: int,
        size_bytes: int,
        shape: tuple[int, ...],
        dtype: Any,
        parent: XRTTensor | None = None,
    ) -> None:
        self.device, self.dtype, self._shape, self._parent = "npu", np.dtype(dtype), tuple(shape), parent
        self._map(Bo(parent_bo.allocation, size_bytes, parent_bo.start + offset_bytes))

    @property
    def data(self) -> np.ndarray:
        self.device = "cpu"
        if self._parent is not None:
            self._parent.device = "cpu"
        return self._data

    def to(self, side: str) -> Any:
        if self._parent is None:
            return super().to(side)
        self._parent.device = self.device
        self._parent.to(side)
        self.device = self._parent.device
        return self
