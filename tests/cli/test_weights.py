# SPDX-License-Identifier: Apache-2.0
"""``record --weights-in`` and ``--no-weights``, and the verbs that read such recordings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import Command
from fusion_replay.recording.options import Options
from fusion_replay.snapshot import SnapshotWriter

Told = Callable[..., tuple[int, str]]
DECODE = ("record", "--workload", "llama-decode", "--sim", "npu2", "--tokens", "1", "--layers", "1", "--context", "64")


@pytest.fixture
def told(run: Command) -> Told:
    """``told("show", path)``: exit status, and all that it said."""

    def command(*words: object) -> tuple[int, str]:
        result = run(*words)
        return result.status, result.out + result.err

    return command


def test_recordings_with_a_side_file_replay_as_any_other(tmp_path: Path, told: Told, run: Command) -> None:
    side, a, b = tmp_path / "W.h5", tmp_path / "a.h5", tmp_path / "b.h5"
    assert told(*DECODE, "-o", a, "--weights-in", side)[0] == 0
    assert told(*DECODE, "-o", b, "--no-weights")[0] == 0
    assert side.stat().st_size > 5 * a.stat().st_size
    plain = tmp_path / "plain.h5"
    assert told(*DECODE, "-o", plain)[0] == 0
    whole = run("replay", plain, "--json").out
    assert len(whole) > 1000
    assert run("replay", a, "--json").out == whole
    assert run("replay", b, "--json", "--weights", side).out == whole
    assert run("replay", b, "--json", "--weights", side, "--workers", "2").out == whole
    assert told("fsck", b, "--weights", side)[0] == told("fsck", a)[0] == told("fsck", side)[0] == 0


def test_without_the_weights_replay_says_which_are_missing(tmp_path: Path, told: Told) -> None:
    path = tmp_path / "b.h5"
    told(*DECODE, "-o", path, "--no-weights")
    status, text = told("replay", path)
    assert status == 4
    assert "were left out of the recording" in text
    assert "--weights" in text
    status, text = told("replay", path, "--op", "GEMV", "--buffer", "W_ffn_up_0")
    assert status == 4
    assert "the contents of A were left out of the recording" in text
    assert told("show", path)[0] == 0


def test_diff_and_bisect_ask_for_weights_that_were_left_out(tmp_path: Path, told: Told) -> None:
    side, a, b = tmp_path / "W.h5", tmp_path / "a.h5", tmp_path / "b.h5"
    assert told(*DECODE, "-o", tmp_path / "with.h5", "--weights-in", side)[0] == 0
    assert told(*DECODE, "-o", a, "--no-weights")[0] == 0
    assert told(*DECODE, "-o", b, "--no-weights", "--fault", "0:37:bitflip:3:9")[0] == 0
    status, text = told("diff", a, b)
    assert status == 1
    assert "first: 0:37" in text
    assert "not decided: 1 step with other inputs, first 0:40 GEMV W_out_head" in text
    assert "with --weights" in " ".join(text.split())
    status, text = told("bisect", b)
    assert status == 4
    assert "--weights" in text
    status, text = told("diff", a, b, "--weights", side)
    assert (status, "not decided" in text) == (1, False)
    status, text = told("bisect", b, "--weights", side)
    assert status == 1
    assert text.startswith("0:37 GEMV")


def test_other_weights_are_refused(tmp_path: Path, told: Told) -> None:
    side, path = tmp_path / "W.h5", tmp_path / "b.h5"
    told(*DECODE, "-o", path, "--no-weights")
    told(*DECODE, "-o", tmp_path / "a.h5", "--weights-in", side, "--seed", "1")
    for verb in ("replay", "show", "fsck"):
        status, text = told(verb, path, "--weights", side)
        assert status == 2
        assert "has digest" in text
        assert "was recorded" in text
    assert told("show", path, "--weights", tmp_path / "none.h5")[0] == 3


def test_bad_input(tmp_path: Path, told: Told) -> None:
    path = tmp_path / "a.h5"
    status, text = told(*DECODE, "-o", path, "--weights-in", tmp_path / "W.h5", "--no-weights")
    assert (status, "leave out one of them" in text) == (2, True)
    status, text = told(*DECODE, "-o", path, "--weights-in", path)
    assert (status, "can't be one file" in text) == (2, True)
    (tmp_path / "W.h5").write_text("something else")
    status, text = told(*DECODE, "-o", path, "--weights-in", tmp_path / "W.h5")
    assert (status, "expected a recording made by fusion-replay" in text) == (3, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["W.h5"]
    other = SnapshotWriter(tmp_path / "V.h5")
    status, text = told(*DECODE, "-o", path, "--weights-in", tmp_path / "V.h5")
    other.abandon()
    assert (status, f"process {os.getpid()} is" in text) == (2, True)


def test_the_environment_of_a_recorded_program_has_them() -> None:
    for given in (Options(weights_in="/x/W.h5"), Options(no_weights=True)):
        assert Options.from_environ(given.to_environ()) == given
