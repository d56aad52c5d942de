# SPDX-License-Identifier: Apache-2.0
import ml_dtypes
import numpy as np


class Tensor:
    """Host and device bytes; ``numpy()`` pulls and claims nothing, ``numpy_view()`` does the opposite."""

    def __init__(self, shape, dtype=ml_dtypes.bfloat16, *, memory=None, start=0):
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.dtype = np.dtype(dtype)
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._start = start
        if memory is None:
            memory = {"host": np.zeros(self.nbytes, np.uint8), "npu": np.full(self.nbytes, 0x55, np.uint8)}
            memory["side"] = "host"
        self._coherence = memory

    @classmethod
    def from_numpy(cls, array):
        tensor = cls(array.shape, array.dtype)
        tensor.numpy_view()[...] = array
        return tensor

    def subview(self, offset, shape, dtype):
        return type(self)(shape, dtype, memory=self._coherence, start=self._start + offset)

    def _bytes(self, side):
        return self._coherence[side][self._start : self._start + self.nbytes]

    def _view(self, side):
        return self._bytes(side).view(self.dtype).reshape(self.shape)

    def to(self, side):
        wanted = "npu" if side == "npu" else "host"
        if self._coherence["side"] != wanted:
            self._coherence[wanted][:] = self._coherence[self._coherence["side"]]
            self._coherence["side"] = wanted
        return self

    def numpy(self):
        if self._coherence["side"] == "npu":
            self._coherence["host"][:] = self._coherence["npu"]
        return self._view("host")

    def numpy_view(self):
        self._coherence["side"] = "host"
        return self._view("host")

    torch_view = numpy_view
