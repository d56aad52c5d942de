# SPDX-License-Identifier: Apache-2.0
"""Words for people: a text on one line, in which nothing is obeyed; exceptions, sizes, counts; one line on stderr."""

from __future__ import annotations

import contextlib
import sys


def one_line(text: str) -> str:
    """``text`` on one line with nothing in it to obey: control characters and those that change the direction of a
    text are shown, and so is what a log of GitHub Actions would take for a command: ``::`` at the beginning, ``##[``
    anywhere (actions/runner, src/Runner.Common/ActionCommand.cs)."""
    text = text.strip()
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c in "\n\r\t" else ascii(c)[1:-1] for c in text).strip()
    if text.startswith("::"):
        text = f"\\x3a{text[1:]}"
    return text.replace("##[", "\\x23#[")


def in_words(error: BaseException) -> str:
    """An exception on one line of at most 2,000 characters: it goes into a message and into the snapshot."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:2000]


def way_of(error: BaseException) -> list[tuple[str, int]]:
    """File and line of every frame that an exception passed through, the one that raised it last."""
    way, trace = [], error.__traceback__
    while trace is not None:
        way.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return way


def line_in(file: str, error: BaseException) -> int | None:
    """The line of ``file`` that an exception came from, however deep in libraries it was raised; None: not by it."""
    return next((line for name, line in reversed(way_of(error)) if name == file), None)


def human_bytes(n: int) -> str:
    """``1536`` -> ``1.5 kB``: decimal units, as disks and networks count."""
    value, unit = float(n), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{n} B" if unit == "B" else f"{value:.1f} {unit}"


def count(n: int, noun: str) -> str:
    """``count(2, "step")`` -> ``2 steps``; knows mismatch, entry and the plain nouns."""
    if n == 1:
        return f"1 {noun}"
    if noun.endswith(("ch", "sh", "x", "s")):
        return f"{n:,} {noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{n:,} {noun[:-1]}ies"
    return f"{n:,} {noun}s"


def say(message: str) -> None:
    """One line on stderr; a closed stderr stops nothing."""
    with contextlib.suppress(Exception):
        sys.stderr.write(
            f"fusion-replay: {one_line(message)}\n"
        )  # one write: print() lets another thread between text and end
        sys.stderr.flush()


__all__ = ["count", "human_bytes", "in_words", "line_in", "one_line", "say", "way_of"]
