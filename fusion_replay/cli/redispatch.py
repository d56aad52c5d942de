# SPDX-License-Identifier: Apache-2.0
"""``replay F --on npu|sim``: the recorded steps on a device again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import Terminal, command_line, typed_option
from fusion_replay.errors import UsageError
from fusion_replay.model.text import wrap

if TYPE_CHECKING:
    from fusion_replay.replaying.redispatch.run import RedispatchReport

_JUDGING = ("mode", "array", "fail_fast", "workers", "cache_bytes", "rtol", "atol", "failed")


def options(function: Any) -> Any:
    """What ``replay`` takes besides, for a device."""
    for option in (
        click.option("--journal", metavar="FILE", help="With --on: what is tried is written here before it is."),
        click.option("--force", is_flag=True, help="With --on: on another device generation than the recorded one."),
        click.option("--device", metavar="NAME", help="With --on sim: npu1 or npu2.  [default: the recorded one]"),
        click.option("--timeout", type=float, metavar="S", help="With --on npu: seconds per dispatch.  [default: 10]"),
        click.option("--repeat", type=int, metavar="N", help="With --on: dispatch each step N times and compare."),
        click.option("--build-dir", metavar="DIR", help="With --on npu: a new build, matched by operator."),
        click.option(
            "--on",
            type=click.Choice(["reference", "npu", "sim"]),
            default="reference",
            help="Judge the recording alone, or dispatch its steps again on an NPU or the software NPU.",
        ),
    ):
        function = option(function)
    return function


def take(given: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of :func:`options` from ``given``; those that were typed, by name.

    Raises:
        UsageError: one of them without ``--on npu`` or ``--on sim``, or with it one that only judging has.
    """
    on = given.pop("on")
    names = ("build_dir", "repeat", "timeout", "device", "force", "journal")
    typed = {name: value for name in names if (value := given.pop(name)) is not None and value is not False}
    if on == "reference":
        if typed:
            first = next(iter(typed)).replace("_", "-")
            raise UsageError(f"replay: --{first} is for dispatching again; add --on npu or --on sim")
        return {}
    if judging := typed_option(_JUDGING):
        raise UsageError(f"replay --on {on}: {judging} is for judging a recording; leave it out")
    for name in _JUDGING:
        given.pop(name, None)
    return {"on": on, **typed}


def run(file: str, every: bool, weights: str | None, out: Terminal, options: dict[str, Any]) -> int:
    """Dispatch, print, answer with the exit status."""
    from fusion_replay.replaying.redispatch.run import redispatch
    from fusion_replay.snapshot import open_snapshot

    with open_snapshot(file, weights=weights) as snapshot:
        out.notes(snapshot.notes)
        with Progress("dispatching again", quiet=out.quiet) as progress:
            report = redispatch(snapshot, progress=progress, **options)
    if out.as_json:
        out.records(report.records())
    else:
        for line in report.lines(every=every):
            indent = line[: len(line) - len(line.lstrip(" "))]
            out.report("\n".join(wrap(line, indent, lines=3)))
    out.close(report.passed, next=_next(file, report))
    return report.exit_status


def _next(file: str, report: RedispatchReport) -> str | None:
    return command_line("show", file, report.failures[0].address) if report.failures else None
