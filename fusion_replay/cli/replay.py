# SPDX-License-Identifier: Apache-2.0
"""``replay F``: every recorded step against its reference, knowing nothing but the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusion_replay.cli import page, redispatch
from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import (
    Size,
    Terminal,
    command_line,
    examples,
    json_option,
    report_options,
    step_option,
    verbosity_options,
    weights_option,
)
from fusion_replay.errors import MismatchError, MissingError, NothingComparedError, UsageError
from fusion_replay.system import platform

if TYPE_CHECKING:
    from fusion_replay.diverge.consistency import Finding
    from fusion_replay.replaying.models import KernelModel
    from fusion_replay.replaying.replay_report import ReplayReport
    from fusion_replay.snapshot import Snapshot


@examples("replay decode.h5", "replay decode.h5 --op GEMV --step 1:60-79 --failed")
@click.command("replay")
@click.argument("file", metavar="F")
@click.option(
    "--mode",
    type=click.Choice(["isolated", "cumulative"]),
    default="isolated",
    help="Every step on its recorded inputs, or references chained from the external inputs.  [default: isolated]",
)
@click.option(
    "--reference",
    metavar="NAME",
    default="auto",
    help="A flavour; auto: the recording's; installed: IRON's own; stored: kept by record --with-reference.",
)
@click.option(
    "--rule",
    metavar="NAME",
    default="auto",
    help="auto, bound, tolerance, iron-compare, iron-test, aie-verify or strict.",
)
@click.option("--rtol", metavar="[OP=]X", multiple=True, help="Relative limit, not the operators' own; repeatable.")
@click.option("--atol", metavar="[OP=]X", multiple=True, help="Absolute limit, not the operators' own; repeatable.")
@step_option
@click.option("--op", metavar="TYPE", help="Only steps of this operator type.")
@click.option("--buffer", metavar="NAME", help="Only steps that touch this buffer.")
@click.option("--invocation", type=click.IntRange(min=0), metavar="N", help="Only this invocation.")
@click.option("--all", "every", is_flag=True, help="One row per step.")
@click.option("--failed", is_flag=True, help="One row per step that mismatches.")
@click.option("--array", metavar="NAME", default="numpy", help="References compute on numpy, torch or cuda.")
@click.option(
    "--attribute", is_flag=True, help="What each step introduced and inherited, and its share of the final error."
)
@click.option("--oracle", metavar="O", help="Against a framework model's tensors: is the runlist itself right?")
@click.option("--map", "map_file", metavar="MAP.json", help="With --oracle: which tensor is which buffer.")
@click.option("--logits", metavar="TENSOR[=BUFFER]", help="With --oracle: KL and tokens of O's logits, and F's buffer.")
@click.option("--models", is_flag=True, help="Which device model each kernel's steps fit, and which steps leave it.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first mismatch.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    help="Processes that share the steps; the report is the same for any N.",
)
@click.option(
    "--cache",
    "cache_bytes",
    type=Size(),
    metavar="SIZE",
    help="Decoded contents held in memory, at most; a step's own come on top if larger.  [default: 512MiB]",
)
@redispatch.options
@page.html_options
@weights_option
@json_option
@report_options
@verbosity_options
def command(
    file: str,
    every: bool,
    failed: bool,
    attribute: bool,
    models: bool,
    oracle: str | None,
    map_file: str | None,
    logits: str | None,
    as_json: bool,
    weights: str | None,
    steps: tuple[str, ...],
    html: Path | None,
    html_budget: str | None,
    **options: Any,
) -> int:
    """Judge every recorded step of F, and whether the steps fit together: contents that changed between two of them,
    caches written at the offset of another token. Exit 0 when all match, 1 on a mismatch or where a step had not come
    back or failed, 4 when something could not be judged. With --on npu or --on sim the steps are dispatched again,
    each on its recorded inputs.
    """
    out = Terminal(as_json)
    budget = page.take(html, html_budget, "replay")
    if (map_file is not None or logits is not None) and oracle is None:
        raise UsageError(f"replay --{'map' if logits is None else 'logits'}: is about an oracle; give --oracle too")
    if oracle is not None:
        from fusion_replay.cli.replay_oracle import against_oracle

        if redispatch.take(options):
            raise UsageError("replay --oracle: judges a recording; leave --on out")
        given = {"steps": steps, "attribute": attribute, "models": models, "failed": failed, **options}
        return against_oracle(file, oracle, map_file, logits, every, weights, out, given)
    options |= {name: _limits(name, options[name]) for name in ("rtol", "atol")}
    if again := redispatch.take(options):
        if attribute:
            raise UsageError("replay --attribute: judges a recording; leave --on out")
        if html is not None:
            raise UsageError("replay --html: is of a recording as it was judged; leave --on out")
        return redispatch.run(file, every, weights, out, {**options, **again, "steps": steps or None})
    if attribute:
        from fusion_replay.cli.attribution import attribution

        return attribution(file, every, weights, out, {"steps": steps, **options}, html, budget)
    from fusion_replay.replaying.worker_processes import limit_threads

    if options["workers"] == 1:
        limit_threads(max(1, platform.cores() - 1))  # one core is for reading ahead
    from fusion_replay.diverge.blame import blame
    from fusion_replay.diverge.consistency import findings
    from fusion_replay.diverge.explain import explain_first
    from fusion_replay.replay import ReplayReport, replay
    from fusion_replay.snapshot import open_snapshot

    with open_snapshot(file, weights=weights) as snapshot:
        out.notes(snapshot.notes)
        try:
            with Progress("replaying", quiet=out.quiet) as progress:
                report = replay(snapshot, steps=steps or None, progress=progress, **options)
                progress.stage("looking for causes")
                selected = steps or any(options[name] is not None for name in ("op", "buffer", "invocation"))
                found = () if selected else findings(snapshot)  # they are about the whole recording
                why = explain_first(snapshot, report)
                fits = _models(snapshot, steps, options) if models else ()
                sequences = snapshot.sequences
        except NothingComparedError as error:
            out.error(str(error))
            if html is not None and isinstance(error.report, ReplayReport):
                from fusion_replay.report.page.replay_page import replay_page

                page.write(html, replay_page(snapshot, error.report, budget=budget), out)
            out.close(False, next=_describe(error.unknown[0], file) if error.unknown else None)
            return error.exit_code
        if html is not None:
            from fusion_replay.report.page.replay_page import replay_page

            page.write(html, replay_page(snapshot, report, why=why, found=found, budget=budget), out)
    if as_json:
        *records, summary = report.records()
        explained = [] if why is None else [{"type": "explanation", **why.to_dict()}]
        out.records([*records, *(f.record() for f in found), *(m.record() for m in fits), *explained, summary])
    else:
        from fusion_replay.report.terminal import besides, fitted, layout

        told = [layout(report, every=every, failed=failed, why=why)]
        told += [besides(found, agrees=not report.mismatches), fitted(fits)]
        out.report("\n".join(text for text in told if text))
        if speaks := blame(report, why, found):
            out.say(f"speaks for {speaks}")
    status = exit_status(report, found)
    next_, also = _next(file, report, found, steps), [*report.unfinished_lines]
    if next_ is None and status == 0 and not selected and any(len(s.steps) > 1 for s in sequences):
        also.append("if the answer is wrong all the same, diff it with a good run, or")
        next_ = command_line("bisect", file)
    out.close(status == 0, also="; ".join(also), next=next_)
    return status


def _limits(name: str, typed: tuple[str, ...]) -> dict[str, float] | None:
    """``("GEMV=0.1", "0.01")`` -> ``{"GEMV": 0.1, "": 0.01}``; None: nothing was typed."""
    found = {}
    for text in typed:
        op, _, number = text.rpartition("=")
        try:
            found[op] = float(number)
        except ValueError:
            raise UsageError(f"--{name} {text!r}: expected a number, or OPERATOR=NUMBER such as GEMV=0.02") from None
    return found or None


def _models(snapshot: Snapshot, steps: tuple[str, ...], options: dict[str, Any]) -> tuple[KernelModel, ...]:
    from fusion_replay.replaying.models import kernel_models
    from fusion_replay.snapshot.selection import select

    return kernel_models(select(snapshot, steps or None, *(options[name] for name in ("op", "buffer", "invocation"))))


def exit_status(report: ReplayReport, found: tuple[Finding, ...] = ()) -> int:
    """A mismatch, or a step that never ended well, outranks what is missing; what was compared is printed anyway."""
    if report.mismatches or report.unfinished or any(f.weight == "certain" for f in found):
        return MismatchError.exit_code
    return 0 if report.passed else MissingError.exit_code


def _describe(op: str, file: str) -> str:
    """The command that prints a description of an unknown operator, with the arguments that were recorded."""
    return command_line("operators", "--new", op, "--from", file)


def _next(file: str, report: ReplayReport, found: tuple[Finding, ...], asked: tuple[str, ...]) -> str | None:
    """Closer to the fault: to its arrays, and from a step that was asked for (``show`` leads here) to a bug report."""

    if report.first_mismatch is not None:
        address = report.first_mismatch.address
        if len(asked) == 1:
            return command_line("export", file, "--step", address, "--issue")
        return command_line("show", file, address)
    if report.unfinished:
        return command_line("show", file, report.unfinished[-1].address)
    if report.outside:
        return command_line("show", file, report.outside[0].address)
    unknown = [s.op for s in report.missing if s.kind == "unknown_operator"]
    if unknown:
        return _describe(unknown[0], file)
    if found and found[0].weight != "note":
        return command_line("show", file, found[0].addresses[0])
    return None
