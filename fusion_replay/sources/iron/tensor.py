# SPDX-License-Identifier: Apache-2.0
"""Reading a buffer without changing it, on every tensor class that IRON's callables have had.

Two kinds, told apart by what the object offers:

* Tensors over one allocation that knows who wrote which byte (Xilinx/mlir-aie
  ``python/utils/hostruntime/tensor_class.py``, ``_coherence()``): ``numpy()`` pulls what the device wrote and claims
  nothing. A raw view (``torch_view()``, ``numpy_view()``) would mark the bytes host-written, and the next dispatch
  would overwrite device data with stale ones.
* Older ones, where each tensor and each slice has a flag of its own (``device``) and slices (amd/IRON
  ``iron/common/utils.py``, ``XRTSubBuffer``) share nothing with their parent. There ``numpy()`` trusts the flag, so a
  parent that was written through its slices reads stale; and one version's ``data``, which ``numpy()`` goes through,
  marks slice and parent host-written. What is safe is what a dispatch does itself: ``to("npu")`` where the host wrote
  (every argument gets that before the kernel starts), then fetch unconditionally and read the mapped memory.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.arrays import flat_bytes


def is_readable(tensor: Any) -> bool:
    """Whether there is a way to read it that leaves it as it is."""
    return hasattr(tensor, "numpy") or _has_own_flag(tensor)


def host_bytes(tensor: Any) -> npt.NDArray[np.uint8]:
    """Present contents as flat bytes: a view of host memory, valid until the next device operation."""
    array = _fetched(tensor) if _has_own_flag(tensor) else tensor.numpy()
    return flat_bytes(array)


def knows_who_wrote(tensor: Any) -> bool:
    """Whether it is of the kind that shares with its slices who wrote which byte, so that reading claims nothing."""
    return hasattr(tensor, "numpy") and not _has_own_flag(tensor)


def overwrite(tensor: Any, data: npt.NDArray[np.uint8]) -> None:
    """Put ``data`` at the tensor's start and send it to the device, as an application writes an input.

    Only for tensors that :func:`knows_who_wrote`.
    """
    tensor.numpy()  # a raw view claims the rest of the last cache line too, so that has to be there
    view = tensor.numpy_view() if hasattr(tensor, "numpy_view") else tensor.torch_view()
    if not isinstance(view, np.ndarray):
        view = view.reshape(-1).view(sys.modules["torch"].uint8).numpy()
    view.reshape(-1).view(np.uint8)[: data.size] = data
    tensor.to("npu")


def _has_own_flag(tensor: Any) -> bool:
    if hasattr(tensor, "_coherence") or hasattr(tensor, "storage"):
        return False
    return all(hasattr(tensor, name) for name in ("_sync_from_device", "to", "device", "_data"))


def _fetched(tensor: Any) -> Any:
    if tensor.device != "npu":
        tensor.to("npu")
    tensor._sync_from_device()
    return tensor._data


__all__ = ["host_bytes", "is_readable", "knows_who_wrote", "overwrite"]
