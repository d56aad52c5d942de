# SPDX-License-Identifier: Apache-2.0
"""Data and surroundings that used to end in an internal error (70), hang, or be found out only when it was too late."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.__main__ import main
from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import ArgSpec, OperandUse, StepDescription
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.describe import load_json
from snapshot_forge import Forge
from snapshot_maker import contents, gemv_silu, record, run

WEIGHT = {"digest": "0" * 32, "dtype": "bfloat16", "nbytes": 256, "name": "W", "sha256": "0" * 64, "file": "side.h5"}
READING = (
    ("show", "-v"),
    ("show", "--json"),
    ("replay",),
    ("fsck",),
    ("export", "--as", "jsonl", "-o", "out.jsonl"),
    ("diff", "FILE"),
)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(record(tmp_path / "t.h5", 1))


def asked(path: Path, capfd: pytest.CaptureFixture[str]) -> list[int]:
    """What every reading verb says of it: never 70."""
    found = []
    for verb, *more in READING:
        out = path.parent / "out.jsonl"
        out.unlink(missing_ok=True)
        words = [str(path) if w == "FILE" else str(out) if w == "out.jsonl" else w for w in more]
        found.append(main([verb, str(path), *words]))
        assert found[-1] in (0, 1, 2, 3, 4), capfd.readouterr().err
    capfd.readouterr()
    return found


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dot", "."),
        ("dots", ".."),
        ("long", "a" * 300),
        ("folder", "a/b"),
        ("nul", "a\0b"),
        ("itself", "t.h5"),
        ("none", ""),
    ],
)
def test_names_of_side_files(forge: Forge, capfd: pytest.CaptureFixture[str], name: str, file: str) -> None:
    forge.text("weights", [{**WEIGHT, "file": file}])
    asked(forge.seal(), capfd)


def test_a_side_file_without_steps_that_names_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    forge = Forge(record(tmp_path / "t.h5", 0))
    forge.text("weights", [{**WEIGHT, "file": "t.h5"}])
    path = forge.seal()
    asked(path, capfd)
    other = Forge(record(tmp_path / "u.h5", 0))
    other.text("weights", [{**WEIGHT, "file": "t.h5"}])
    forge = Forge(record(tmp_path / "t.h5", 0, if_exists="replace"))
    forge.text("weights", [{**WEIGHT, "file": "u.h5"}])
    forge.seal()
    asked(other.seal(), capfd)  # in a circle


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("losses", b'[{"kind":"a","detail":"b","count":Infinity}]'),
        ("losses", b'[{"kind":"a","detail":"b","count":NaN}]'),
        ("losses", b'[{"kind":"a","detail":"b","count":' + b"9" * 5000 + b"}]"),
        ("losses", b'[{"kind":"a","detail":"b","count":' + b"9" * 4000 + b"}]"),
        ("losses", b'[{"kind":"a","detail":"b","count":1e999}]'),
        ("losses", b"{}"),
        ("losses", b"[[]]"),
        ("losses", b"Infinity"),
        ("details", b"Infinity"),
        ("details", b'[{"values":Infinity}]'),
        ("details", b'[{"values":[],"state":{},"error":[],"iron":3,"noticed":"x"}]'),
        ("details", b'[{"noticed":{"clobbered":3,"rewritten":1,"assumed":2}}]'),
        ("provenance", b"[]"),
        ("provenance", b'{"recording":{"kept":{"keep":"mismatch"},"deviating":3}}'),
        ("provenance", b'{"packages":[1],"iron":3,"devices":{"a":Infinity}}'),
        ("provenance", b'{"a":' + b'{"a":' * 400 + b"1" + b"}" * 401),
        ("provenance", b'{"a":' + b"[" * 400 + b"1" + b"]" * 400 + b"}"),
        ("provenance", b'{"a":' + b"[" * 100_000 + b"1" + b"]" * 100_000 + b"}"),
        ("binaries", b"[3]"),
        ("binaries", b'[{"sequence":Infinity}]'),
        ("weights", b'[{"digest":3}]'),
        ("weights", b"[[]]"),
        ("weights", json.dumps([{**WEIGHT, "file": False}]).encode()),
        ("weights", json.dumps([{**WEIGHT, "sha256": False}]).encode()),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:40].decode(),
)
def test_wrong_json(forge: Forge, capfd: pytest.CaptureFixture[str], text: str, data: bytes) -> None:
    found = asked_text(forge, text, data, capfd)
    assert not (found[3] == 0 and 3 in found), "fsck says 0 where another verb says 3"


def asked_text(forge: Forge, text: str, data: bytes, capfd: pytest.CaptureFixture[str]) -> list[int]:
    if text == "details":  # as many as there were, or steps have none
        n = len(forge.index.details)
        with contextlib.suppress(TypeError):
            data = json.dumps(json.loads(data) * n).encode()
    forge.text(text, data)
    return asked(forge.seal(), capfd)


@pytest.mark.parametrize(
    "words",
    [
        ("show", "F", "9" * 5000 + ":0"),
        ("show", "F", "0:" + "9" * 5000),
        ("show", "F", "--buffer", "y[0:" + "9" * 5000 + "]"),
        ("show", "F", "--buffer", "y[\u00b2:\u00b3]"),
        ("replay", "F", "--step", "9" * 400 + ":0"),
        ("diff", "F@" + "9" * 5000, "F"),
        ("diff", "F@\u00b2", "F"),
        ("replay", "F", "--cache", "9" * 400),
        ("show", "F" * 300),
    ],
    ids=range(9),
)
def test_numbers_that_nobody_counts_to(
    tmp_path: Path, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path / "t.h5", 1)
    status = main([w.replace("F", str(path), 1) if w.startswith("F") else w for w in words])
    assert status in (0, 1, 2, 3), capfd.readouterr().err


@pytest.mark.parametrize("version", ["9" * 5000, "1" * 20, "-1", "\u00b2", ""])
def test_versions_of_goldens(tmp_path: Path, version: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.golden.json").write_text(json.dumps({"format": f"fusion-replay.golden/{version}"}))
    assert main(["golden", "check", str(tmp_path)]) == 3
    assert main(["golden", "lint", str(tmp_path)]) == 3


@pytest.mark.parametrize("value", ["1e999", "NaN", "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "9" * 5000])
def test_values_in_goldens(tmp_path: Path, value: str, capfd: pytest.CaptureFixture[str]) -> None:
    for key in ("recipe", "provenance"):
        whole = {
            "recorded_on": [],
            "steps": [],
            "n_steps": 0,
            "tolerances": [],
            "name": "x",
            "recipe": None,
            "provenance": {},
        }
        text = json.dumps({"format": "fusion-replay.golden/1", **whole, key: {"workload": "VALUE"}})
        (tmp_path / "x.golden.json").write_text(text.replace('"VALUE"', value))
        for words in (["golden", "check"], ["golden", "check", "--on", "sim"], ["golden", "lint"]):
            assert main([*words, str(tmp_path)]) in (1, 3, 4), capfd.readouterr().err


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    """In a process of its own: it may never come back."""
    for folder, suffix in (("sealed", ""), ("journal", ".journal"), ("spill", ".spill"), ("chunks", ".chunks")):
        (tmp_path / folder).mkdir()
        writer = SnapshotWriter(tmp_path / folder / "t.h5")
        run(writer, writer.add_sequence(gemv_silu()), contents(0, 0), stop_after=3)
        writer.abandon()
        place = tmp_path / folder / f"t.h5{suffix}"
        place.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(place)
        else:
            place.symlink_to("/dev/zero")
    verbs = [["show"], ["fsck"], ["replay"], ["diff", "t.h5"], ["fsck", "--recover"]]
    script = f"""
