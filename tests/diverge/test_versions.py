# SPDX-License-Identifier: Apache-2.0
"""Tries over commits and versions: good, bad, can't be judged; and the search that was killed."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusion_replay as fr
from fusion_replay.__main__ import main
from fusion_replay.diverge.versions import BAD, GOOD, SKIPPED, find_version, narrowest_pair, one_try
from fusion_replay.errors import UsageError
from fusion_replay.report.jsonl import schema

RECORD = """
import os, sys
import ml_dtypes, numpy as np
import fusion_replay as fr
a = np.arange(8).astype(ml_dtypes.bfloat16)
with fr.record(os.environ["FUSION_REPLAY_OUT"]) as rec, rec.step("ElementwiseAdd", {"A": a, "B": a}, {"size": 8}) as s:
    s.outputs["C"] = add(a, a)
"""
RIGHT, WRONG = "def add(a, b): return a + b\n", "def add(a, b): return a + b + np.float32(1).astype(a.dtype)\n"


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    """What a right program records."""
    path = tmp_path / "gold.h5"
    a = np.arange(8).astype(ml_dtypes.bfloat16)
    with fr.record(path) as rec, rec.step("ElementwiseAdd", {"A": a, "B": a}, {"size": 8}) as step:
        step.outputs["C"] = a + a
    return path


def program(folder: Path, text: str, name: str = "op.py") -> str:
    path = folder / name
    path.write_text(text)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(path))}"


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        (RIGHT + RECORD, GOOD, "none of 1 step differ"),
        (WRONG + RECORD, BAD, "first 0:0 ElementwiseAdd"),
        (RIGHT + RECORD + "sys.exit(3)", SKIPPED, "ended with exit status 3, though what it recorded agrees"),
        (WRONG + RECORD + "sys.exit(3)", BAD, "first 0:0"),
        (
            "",
            SKIPPED,
            "$FUSION_REPLAY_OUT: no such file, so nothing was recorded there; `fusion-replay record` without -o does",
        ),
        ("import os; os.abort()", SKIPPED, "ended by SIGABRT; $FUSION_REPLAY_OUT: no such file"),
        ("import time; time.sleep(60)", SKIPPED, "killed after 1 s"),
        ("import os; open(os.environ['FUSION_REPLAY_OUT'], 'w').write('x' * 600)", SKIPPED, "$FUSION_REPLAY_OUT"),
        (RECORD.replace("ElementwiseAdd", "ElementwiseMul") + RIGHT, SKIPPED, "exit status 1"),
    ],
)
def test_one_try(text: str, status: int, says: str, tmp_path: Path, gold: Path) -> None:
    found = one_try(program(tmp_path, text), gold, timeout=1 if "sleep" in text else 60)
    assert found.status == status, found
    assert says in found.reason


def test_a_command_that_can_not_start(gold: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bisect", "--run", "/nonexistent/thing", "--against", str(gold)]) == 125
    assert "could not be started" in capfd.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--run", "true"],
        ["--run", "true", "--against", "missing.h5"],
        ["--run", "true", "--against", "missing.h5", "--rule", "nope"],
        ["x.h5", "--run", "true", "--against", "missing.h5"],
    ],
)
def test_what_git_must_not_take_for_a_bad_commit(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bisect", *words]) == 125
    capfd.readouterr()


def test_what_a_timeout_ends_is_ended_with_its_children(tmp_path: Path, gold: Path) -> None:
    sleep = f"import time; time.sleep(60)  # {tmp_path}"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])"
    one_try(program(tmp_path, child), gold, timeout=1)
    time.sleep(0.2)
    running = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert [c for c in running if sleep.encode() in c] == []


def test_git_bisect_run_finds_the_commit(tmp_path: Path, gold: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*words: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
        done = subprocess.run(["git", *identity, *words], cwd=repository, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    git("init", "-q")
    broken = ""
    for i in range(8):
        body = "raise SystemExit('does not build')" if i == 3 else (RIGHT if i < 5 else WRONG) + RECORD
        (repository / "op.py").write_text(f"# {i}\n{body}")
        git("add", "op.py")
        git("commit", "-q", "-m", f"commit {i}")
        broken = git("rev-parse", "HEAD").strip() if i == 5 else broken
    git("bisect", "start", "HEAD", "HEAD~7")
    tool = [sys.executable, "-m", "fusion_replay", "bisect", "--run", f"{sys.executable} op.py", "--against", str(gold)]
    said = git("bisect", "run", *tool)
    assert f"{broken} is the first bad commit" in said


@given(st.lists(st.sampled_from([GOOD, SKIPPED]), max_size=12), st.lists(st.sampled_from([BAD, SKIPPED]), max_size=12))
def test_the_narrowest_pair_around_the_change(before: list[int], after: list[int]) -> None:
    states = before + after
    good, bad = narrowest_pair(lambda i: states[i], len(states))
    goods = [i for i, s in enumerate(states) if s == GOOD]
    bads = [i for i, s in enumerate(states) if s == BAD]
    assert good == (goods[-1] if goods else None)
    assert bad == (bads[0] if bads else None)


def test_few_tries_over_many_versions() -> None:
    asked: list[int] = []

    def status(i: int) -> int:
        asked.append(i)
        return BAD if i >= 700 else GOOD

    assert narrowest_pair(status, 1000) == (699, 700)
    assert len(set(asked)) <= 12


def versioned(folder: Path) -> str:
    """Wrong from v3 on; v2 does not build."""
    text = "import os\nversion = os.environ['FUSION_REPLAY_VERSION']\nif version == 'v2': raise SystemExit(1)\n"
    text += "bad = version >= 'v3'\ndef add(a, b): return a + b + np.float32(bad).astype(a.dtype)\n"
    return program(folder, text + RECORD) + " {version}"


def test_over_a_list_of_versions(tmp_path: Path, gold: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "versions.txt"
    listed.write_text("# nightly\nv1\nv2\n\nv3\n")
    words = ["bisect", "--run", versioned(tmp_path), "--against", str(gold), "--versions", str(listed)]
    assert main(words) == 1
    out = capfd.readouterr().out
    assert "the first bad version lies between v1 (good) and v3 (bad); v2 can't be judged" in out
    assert not Path(f"{gold}.bisect").exists()
    assert main([*words, "--json"]) == 1
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    validator = jsonschema.Draft202012Validator(schema())
    for record in records:
        validator.validate(record)
    assert records[-1]["first_bad"] == ["v2", "v3"]
    assert {r["version"]: r["status"] for r in records[:-1]}["v2"] == 125


@pytest.mark.parametrize(
    ("versions", "says"), [("v0,v1", "no bad version was found; v1 is good"), ("v3,v4", "v3 is bad")]
)
def test_nothing_to_find(versions: str, says: str, tmp_path: Path, gold: Path) -> None:
    found = find_version(versioned(tmp_path), gold, versions.split(","))
    assert not found
    assert found.sentence.startswith(says)


def test_a_version_that_took_the_machine_down_is_skipped(tmp_path: Path, gold: Path) -> None:
    """The command kills whoever drives the search, as a hung NPU does the box; on the next start it is not tried."""
    command = f"[ {{version}} = v1 ] && kill -KILL $PPID; {versioned(tmp_path)}"
    words = [sys.executable, "-m", "fusion_replay", "bisect", "--run", command, "--against", str(gold)]
    words += ["--versions", "v0,v1,v3", "--journal", str(tmp_path / "journal")]
    first = subprocess.run(words, capture_output=True, text=True, check=False)
    assert first.returncode == -signal.SIGKILL
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 1, again.stderr
    assert "v1: can't be judged: an earlier try of it never ended" in again.stdout
    assert "between v0 (good) and v3 (bad); v1 can't be judged" in " ".join(again.stdout.split())
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize("versions", [[], ["a"], ["a", "a"], ["a", ""]])
def test_lists_that_are_none(versions: list[str], gold: Path) -> None:
    with pytest.raises(UsageError, match="expected at least two different ones"):
        find_version("true", gold, versions)
