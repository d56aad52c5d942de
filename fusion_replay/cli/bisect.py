# SPDX-License-Identifier: Apache-2.0
"""``bisect F``: which step introduced the error. ``bisect --run``: which commit or toolchain version broke it."""

from __future__ import annotations

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
    from fusion_replay.diverge.bisect import Divergence
    from fusion_replay.diverge.explanation import Explanation
    from fusion_replay.snapshot import Snapshot


@examples("bisect decode.h5", "bisect --run './record.sh' --against good.h5")
@click.command("bisect")
@click.argument("file", metavar="[F]", required=False)
@click.option(
    "--invocation", type=click.IntRange(min=0), metavar="N", help="Whose output.  [default: the last complete one]"
)
@click.option("--buffer", metavar="NAME", help="One output buffer.  [default: all of the sequence's]")
@click.option(
    "--metric",
    type=click.Choice(["rel_l2", "max_abs"]),
    help="What the error of the final output is.  [default: rel_l2]",
)
@click.option("--reference", metavar="NAME", help="As for replay.  [default: auto]")
@click.option("--rule", metavar="NAME", default="auto", help="As for replay and diff.  [default: auto]")
@click.option("--run", metavar="CMD", help="Shell command that writes a recording to $FUSION_REPLAY_OUT.")
@click.option("--against", metavar="GOLD", help="With --run: the recording that is right.")
@click.option(
    "--versions",
    metavar="LIST",
    help="With --run: versions, oldest first, as a,b,c or a file with one a line; CMD has {version} in it.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="With --run: a try that takes longer is killed and can't be judged.",
)
@click.option(
    "--fused",
    metavar="WHERE",
    help="The fused sequence of F's steps: FILE.py:NAME or MODULE:NAME, or a recording of a fused workload.",
)
@click.option(
    "--repeats", type=click.IntRange(min=1), metavar="N", help="With --fused: dispatches of a window.  [default: 10]"
)
@click.option("--journal", metavar="FILE", help="Kept until it is done.  [default: F.bisect, GOLD.bisect]")
@page.html_options
@weights_option
@json_option
@report_options
@verbosity_options
def command(
    file: str | None, run: str | None, against: str | None, versions: str | None, timeout: float | None, **given: Any
) -> int:
    """Which step introduced the error of F's final output. The first steps are taken from the recording, the rest is
    computed by reference; halving finds the step at which the error appears. Exit 0 when the error is honest rounding
    (or there is none), 1 when one step is to blame.

    With --run CMD --against GOLD, one try for `git bisect run`: exit 0 when CMD's recording agrees with GOLD, 1 when
    it does not, 125 when that can't be judged. With --versions LIST the search over versions is driven here: exit 1
    when there is a bad one, 0 when there is none, 4 when none could be judged.

    With --fused WHERE, on the machine with the NPU: which step, and which smallest window of steps, is wrong only when
    it is fused. Windows of the runlist are compiled and dispatched on what F recorded of separate dispatch. WHERE names
    the sequence, or a function without arguments that gives it. Exit 0 when the fusion is right, 1 when it is not.

    Either search goes on where it was killed; a version whose try never ended is skipped.
    """
    given["output"] = given.pop("buffer")
    html = given.pop("html")
    budget = page.take(html, given.pop("html_budget"), "bisect")
    if html is not None and (run is not None or given["fused"] is not None):
        raise UsageError("bisect --html: is of a search for the step of one recording; leave --run and --fused out")
    steps = {k: given[k] for k in ("invocation", "output", "metric", "reference", "weights") if given[k] is not None}
    if given["fused"] is not None:
        if file is None or run or against or versions or timeout:
            raise UsageError("bisect --fused: expected a recording F of separate dispatch; see: bisect --help")
        return _fused(file, given["fused"], given, Terminal(given["as_json"]))
    if given["repeats"] is not None:
        raise UsageError("bisect --repeats: goes with --fused")
    if run is None:
        if file is None or against or versions or timeout:
            raise UsageError("bisect: expected a recording F, or --run CMD with --against GOLD; see: bisect --help")
        return _steps(
            file, {**steps, "rule": given["rule"]}, given["journal"], html, budget, Terminal(given["as_json"])
        )
    if file is not None or steps or against is None:
        message = "bisect --run: expected --against GOLD, and neither F nor an option of a search for steps"
        if versions is not None:
            raise UsageError(message)
        click.echo(f"error: {message}", err=True)
        return 125  # 2 would mean to git that this commit is bad
    if versions is None:
        return _one_try(run, against, given["rule"], timeout, Terminal(given["as_json"]))
    journal = Path(given["journal"] or f"{against}.bisect")
    return _versions(run, against, _listed(versions), given["rule"], timeout, journal, Terminal(given["as_json"]))


