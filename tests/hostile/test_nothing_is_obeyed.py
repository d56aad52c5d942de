# SPDX-License-Identifier: Apache-2.0
"""A recording whose every name and text wants to be obeyed, through every verb and format: bytes, not impressions."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from fusion_replay.__main__ import main
from fusion_replay.export.redact import Redactor
from fusion_replay.golden import github
from fusion_replay.golden.check_report import GoldenReport, GoldenResult, Problem
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.model.text import shell
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.system.messages import one_line, say

LURE = (
    "n\x1b]0;owned\x07\x1b[2J\x9b31m\n::error::owned\nPASSED in 1 s\r\n  ::stop-commands::x\n##[error]owned"
    "\u202edrawkcab\u2066\u2028w\x85v\x00 ![i](http://evil.test/p.png) [l](http://evil.test) www.evil.test "
    "<img src=x> @everyone #1 GH-1 $x$ `t` |"
)
LONG = LURE + "q" * (4000 - len(LURE))


def hostile(path: Path, lure: str = LURE, first: str = "ReLU") -> Path:
    """A good step and a mismatch of a known operator, one of an unknown one, one that failed; a lure in all texts."""
    spec = ArgSpec(f"A{lure}", "in", (32,)), ArgSpec(f"C{lure}", "out", (32,))
    kept = lure[:3000]
    buffers = tuple(
        BufferDescription(f"{n}{kept}", 64, role, n == "x") for n, role in (("x", "input"), ("y", "output"))
    )
    uses = OperandUse(spec[0], f"x{kept}"), OperandUse(spec[1], f"y{kept}")
    sequence = SequenceDescription(
        name=lure,
        operators=(
            OperatorDescription(first, {"size": 32, lure: lure}, lure),
            OperatorDescription(f"Op{lure}", {}, lure),
        ),
        buffers=buffers,
        steps=tuple(StepDescription(i, int(i > 1), uses) for i in range(4)),
        input_args=(f"x{kept}",),
        output_args=(f"y{kept}",),
        origin={
            "variant": "simulator",
            "device": f"npu2{lure}",
            "evidence": lure,
            "caution": lure,
            "flavour": "iron-2026-08",
        },
    )
    writer = SnapshotWriter(path, provenance={"host": lure, lure: [lure], "argv": [lure], "iron": {"version": lure}})
    number = writer.begin_invocation(writer.add_sequence(sequence))
    x = np.linspace(-1, 1, 32, dtype=np.float32).view(np.uint32)
    raw = (x >> 16).astype(np.uint16)
    for step in range(3):
        writer.begin_step(number, step, {0: raw}, values={lure: 1})
        good = np.where(raw >> 15, 0, raw).astype(np.uint16)
        writer.end_step(number, step, {1: good if step == 0 else raw[::-1].copy()}, state=lure)
    writer.begin_step(number, 3, {0: raw})
    writer.fail_step(number, 3, lure)
    writer.lose("other", lure)
    return writer.close().path


def held(out: str, *, own_commands: int = 0) -> None:
    """What a screen and a log of GitHub Actions would do with it: nothing."""
    lines = out.split("\n")
    assert all(line.isprintable() for line in lines), [line[:200] for line in lines if not line.isprintable()]
    assert "##[" not in out
    commands = [line for line in lines if line.lstrip().startswith("::")]
    assert len(commands) == own_commands, commands
    assert not any(line.startswith("PASSED in 1 s") for line in lines)
    assert sum(line.startswith(("PASSED", "FAILED")) for line in lines) <= 1


def rendered(markdown: str) -> str:
    """What is left of Markdown outside of code, by the rule of code spans (equal runs of backticks)."""
    text = re.sub(r"^```$.*?^```$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)


def inert(markdown: str) -> None:
    left = rendered(markdown)
    for lure in ("evil.test", "http", "![", "](", "<img", "@everyone", "#1 ", "GH-1", "$x$", "\x1b"):
        assert lure not in left, left
    assert all(c == "\n" or c.isprintable() for c in markdown)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile(tmp_path_factory.mktemp("hostile") / "f\x1b[31m\n::error::x ##[error].h5")


VERBS = (
    ("show", "F"),
    ("show", "F", "-v"),
    ("show", "F", "0:1"),
    ("show", "F", "0:3"),
    ("show", "F", "--all"),
    ("show", "F", "--buffer", f"y{LURE}"),
    ("show", "F", "--buffer", "z"),
    ("show", "F", "--op", "ReLU"),
    ("show", "F", "--op", "nothing"),
    ("replay", "F"),
    ("replay", "F", "--all"),
    ("replay", "F", "--step", "0:1"),
    ("replay", "F", "--step", "0:2"),
    ("replay", "F", "--attribute"),
    ("replay", "F", "--reference", "nothing"),
    ("bisect", "F", "--journal", "/dev/null/x"),
    ("diff", "F", "F"),
    ("diff", "F", "G"),
    ("diff", "F", "G", "--all"),
    ("diff", "F", "H", "--align-anyway", "--all"),
    ("fsck", "F"),
    ("fsck", "F", "--recover"),
    ("operators", "--new", "ReLU", "--from", "F"),
    ("operators", "--new", f"Op{LURE}", "--from", "F"),
    ("export", "F", "--as", "jsonl", "-o", "out.jsonl"),
    ("export", "F", "--as", "npz", "-o", "out.npz"),
    ("export", "F", "--as", "safetensors", "-o", "out.safetensors"),
    ("export", "F", "--as", "plain-h5", "-o", "out.h5"),
    ("export", "F", "--as", "xrt", "-o", "xrt"),
    ("export", "F", "--step", "0:1", "--issue", "-o", "issue"),
    ("golden", "add", "F", "--dir", "goldens"),
    ("golden", "check", "no" + LURE.replace("\0", "")),
    ("nothing", "F"),
    (f"n{LURE}",),
)


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_every_verb(
    recording: Path, as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if not as_json:
        recording = hostile(tmp_path / "long.h5", LONG)
    other = hostile(tmp_path / "g.h5", LURE + "!")
    third = hostile(tmp_path / "h.h5", LURE, first="SiLU")
    monkeypatch.chdir(tmp_path)
    files = {"F": str(recording), "G": str(other), "H": str(third)}
    wrong = []
    for verb in VERBS:
        words = [files.get(w, w) for w in verb] + (["--json"] if as_json else [])
        status = main(words)
        out, err = capfd.readouterr()
        try:
            assert status in (0, 1, 2, 3, 4), err
            held(out)
            held(err)
        except AssertionError as error:
            wrong.append((" ".join(verb)[:60], str(error)[:700]))
    assert not wrong, "\n\n".join(map(str, wrong))
    for made in tmp_path.rglob("*"):
        assert one_line(made.name) == made.name  # nothing was called what a stranger says


def test_a_bug_report_renders_nothing(recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for address in ("0:1", "0:2", "0:3"):
        folder = tmp_path / address.replace(":", "-")
        assert main(["export", str(recording), "--step", address, "--issue", "-o", str(folder)]) == 0
        inert((folder / "issue.md").read_text("utf-8"))
        compile((folder / "repro.py").read_text("utf-8"), "repro.py", "exec")


def test_github_gets_one_command_and_an_inert_table() -> None:
    bad = GoldenResult(LURE, f"a{LURE}.golden.json", problems=(Problem(LURE, LURE, LURE),), notes=(LURE,), pending=LURE)
    report = GoldenReport("goldens", None, (bad,), (Problem("folder", LURE, LURE),))
    held("\n".join(github.error_lines(report)), own_commands=2)
    inert(github.summary(report))
    held("\n".join([*bad.lines, report.sentence]))


def test_a_line_from_inside_a_program(capfd: pytest.CaptureFixture[str]) -> None:
    say(LURE)
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    held(err)


@pytest.mark.parametrize(
    "name",
    ["plain.h5", "with blank", "it's", "a\nb", "\x1b[31m", "##[x]", "\\n'\x07", "é\u202e", LURE.replace("\0", "")],
)
def test_what_is_to_be_copied_means_the_same_in_a_shell(name: str) -> None:
    command = shell(["printf", "%s", name])
    held(command)
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout == name.encode()


def test_no_text_takes_long_to_redact() -> None:
    """100,000 letters took a pattern 50 s; measured against itself, twice the text takes about twice the time."""
    redactor = Redactor(names=("somebody",), words=("word",))

    def seconds(n: int) -> float:
        texts = ["a" * n, "a." * (n // 2), "1" * n, "~" * n, "/" * n, "a@" * (n // 2), f"{'a' * n}@", "/a" * (n // 2)]
        began = time.process_time()
        for text in texts:
            redactor.text(text)
        return time.process_time() - began

    assert seconds(200_000) < 20 * max(seconds(20_000), 0.01)


def test_a_run_of_pytest(recording: Path, tmp_path: Path) -> None:
    """JUnit, the summary and the failures of a golden whose every text is a lure."""
    import json

    goldens = tmp_path / "goldens"
    assert main(
        ["golden", "add", str(recording), "--dir", str(goldens), "--name", "g", "--accept-mismatch", "as it is"]
    ) in (0, 1, 4)
    step = {
        "address": "0:0",
        "op": LURE,
        "flow": LURE,
        "verdict": "match",
        "outputs": {LURE: "0" * 32},
        "limits": {"rtol": 0.0, "atol": 0.0},
    }
    goldens.mkdir(exist_ok=True)
    document = {
        "format": "fusion-replay.golden/1",
        "name": "g",
        "recorded_on": [LURE],
        "recipe": {LURE: LURE},
        "tolerances": [],
        "provenance": {LURE: LURE},
        "contents": None,
        "losses": [LURE],
        "n_steps": 1,
        "steps": [step],
    }
    (goldens / "g.golden.json").write_text(json.dumps(document))
    junit = tmp_path / "junit.xml"
    arguments = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "fusion_replay.golden.pytest.plugin",
    ]
    arguments += [
        "--fr-dir",
        str(goldens),
        "--fr-on",
        "sim",
        "--fr-details",
        f"--junitxml={junit}",
        f"--rootdir={tmp_path}",
    ]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    held(done.stdout)
    held(done.stderr)
    texts = [v for e in ET.parse(junit).iter() for v in (*e.attrib.values(), e.text or "")]
    assert any("owned" in t for t in texts)
    for text in texts:
        held(text)
