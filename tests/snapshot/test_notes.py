# SPDX-License-Identifier: Apache-2.0
"""Notes on a step: what became known of it after it began, IRON's own statistics above all."""

from __future__ import annotations

import math
from pathlib import Path

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
from fusion_replay.report import step_view
from fusion_replay.snapshot import SnapshotWriter, fsck, open_snapshot

STATS = {"output": "y", "skipped": False, "max_abs": 0.125, "mean_abs": 0.01, "max_rel": math.nan, "mismatch": True}


def sequence() -> SequenceDescription:
    operands = (OperandUse(ArgSpec("x", "in", (4,)), "x"), OperandUse(ArgSpec("y", "out", (4,)), "y"))
    buffers = (BufferDescription("x", 8, "input", True), BufferDescription("y", 8, "output"))
    return SequenceDescription("one", (OperatorDescription("SiLU"),), buffers, (StepDescription(0, 0, operands),))


def write(path: Path, order: str) -> SnapshotWriter:
    """One step; ``order``: "early" notes between begin and end, "late" after the end."""
    writer = SnapshotWriter(path)
    invocation = writer.begin_invocation(writer.add_sequence(sequence()))
    four = np.arange(4, dtype=np.uint16)
    writer.begin_step(invocation, 0, {0: four}, values={"n": 3})
    if order == "early":
        writer.note_step(invocation, 0, {"iron": STATS})
    writer.end_step(invocation, 0, {1: four + 1}, elapsed_ns=7, state="DONE")
    if order == "late":
        writer.note_step(invocation, 0, {"iron": STATS})
    writer.note_step(invocation, 0, {"iron": {"more": 1}})
    writer.end_invocation(invocation)
    return writer


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("order", ["early", "late"])
def test_a_note_joins_what_is_known_and_replaces_nothing(tmp_path: Path, order: str, sealed: bool) -> None:
    writer = write(tmp_path / "a.h5", order)
    if sealed:
        writer.close()
        assert fsck.check(tmp_path / "a.h5").ok
    else:
        writer.abandon()
    with open_snapshot(tmp_path / "a.h5") as snapshot:
        step = snapshot["0:0"]
        assert (step.status, step.elapsed_ns, step.state, step.values) == ("complete", 7, "DONE", {"n": 3})
        assert step.outputs["y"].numpy().view(np.uint16).tolist() == [1, 2, 3, 4]
        iron = step.iron
        assert iron is not None
        assert math.isnan(iron.pop("max_rel"))
        assert iron == {**{k: v for k, v in STATS.items() if k != "max_rel"}, "more": 1}


def test_show_prints_irons_figures(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", "late").close()
    with open_snapshot(tmp_path / "a.h5") as snapshot:
        text = str(step_view.view(snapshot["0:0"]))
    figures = "output y, skipped False, max_abs 0.125, mean_abs 0.01, max_rel nan, mismatch True, more 1"
    assert f"  iron      its own compare: {figures}" in text


def test_a_step_without_notes_has_none(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "a.h5")
    invocation = writer.begin_invocation(writer.add_sequence(sequence()))
    writer.begin_step(invocation, 0, {0: np.zeros(4, np.uint16)})
    writer.close()
    with open_snapshot(tmp_path / "a.h5") as snapshot:
        assert snapshot["0:0"].iron is None
        assert "its own compare" not in str(step_view.view(snapshot["0:0"]))
