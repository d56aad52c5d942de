# SPDX-License-Identifier: Apache-2.0
"""Reading, judging, diffing, exporting and goldens in a process that lacks what other operating systems lack.

What is tried is our choice of branch and of call, not the systems themselves (see docs/recording.md).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fusion_replay
from fusion_replay.snapshot import SnapshotWriter
from other_system import outcome
from snapshot_maker import contents, gemv_silu, run

PROGRAM = Path(__file__).parents[1] / "other_system.py"
OWN = re.compile(r"\d[\d.,]* (us|ms|s|bytes|[kMG]?B)\b|\b[0-9a-f]{32}\b|\d+-\d+-\d+T? ?\d+:\d+:\d+(Z|[.\d]*)")
"""Of each recording: durations, sizes of files, its identity, its time."""


def comparable(text: str) -> list[str]:
    """The words; how wide a column is depends on the durations in it."""
    return OWN.sub("?", text).split()


def recordings(folder: Path) -> None:
    """Good and faulty, and one that was never closed."""
    workload = ["--workload", "op:GELU", "--sim", "npu1"]
    for words in (["-o", "good.h5"], ["-o", "bad.h5", "--fault", "0:0:bitflip"]):
        assert outcome(["record", *workload, *words])["status"] == 0, words
    writer = SnapshotWriter(folder / "open.h5")
    run(writer, writer.add_sequence(gemv_silu()), contents(1, 0))
    writer.abandon()


LINES = [
    ["show", "good.h5"],
    ["show", "bad.h5", "0:0"],
    ["replay", "good.h5"],
    ["replay", "bad.h5", "--json"],
    ["diff", "good.h5", "bad.h5", "--json"],
    ["bisect", "bad.h5"],
    ["fsck", "good.h5"],
    ["operators", "GELU"],
    ["show", "open.h5"],
    *(["export", "bad.h5", "--as", kind, "-o", f"out.{kind}"] for kind in ("npz", "jsonl", "h5", "plain-h5")),
    ["golden", "add", "good.h5", "--name", "g", "--dir", "goldens"],
    ["golden", "check", "--dir", "goldens"],
]
WRITING = [
    ["arrays", "arrays.h5"],
    ["replay", "arrays.h5", "--json"],
    ["fsck", "--recover", "open.h5"],
    ["record", "--workload", "op:GELU", "--sim", "npu1", "-o", "again.h5"],
    ["diff", "good.h5", "again.h5", "--json"],
]


@pytest.mark.parametrize("system", ["win32", pytest.param("darwin", marks=pytest.mark.long)])
def test_what_other_systems_lack(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {name: tmp_path / name for name in ("here", system)}
    for place in places.values():
        place.mkdir()
        monkeypatch.chdir(place)
        recordings(place)
    monkeypatch.chdir(places["here"])
    expected = [outcome(words) for words in (*LINES, *WRITING)]
    monkeypatch.chdir(places[system])
    Path("lines.json").write_text(json.dumps([*LINES, *WRITING, ["record", "python", "app.py"]]), "utf-8")
    ascii_alone = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONWARNDEFAULTENCODING": "1"}
    subprocess.run(
        [sys.executable, str(PROGRAM), system, "lines.json", "outcomes.json"],
        env={**os.environ, **ascii_alone, "PYTHONPATH": str(Path(fusion_replay.__file__).parents[1])},
        check=True,
        timeout=300,
    )
    *found, program = json.loads(Path("outcomes.json").read_text("utf-8"))
    for words, there, here in zip([*LINES, *WRITING], found, expected, strict=True):
        assert there["status"] == here["status"], (words, there["err"])
        assert comparable(there["out"]) == comparable(here["out"]), words
    assert program["status"] == 4
    assert f"this is {system}; IRON programs run, and are recorded, on Linux" in program["err"]
    for name in ("good.h5", "again.h5"):  # what was written there is whole here
        assert outcome(["fsck", name])["status"] == 0
    assert not [p for p in Path().iterdir() if p.suffix in (".journal", ".chunks", ".spill", ".part")]


def test_the_package_asks_the_system_in_one_place() -> None:
    """Calls that only some systems have are named in ``system/platform.py``, and where a program is recorded."""
    calls = r"\bos\.(preadv?|pwritev?|posix_fallocate|fdatasync|sched_getaffinity|register_at_fork|geteuid|killpg)\("
    only = re.compile(rf"{calls}|^\s*(import|from) (fcntl|resource|pwd|termios|msvcrt)\b", re.MULTILINE)
    package = Path(fusion_replay.__file__).parent
    allowed = {"system/platform.py", "cli/record_program.py"}
    found = {str(p.relative_to(package)) for p in package.rglob("*.py") if only.search(p.read_text("utf-8"))}
    assert found == allowed