def _steps(
    file: str, options: dict[str, Any], journal: str | None, html: Path | None, budget: int, out: Terminal
) -> int:
    from fusion_replay.diverge.bisect import bisect
    from fusion_replay.diverge.explain import explain_step
    from fusion_replay.snapshot import open_snapshot

    with open_snapshot(file, weights=options.pop("weights", None)) as snapshot:
        out.notes(snapshot.notes)
        with Progress("bisecting", quiet=out.quiet) as progress:
            found = bisect(snapshot, journal=Path(journal or f"{file}.bisect"), progress=progress, **options)
            progress.stage("looking for causes")
            why = None
            if found.step is not None and not found.step:
                why = explain_step(snapshot, found.step, options.get("reference", "auto"))
        if html is not None:
            page.write(html, _page(snapshot, found, why, options, budget), out)
        last = len(snapshot.invocations) - 1
        if "invocation" not in options and found.invocation != last:
            out.note(
                f"invocation {last} did not complete; the output of {found.invocation}, the last that did, is judged"
            )
    if out.as_json:
        *evaluations, answer = found.records()
        explained = [] if why is None else [{"type": "explanation", **why.to_dict()}]
        out.records([*evaluations, *explained, answer])
    else:
        from fusion_replay.report.divergence import layout

        out.report(layout(found, why))
    next_ = None if found.step is None else command_line("show", file, found.step.address)
    out.close(not found, next=next_)
    return MismatchError.exit_code if found else 0


def _page(snapshot: Snapshot, found: Divergence, why: Explanation | None, options: dict[str, Any], budget: int) -> str:
    from fusion_replay.replay import replay
    from fusion_replay.report.page.replay_page import replay_page

    report = replay(snapshot, rule=options["rule"], reference=options.get("reference", "auto"))
    return replay_page(snapshot, report, why=why, found=found.findings, budget=budget, bisection=found)


def _fused(file: str, where: str, given: dict[str, Any], out: Terminal) -> int:
    from fusion_replay.cli.fused_sequence import find_sequence
    from fusion_replay.diverge.bisect_fused import REPEATS, bisect_fused
    from fusion_replay.model.text import wrap
    from fusion_replay.snapshot import open_snapshot

    with open_snapshot(file, weights=given["weights"]) as snapshot:
        out.notes(snapshot.notes)
        found = bisect_fused(
            find_sequence(where),
            snapshot,
            invocation=given["invocation"],
            repeats=given["repeats"] or REPEATS,
            journal=Path(given["journal"] or f"{file}.bisect-fused"),
            told=out.note,
        )
    if out.as_json:
        out.records([{"type": "fused", **found.to_dict()}])
    out.report(
        "\n".join([*wrap(found.sentence, ""), *(x for t in (*found.besides, found.figures) for x in wrap(t, "  "))])
    )
    out.close(
        not found, next=None if found.step is None else command_line("show", file, f"{found.invocation}:{found.step}")
    )
    return MismatchError.exit_code if found else 0


def _one_try(run: str, against: str, rule: str, timeout: float | None, out: Terminal) -> int:
    from fusion_replay.diverge.versions import GOOD, one_try

    found = one_try(run, against, rule=rule, timeout=timeout)
    if out.as_json:
        out.records([{"type": "try", **found.to_dict()}])
    out.close(found.status == GOOD, also=str(found))
    return found.status


def _versions(
    run: str, against: str, names: list[str], rule: str, timeout: float | None, journal: Path, out: Terminal
) -> int:
    from fusion_replay.diverge.versions import find_version
    from fusion_replay.model.text import wrap

    def told(one: object) -> None:
        out.report("\n".join(wrap(str(one), "")))

    found = find_version(run, against, names, rule=rule, timeout=timeout, journal=journal, told=told)
    if out.as_json:
        out.records(list(found.records()))
    out.report("\n".join(wrap(found.sentence, "")))
    out.close(not found.first_bad and found.good is not None)
    if found.first_bad:
        return MismatchError.exit_code
    return 0 if found.good is not None else MissingError.exit_code


def _listed(versions: str) -> list[str]:
    """``a,b,c``, or the lines of a file; blank lines and those that begin with # are no versions."""
    if Path(versions).is_file():
        lines = Path(versions).read_text("utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [name.strip() for name in versions.split(",")]
