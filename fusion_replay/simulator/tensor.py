# SPDX-License-Identifier: Apache-2.0
"""The software NPU's tensor: IRON's buffer object with its coherence rules, traps included.

Mirrors the surface of ``NpuTensor`` / ``XRTTensor`` (Xilinx/mlir-aie python/utils/hostruntime/tensor_class.py and
xrtruntime/tensor.py):

============================================  ====================================================================
``numpy()``, ``t[...]``, ``np.asarray(t)``    fetch what the device wrote; do not claim the host side
``torch_view()``, ``numpy_view()``            raw host memory; fetch nothing; mark the whole tensor host-written
``t[...] = v``, ``fill_``, ``mutate()``, ...  recorded writes: the next ``to("npu")`` sends them
``data``, ``numpy()[...] = v``                unrecorded writes: the device never sees them (amd/IRON issue 181)
``to("npu")``, ``to("cpu")``                  move what differs, then claim that side
``device = side``                             claims a side without moving anything
============================================  ====================================================================

One difference, on purpose: where both copies agree, reading costs nothing and returns the host memory itself. The
real class transfers again there, which a cache makes cheap on its machine and a copy would not on ours.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fusion_replay.errors import MissingDependencyError, UsageError
from fusion_replay.simulator.memory import GRANULE, Allocation, Side

Array = npt.NDArray[Any]


class NpuTensor:
    """A shaped, typed view of one allocation, or of a part of it.

    Args:
        shape_or_data: a tuple of extents (zero-filled), or array data to copy in.
        dtype: element type; taken from the data if left out, bfloat16 for a bare shape.
        device: the side that is authoritative at first. Data given with "npu" is transferred at once.

    Raises:
        UsageError: an unknown device, or a negative extent.
    """

    DEVICES = ("cpu", "npu")

    def __init__(self, shape_or_data: Any, dtype: npt.DTypeLike | None = None, device: str = "npu") -> None:
        _check_side(device)
        if isinstance(shape_or_data, tuple):
            data = None
            self._dtype = np.dtype(ml_dtypes.bfloat16 if dtype is None else dtype)
            self._shape = _extents(shape_or_data)
        else:
            data = np.asarray(shape_or_data, dtype=dtype)
            self._dtype = data.dtype
            self._shape = data.shape
        self._offset = 0
        self._base: NpuTensor | None = None
        self._allocation = Allocation(math.prod(self._shape) * self._dtype.itemsize)
        if data is not None:
            self.data[...] = data
            self._allocation.claim_host(0, self.nbytes)
            self.to(device)
        elif device == "cpu":
            self.device = "cpu"

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def nbytes(self) -> int:
        return self.numel() * self._dtype.itemsize

    @property
    def element_size(self) -> int:
        """Bytes per element."""
        return self._dtype.itemsize

    @property
    def base(self) -> NpuTensor | None:
        """The tensor that owns the memory, or None if this one does."""
        return self._base

    @property
    def is_view(self) -> bool:
        return self._base is not None

    @property
    def storage_offset(self) -> int:
        """Where this tensor starts in :attr:`base`'s memory, in bytes."""
        return self._offset

    @property
    def allocation(self) -> Allocation:
        """The memory behind this tensor and every view of it."""
        return self._allocation

    def numel(self) -> int:
        return math.prod(self._shape)

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("len() of a 0-d tensor")
        return self._shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self._shape}, dtype={self._dtype.name}, device={self.device!r})"

    def subview(self, offset: int, shape: int | Sequence[int], dtype: npt.DTypeLike | None = None) -> NpuTensor:
        """A tensor over a part of this one's memory; it shares both copies and the record of who wrote what.

        Args:
            offset: start in bytes from this tensor's own start.
            shape: extents in elements of the view's dtype.
            dtype: how to read the region; this tensor's dtype if left out.

        Raises:
            UsageError: the region leaves this tensor, or shares a cache line with a neighbour.
        """
        view_dtype = self._dtype if dtype is None else np.dtype(dtype)
        extents = _extents(shape)
        start = operator.index(offset)
        stop = start + math.prod(extents) * view_dtype.itemsize
        if start < 0 or stop > self.nbytes:
            raise UsageError(f"subview: bytes [{start}:{stop}] leave a tensor of {self.nbytes} bytes")
        if start % GRANULE or (stop % GRANULE and stop != self.nbytes):
            raise UsageError(
                f"subview: bytes [{start}:{stop}] share a {GRANULE}-byte cache line with their neighbours, so host and "
                f"device could not be reconciled independently; start and length must be multiples of {GRANULE} bytes"
            )
        view = NpuTensor.__new__(NpuTensor)
        view._shape = extents
        view._dtype = view_dtype
        view._offset = self._offset + start
        view._base = self._base or self
        view._allocation = self._allocation
        return view

    # --- which side is right ------------------------------------------------------------------------------------

    @property
    def device(self) -> Side:
        return self._allocation.side(*self._extent)

    @device.setter
    def device(self, side: str) -> None:
        if _check_side(side) == "npu":
            self._allocation.claim_device(*self._extent)
        else:
            self._allocation.claim_host(*self._extent)

    def to(self, side: str) -> NpuTensor:
        """Move what differs, then claim that side. Returns the tensor itself."""
        start, stop = self._extent
        if _check_side(side) == "npu":
            self._allocation.push(start, stop)
        else:
            self._allocation.pull(start, stop)
            self._allocation.claim_host(start, stop)
        return self

    # --- reading ------------------------------------------------------------------------------------------------

    def numpy(self) -> Array:
        """The current contents: a view of host memory, brought up to date first. Writing to it is not recorded."""
        self._allocation.pull(*self._extent)
        return self.data

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != self._dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __getitem__(self, index: Any) -> Any:
        return self.numpy()[index]

    def to_torch(self) -> Any:
        """As :meth:`numpy`, as a torch tensor over the same host memory."""
        torch = _torch("to_torch()")
        return _as_torch(torch, self.numpy())

    @property
    def data(self) -> Array:
        """Raw host memory: neither brought up to date nor marked. Reading it after a kernel shows old contents."""
        start, stop = self._extent
        return self._allocation.host[start:stop].view(self._dtype).reshape(self._shape)

    # --- writing ------------------------------------------------------------------------------------------------

    def __setitem__(self, index: Any, value: Any) -> None:
        with self.mutate() as array:
            array[index] = value

    def fill_(self, value: Any) -> None:
        with self.overwrite() as array:
            array.fill(value)

    @contextmanager
    def mutate(self) -> Iterator[Array]:
        """Borrow the contents for a partial write, which is recorded when the block ends without an exception."""
        self._allocation.pull(*self._extent)
        with self._borrow() as array:
            yield array

    @contextmanager
    def overwrite(self) -> Iterator[Array]:
        """As :meth:`mutate` without fetching first: for a write that replaces every byte."""
        with self._borrow() as array:
            yield array

    @contextmanager
    def _borrow(self) -> Iterator[Array]:
        array = self.data[...]
        try:
            yield array
        finally:
            array.flags.writeable = False  # kept past the block it would write bytes that no transfer sends
        self._allocation.claim_host(*self._extent)

    def numpy_view(self) -> Array:
        """Raw host memory for a caller about to overwrite it: nothing is fetched, everything counts as written."""
        self.device = "cpu"
        return self.data

    def torch_view(self) -> Any:
        """As :meth:`numpy_view`, as a torch tensor.

        Raises:
            MissingDependencyError: torch is not installed.
        """
        torch = _torch("torch_view()")
        return _as_torch(torch, self.numpy_view())

    # --- the device's side --------------------------------------------------------------------------------------

    def device_view(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Device memory from this tensor's start, zero-copy: for kernels only, never synchronised."""
        element = np.dtype(dtype)
        nbytes = math.prod(shape) * element.itemsize
        return self._allocation.device[self._offset : self._offset + nbytes].view(element).reshape(shape)

    def device_wrote(self, nbytes: int) -> None:
        """A kernel wrote cache lines over the first ``nbytes`` bytes."""
        stop = min(-(-nbytes // GRANULE) * GRANULE, self.nbytes)
        self._allocation.device_wrote(self._offset, self._offset + stop)

    @property
    def _extent(self) -> tuple[int, int]:
        return self._offset, self._offset + self.nbytes


def _check_side(side: str) -> str:
    if side not in NpuTensor.DEVICES:
        raise UsageError(f"tensor side {side!r}: expected 'cpu' or 'npu'")
    return side


def _extents(shape: int | Sequence[int]) -> tuple[int, ...]:
    extents = (operator.index(shape),) if not isinstance(shape, Sequence) else tuple(operator.index(n) for n in shape)
    if any(n < 0 for n in extents):
        raise UsageError(f"tensor shape {extents}: extents must not be negative")
    return extents


def _torch(member: str) -> Any:
    try:
        import torch
    except ImportError as missing:
        raise MissingDependencyError(
            f"{member} needs torch, which is not installed; use numpy() or numpy_view(), or pip install torch"
        ) from missing
    return torch


def _as_torch(torch: Any, array: Array) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)  # torch cannot name ml_dtypes' bfloat16
    return torch.from_numpy(array)
