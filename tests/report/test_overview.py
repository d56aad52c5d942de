# SPDX-License-Identifier: Apache-2.0
"""The overview counts whole columns; here the same figures are added up by hand, step after step."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.report.overview import OperatorCounts, overview
from fusion_replay.snapshot import SnapshotWriter, open_snapshot


def sequence(name: str, runlist: list[tuple[str, int]]) -> SequenceDescription:
    """Steps ``(operator, elements)`` from one buffer to another: twice that many bf16 values."""
    types = tuple(dict.fromkeys(op for op, _ in runlist))
    steps = tuple(
        StepDescription(
            i,
            types.index(op),
            (
                OperandUse(ArgSpec("A", "in", (n,)), "x", 0, 2 * n),
                OperandUse(ArgSpec("C", "out", (n,)), "y", 0, 2 * n),
            ),
        )
        for i, (op, n) in enumerate(runlist)
    )
    buffers = tuple(BufferDescription(b, 64, "input" if b == "x" else "output") for b in ("x", "y"))
    return SequenceDescription(name, tuple(OperatorDescription(t, {}) for t in types), buffers, steps)


def run(writer: SnapshotWriter, number: int, runlist: list[tuple[str, int]], elapsed: list[int | None]) -> None:
    invocation = writer.begin_invocation(number)
    for i, ((_, n), ns) in enumerate(zip(runlist, elapsed, strict=True)):
        data = np.full(n, invocation + i, ml_dtypes.bfloat16)
        writer.begin_step(invocation, i, {0: data})
        writer.end_step(invocation, i, {1: data}, elapsed_ns=ns)
    writer.end_invocation(invocation)


def test_two_sequences_of_several_invocations_partly_timed(tmp_path: Path) -> None:
    one, two = [("ReLU", 4), ("Tanh", 8), ("ReLU", 16)], [("Tanh", 2), ("Sigmoid", 32)]
    writer = SnapshotWriter(tmp_path / "two.h5")
    first, second = writer.add_sequence(sequence("one", one)), writer.add_sequence(sequence("two", two))
    run(writer, first, one, [10, None, 30])
    run(writer, second, two, [7, None])
    run(writer, first, one, [None, 1 << 60, 5])
    writer.close()
    with open_snapshot(tmp_path / "two.h5") as snapshot:
        seen = overview(snapshot)
    assert seen.operators == (
        OperatorCounts("ReLU", 4, 2 * (4 + 16) * 2 * 2, 45),
        OperatorCounts("Sigmoid", 1, 32 * 2 * 2, None),
        OperatorCounts("Tanh", 3, (8 + 2 + 8) * 2 * 2, (1 << 60) + 7),
    )
    assert (seen.steps, seen.nbytes) == (8, 160 + 128 + 72)
    assert [i.steps_recorded for i in seen.invocations] == [3, 2, 3]


def test_a_recording_without_a_step(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "none.h5")
    writer.add_sequence(sequence("one", [("ReLU", 4)]))
    writer.close()
    with open_snapshot(tmp_path / "none.h5") as snapshot:
        seen = overview(snapshot)
    assert (seen.operators, seen.steps, seen.unfinished) == ((), 0, ())


def test_a_recording_without_a_sequence(tmp_path: Path) -> None:
    SnapshotWriter(tmp_path / "empty.h5").close()
    with open_snapshot(tmp_path / "empty.h5") as snapshot:
        assert (overview(snapshot).operators, overview(snapshot).steps) == ((), 0)
