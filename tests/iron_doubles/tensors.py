# SPDX-License-Identifier: Apache-2.0
"""Doubles of mlir-aie's tensor over an allocation that knows who wrote which line.

Follows Xilinx/mlir-aie ``python/utils/hostruntime/tensor_class.py`` at 07f5158f63e5ed387aa6231b262ac4b35c011d1f and
``xrtruntime/tensor.py`` at 20e6836917338957ca9a552d73c8dadc9c812a6a. Differences: the file fills a new buffer with
zeros on both sides, here the device side is poisoned; ``torch_view()`` gives the numpy array itself (no torch needed).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from iron_doubles.memory import GRANULE, Allocation


class XRTTensor:
    def __init__(self, shape: tuple[int, ...], dtype: Any = np.uint32, device: str = "npu") -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self.allocation, self.start = Allocation(self.nbytes), 0
        self._parent: XRTTensor | None = None

    @property
    def storage(self) -> Allocation:
        return self.allocation

    def _coherence(self) -> np.ndarray:
        return self.allocation.host_wrote

    @property
    def _lines(self) -> slice:
        return slice(self.start // GRANULE, -(-(self.start + self.nbytes) // GRANULE))

    def _runs(self, host: bool) -> list[tuple[int, int]]:
        first, stop = self.start // GRANULE, self.start + self.nbytes
        found = np.flatnonzero(self.allocation.host_wrote[self._lines] == host) + first
        together = np.split(found, np.flatnonzero(np.diff(found) != 1) + 1)  # lines in a row are one transfer
        return [(int(g[0]) * GRANULE, min(int(g[-1] + 1) * GRANULE, stop)) for g in together if g.size]

    @property
    def device(self) -> str:
        return "cpu" if self.allocation.host_wrote[self._lines].any() else "npu"

    @device.setter
    def device(self, side: str) -> None:
        self.allocation.host_wrote[self._lines] = side == "cpu"

    def to(self, side: str) -> XRTTensor:
        for lo, hi in self._runs(host=side == "npu"):
            (self.allocation.push if side == "npu" else self.allocation.pull)(lo, hi)
        self.device = side
        return self

    def _sync_from_device(self) -> None:
        self.allocation.pull(self.start, self.start + self.nbytes)

    def _sync_to_device(self) -> None:
        self.allocation.push(self.start, self.start + self.nbytes)

    @property
    def data(self) -> np.ndarray:
        return self.allocation.host[self.start : self.start + self.nbytes].view(self.dtype).reshape(self.shape)

    _data = data

    def numpy(self) -> np.ndarray:
        for lo, hi in self._runs(host=False):
            self.allocation.pull(lo, hi)
        return self.data

    def torch_view(self) -> np.ndarray:
        self.device = "cpu"
        return self.data

    numpy_view = torch_view

    def subview(self, offset: int, shape: tuple[int, ...], dtype: Any = None) -> XRTTensor:
        view = type(self).__new__(type(self))
        view.shape, view.dtype = tuple(shape), np.dtype(self.dtype if dtype is None else dtype)
        view.nbytes = math.prod(view.shape) * view.dtype.itemsize
        view.allocation, view.start, view._parent = self.allocation, self.start + offset, self
        end = offset + view.nbytes
        if offset % GRANULE or end > self.nbytes or (view.nbytes % GRANULE and end != self.nbytes):
            raise ValueError(f"subview [{offset}:{end}] of {self.nbytes} bytes is not aligned to {GRANULE}")
        return view

    def on_device(self) -> np.ndarray:
        """The machine's own access; no file has it."""
        return self.allocation.device[self.start : self.start + self.nbytes]
