# SPDX-License-Identifier: Apache-2.0
"""What GitHub Actions shows of a check: annotations beside the files, and the job's summary page.

The workflow commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_replay.model.text import one_line, printable
from fusion_replay.report import markdown

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
    """A workflow command on one line; whatever would end or change it, or a screen obey, is escaped."""
    shown = "\n".join(map(printable, text.split("\n")))
    return f"::error file={_property(file)},title={_property(title)}::{_escape(shown)}"


def summary(report: GoldenReport) -> str:
    """Markdown: the sentence, and a table of what fails."""
    lines = [f"### Goldens: {'passed' if report.passed else 'FAILED'}", "", markdown.text(report.sentence), ""]
    rows = [(r.name, ", ".join(r.kinds) or "nothing compared", r.headline) for r in report.failed]
    rows += [(p.where, p.kind, p.text) for p in report.problems]
    if rows:
        lines += markdown.table(("Golden", "What moved", "First"), rows[:_ROWS])
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
    return text.replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escape(one_line(text)).replace(":", "%3A").replace(",", "%2C")


__all__ = ["active", "annotation", "error_lines", "summary", "write_summary"]
