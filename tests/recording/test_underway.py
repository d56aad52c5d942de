# SPDX-License-Identifier: Apache-2.0
"""What a program does to its recorder: descriptors closed under it, limits on the sizes of files."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import RecordingError
from fusion_replay.snapshot import fsck
from snapshot_maker import file_size_limit

PROGRAM = Path(__file__).with_name("closing_program.py")


def lost(losses: Any, kind: str = "step") -> int:
    found = [loss if isinstance(loss, dict) else loss.to_dict() for loss in losses]
    return sum(loss["count"] for loss in found if loss["kind"] == kind)


# --- descriptors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last"), [(0, 5), *(pytest.param(*n, marks=pytest.mark.long) for n in ((5, 40), (40, 70), (70, 100)))]
)
def test_files_of_the_program_are_never_touched(tmp_path: Path, first: int, last: int) -> None:
    """At random moments it closes numbers that it does not know of and opens files of its own under them."""
    words = [sys.executable, str(PROGRAM), str(tmp_path), str(first), str(last)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == last - first
    for program in found:
        assert (program["changed"], program["closed"], program["raised"]) == ([], [], []), program
        assert program["steps"] + lost(program["losses"]) == program["dispatched"], program
        if lost(program["losses"]):
            assert "the program closed the recorder's descriptor of" in program["told"]


# --- limits on file sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(n, marks=pytest.mark.long) for n in range(6, 50))])
def test_steps_beyond_a_limit_on_file_sizes_are_counted(tmp_path: Path, seed: int, capfd: Any) -> None:
    """Wherever in the recording that is, and where sealing meets it too: whoever recovers it is told."""
    rng = random.Random(seed)
    size = rng.choice([16, 1000, 20_000])
    path, steps = tmp_path / "r.h5", 12
    arrays = np.random.default_rng(seed).standard_normal((2 * steps, size), np.float32)
    with file_size_limit(rng.randint(3000, 30_000)), fr.record(path) as rec:
        for number in range(steps):
            with rec.step("Op", inputs={"A": arrays[2 * number]}) as step:
                step.outputs["C"] = arrays[2 * number + 1]
    if rec.report is None:
        fsck.recover(path)
    with fr.open(path) as snap:
        in_flight = sum(step.status == "in_flight" for step in snap)
        assert len(snap) + lost(snap.losses) == steps
        assert in_flight == lost(snap.losses, "outputs")
        missing = len(snap) < steps or in_flight or not all(t.kept for step in snap for _, t in step.tensors())
        assert bool(snap.losses) == bool(missing)
        for step in snap:
            for tensor, array in zip([t for _, t in step.tensors()], arrays[2 * step.invocation :], strict=False):
                assert not tensor.kept or tensor.numpy().tobytes() == array.tobytes()
    assert not missing or "File too large" in capfd.readouterr().err


def test_a_killed_recording_at_a_limit_says_that_steps_are_missing(tmp_path: Path) -> None:
    code = f"""
import os, resource, numpy as np, fusion_replay as fr
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, {resource.RLIM_INFINITY}))
with fr.record({str(tmp_path / "r.h5")!r}) as rec:
    for n in range(40):
        with rec.step("Op", inputs={{"A": np.full(16, n)}}) as s: s.outputs["C"] = np.full(16, -n)
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    fsck.recover(tmp_path / "r.h5")
    with fr.open(tmp_path / "r.h5") as snap:
        assert 0 < len(snap) < 40
        assert lost(snap.losses) > 0


# --- threads ------------------------------------------------------------------------------------------------------


def test_a_hard_stop_reaches_the_thread_that_overlaps(tmp_path: Path) -> None:
    with fr.record(tmp_path / "r.h5", on_error="raise") as rec:
        recording = rec.recording
        with pytest.raises(RecordingError, match="only one thread at a time is recorded"):
            recording.miss("steps of a")
