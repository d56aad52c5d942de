# SPDX-License-Identifier: Apache-2.0
"""Small recordings for the tests: a GEMV and an in-place SiLU, contents known from the seed."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.seal import hdf5

BF16 = np.dtype(ml_dtypes.bfloat16)


def bits(array: np.ndarray) -> bytes:
    """What equality means here: the bytes, NaN payloads included."""
    return np.ascontiguousarray(array).tobytes()


def random_bf16(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32).astype(BF16)


def gemv_silu(rows: int = 8, columns: int = 16) -> SequenceDescription:
    """GEMV W, x -> y, then SiLU y -> y, then an Add that sees the upper half of y as a slice."""
    matrix = ArgSpec("A", "in", (rows, columns))
    vector = ArgSpec("B", "in", (columns,))
    result = ArgSpec("C", "out", (rows,))
    unary = ArgSpec("A", "in", (rows,)), ArgSpec("B", "out", (rows,))
    half = ArgSpec("A", "inout", (rows // 2,))
    return SequenceDescription(
        name="tiny",
        operators=(
            OperatorDescription("GEMV", {"M": rows, "K": columns}, "iron.operators.gemv.op"),
            OperatorDescription("SiLU", {"size": rows}),
            OperatorDescription("Bump", {"by": 1.5}),
        ),
        buffers=(
            BufferDescription("W", 2 * rows * columns, "scratch", True),
            BufferDescription("x", 2 * columns, "input", True),
            BufferDescription("y", 2 * rows, "output"),
        ),
        steps=(
            StepDescription(0, 0, (OperandUse(matrix, "W"), OperandUse(vector, "x"), OperandUse(result, "y"))),
            StepDescription(1, 1, (OperandUse(unary[0], "y"), OperandUse(unary[1], "y"))),
            StepDescription(2, 2, (OperandUse(half, "y", rows, 2 * rows),)),
        ),
        input_args=("x",),
        output_args=("y",),
        origin={"variant": "simulator", "device": "npu2", "flavour": "iron-2026-09"},
    )


def contents(seed: int, invocation: int, rows: int = 8, columns: int = 16) -> dict[str, np.ndarray]:
    """Everything one invocation of :func:`gemv_silu` moves; W is the same in all of them."""
    rng = np.random.default_rng([seed, invocation])
    return {
        "W": random_bf16(np.random.default_rng(seed), (rows, columns)),
        "x": random_bf16(rng, (columns,)),
        "y0": random_bf16(rng, (rows,)),
        "y1": random_bf16(rng, (rows,)),
        "y2": random_bf16(rng, (rows // 2,)),
    }


def run(writer: SnapshotWriter, sequence: int, data: Mapping[str, np.ndarray], stop_after: int = 6) -> int:
    """One invocation; ``stop_after`` counts the begins and ends that happen (6 is all)."""
    number = writer.begin_invocation(sequence)
    half = len(data["y1"]) // 2
    calls: list[Any] = [
        lambda: writer.begin_step(
            number, 0, {0: data["W"], 1: data["x"]}, watched={2: np.zeros_like(data["y0"])}, values={"n": number}
        ),
        lambda: writer.end_step(number, 0, {2: data["y0"]}, elapsed_ns=1000 + number, state="COMPLETED"),
        lambda: writer.begin_step(number, 1, {0: data["y0"]}),
        lambda: writer.end_step(number, 1, {1: data["y1"]}),
        lambda: writer.begin_step(number, 2, {0: data["y1"][half:]}),
        lambda: writer.end_step(number, 2, {0: data["y2"]}),
    ]
    for call in calls[:stop_after]:
        call()
    if stop_after >= len(calls):
        writer.end_invocation(number)
    return number


def record(path: Path, invocations: int = 2, seed: int = 0, rows: int = 8, columns: int = 16, **options: Any) -> Path:
    """A sealed snapshot of ``invocations`` whole invocations; its path."""
    with_options = {"provenance": {"host": "test"}, **options}
    writer = SnapshotWriter(path, **with_options)
    sequence = writer.add_sequence(gemv_silu(rows, columns))
    for number in range(invocations):
        run(writer, sequence, contents(seed, number, rows, columns))
    return writer.close().path


@contextlib.contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """Every write beyond ``nbytes`` of any file fails, as on a full disk (EFBIG instead of ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def placed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Offsets at which chunks stay, or were tried to."""
    tried: list[int] = []
    real = hdf5.PartFile.place_chunk

    def place(part: hdf5.PartFile, dataset: object, place: tuple, offset: int, size: int, mask: int) -> None:
        tried.append(offset)
        real(part, dataset, place, offset, size, mask)

    monkeypatch.setattr(hdf5.PartFile, "place_chunk", place)
    return tried
