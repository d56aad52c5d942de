# SPDX-License-Identifier: Apache-2.0
"""What a person sees: on a terminal of 60 or 80 columns, with no stdout at all, and after a word that is no verb."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from fusion_replay.cli import VERBS

COMMANDS = """
import json, sys
from fusion_replay.__main__ import main
for words in json.loads(sys.argv[1]):
    assert main(words) in (0, 1)
    print(flush=True, end="\\f")
"""


def on_a_terminal(columns: int, folder: Path, *commands: tuple[str, ...]) -> list[list[str]]:
    """The lines that a pseudo-terminal of that width is sent by each of these commands in ``folder``."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"NO_COLOR": "1"}
    command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    running = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, env=env, cwd=folder)
    os.close(slave)
    received = b""
    try:
        while piece := os.read(master, 1 << 16):
            received += piece
    except OSError:  # the other side is closed: this is how a pseudo-terminal ends
        pass
    os.close(master)
    assert running.wait() == 0
    found = [part.split("\n") for part in received.decode().replace("\r\n", "\n").split("\f")]
    assert len(found) == len(commands) + 1
    return [[line for line in lines if line] for lines in found[:-1]]


@pytest.mark.parametrize("columns", [60, 80])
def test_no_line_is_wider_than_the_terminal(bad: Path, columns: int) -> None:
    commands = [("show", bad.name), ("show", bad.name, "1:0"), ("replay", bad.name), ("replay", bad.name, "--all")]
    for lines in on_a_terminal(columns, bad.parent, *commands):
        *report, _last = lines  # a command to copy is never broken
        assert report
        assert max(map(len, report)) <= columns


def test_a_narrow_terminal_shows_every_figure_of_an_array(run, bad: Path) -> None:
    narrow = "\n".join(on_a_terminal(60, bad.parent, ("show", bad.name, "1:0"))[0])
    wide = run("show", bad, "1:0").out.replace(str(bad), bad.name)
    assert set(wide.split()) == set(narrow.split())


def test_what_to_type_next_is_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``make demo`` runs a program that is not on the PATH: its name alone would not be found."""
    from fusion_replay.cli.terminal import command_line, program

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "argv", ["fusion-replay", "show"])
    assert command_line("show", "a b.h5") == "fusion-replay show 'a b.h5'"
    monkeypatch.setattr(sys, "argv", [".venv/bin/fusion-replay", "show"])
    assert command_line("show") == ".venv/bin/fusion-replay show"
    assert program("python") == ".venv/bin/python"
    installed = tmp_path / "bin" / "fusion-replay"
    installed.parent.mkdir()
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    assert command_line("show") == "fusion-replay show"


def test_without_stdout(good: Path) -> None:
    """``fusion-replay replay F >&-``: the exit status still answers."""
    for words, status in ((("replay", good), 0), (("golden",), 2)):
        command = f'exec "$0" -m fusion_replay {words[0]} {words[1] if words[1:] else ""} >&-'
        done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True)
        assert (done.returncode, "internal error" in done.stderr) == (status, False), done.stderr


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("replya", "no verb 'replya'; nearest: replay"),
        ("help", f"no verb 'help'; verbs: {', '.join(VERBS)}"),
    ],
)
def test_a_word_that_is_no_verb(run, word: str, told: str) -> None:
    result = run(word)
    assert (result.status, result.err) == (2, f"error: {told} (see: fusion-replay --help)\n")


def test_a_file_instead_of_a_verb(run, good: Path) -> None:
    result = run(good)
    assert result.status == 2
    assert f"look at it with: fusion-replay show {good}" in result.err
    assert "no verb" in run(good.parent).err  # a folder is nothing to look at


def test_a_group_without_its_verb_shows_its_help_as_it_is(run) -> None:
    result = run("golden")
    assert result.status == 2
    assert result.err.startswith("Usage: fusion-replay golden [OPTIONS]")
    assert "\n  accept  " in result.err
