# SPDX-License-Identifier: Apache-2.0
"""``--html FILE``: where a verb's report page goes, and how large it may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fusion_replay.cli.terminal import Terminal
from fusion_replay.errors import TargetExistsError, UsageError

F = TypeVar("F", bound=Callable[..., Any])

html_option = click.option(
    "--html", metavar="OUT", type=click.Path(path_type=Path), help="Write a page to look at: one file, no network."
)
_budget_option = click.option(
    "--html-budget", metavar="SIZE", default=None, help="What arrays may take of that page.  [default: 20M]"
)


def html_options(function: F) -> F:
    """``--html`` and ``--html-budget``; :func:`take` reads both."""
    return html_option(_budget_option(function))


def take(html: Path | None, html_budget: str | None, verb: str) -> int:
    """The budget in bytes, once it is sure that the page can be written: what takes long comes after; 0 without a page.

    Raises:
        TargetExistsError: another file has that name; a page of ours is written anew.
        UsageError: no size, a size without a page, no folder to write into.
    """
    if html is None:
        if html_budget is not None:
            raise UsageError(f"{verb} --html-budget: is about a page; add --html OUT")
        return 0
    from fusion_replay.recording.option_declaration import size_in_bytes
    from fusion_replay.report.page.replay_page import BUDGET

    _check(html)
    return BUDGET if html_budget is None else size_in_bytes(html_budget, "--html-budget")


def write(html: Path, page: str, out: Terminal) -> None:
    """The page under its name, whole or not at all.

    Raises:
        UsageError: the disk refused.
    """
    from fusion_replay.export.target import output
    from fusion_replay.report.text import human_bytes

    _check(html)
    with output(html, "replace") as target:
        target.part.write_text(page, "utf-8")
    out.note(f"{html}: {human_bytes(len(page))}, to be opened in a browser")


def _check(html: Path) -> None:
    from fusion_replay.export.target import free_name
    from fusion_replay.report.page.document import MARK

    free_name(html, "replace")
    if html.exists() and not html.read_bytes()[: len(MARK)] == MARK.encode("ascii"):
        raise TargetExistsError(f"{html}: exists and is no page of ours; choose another name for --html")


__all__ = ["html_option", "html_options", "take", "write"]
