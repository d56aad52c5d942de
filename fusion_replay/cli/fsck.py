# SPDX-License-Identifier: Apache-2.0
"""``fsck F``: is every byte what was sealed; ``--recover``: seal a recording that was killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import Terminal, command_line, examples, json_option, verbosity_options, weights_option

if TYPE_CHECKING:
    from fusion_replay.snapshot.fsck import FsckReport


@examples("fsck decode.h5", "fsck --recover decode.h5")
@click.command("fsck")
@click.argument("file", metavar="F")
@click.option("--recover", is_flag=True, help="Seal a killed recording (F or its journal) as F.")
@weights_option
@json_option
@verbosity_options
def command(file: str, recover: bool, weights: str | None, as_json: bool) -> int:
    """Check the snapshot F: exit 0 when sealed and whole, 3 when damaged or not sealed."""
    from fusion_replay.snapshot.fsck import check
    from fusion_replay.snapshot.fsck import recover as seal

    out = Terminal(as_json)
    with Progress("recovering" if recover else "checking", quiet=out.quiet):
        report = seal(file) if recover else check(file, weights=weights)
    if as_json:
        from fusion_replay.report.jsonl import encode

        click.echo(encode({"type": "fsck", **report.to_dict()}))
    out.report(str(report))
    out.close(report.ok, next=_next(file, report))
    return 0 if report.ok else 3


def _next(file: str, report: FsckReport) -> str | None:
    if report.ok:
        return command_line("replay" if report.tensors or not report.steps else "show", report.path)
    return command_line("fsck", "--recover", file.removesuffix(".journal")) if report.recoverable else None
