# SPDX-License-Identifier: Apache-2.0
"""``bisect F``: which step introduced the error of the final output."""

from __future__ import annotations

from pathlib import Path

import click

from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import Terminal, command_line, json_option, verbosity_options
from fusion_replay.errors import MismatchError


@click.command("bisect")
@click.argument("file", metavar="F")
@click.option("--invocation", type=click.IntRange(min=0), metavar="N", help="Whose output.  [default: the last]")
@click.option("--output", metavar="NAME", help="One output buffer.  [default: all of the sequence's]")
@click.option(
    "--metric",
    type=click.Choice(["rel_l2", "max_abs"]),
    default="rel_l2",
    help="What the error of the final output is.  [default: rel_l2]",
)
@click.option("--reference", metavar="NAME", default="auto", help="As for replay.")
@click.option("--rule", metavar="NAME", default="auto", help="Judges the step that is found, as for replay.")
@click.option("--journal", metavar="FILE", help="Where evaluations are kept until it is done.  [default: F.bisect]")
@json_option
@verbosity_options
def command(
    file: str,
    invocation: int | None,
    output: str | None,
    metric: str,
    reference: str,
    rule: str,
    journal: str | None,
    as_json: bool,
) -> int:
    """Which step introduced the error of F's final output. The first steps are taken from the recording, the rest is
    computed by reference; halving finds the step at which the error appears. A bisection that was killed goes on where
    it was.

    Exit 0 when the error is honest rounding (or there is none), 1 when one step is to blame.
    """
    from fusion_replay.diverge.bisect import bisect
    from fusion_replay.diverge.explain import explain_step
    from fusion_replay.snapshot import open_snapshot

    out = Terminal(as_json)
    with open_snapshot(file) as snapshot:
        out.notes(snapshot.notes)
        with Progress("bisecting", quiet=out.quiet) as progress:
            found = bisect(
                snapshot,
                invocation=invocation,
                output=output,
                metric=metric,
                reference=reference,
                rule=rule,
                journal=Path(journal) if journal else Path(f"{file}.bisect"),
                progress=progress,
            )
        why = explain_step(snapshot, found.step, reference) if found and found.step is not None else None
    if as_json:
        from fusion_replay.report.jsonl import encode

        *evaluations, answer = found.records()
        explained = [] if why is None else [{"type": "explanation", **why.to_dict()}]
        for record in [*evaluations, *explained, answer]:
            click.echo(encode(record))
    else:
        from fusion_replay.report.divergence import layout

        out.say(layout(found, why))
    next_ = None if found.step is None else command_line("show", file, found.step.address)
    out.close(not found, next=next_)
    return MismatchError.exit_code if found else 0
