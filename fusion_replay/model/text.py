# SPDX-License-Identifier: Apache-2.0
"""Lines of text for a terminal or a file: their width, how they wrap, control characters shown as text."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator

from fusion_replay.system.messages import one_line as one_line

WIDTH = 100
"""Columns of a report that goes to a file or a pipe: the same text on every machine."""
LINES = 24
"""Of a report on a terminal, unless ``--all`` asks for more: with the command's last line one screen. What goes to a
file or a pipe is never cut."""
MARK = "> "
"""Begins the row of what is wrong; a terminal shows such rows in red."""

_NARROWEST, _WIDEST = 40, 120
_LABEL = re.compile(r" *\S+(?: \S+)*? {2,}(?=\S)")  # of "  verdict  247 of 256 elements fail"


def columns() -> int | None:
    """Of the terminal that stdout is (``COLUMNS`` outranks what it says of itself); None where it is none."""
    try:
        terminal = sys.stdout.isatty()
    except (AttributeError, ValueError):  # there is no stdout, or it was closed
        return None
    return max(shutil.get_terminal_size((WIDTH, LINES)).columns, _NARROWEST) if terminal else None


def width() -> int:
    """Columns that a report may use."""
    return min(columns() or WIDTH, _WIDEST)


def height() -> int:
    """Lines that a report may use besides the command's last one: as a terminal has room for, elsewhere any number."""
    return sys.maxsize if columns() is None else max(LINES, shutil.get_terminal_size((WIDTH, LINES + 1)).lines - 1)


def printable(line: str) -> str:
    """As :func:`one_line`, of a line that keeps its indent."""
    return line[: len(line) - len(line.lstrip(" "))] + one_line(line)


def block(parts: Iterable[str]) -> str:
    """One text of lines, each :func:`printable`: a line break inside one of them makes no line of its own."""
    return "\n".join(map(printable, parts))


def shell(words: Iterable[str | os.PathLike[str]]) -> str:
    """A command line to copy into a shell: quoted, and what no screen should get spelled as in ``$'\\x1b'``."""
    return " ".join(_word(os.fspath(word)) for word in words)


def _word(text: str) -> str:
    if one_line(text) == text:
        return shlex.quote(text)
    plain = (c if c.isprintable() and c not in "\\'#:" else _bytes(c) for c in text)
    return f"$'{''.join(plain)}'"


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def wrap(text: str, label: str, *, lines: int | None = None) -> list[str]:
    """``label`` and ``text``, what does not fit into the first line below the text's beginning.

    ``lines``: on a terminal at most so many of :data:`WIDTH` columns, and as much text on a narrower screen.
    """
    room = width()
    lines = None if columns() is None else lines
    return textwrap.wrap(
        one_line(text),
        room,
        initial_indent=label,
        subsequent_indent=" " * (len(label) or 2),
        max_lines=None if lines is None else -(-lines * WIDTH // min(room, WIDTH)),
        placeholder=" ... (--json has all)",
        break_on_hyphens=False,
    )


def clip(lines: Iterable[str]) -> Iterator[str]:
    """No line is wider than the terminal, where it is one."""
    room = sys.maxsize if columns() is None else width()
    for line in map(printable, lines):
        yield line if len(line) <= room else line[: room - 3] + "..."


def fold(line: str, room: int) -> list[str]:
    """A line that is wider than the screen, broken at blanks: what follows stands below where its text begins."""
    if len(line) <= room:
        return [line]
    label = _LABEL.match(line)
    indent = len(line) - len(line.lstrip(" ")) + 2 if label is None else label.end()
    if indent > room // 2:
        indent = 4
    return textwrap.wrap(
        line, room, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False, drop_whitespace=True
    )


def table(rows: Iterable[Iterable[object]], *, indent: str = "  ", right: Iterable[int] = ()) -> str:
    """Columns padded to their widest cell, two blanks between; ``right`` numbers the columns to align right."""
    cells = [[printable(str(c)) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)] if cells else []
    numbers = set(right)
    lines = (
        "  ".join(c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
    return "\n".join((indent + line).rstrip() for line in lines)


__all__ = [
    "LINES",
    "MARK",
    "WIDTH",
    "block",
    "clip",
    "columns",
    "fold",
    "height",
    "one_line",
    "printable",
    "shell",
    "table",
    "width",
    "wrap",
]
