# SPDX-License-Identifier: Apache-2.0
"""Markdown for GitHub, in which no text of a recording is obeyed: no link, image, mention or reference comes of it.

What a backslash stops depends on the renderer (bare URLs, ``@name``, ``#1`` and ``GH-1`` are found after escapes are
gone), what stands between backticks is never looked into (https://github.github.com/gfm/#code-spans, and
https://docs.github.com/get-started/writing-on-github for mentions and references): so a text with anything but plain
words becomes a code span.

Tested in tests/hostile/test_nothing_is_obeyed.py and tests/export/test_issue.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from fusion_replay.model.text import one_line, printable

_MEANS_MORE = re.compile(r"""[^\w \-.,:;()'"/+=%?{}]|\b_|_\b|://|\bwww\.|\bGH-\d""", re.IGNORECASE)
"""Any character that Markdown or GitHub gives a meaning (emphasis at the edge of a word only), and what becomes a link
without any."""


def text(told: str) -> str:
    """Plain words as they are, anything else as :func:`code`; on one line, in a table too."""
    plain = one_line(told)
    return code(plain) if _MEANS_MORE.search(plain) else plain


def code(told: str) -> str:
    """A code span: nothing in it is looked into."""
    inner = one_line(told).replace("|", "\\|")  # a table's cells are cut before spans are found, and the \\ taken away
    longest = max(map(len, re.findall("`+", inner)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {inner} {fence}" if longest else f"{fence}{inner}{fence}" if inner else ""


def fenced(lines: Iterable[str]) -> Iterator[str]:
    """A block of code; no line ends it."""
    yield "```"
    yield from (printable(line).replace("```", "'''") if line.strip() else "" for line in lines)
    yield "```"


def document(report: str) -> str:
    """A report of plain text, its first line before and its last line behind what was laid out in columns."""
    first, *lines = [line for line in report.split("\n") if line.strip()] or [""]
    last = lines.pop() if lines else ""
    body = ["", *fenced(lines), ""] if lines else [""]
    return "\n".join([f"**{text(first)}**", *body, *([text(last)] if last else [])]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """``head`` is ours, cells are anybody's."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(map(text, row)) + " |" for row in rows)


__all__ = ["code", "document", "fenced", "table", "text"]
