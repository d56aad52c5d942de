# SPDX-License-Identifier: Apache-2.0
"""numpy arrays as torch tensors, bit for bit; the way back is :func:`fusion_replay.compare.as_numpy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.bf16 import BFLOAT16
from fusion_replay.errors import MissingDependencyError

if TYPE_CHECKING:
    import torch


def to_torch(array: npt.NDArray[Any], device: str = "cpu") -> torch.Tensor:
    """A fresh tensor with the same bits; numpy's bf16 (``ml_dtypes``) goes by its bits, since torch knows it not.

    Raises:
        MissingDependencyError: no torch, or no such device.
    """
    torch = need_torch(device)
    own = np.array(array, copy=True, order="C")
    if own.dtype == BFLOAT16:
        tensor = torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
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
