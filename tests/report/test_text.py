# SPDX-License-Identifier: Apache-2.0
"""Sizes, times, counts and tables, against values worked out by hand."""

from __future__ import annotations

import pytest

from fusion_replay.report.text import count, human_bytes, human_ns, human_seconds, one_line, table


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (2_471_000_000, "2.5 GB"),
        (3 * 10**15, "3000.0 TB"),
    ],
)
def test_bytes(n: int, text: str) -> None:
    assert human_bytes(n) == text


@pytest.mark.parametrize(
    ("s", "text"),
    [(0.0, "0 ms"), (0.0123, "12 ms"), (0.9999, "1.0 s"), (83.0, "83.0 s"), (119.6, "2 min 0 s"), (200, "3 min 20 s")],
)
def test_seconds(s: float, text: str) -> None:
    assert human_seconds(s) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [(None, ""), (0, "0 ns"), (999, "999 ns"), (1234, "1.23 us"), (2_500_000, "2.5 ms"), (10**12, "1000 s")],
)
def test_nanoseconds(ns: int | None, text: str) -> None:
    assert human_ns(ns) == text


@pytest.mark.parametrize(
    ("n", "noun", "text"),
    [
        (1, "step", "1 step"),
        (0, "step", "0 steps"),
        (1764, "step", "1,764 steps"),
        (2, "mismatch", "2 mismatches"),
        (2, "entry", "2 entries"),
        (2, "array", "2 arrays"),
        (3, "loss", "3 losses"),
    ],
)
def test_count(n: int, noun: str, text: str) -> None:
    assert count(n, noun) == text


def test_one_line_shows_control_characters_and_keeps_letters() -> None:
    assert one_line("a\nb\x1b[31mc é\u202e") == r"a b\x1b[31mc é\u202e"


def test_table_aligns_and_leaves_no_blanks_at_line_ends() -> None:
    assert table([["op", "n"], ["GEMV", 12], ["Add", 3]], indent="", right=(1,)) == "op     n\nGEMV  12\nAdd    3"
    assert table([["a", ""], ["bb", "c"]], indent="> ") == "> a\n> bb  c"
    assert table([]) == ""
