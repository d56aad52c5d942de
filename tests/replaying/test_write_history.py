# SPDX-License-Identifier: Apache-2.0
"""Whether the same work wrote an output's bytes before, against a search through all earlier writes, one by one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_replay.model.runlist import ArgSpec, OperandUse, OperatorDescription, SequenceDescription, StepDescription
from fusion_replay.replaying.write_history import WriteHistory
from fusion_replay.snapshot import SnapshotWriter, open_snapshot

SLICES = [(0, 8), (0, 4), (4, 8), (2, 6)]  # elements of one buffer


def writes(uses: list[tuple[int, int]]) -> SequenceDescription:
    steps = []
    for number, (op, which) in enumerate(uses):
        start, stop = SLICES[which]
        read, write = ArgSpec("A", "in", (2,), "uint8"), ArgSpec("B", "out", (stop - start,), "uint8")
        steps.append(StepDescription(number, op, (OperandUse(read, "x"), OperandUse(write, "y", start, stop))))
    kinds = (OperatorDescription("One", {}), OperatorDescription("Two", {}))
    return SequenceDescription("w", kinds, (), tuple(steps), input_args=("x",), output_args=("y",))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, len(SLICES) - 1)), min_size=1, max_size=5),
    st.lists(st.integers(0, 1), min_size=1, max_size=4),
)
def test_the_last_write_that_overlaps_was_the_same_work(uses: list[tuple[int, int]], fed: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = SnapshotWriter(Path(folder) / "a.h5")
        number = writer.add_sequence(writes(uses))
        for value in fed:
            invocation = writer.begin_invocation(number)
            for index, (_, which) in enumerate(uses):
                start, stop = SLICES[which]
                writer.begin_step(invocation, index, {0: np.full(2, value, np.uint8)})
                writer.end_step(invocation, index, {1: np.zeros(stop - start, np.uint8)})
        writer.close()
        with open_snapshot(Path(folder) / "a.h5") as snap:
            history = WriteHistory(snap)
            earlier: list[tuple[int, int, int, int]] = []  # span, operator, input
            for step in snap:
                op, which = uses[step.index]
                start, stop = SLICES[which]
                last = next((w for w in reversed(earlier) if w[0] < stop and start < w[1]), None)
                now = (start, stop, op, fed[step.invocation])
                assert history.explains(step, step.outputs["B"]) == (last == now), step.address
                earlier.append(now)
