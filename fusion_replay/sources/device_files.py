# SPDX-License-Identifier: Apache-2.0
"""Reads the files that kernels were loaded from. A file that cannot be read is said to be absent, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fusion_replay.snapshot.binaries import KernelFiles
from fusion_replay.sources.protocol import KernelPaths

MAX_FILE = 1 << 30  # bytes; an xclbin of a whole model has a few million


def device_files(kernels: Sequence[KernelPaths]) -> list[KernelFiles]:
    """The contents behind each kernel; a file that several name is read once."""
    read: dict[Path, tuple[str, bytes] | str] = {}

    def contents(path: Path | None) -> tuple[tuple[str, bytes] | None, str | None]:
        if path is None:
            return None, None
        if path not in read:
            read[path] = _read(path)
        found = read[path]
        return (None, found) if isinstance(found, str) else (found, None)

    files = []
    for kernel in kernels:
        xclbin, no_xclbin = contents(kernel.xclbin)
        instructions, no_instructions = contents(kernel.instructions)
        why = "; ".join(filter(None, (kernel.absent, no_xclbin, no_instructions)))
        files.append(KernelFiles(kernel.operator, kernel.kernel, xclbin, instructions, why or None, kernel.places))
    return files


def _read(path: Path) -> tuple[str, bytes] | str:
    try:
        if not path.is_file():
            return f"{path.name}: no such file when the run began"
        if path.stat().st_size > MAX_FILE:
            return f"{path.name}: larger than {MAX_FILE} bytes"
        return path.name, path.read_bytes()
    except OSError as error:
        return f"{path.name}: {error.strerror}"


__all__ = ["device_files"]
