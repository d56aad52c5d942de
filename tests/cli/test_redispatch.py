# SPDX-License-Identifier: Apache-2.0
"""``replay --on npu|sim``: exit status, one line for what is missing, the screen, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Command
from published import PUBLISHED
from replaying.redispatch.conftest import machine, write

__all__ = ["machine"]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write(tmp_path / "block.h5")


def test_on_the_software_npu(run: Command, recording: Path) -> None:
    seen = run("replay", recording, "--on", "sim", "--repeat", 2)
    assert seen.status == 0
    first, *_, last = seen.out.splitlines()
    assert first == "5 of 5 steps run again, 5 with unchanged bits"
    assert "on the software NPU (npu1), 2 times each" in seen.out
    assert last.startswith("PASSED")
    assert max(map(len, seen.out.splitlines())) <= 100


def test_failures_stand_on_the_screen_with_the_next_command(run: Command, machine: Any, recording: Path) -> None:
    machine.behaviour = "nondeterministic"
    seen = run("replay", recording, "--on", "npu", "--repeat", 3, "--step", "0:0")
    assert seen.status == 1
    assert "pattern AAB" in seen.out
    assert seen.out.splitlines()[-1].startswith("FAILED")
    assert seen.out.splitlines()[-1].endswith(f"next: fusion-replay show {recording} 0:0")


def test_a_screenful_is_enough(run: Command, machine: Any, tmp_path: Path) -> None:
    machine.behaviour = "idle"
    path = write(tmp_path / "x.h5", calls=10)
    seen = run("replay", path, "--on", "npu")
    assert seen.status == 1
    lines = seen.out.splitlines()
    assert len(lines) <= 25
    assert "and 47 more that failed (--all shows them)" in lines
    everything = run("replay", path, "--on", "npu", "--all").out.splitlines()
    assert len(everything) > 50


def test_json_is_as_published(run: Command, machine: Any, recording: Path) -> None:
    machine.behaviour = "nondeterministic"
    seen = run("replay", recording, "--on", "npu", "--repeat", 4, "--json")
    records = [json.loads(line) for line in seen.out.splitlines()]
    for record in records:
        PUBLISHED.validate(record)
    assert records[-1]["type"] == "redispatch_summary"
    assert (records[-1]["passed"], records[-1]["ran"]) == (False, 5)
    listed = [json.loads(line) for line in run("show", recording, "--json").out.splitlines()]
    for record in listed:
        PUBLISHED.validate(record)
    assert [r["op"] for r in listed if r["type"] == "kernel_files"][:2] == ["ElementwiseAdd", "SiLU"]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--repeat", "3"], 2, "replay: --repeat is for dispatching again; add --on npu or --on sim"),
        (["--force"], 2, "replay: --force is for dispatching again"),
        (["--on", "sim", "--workers", "2"], 2, "--workers is for judging a recording; leave it out"),
        (["--on", "sim", "--mode", "cumulative"], 2, "--mode is for judging a recording"),
        (["--on", "sim", "--repeat", "0"], 2, "repeat 0: expected at least 1"),
        (["--on", "sim", "--build-dir", "."], 2, "the software NPU runs no binaries"),
        (["--on", "sim", "--device", "npu2"], 4, "--force runs it all the same"),
        (["--on", "sim", "--device", "npu7"], 2, "expected npu1 or npu2"),
        (["--on", "tpu"], 2, "tpu"),
        (["--on", "npu"], 4, "pyxrt: expected XRT's Python binding, found none"),
        (["--on", "sim", "--step", "9:9"], 2, "no step 9:9"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(
    run: Command, recording: Path, words: list[str], status: int, says: str
) -> None:
    before = recording.read_bytes()
    seen = run("replay", recording, *words)
    assert seen.status == status
    assert seen.out == ""
    assert says in seen.err
    assert len(seen.err.splitlines()) == 1
    assert recording.read_bytes() == before
    assert [p.name for p in recording.parent.iterdir()] == [recording.name]


def test_no_snapshot(run: Command, tmp_path: Path) -> None:
    assert run("replay", tmp_path / "nothing.h5", "--on", "sim").status == 3
