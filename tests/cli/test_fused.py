# SPDX-License-Identifier: Apache-2.0
"""``record --dispatch fused``, ``diff SEPARATE FUSED`` and ``bisect --fused``, from one seed to the step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.__main__ import main

Command = Callable[..., Any]
LLAMA = ["--workload", "llama-decode", "--sim", "npu2", "--position", "3", "--intermediates", "own"]
FUSED = ["--repeat-calls", "2", *LLAMA, "--dispatch", "fused"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fused")
    assert main(["record", "-o", str(folder / "separate.h5"), *LLAMA]) == 0
    assert main(["record", "-o", str(folder / "honest.h5"), *FUSED]) == 0
    assert main(["record", "-o", str(folder / "racing.h5"), "--fault", "0:43:alias-race", *FUSED]) == 0
    return folder


def words(text: str) -> str:
    return " ".join(text.split())


def test_diff_says_whether_the_fusion_is_to_blame(folder: Path, run: Command) -> None:
    done = run("diff", folder / "separate.h5", folder / "honest.h5")
    assert done.status == 0
    assert "equal bits in 4 calls" in done.out
    done = run("diff", folder / "separate.h5", folder / "racing.h5")
    assert done.status == 1
    assert "the steps are right, the fusion is not" in done.out
    assert f"bisect {folder / 'separate.h5'} --fused {folder / 'racing.h5'}" in words(done.out + done.err)
    done = run("diff", "--json", folder / "separate.h5", folder / "racing.h5")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [r["type"] for r in records if r["type"] in ("call", "fusion")] == ["call"] * 4 + ["fusion"]
    assert next(r for r in records if r["type"] == "fusion")["kind"] == "varies"


def test_bisect_finds_the_step(folder: Path, run: Command) -> None:
    done = run("bisect", folder / "separate.h5", "--fused", folder / "racing.h5", "--repeats", "2")
    assert done.status == 1
    assert "1:43 RoPE queries_1" in done.out
    assert "without it the window is right: step 43 writes a buffer of its own" in words(done.out)
    assert "window 1 of at most 18" in done.err
    done = run("bisect", folder / "separate.h5", "--fused", folder / "honest.h5", "--repeats", "1")
    assert done.status == 0


def test_a_sequence_from_python(folder: Path, tmp_path: Path, run: Command) -> None:
    code = tmp_path / "app.py"
    code.write_text(
        "from fusion_replay.simulator.workloads import find\n"
        "def build():\n"
        "    given = {'position': 3, 'intermediates': 'own', 'dispatch': 'fused'}\n"
        "    return find('llama-decode').build('npu2', ['0:43:alias-race'], given).callable\n"
        "number = 3\n"
    )
    done = run("bisect", folder / "separate.h5", "--fused", f"{code}:build", "--repeats", "2", "--json")
    assert done.status == 1
    found = json.loads(done.out.splitlines()[0])
    assert (found["type"], found["step"], found["first"], found["last"]) == ("fused", 43, 43, 43)
    for where, why in (
        (f"{code}:nothing", "has no nothing"),
        (f"{code}:number", "expected a sequence (with a runlist), found int"),
        (f"{tmp_path}/none.py:x", "no such file"),
        (str(tmp_path / "none.h5"), "expected FILE.py:NAME"),
        (str(folder / "separate.h5"), "a recording of no fused workload"),
    ):
        done = run("bisect", folder / "separate.h5", "--fused", where)
        assert done.status == 2
        assert why in words(done.err)


def test_what_does_not_go_together(folder: Path, run: Command) -> None:
    assert run("bisect", "--fused", "x.py:y").status == 2
    assert run("bisect", folder / "separate.h5", "--repeats", "3").status == 2
    done = run("record", "--workload", "llama-decode", "--sim", "npu1", "--dispatch", "fused", "-o", folder / "x.h5")
    assert done.status == 2
    assert "npu1 runs no full ELF" in done.err
    done = run("record", "--fault", "0:43:alias-race", "-o", folder / "x.h5", *LLAMA)
    assert done.status == 2
    assert "record with --dispatch fused" in words(done.err)


def test_other_weights_are_said_first(folder: Path, run: Command) -> None:
    assert run("record", "-o", folder / "other.h5", *FUSED, "--seed", "5").status == 0
    done = run("diff", folder / "separate.h5", folder / "other.h5")
    assert done.status == 4
    assert words(done.out).startswith("llama-decode: the two runs did not begin alike (")
