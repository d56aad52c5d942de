# SPDX-License-Identifier: Apache-2.0
"""``export``: the words, the exit status, the last line, and JSON that obeys the schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.export import FORMATS
from published import PUBLISHED

Run = Callable[..., Any]


def test_part_of_a_recording_replays_under_the_same_address(run: Run, bad: Path, tmp_path: Path) -> None:
    found = run("export", bad, "--step", "1:0", "-o", tmp_path / "step.h5")
    assert found.status == 0
    assert found.out.splitlines()[-1].endswith(f"next: fusion-replay replay {tmp_path}/step.h5")
    replayed = run("replay", tmp_path / "step.h5")
    assert replayed.status == 1
    assert "first 1:0 ElementwiseAdd A, B -> C" in replayed.out


def test_default_names_lie_here_and_are_told(
    run: Run, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for words, name in [
        ((), "good-part.h5"),
        (("--as", "npz"), "good.npz"),
        (("--step", "2:0", "--as", "jsonl"), "good-2-0.jsonl"),
        (("--as", "plain-h5"), "good-plain.h5"),
    ]:
        found = run("export", good, *words)
        assert found.status == 0, found.err
        assert found.out.startswith(f"{name}: ")
        assert Path(name).is_file()
        assert max(map(len, found.out.splitlines())) <= 100


def test_issue(run: Run, bad: Path, tmp_path: Path) -> None:
    found = run("export", bad, "--step", "1:0", "--issue", "-o", tmp_path / "bug")
    assert found.status == 0
    assert found.out.splitlines()[-1].endswith(f"next: python {tmp_path}/bug/repro.py")
    assert "left out: provenance: command" in found.out
    again = run("export", bad, "--step", "1:0", "--issue", "-o", tmp_path / "bug", "--json")
    assert (again.status, again.out) == (2, "")
    numbered = run("export", bad, "--step", "1:0", "--issue", "-o", tmp_path / "bug", "--json", "--if-exists", "number")
    record = json.loads(numbered.out)
    PUBLISHED.validate(record)
    assert (record["path"], record["format"]) == (str(tmp_path / "bug-001"), "issue")


@pytest.mark.parametrize("format_", sorted(set(FORMATS) - {"xrt"}))
def test_json_summary(run: Run, good: Path, tmp_path: Path, format_: str) -> None:
    found = run("export", good, "--as", format_, "-o", tmp_path / "out", "--json")
    (line,) = found.out.splitlines()
    record = json.loads(line)
    PUBLISHED.validate(record)
    assert (record["type"], record["format"], record["steps"]) == ("export", format_, 3)
    assert record["bytes"] == (tmp_path / "out").stat().st_size
    assert found.err.startswith("PASSED")


def test_every_line_of_jsonl_obeys_the_schema(run: Run, good: Path, tmp_path: Path) -> None:
    assert run("export", good, "--as", "jsonl", "-o", tmp_path / "out").status == 0
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["address"] for line in lines] == ["0:0", "1:0", "2:0"]
    for line in lines:
        PUBLISHED.validate(line)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--as", "zip"), 2, "format 'zip'"),
        (("--step", "9:9"), 2, "no step 9:9"),
        (("--op", "GEMV"), 2, "matches op GEMV"),
        (("--slice",), 2, "slice: expected one step"),
        (("--as", "xrt"), 4, "snapshot without binaries for ElementwiseAdd"),
    ],
)
def test_refusals(run: Run, good: Path, words: tuple[str, ...], status: int, said: str) -> None:
    found = run("export", good, *words)
    assert (found.status, found.out) == (status, "")
    assert said in found.err
    assert found.err.count("\n") == 1
