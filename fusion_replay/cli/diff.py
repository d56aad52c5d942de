# SPDX-License-Identifier: Apache-2.0
"""``diff A B``: what differs between two recordings, what first, and where it went."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusion_replay.cli import page
from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import (
    Terminal,
    command_line,
    examples,
    json_option,
    report_options,
    verbosity_options,
    weights_option,
)
from fusion_replay.errors import MismatchError, MissingError, UsageError

if TYPE_CHECKING:
    from fusion_replay.diverge.diff_report import DiffReport
    from fusion_replay.snapshot import Snapshot


@examples("diff good.h5 bad.h5", "diff decode.h5@0 decode.h5@1")
@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--rule",
    metavar="NAME",
    default="auto",
    help="auto, bound, tolerance, iron-compare, iron-test, aie-verify or strict.",
)
@click.option("--reference", metavar="NAME", default="auto", help="A flavour; auto: the one each recording names.")
@click.option("--invocation", type=click.IntRange(min=0), metavar="N", help="Only this invocation.")
@click.option("--op", metavar="TYPE", help="Only steps of this operator type.")
@click.option("--all", "every", is_flag=True, help="Every step that differs, every change of the environment.")
@click.option("--align-anyway", is_flag=True, help="Compare what two different sequences have in common.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads; the report is the same for any N.")
@page.html_options
@weights_option
@json_option
@report_options
@verbosity_options
def command(
    a: str,
    b: str,
    invocation: int | None,
    every: bool,
    html: Path | None,
    html_budget: str | None,
    weights: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """What differs in B against A: two tokens, two boxes, two toolchains, before and after.

    F@N is invocation N of F alone, so that decode.h5@0 decode.h5@1 compares two tokens of one recording. Where A is a
    recording of steps and B one of whole calls of the same sequence, fused dispatch is held against them. Exit 0 where
    nothing differs or all of it lies inside the tolerance, 1 on a mismatch, 4 where something could not be decided.
    """
    from fusion_replay.diverge.diff import diff, split_invocation
    from fusion_replay.diverge.explain import explain_diff
    from fusion_replay.diverge.fusion_diff import is_fused_pair
    from fusion_replay.snapshot import Snapshot, open_snapshot

    out = Terminal(as_json)
    budget = page.take(html, html_budget, "diff")
    with ExitStack() as stack:
        snapshots, numbers = [], []
        for given in (a, b):
            file, number = split_invocation(given)
            assert not isinstance(file, Snapshot)
            snapshots.append(stack.enter_context(open_snapshot(file, weights=weights)))
            numbers.append(invocation if number is None else number)
            out.notes(snapshots[-1].notes)
        if html is not None and any(map(is_fused_pair, snapshots, reversed(snapshots))):
            raise UsageError("diff --html: steps against whole calls have no page; leave it out")
        if is_fused_pair(snapshots[0], snapshots[1]):
            return _fused(snapshots[0], snapshots[1], out)
        if is_fused_pair(snapshots[1], snapshots[0]):
            return _fused(snapshots[1], snapshots[0], out)
        with Progress("comparing", quiet=out.quiet) as progress:
            pair = numbers[0], numbers[1]
            report = diff(snapshots[0], snapshots[1], invocation=pair, progress=progress, **options)
            progress.stage("looking for causes")
            why = explain_diff(report, snapshots[0], snapshots[1])
        if html is not None:
            from fusion_replay.report.page.diff_page import diff_page

            told = diff_page(
                snapshots[0], snapshots[1], report, why=why, invocation=pair[1], op=options["op"], budget=budget
            )
            page.write(html, told, out)
    if as_json:
        *records, summary = report.records()
        explained = [] if why is None else [{"type": "explanation", **why.to_dict()}]
        out.records([*records, *explained, summary])
    else:
        out.report(report.text(every=every, why=why))
    status = exit_status(report)
    also = "" if report.equal or status else "all differences lie inside the tolerance"
    out.close(status == 0, also=also, next=_next(split_invocation(a)[0], split_invocation(b)[0], report))
    return status


def _fused(a: Snapshot, b: Snapshot, out: Terminal) -> int:
    from fusion_replay.diverge.fusion_diff import diff_fused
    from fusion_replay.model.text import wrap

    with Progress("comparing", quiet=out.quiet) as progress:
        report = diff_fused(a, b, progress=progress)
    if out.as_json:
        out.records(list(report.records()))
    lines = [*wrap(report.sentence, ""), *(line for text in report.besides for line in wrap(text, "  "))]
    out.report("\n".join(lines))
    if report.kind == "inputs differ":
        out.close(False, also="nothing was compared")
        return MissingError.exit_code
    out.close(bool(report), next=None if report else command_line("bisect", a.path, "--fused", b.path))
    return 0 if report else MismatchError.exit_code


def exit_status(report: DiffReport) -> int:
    """A mismatch outranks what could not be decided."""
    if report.mismatch:
        return MismatchError.exit_code
    return MissingError.exit_code if report.unanswered else 0


def _next(a: Any, b: Any, report: DiffReport) -> str | None:
    step = report.first
    if step is not None:
        if step.status != ("complete", "complete"):
            return command_line("show", a if step.status[1] == "complete" else b, step.address)
        return command_line("replay", b, "--step", step.address)
    if report.suspects:
        return command_line("replay", b, "--step", report.suspects[0].address)
    alone = [s for s in report.steps if s.kind in ("missing", "removed", "added")]
    if report.outside:
        return command_line("show", b, report.outside[0].address)
    return command_line("show", a if alone[0].status[1] == "" else b, alone[0].address) if alone else None
