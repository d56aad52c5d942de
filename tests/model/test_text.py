# SPDX-License-Identifier: Apache-2.0
"""Lines for people: as wide as the terminal, the same everywhere else, and nothing in them obeyed."""

from __future__ import annotations

import io
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_replay.model import text as screen


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """``terminal(60)``: stdout is a terminal of 60 columns, and of 30 lines."""

    def be(columns: int) -> None:
        monkeypatch.setattr(sys, "stdout", Tty())
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "30")

    return be


def test_a_file_gets_the_same_text_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "200")
    assert (screen.columns(), screen.width()) == (None, 100)
    assert screen.height() > 1_000_000, "nothing is cut"


@pytest.mark.parametrize(("wide", "used"), [(60, 60), (100, 100), (119, 119), (300, 120), (5, 40)])
def test_a_terminal_is_asked_how_wide_it_is(terminal, wide: int, used: int) -> None:
    terminal(wide)
    assert screen.width() == used
    assert screen.height() == 29  # the last line is the command's


def test_no_stdout_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert screen.columns() is None
    closed = Tty()
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(closed, "isatty", lambda: os.isatty(closed.fileno()))
    assert screen.columns() is None


def test_wrap_goes_on_below_the_text(terminal) -> None:
    terminal(40)
    assert screen.wrap("a" * 20 + " " + "b" * 20, "  verdict  ") == ["  verdict  " + "a" * 20, " " * 11 + "b" * 20]


def test_a_narrow_screen_shows_as_much_of_a_text(terminal) -> None:
    """Two lines of 100 columns are five of 40."""
    text = " ".join(["word"] * 100)
    terminal(100)
    assert len(screen.wrap(text, "", lines=2)) == 2
    terminal(40)
    assert len(screen.wrap(text, "", lines=2)) == 5


@pytest.mark.parametrize(
    ("line", "folded"),
    [
        ("ok      numpy  2.4.6", ["ok      numpy  2.4.6"]),
        ("MISSING  pyxrt  the binding of XRT", ["MISSING  pyxrt  the", "         binding of", "         XRT"]),
        ("  left out: weights and other things", ["  left out: weights", "    and other things"]),
        ("first second third fourth", ["first second third", "  fourth"]),
    ],
)
def test_fold(line: str, folded: list[str]) -> None:
    assert screen.fold(line, 20) == folded


@given(st.text(alphabet="ab .:", max_size=200), st.integers(40, 80))
def test_folding_loses_no_word(text: str, room: int) -> None:
    assert " ".join(screen.fold(text, room)).split() == text.split()


@given(st.text(max_size=40))
def test_nothing_is_obeyed(text: str) -> None:
    assert all(c.isprintable() for c in screen.one_line(text) + screen.printable(f"  {text}"))
    assert screen.printable(f"  {text}x").startswith("  ")
