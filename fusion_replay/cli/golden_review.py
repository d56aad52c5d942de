# SPDX-License-Identifier: Apache-2.0
"""``golden review``, ``accept``, ``reject`` and ``lint``: what people decide about goldens."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusion_replay.cli import page
from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import Terminal, command_line, examples, json_option, verbosity_options
from fusion_replay.errors import FusionReplayError, MismatchError, SnapshotError, UsageError
from fusion_replay.report.text import count, human_bytes

if TYPE_CHECKING:
    from fusion_replay.golden.review import Pending

_SHOWN = 40  # problems that lint prints

_folder = click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
_names = click.argument("names", metavar="[NAMES...]", nargs=-1)
_every = click.option("--all", "every", is_flag=True, help="Everything that waits.")
_from = click.option("--dir", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Where *.new files lie.")
_into = click.option("--into", metavar="DIR", type=click.Path(path_type=Path), help="The goldens that they belong to.")
_why = click.option("--accept-mismatch", metavar="WHY", default="", help="Accept mismatches, for this reason.")


@examples("golden review goldens", "golden review new --into goldens")
@click.command("review")
@_folder
@_into
@_why
@page.html_option
@json_option
@verbosity_options
def review(folder: Path | None, into: Path | None, accept_mismatch: str, html: Path | None, as_json: bool) -> int:
    """Walk through the goldens in DIR that wait for a review: what would change, step by step. At a terminal each is
    accepted, rejected or left; elsewhere they are printed. Exit 0 when nothing is left waiting, else 1."""
    from fusion_replay.golden.review import reject, waiting

    out = Terminal(as_json)
    folder = default_folder() if folder is None else folder
    pending = waiting(folder, into)
    if html is not None:
        from fusion_replay.report.page.goldens_page import goldens_page

        page.take(html, None, "golden review")
        told = [(each.name, each.problem, each.lines(every=True)) for each in pending]
        page.write(html, goldens_page(folder.name, told), out)
    ask = at_a_terminal() and not as_json
    if ask and pending:
        refuse_in_ci("review")
    left: list[Pending] = []
    for each in pending:
        if as_json:
            from fusion_replay.report.jsonl import encode

            click.echo(encode({"type": "golden_pending", **each.to_dict()}))
        for line in each.lines(every=out.verbosity > 0):
            out.say(line)
        answer = click.prompt("accept, reject or skip", type=click.Choice("ars"), default="s") if ask else "s"
        if answer == "a":
            try:
                out.say(_accepted(each, folder if into is None else into, accept_mismatch))
                continue
            except FusionReplayError as error:  # the others can be decided all the same
                out.error(str(error))
        elif answer == "r":
            reject(each)
            out.say(f"{each.path}: removed")
            continue
        left.append(each)
    out.say(f"{folder}: {count(len(pending), 'golden')} waiting, {len(left)} left")
    out.close(not left, next=_decision(left[0], folder, into) if left else None)
    return MismatchError.exit_code if left else 0


@examples("golden accept gelu --dir goldens", "golden accept --all --dir goldens")
@click.command("accept")
@_names
@_every
@_from
@_into
@_why
@verbosity_options
def accept(names: tuple[str, ...], every: bool, folder: Path | None, into: Path | None, accept_mismatch: str) -> int:
    """Make pending goldens the goldens: those called NAMES, or all. Refused where CI is set."""
    from fusion_replay.golden.review import choose, waiting

    refuse_in_ci("accept")
    out = Terminal()
    folder = default_folder() if folder is None else folder
    goldens = folder if into is None else into
    chosen = choose(waiting(folder, into), names, every, folder)
    for each in chosen:
        out.say(_accepted(each, goldens, accept_mismatch))
    out.close(True, also=f"{count(len(chosen), 'golden')} accepted", next=command_line("golden", "check", goldens))
    return 0


@examples("golden reject gelu --dir goldens", "golden reject --all --dir goldens")
@click.command("reject")
@_names
@_every
@_from
@verbosity_options
def reject(names: tuple[str, ...], every: bool, folder: Path | None) -> int:
    """Remove pending goldens: those called NAMES, or all. The goldens stay as they are. Refused where CI is set."""
    from fusion_replay.golden.review import choose, waiting
    from fusion_replay.golden.review import reject as remove

    refuse_in_ci("reject")
    out = Terminal()
    folder = default_folder() if folder is None else folder
    chosen = choose(waiting(folder), names, every, folder)
    for each in chosen:
        remove(each)
        out.say(f"{each.path}: removed")
    out.close(True, also=f"{count(len(chosen), 'golden')} rejected")
    return 0


@examples("golden lint goldens", "golden lint goldens --allow large")
@click.command("lint")
@_folder
@click.option("--allow", metavar="KIND", multiple=True, help="Let this kind of finding pass; repeatable.")
@json_option
@verbosity_options
def lint(folder: Path | None, allow: tuple[str, ...], as_json: bool) -> int:
    """Look for goldens that are too large, doubled, of unknown origin, or too loose to fail, and for operators of the
    project that none has. Records and judges nothing. Exit 0 when nothing is found, 1 otherwise, 3 where goldens
    can't be read."""
    from dataclasses import replace

    from fusion_replay.golden.check_report import UNUSABLE
    from fusion_replay.golden.lint import KINDS
    from fusion_replay.golden.lint import lint as look

    if unknown := [k for k in allow if k not in KINDS]:
        raise UsageError(f"golden lint --allow {unknown[0]}: expected one of {', '.join(KINDS)}")
    out = Terminal(as_json)
    with Progress("looking", quiet=out.quiet):
        report = look(default_folder() if folder is None else folder)
    report = replace(report, problems=tuple(p for p in report.problems if p.kind not in allow))
    if as_json:
        out.records(report.records())
    for problem in report.problems[:_SHOWN]:
        out.say(f"{problem.kind}: {problem}")
    if len(report.problems) > _SHOWN:
        out.say(f"and {len(report.problems) - _SHOWN} more; --json has all")
    found = count(len(report.problems), "finding")
    out.say(f"{count(report.goldens, 'golden')}, {count(report.steps, 'step')}, {human_bytes(report.nbytes)}: {found}")
    out.close(report.passed)
    if report.passed:
        return 0
    unusable = bool(report.problems) and all(p.kind in UNUSABLE for p in report.problems)
    return SnapshotError.exit_code if unusable else MismatchError.exit_code


