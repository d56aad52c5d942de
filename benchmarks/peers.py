# SPDX-License-Identifier: Apache-2.0
"""Other ways to keep every tensor of every step. Those whose package is missing are left out, and named."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import Candidate
from benchmarks.workload import Step, Workload


@dataclass(frozen=True, slots=True)
class Peer:
    run: Candidate
    slow: bool = False


def candidates(workload: Workload) -> dict[str, Peer]:
    """By name; each writes the whole workload without bringing it to the disk."""
    found = {
        "safetensors per step": ("safetensors", Peer(lambda f: _safetensors(workload, f))),
        "torch.save per step": ("torch", Peer(lambda f: _torch_save(workload, f))),
        "h5py + hdf5plugin zstd": ("hdf5plugin", Peer(lambda f: _h5py(workload, f, "zstd"), slow=True)),
        "h5py gzip-4": ("h5py", Peer(lambda f: _h5py(workload, f, "gzip"), slow=True)),
        "zarr zstd": ("zarr", Peer(lambda f: _zarr(workload, f), slow=True)),
        "numpy npz compressed": ("numpy", Peer(lambda f: _npz(workload, f), slow=True)),
    }
    missing = [package for package, _ in found.values() if importlib.util.find_spec(package) is None]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}")
    return {name: peer for name, (package, peer) in found.items() if package not in missing}


def _named(step: Step) -> dict[str, np.ndarray]:
    groups = {"in": step.inputs, "old": step.previous, "out": step.outputs}
    return {f"{group}{position}": a.view(np.uint16) for group, side in groups.items() for position, a in side.items()}


def _steps(workload: Workload) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for step in workload.steps:
        yield f"{step.invocation:04d}_{step.index:04d}", _named(step)


def _safetensors(workload: Workload, folder: Path) -> None:
    from safetensors.numpy import save_file

    for name, arrays in _steps(workload):
        save_file(arrays, folder / f"{name}.safetensors")


def _torch_save(workload: Workload, folder: Path) -> None:
    import torch

    for name, arrays in _steps(workload):
        torch.save({key: torch.from_numpy(a.view(np.int16)) for key, a in arrays.items()}, folder / f"{name}.pt")


def _h5py(workload: Workload, folder: Path, codec: str) -> None:
    import h5py

    options: dict = {"compression": "gzip", "compression_opts": 4}
    if codec == "zstd":
        import hdf5plugin

        options = dict(hdf5plugin.Zstd(clevel=1))
    with h5py.File(folder / "all.h5", "w") as file:
        for name, arrays in _steps(workload):
            group = file.create_group(name)
            for key, array in arrays.items():
                group.create_dataset(key, data=array, chunks=True, **options)


def _zarr(workload: Workload, folder: Path) -> None:
    import zarr

    root = zarr.open_group(str(folder / "all.zarr"), mode="w")
    for name, arrays in _steps(workload):
        group = root.create_group(name)
        for key, array in arrays.items():
            group.create_array(key, data=array)


def _npz(workload: Workload, folder: Path) -> None:
    for name, arrays in _steps(workload):
        np.savez_compressed(folder / f"{name}.npz", **arrays)
