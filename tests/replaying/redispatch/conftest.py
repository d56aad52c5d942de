# SPDX-License-Identifier: Apache-2.0
"""A recording with device files behind its kernels, and pyxrt's double to run them on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.simulator import operators as ops
from fusion_replay.snapshot.binaries import KernelFiles

DOUBLE = Path(__file__).parents[2] / "pyxrt_double"
N = 256
BYTES = 2 * N
BF16 = ml_dtypes.bfloat16


def forget() -> None:
    for name in ("pyxrt", "fusion_replay.sources.xrt"):
        sys.modules.pop(name, None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The double's device, honest at first. No run in progress may be freed, which would end the process."""
    forget()
    monkeypatch.syspath_prepend(str(DOUBLE))
    import pyxrt  # type: ignore[import-not-found]  # the double has the untyped form of it

    freed: list[int] = []
    pyxrt.MACHINE.abort = lambda: freed.append(pyxrt.MACHINE.runs)
    yield pyxrt.MACHINE
    forget()
    assert not freed, "runs in progress were freed"


def runlist() -> list[tuple[Any, ...]]:
    """Plain, in place, a move into the middle of a buffer that keeps its rest, and slices that share bytes."""
    copy = ops.StridedCopy((N,), (1,), 0, (N,), (1,), N // 2, N, 2 * N)
    return [
        (ops.ElementwiseAdd(size=N, tile_size=64, num_aie_columns=4), "a", "b", "c"),
        (ops.SiLU(size=N, tile_size=64, num_aie_columns=4), "c", "c"),
        (copy, "c", "cache"),
        (ops.ReLU(size=N, num_aie_columns=1, num_channels=1, tile_size=N), f"cache[0:{BYTES}]", "d"),
        (ops.ElementwiseMul(size=N, tile_size=64, num_aie_columns=4), "d", f"e[0:{BYTES}]", f"e[{BYTES}:{2 * BYTES}]"),
    ]


def design(step: Any, specs: Any, device: str, *, error: int = 0) -> dict[str, Any]:
    return {
        "op": step.type,
        "params": dict(step.params),
        "args": [[s.name, s.direction, list(s.shape), s.dtype] for s in specs],
        "device": device,
        "instructions": instructions(step.type).hex(),
        "error": error,
    }


def instructions(op_type: str) -> bytes:
    return f"{op_type:<32}".encode()


def kernel_files(sequence: Any, device: str = "npu1", errors: dict[int, int] | None = None) -> list[KernelFiles]:
    """As a build would leave them: one xclbin with every kernel, instructions of each operator."""
    from iron_doubles.layout import label

    first = {step.operator: step for step in reversed(sequence.steps)}
    names = [label(sequence.name, i) for i in range(len(sequence.operators))]
    designs = {
        names[i]: design(
            sequence.operators[i], [u.spec for u in first[i].operands], device, error=(errors or {}).get(i, 0)
        )
        for i in sorted(first)
    }
    xclbin = json.dumps(designs).encode()
    return [
        KernelFiles(
            i, names[i], (f"{names[-1]}.xclbin", xclbin), (f"{names[i]}.bin", instructions(sequence.operators[i].type))
        )
        for i in sorted(first)
    ]


def write(
    path: Path, *, faults: Any = (), files: Any = kernel_files, keep: bool = True, calls: int = 1, warm: bool = False
) -> Path:
    """A recording on npu1 of the runlist above; ``files`` makes its binaries of the sequence, None leaves them out.

    ``warm``: it is called once, unrecorded, on the inputs of the first recorded call.
    """
    call = fr.simulate(runlist(), "npu1", faults, name="block", buffer_sizes={"cache": 2 * BYTES, "e": 2 * BYTES})
    rng = np.random.default_rng(5)

    def fill() -> None:
        for name in ("a", "b", "cache", "e"):
            tensor = call.get_buffer(name)
            tensor[...] = rng.standard_normal(tensor.shape).astype(BF16)

    if warm:
        fill()
        call()
    with fr.record(path, call) as rec:
        for i in range(calls):
            if i or not warm:
                fill()
            call()
            if i == 0 and files is not None:
                with fr.open(f"{path}.journal") as running:
                    sequence = running.sequences[0]
                rec.recording.writer.add_binaries(0, files(sequence), keep=keep)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write(tmp_path / "block.h5")
