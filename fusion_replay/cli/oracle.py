# SPDX-License-Identifier: Apache-2.0
"""``oracle``: tensors of a framework model, from ONNX, and the buffers of a recording that should hold them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusion_replay.cli.imports import with_imports
from fusion_replay.cli.terminal import Terminal, command_line, examples, json_option, verbosity_options, weights_option
from fusion_replay.errors import MissingError

if TYPE_CHECKING:
    from fusion_replay.snapshot.target import IfExists


@examples("oracle map decode.h5 o.safetensors -o map.json", "oracle onnx model.onnx --inputs in.npz -o o.safetensors")
@click.group("oracle")
@verbosity_options
def command() -> None:
    """Oracles: a framework model's tensors, to judge a recording's runlist by (replay F --oracle O). From torch:
    fr.oracle(module, inputs, "o.safetensors"); from anything else: fr.oracle.write({name: array}, path)."""


@examples("oracle map decode.h5 o.safetensors", "oracle map decode.h5 o.safetensors -o map.json")
@click.command("map")
@click.argument("file", metavar="F")
@click.argument("oracle", metavar="O")
@click.option("-o", "--output", metavar="MAP.json", help="Write the map, to be edited and given to replay --map.")
@click.option(
    "--if-exists",
    type=click.Choice(["error", "replace"]),
    default="error",
    help="What to do about an existing map.  [default: error]",
)
@click.option("--invocation", type=click.IntRange(min=0), metavar="N", help="The call that O is about.")
@click.option("--all", "every", is_flag=True, help="Every tensor, on more than one screen.")
@weights_option
@json_option
@verbosity_options
def map_(
    file: str,
    oracle: str,
    output: str | None,
    if_exists: IfExists,
    invocation: int | None,
    every: bool,
    weights: str | None,
    as_json: bool,
) -> int:
    """Find which content of recording F holds each tensor of oracle O: the same values, up to padding, axis order,
    heads, parts, sign and scale. Exit 0 when every tensor has a place, 4 when some have none."""
    from fusion_replay.oracle.judge import mapping_of
    from fusion_replay.oracle.map_file import write_map
    from fusion_replay.report.oracle import map_layout
    from fusion_replay.snapshot import open_snapshot

    out = Terminal(as_json)
    with open_snapshot(file, weights=weights) as snapshot:
        out.notes(snapshot.notes)
        found = mapping_of(snapshot, oracle, invocation)
    if as_json:
        out.records(found.records())
    else:
        out.report(map_layout(found, every=every))
    words = ["replay", file, "--oracle", oracle]
    if output is not None:
        words += ["--map", str(write_map(found, output, if_exists=if_exists))]
    complete = bool(found.boundaries) and not found.unmapped
    mapped = f"{len(found.boundaries)} of {len(found.boundaries) + len(found.unmapped)} tensors have a place"
    out.close(complete, also=mapped, next=command_line(*words) if found.boundaries else None)
    return 0 if complete else MissingError.exit_code


@examples(
    "oracle onnx model.onnx --inputs in.npz -o o.safetensors",
    "oracle onnx model.onnx --inputs in.npz -o o.safetensors --value '*/add*'",
)
@click.command("onnx")
@click.argument("model", metavar="MODEL.onnx")
@click.option("--inputs", metavar="I.npz", required=True, help="The model's inputs by name.")
@click.option("-o", "--output", metavar="O", required=True, help="The oracle to write, .safetensors.")
@click.option("--value", "values", metavar="GLOB", multiple=True, help="Only these values; repeatable.")
@click.option(
    "--if-exists",
    type=click.Choice(["error", "replace"]),
    default="error",
    help="What to do about an existing O.  [default: error]",
)
@verbosity_options
def onnx_(model: str, inputs: str, output: str, values: tuple[str, ...], if_exists: IfExists) -> int:
    """Run an ONNX model once through onnxruntime, unoptimised, and keep every value that it computes."""
    from fusion_replay.oracle.onnx import from_onnx, read_inputs

    out = Terminal()
    report = from_onnx(model, read_inputs(inputs), Path(output), values, if_exists=if_exists)
    out.say(str(report))
    out.close(True, next=command_line("oracle", "map", "F.h5", output))
    return 0


for _each in (map_, onnx_):
    command.add_command(with_imports(_each))

__all__ = ["command"]
