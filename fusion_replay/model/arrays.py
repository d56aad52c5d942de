# SPDX-License-Identifier: Apache-2.0
"""Arrays from one library to another and from one dtype to another, bit for bit where the dtype stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import MissingDependencyError, UsageError
from fusion_replay.model.bf16 import BFLOAT16, is_torch, narrow, wide
from fusion_replay.model.runlist import DTYPE_BYTES, SMALL

if TYPE_CHECKING:
    import torch

NDArray = npt.NDArray[Any]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype that a snapshot and an arg spec call ``name``; plain numpy does not know "bfloat16" by name.

    Raises:
        MissingDependencyError: an ``ml_dtypes`` that is too old to know it.
    """
    if name not in SMALL:
        return BFLOAT16 if name == BFLOAT16.name else np.dtype(name)
    import ml_dtypes

    if not hasattr(ml_dtypes, name):
        raise MissingDependencyError(f"dtype {name}: needs a newer ml_dtypes than {ml_dtypes.__version__}")
    small: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return small


def flat_bytes(array: NDArray) -> npt.NDArray[np.uint8]:
    """The bytes as they lie in memory, in C order: a view where the array is contiguous, else of a copy."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def as_dtype(array: NDArray, name: str) -> NDArray:
    """A reference's result in the dtype of its output: IRON's may be wider (float32 for a bf16 buffer).

    To bf16 it is rounded once, from float64 (see :mod:`fusion_replay.model.bf16`). Shape is kept.
    """
    if array.dtype.name == name:
        return array
    if name == BFLOAT16.name:
        rounded: NDArray = narrow(wide(array))
        return rounded
    return array.astype(name)


def as_array(value: Any, name: str) -> NDArray:
    """``value`` as a C-contiguous numpy array of a dtype that a snapshot holds; bf16 torch tensors keep their bits.

    Args:
        value: numpy, torch, IRON's tensors, or anything numpy can read.
        name: of the argument, for the message.

    Raises:
        UsageError: not an array, or of a dtype that cannot be kept.
    """
    if is_torch(value):
        array = from_torch(value)
    elif not isinstance(value, np.ndarray) and callable(getattr(value, "numpy", None)):
        array = np.asarray(value.numpy())  # IRON's tensors: pulls from the device, claims nothing
    else:
        array = np.asarray(value)
    check_dtype(array.dtype.name, name)
    array = native(array)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)  # which would give a scalar an axis


def check_dtype(dtype: str, name: str) -> None:
    """
    Raises:
        UsageError: a snapshot holds no such dtype.
    """
    if dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise UsageError(f"argument {name}: dtype {dtype} cannot be recorded; expected one of {known}")


def check_array(value: Any, name: str) -> None:
    """Whether :func:`as_array` will take it, as far as its dtype says: nothing is copied or asked of a device.

    Raises:
        UsageError: a dtype that cannot be kept.
    """
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, np.dtype):
        check_dtype(dtype.name, name)
    elif is_torch(value):
        check_dtype(str(dtype).removeprefix("torch."), name)


def native(array: NDArray) -> NDArray:
    """In this machine's byte order."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def from_torch(tensor: torch.Tensor) -> NDArray:
    """A tensor on any device as numpy, the same bits; bf16 goes by them, since numpy knows no such type."""
    tensor = tensor.detach().cpu().resolve_neg().contiguous()
    if str(tensor.dtype) == "torch.bfloat16":
        import torch

        bits: NDArray = tensor.view(torch.int16).numpy()
        return bits.view(BFLOAT16)
    if (small := str(tensor.dtype).removeprefix("torch.")) in SMALL:
        import torch

        octets: NDArray = tensor.view(torch.uint8).numpy()
        return octets.view(numpy_dtype(small))
    array: NDArray = tensor.numpy()
    return array


def to_torch(array: NDArray, device: str = "cpu") -> torch.Tensor:
    """A fresh tensor with the same bits; numpy's bf16 (``ml_dtypes``) goes by them, since torch knows it not.

    Raises:
        MissingDependencyError: no torch, or no such device.
    """
    torch = need_torch(device)
    own = np.array(array, copy=True, order="C")
    if own.dtype == BFLOAT16:
        tensor = torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
    elif own.dtype.name in SMALL:
        octets = torch.from_numpy(own.view(np.uint8))
        known = getattr(torch, own.dtype.name, None) if own.dtype.name.startswith("float8") else None
        tensor = octets if known is None else octets.view(known)
    elif own.dtype in (np.uint16, np.uint32, np.uint64) and not hasattr(torch, own.dtype.name):
        tensor = torch.from_numpy(own.astype(np.int64))
    else:
        tensor = torch.from_numpy(own)
    return tensor.to(device)


def need_torch(device: str = "cpu") -> Any:
    """The module torch, with ``device`` ("cpu", "cuda") usable.

    Raises:
        MissingDependencyError: it is not.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            "torch is not installed; pip install 'fusion-replay[torch]', or leave the option out: numpy serves"
        ) from None
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("torch finds no CUDA device here; use --array numpy or --array torch")
    return torch
