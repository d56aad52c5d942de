# SPDX-License-Identifier: Apache-2.0
"""``next: COMMAND``: typed as it stands it works, and the commands lead somewhere instead of in a circle."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.record import record


def suggested(out: str) -> list[str]:
    """The words of the command that the last line names, none where it names none."""
    last = out.rstrip("\n").split("\n")[-1]
    return shlex.split(last.partition("next: ")[2])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(run, *words: object) -> list[tuple[list[str], int]]:
    """Type a command, then what it says to type next, and so on: each with its exit status."""
    typed: list[tuple[list[str], int]] = []
    command = ["fusion-replay", *map(str, words)]
    while command[:1] == ["fusion-replay"]:
        result = run(*command[1:])
        typed.append((command[1:], result.status))
        assert len(typed) < 9, "it never ends"
        command = suggested(result.out)
    return [*typed, (command, -1)] if command else typed


def test_from_a_mismatch_to_a_bug_report(run, here: Path, bad: Path) -> None:
    assert follow(run, "replay", "bad.h5") == [
        (["replay", "bad.h5"], 1),
        (["show", "bad.h5", "1:0"], 0),
        (["replay", "bad.h5", "--step", "1:0"], 1),
        (["export", "bad.h5", "--step", "1:0", "--issue"], 0),
        (["python", "bad-1-0-issue/repro.py"], -1),
    ]


def test_from_a_failed_step_to_a_bug_report(run, here: Path) -> None:
    a = np.ones(4, ml_dtypes.bfloat16)
    with record("x.h5") as rec, pytest.raises(OSError), rec.step("GELU", inputs={"A": a}, params={"size": 4}):
        raise OSError("the kernel is gone")
    assert [words[0] for words, _ in follow(run, "show", "x.h5")] == ["show", "show", "export", "python"]


KILLED = """
import os, signal
import ml_dtypes, numpy as np
import fusion_replay as fr
a = np.ones(4, ml_dtypes.bfloat16)
with fr.record("x.h5") as rec:
    with rec.step("ElementwiseAdd", inputs={"A": a, "B": a}, params={"size": 4}) as step:
        step.outputs["C"] = a + a
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("typed", ["x.h5", "x.h5.journal"])
def test_from_a_killed_recording_to_its_verdict(run, here: Path, typed: str) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED], check=False).returncode == -9
    assert follow(run, "fsck", typed) == [
        (["fsck", typed], 3),
        (["fsck", "--recover", "x.h5"], 0),
        (["replay", "x.h5"], 0),
    ]


def test_a_recording_that_is_still_written_is_left_alone(run, here: Path) -> None:
    with record("x.h5"):
        still = run("fsck", "x.h5")
    assert (still.status, suggested(still.out)) == (3, [])


def test_from_an_unknown_operator_to_its_description(run, here: Path, unknown: Path) -> None:
    (replay, status), (new, written) = follow(run, "replay", "unknown.h5")
    assert (replay, status, written) == (["replay", "unknown.h5"], 4, 0)
    assert "def frobnicate(A, B, *, size=64):" in run(*new).out
