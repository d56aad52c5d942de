# SPDX-License-Identifier: Apache-2.0
"""What GitHub Actions shows of a check: annotations beside the files, and the job's summary page.

The workflow commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion_replay.golden.check_report import GoldenReport

_ROWS = 50  # of the table: a summary may have 1 MiB, and nobody reads more


def active(environ: Mapping[str, str] | None = None) -> bool:
    """Whether this is a job of GitHub Actions."""
    return (os.environ if environ is None else environ).get("GITHUB_ACTIONS") == "true"


def error_lines(report: GoldenReport) -> Iterator[str]:
    """One ``::error`` line per golden that fails and per problem of the folder."""
    for result in report.failed:
        yield annotation(result.path, f"golden {result.name}", "\n".join(result.lines))
    for problem in report.problems:
        yield annotation(problem.where, "goldens", problem.text)


def annotation(file: str, title: str, text: str) -> str:
    """A workflow command; whatever would end or change it is escaped."""
    return f"::error file={_property(file)},title={_property(title)}::{_escape(text)}"


def summary(report: GoldenReport) -> str:
    """Markdown: the sentence, and a table of what fails."""
    lines = [f"### Goldens: {'passed' if report.passed else 'FAILED'}", "", _cell(report.sentence), ""]
    rows = [(r.name, ", ".join(r.kinds) or "nothing compared", r.headline) for r in report.failed]
    rows += [(p.where, p.kind, p.text) for p in report.problems]
    if rows:
        lines += ["| Golden | What moved | First |", "|---|---|---|"]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows[:_ROWS]]
        if len(rows) > _ROWS:
            lines.append(f"\nand {len(rows) - _ROWS} more")
    return "\n".join(lines) + "\n"


def write_summary(report: GoldenReport, environ: Mapping[str, str] | None = None) -> None:
    """Append :func:`summary` to the file that the job names; nothing elsewhere."""
    env = os.environ if environ is None else environ
    if active(env) and (target := env.get("GITHUB_STEP_SUMMARY")):
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(summary(report))


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    """One cell of a table: names in a file from elsewhere are text, not markup."""
    for character in "\\`|<>[]*_":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


__all__ = ["active", "annotation", "error_lines", "summary", "write_summary"]