import os
from fusion_replay.__main__ import main
for folder in ("sealed", "journal", "spill", "chunks"):
    os.chdir(folder)
    print(folder, flush=True)
    print([main([*words, "t.h5"]) for words in {verbs}])
    os.chdir("..")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    statuses = [json.loads(line) for line in done.stdout.splitlines() if re.fullmatch(r"\[[\d, ]+\]", line)]
    assert list(map(len, statuses)) == [5] * 4, done.stdout + done.stderr
    assert {status for found in statuses for status in found} <= {0, 1, 2, 3, 4}, done.stderr


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    path = record(tmp_path / "t.h5", 1)
    before = path.read_bytes()
    for words, status in (
        ("fsck t.h5", 0),
        ("show none.h5", 3),
        ("replay t.h5 --json", None),
    ):
        done = subprocess.run(
            f"'{sys.executable}' -m fusion_replay {words} {closed}",
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status or (status is None and done.returncode in (0, 1, 4)), done
        if closed == "2>&-" and status:
            assert done.stdout == ""
    assert path.read_bytes() == before


def unreadable(change: Callable[[Any], Any]) -> Any:
    return change(gemv_silu())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: replace(s, name="n" * 5000), "a name of 5000 characters"),
        (
            lambda s: replace(s, operators=(replace(s.operators[0], type="n" * 5000), *s.operators[1:])),
            "a name of 5000",
        ),
        (lambda s: replace(s, buffers=(replace(s.buffers[0], name="n" * 5000), *s.buffers[1:])), "a name of 5000"),
        (lambda s: replace(s, input_args=("n" * 5000,)), "a name of 5000"),
        (
            lambda s: replace(s, steps=(StepDescription(0, 0, (OperandUse(ArgSpec("A", "in", (1,)), "x"),) * 65536),)),
            "65536 operands; the limit is 65535",
        ),
        (
            lambda s: replace(s, steps=(StepDescription(0, 0, (OperandUse(ArgSpec("A", "in", (1,) * 33), "x"),)),)),
            "33 axes",
        ),
    ],
    ids=["sequence", "operator", "buffer", "argument", "operands", "axes"],
)
def test_what_no_reader_takes_is_refused_while_it_is_recorded(
    tmp_path: Path, change: Callable[[Any], Any], words: str
) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    with pytest.raises(UsageError, match=words):
        writer.add_sequence(unreadable(change))
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    assert main(["fsck", str(writer.close().path)]) == 0


def test_a_step_that_is_there_twice_is_refused(forge: Forge, capfd: pytest.CaptureFixture[str]) -> None:
    rows = forge.index.steps.copy()
    rows[1] = rows[0]
    forge.table("steps", rows)
    assert asked(forge.seal(), capfd) == [3] * 6


def test_halves_of_characters_become_question_marks() -> None:
    """JSON can spell them, UTF-8 can't: reports, digests and exports of a file that has them ended in an error."""
    assert load_json(b'{"\\ud800a": ["\\ud83d\\ude00", "\\udcff"]}', "text") == {"?a": ["\U0001f600", "?"]}