def at_a_terminal() -> bool:
    """Whether a person is there to answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def default_folder() -> Path:
    """Where the project says that its goldens live."""
    from fusion_replay.golden.project import Project

    return Project.find().folder


def refuse_in_ci(verb: str) -> None:
    """Nobody reviews what a CI job accepts.

    Raises:
        UsageError: ``CI`` is set.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise UsageError(
            f"golden {verb}: refused where CI is set; keep the *.new files as an artifact (check --new-dir D), and at "
            "the desk: fusion-replay golden accept --all --dir D --into GOLDENS"
        )


def _decision(pending: Pending, folder: Path, into: Path | None) -> str:
    """What can be typed for it: a mismatch is accepted with a reason only, what is spoilt not at all."""
    if pending.new is None or pending.problem or (pending.new.mismatches and not pending.new.accepted_mismatch):
        return command_line("golden", "reject", pending.name, "--dir", folder)
    to = () if into is None else ("--into", into)
    return command_line("golden", "accept", pending.name, "--dir", folder, *to)


def _accepted(pending: Pending, folder: Path, why: str) -> str:
    from fusion_replay.golden.project import Project
    from fusion_replay.golden.review import accept

    return (
        f"{pending.name}: accepted, {', '.join(map(str, accept(pending, Project.find(folder), accept_mismatch=why)))}"
    )


__all__ = ["accept", "default_folder", "lint", "refuse_in_ci", "reject", "review"]
