# SPDX-License-Identifier: Apache-2.0
"""Weights for a workload: seeded ones drawn straight into the buffers, or real ones out of a ``.safetensors`` file.

Seeded weights are normal values with a bf16 quantile table as the distribution: 16 random bits pick one of 65,536
equally likely values. That is twenty times faster than drawing float32 normals and rounding them (1.2e9 values in
about three seconds on one core), needs no memory beyond a block, and gives the same bits on every machine. Each
tensor has its own stream, so contents are unique, incompressible beyond their entropy, and independent of the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fusion_replay.errors import MissingDependencyError, UsageError
from fusion_replay.model.bf16 import narrow

_BLOCK = 1 << 20
"""Elements handled at a time: 2 MiB of bf16, so that a block stays in the cache."""

_FLOATS = {"BF16", "F16", "F32", "F64"}

Array = npt.NDArray[Any]


def fill_seeded(out: Array, *, seed: int, name: str, mean: float = 0.0, std: float = 1.0) -> None:
    """Fill the bf16 array ``out`` (contiguous, any shape) with values of mean ``mean`` and deviation ``std``.

    The values depend on ``seed`` and ``name`` alone. They end at 4.3 standard deviations (the table's outermost value).
    """
    if not out.flags.c_contiguous:
        raise UsageError(f"weights of {name}: the array to fill must be contiguous, found strides {out.strides}")
    flat = out.reshape(-1).view(np.uint16)
    table = _quantiles(mean, std)
    stream = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=tuple(name.encode())))
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        draws = stream.random_raw(-(-block.size // 4)).astype("<u8", copy=False).view("<u2")[: block.size]
        np.take(table, draws, out=block, mode="clip")  # "clip" only because "raise" would buffer the output


def fill_all_seeded(jobs: Iterable[tuple[Array, str, float, float]], *, seed: int, threads: int = 2) -> None:
    """:func:`fill_seeded` for every ``(out, name, mean, std)``, the largest first, in ``threads`` threads."""
    largest_first = sorted(jobs, key=lambda job: -job[0].size)
    with ThreadPoolExecutor(threads) as pool:
        for future in [
            pool.submit(fill_seeded, out, seed=seed, name=name, mean=mean, std=std)
            for out, name, mean, std in largest_first
        ]:
            future.result()


@lru_cache(maxsize=32)
def _quantiles(mean: float, std: float) -> npt.NDArray[np.uint16]:
    """The bits of 65,536 equally likely bf16 values of this normal distribution."""
    values = mean + std * _standard_quantiles()
    return values.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)


@lru_cache(maxsize=1)
def _standard_quantiles() -> npt.NDArray[np.float64]:
    normal = NormalDist()
    return np.array([normal.inv_cdf((k + 0.5) / 65536) for k in range(65536)])


# --- files ------------------------------------------------------------------------------------------------------


class TensorFile:
    """An open ``.safetensors`` file whose tensors were checked; made by :func:`open_tensors`."""

    def __init__(self, path: Path, handle: Any) -> None:
        self.path = path
        self._handle = handle
        self._names = frozenset(handle.keys())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Every expected tensor is there, holds floats and has its shape.

        Raises:
            UsageError: naming all that are missing, misshapen or of another type, at once.
        """
        problems = []
        for name, shape in expected.items():
            if name not in self:
                problems.append(f"{name} is missing")
                continue
            tensor = self._handle.get_slice(name)
            if tuple(tensor.get_shape()) != shape:
                problems.append(f"{name} has shape {tuple(tensor.get_shape())}, expected {shape}")
            elif tensor.get_dtype() not in _FLOATS:
                problems.append(f"{name} holds {tensor.get_dtype()}, expected one of {', '.join(sorted(_FLOATS))}")
        if problems:
            raise UsageError(
                f"weights {self.path}: {len(problems)} of {len(expected)} tensors cannot be used: {'; '.join(problems)}"
            )

    def read_into(self, name: str, out: Array) -> None:
        """The tensor rounded to bf16 into ``out`` (contiguous bf16, as many elements), some rows at a time."""
        tensor = self._handle.get_slice(name)
        shape = tuple(tensor.get_shape())
        rows = out.reshape(shape)
        step = max(1, _BLOCK // max(1, rows[:1].size))
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])  # the package takes no slice that ends beyond the tensor
            rows[start:stop] = _as_bf16(tensor[start:stop])

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """The whole tensor as float32."""
        return np.asarray(self._handle.get_tensor(name)).astype(np.float32)


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a ``.safetensors`` file, or the ``model.safetensors`` in a folder.

    Raises:
        UsageError: nothing is there, or it is no readable safetensors file.
        MissingDependencyError: the ``safetensors`` package is not installed.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"weights {path}: expected a model.safetensors there, found none; give the folder that has it")
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingDependencyError(
            "reading weights needs the package safetensors: pip install 'fusion-replay[minilm]' or make minilm"
        ) from None
    try:
        handle = safe_open(file, framework="np")  # bf16 arrives as ml_dtypes.bfloat16 (safetensors >= 0.5)
    except SafetensorError as error:
        raise UsageError(f"weights {file}: not a readable safetensors file ({error})") from None
    with handle:
        yield TensorFile(file, handle)


def _as_bf16(values: Array) -> Array:
    """Rounded once. bf16 keeps its bits, NaN payloads included; float64 would be rounded twice by a cast."""
    if values.dtype == ml_dtypes.bfloat16:
        return values
    if values.dtype == np.float64:
        return np.asarray(narrow(values))
    return values.astype(np.float32).astype(ml_dtypes.bfloat16)


__all__ = ["TensorFile", "fill_all_seeded", "fill_seeded", "open_tensors"]
