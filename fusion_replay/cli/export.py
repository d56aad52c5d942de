# SPDX-License-Identifier: Apache-2.0
"""``export F``: recorded steps in other formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import (
    Terminal,
    command_line,
    examples,
    json_option,
    program,
    step_option,
    verbosity_options,
    weights_option,
)
from fusion_replay.model.text import shell

if TYPE_CHECKING:
    from fusion_replay.export import ExportReport


@examples("export decode.h5 --step 1:69 --issue", "export decode.h5 --invocation 1 --as safetensors")
@click.command("export")
@click.argument("file", metavar="F")
@step_option
@click.option("--op", metavar="TYPE", help="Only steps of this operator type.")
@click.option("--buffer", metavar="NAME", help="Only steps that touch this buffer.")
@click.option("--invocation", type=click.IntRange(min=0), metavar="N", help="Only this invocation.")
@click.option("--slice", "slice_", is_flag=True, help="With one --step: also the steps whose results feed it.")
@click.option(
    "--as", "as_", metavar="FORMAT", default="h5", help="h5, plain-h5, npz, safetensors, jsonl or xrt.  [default: h5]"
)
@click.option("--issue", is_flag=True, help="With one --step: a folder for a bug report, redacted.")
@click.option(
    "--with-weights/--no-weights",
    default=None,
    help="--issue: contents of all weights, or of none.  [default: the step's own, up to 16 MiB]",
)
@click.option("-o", "--output", "path", metavar="OUT", help="The file to write.  [default: named after F, here]")
@click.option("--compression", metavar="NAME", help="plain-h5: gzip, zstd, none; npz: none, deflate.")
@click.option("--float32", is_flag=True, help="plain-h5: bfloat16 as float32, for viewers that know no bfloat16.")
@click.option("--skip-missing", is_flag=True, help="Leave out arrays of which only digests were kept.")
@click.option(
    "--if-exists",
    type=click.Choice(["error", "replace", "number"]),
    help="What to do where OUT exists.  [default: error; without -o, number]",
)
@weights_option
@json_option
@verbosity_options
def command(file: str, as_json: bool, weights: str | None, **options: Any) -> int:
    """Write recorded steps of F in another format; without a filter, all of them."""
    from fusion_replay.export import export
    from fusion_replay.snapshot import open_snapshot

    out = Terminal(as_json)
    with open_snapshot(file, weights=weights) as snapshot:
        out.notes(snapshot.notes)
        with Progress("exporting", quiet=out.quiet) as progress:
            report = export(snapshot, progress=progress, **options)
    if as_json:
        from fusion_replay.report.jsonl import encode

        click.echo(encode({"type": "export", **report.to_dict()}))
    else:
        out.report(str(report))
    out.close(True, next=_next(report))
    return 0


def _next(report: ExportReport) -> str | None:
    path = report.path
    match report.format:
        case "h5":
            return command_line("replay", path)
        case "issue":
            return shell([program("python"), str(path / "repro.py")])
        case "xrt":
            return shell(["xrt-runner", "--replay", str(path / "replay.json"), "--dir", str(path)])
    return None
