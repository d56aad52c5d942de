# SPDX-License-Identifier: Apache-2.0
"""``show F [STEP]``: what a snapshot holds, one step's arrays, one buffer's history. Judges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import click

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
from fusion_replay.errors import UsageError
from fusion_replay.report.text import count, human_bytes, human_ns, table

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot


PROVENANCE_LINES = 6
"""Of the overview; ``-v`` shows all."""


class _View(Protocol):
    def records(self) -> Iterator[dict[str, Any]]: ...


@examples("show decode.h5 1:69", "show decode.h5 --buffer attn_output")
@click.command("show")
@click.argument("file", metavar="F")
@click.argument("step", metavar="[STEP]", required=False)
@click.option("--buffer", metavar="NAME", help="The write history of this buffer (or NAME[START:STOP], bytes).")
@click.option("--op", metavar="TYPE", help="List the recorded steps of this operator type.")
@click.option("--invocation", type=click.IntRange(min=0), metavar="N", help="Only this invocation.")
@click.option("--all", "every", is_flag=True, help="List every recorded step.")
@weights_option
@json_option
@report_options
@verbosity_options
def command(
    file: str,
    step: str | None,
    buffer: str | None,
    op: str | None,
    invocation: int | None,
    every: bool,
    weights: str | None,
    as_json: bool,
) -> int:
    """What the snapshot F holds; with STEP (an address such as 3:412) that step's arrays, with a range (10-20,
    3:400-412) the list of these steps.
    """
    if step is not None and (buffer or op or every or invocation is not None):
        raise UsageError("show: STEP names one step; leave out --buffer, --op, --invocation and --all")
    if buffer and (op or every):
        raise UsageError("show: --buffer lists the writes of one buffer; leave out --op and --all")
    from fusion_replay.snapshot import open_snapshot
    from fusion_replay.snapshot.selection import select

    out = Terminal(as_json)
    with open_snapshot(file, weights=weights) as snapshot:
        out.notes(snapshot.notes)
        if step is not None:
            found = select(snapshot, step)
            if len(found) == 1:
                _one_step(found[0], file, out)
            else:
                _list(found, file, out)
        elif buffer is not None:
            _history(snapshot, file, buffer, invocation, out)
        elif op is not None or every or invocation is not None:
            _steps(snapshot, file, op, invocation, out)
        else:
            _overview(snapshot, file, out)
    return 0


def _overview(snapshot: Snapshot, file: str, out: Terminal) -> None:
    from fusion_replay.report.overview import leaves, overview

    seen = overview(snapshot)
    _print(seen, out)
    lines = [f"  {key}: {text}" for key, text in leaves(seen.provenance)]
    shown = lines if out.verbosity > 0 else lines[:PROVENANCE_LINES]
    out.say("provenance")
    for line in shown:
        out.say(line)
    if len(shown) < len(lines):
        out.say(f"  and {count(len(lines) - len(shown), 'other line')}: show -v")
    if seen.unfinished:
        out.next(command_line("show", file, seen.unfinished[-1].address))
    elif snapshot.digests_only:
        out.say(f"digests alone were kept, to compare two runs: {command_line('diff', 'OTHER.h5', file)}")
    elif snapshot.sealed:
        out.next(command_line("replay", file))
    else:
        seal = command_line("fsck", "--recover", file.removesuffix(".journal"))
        out.next(f"{seal}   (once nothing records into it any more)")


def _one_step(recorded: RecordedStep, file: str, out: Terminal) -> None:
    from fusion_replay.report.step_view import view

    with Progress("reading", quiet=out.quiet):
        seen = view(recorded)
    _print(seen, out)
    if recorded.status == "complete":
        if all(t.kept for _, t in recorded.tensors()):
            out.next(command_line("replay", file, "--step", recorded.address))
    else:  # it cannot be judged: what is known of it goes into a report
        out.next(command_line("export", file, "--step", recorded.address, "--issue"))


def _history(snapshot: Snapshot, file: str, buffer: str, invocation: int | None, out: Terminal) -> None:
    from fusion_replay.report.history import history

    with Progress("reading", quiet=out.quiet):
        found = history(snapshot, buffer, invocation=invocation)
    _print(found, out)
    if found.writes:
        out.next(command_line("show", file, found.writes[-1].address))


def _steps(snapshot: Snapshot, file: str, op: str | None, invocation: int | None, out: Terminal) -> None:
    found = list(snapshot.steps(invocation=invocation, op=op))
    if not found:
        wanted = " and ".join(f"{k} {v}" for k, v in (("operator", op), ("invocation", invocation)) if v is not None)
        types = sorted({o.type for s in snapshot.sequences for o in s.operators})
        raise UsageError(
            f"{file}: no recorded step of {wanted or 'any kind'}; it has "
            f"{count(len(snapshot.invocations), 'invocation')} and the operators {', '.join(types) or 'none'}"
        )
    _list(found, file, out)


def _list(found: Sequence[RecordedStep], file: str, out: Terminal) -> None:
    if out.as_json:
        out.records(_step_record(step) for step in found)
    rows = [[s.label, s.status, human_bytes(_nbytes(s)), human_ns(s.elapsed_ns)] for s in found]
    out.report(table(rows, indent="", right=(2, 3)))
    out.next(command_line("show", file, found[0].address))


def _step_record(step: RecordedStep) -> dict[str, Any]:
    return {
        "type": "listed_step",
        "address": step.address,
        "label": step.label,
        "op": step.op.type,
        "status": step.status,
        "nbytes": _nbytes(step),
        "elapsed_ns": step.elapsed_ns,
    }


def _nbytes(step: RecordedStep) -> int:
    return sum(use.spec.nbytes for use in step.description.operands)


def _print(view: _View, out: Terminal) -> None:
    if out.as_json:
        out.records(view.records())
    else:
        out.report(str(view))
