# SPDX-License-Identifier: Apache-2.0
"""``operators [NAME]``: what is supported, with the parameters, tolerances and sources of each operator."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from fusion_replay.cli.terminal import Terminal, command_line, examples, json_option, verbosity_options
from fusion_replay.errors import UsageError
from fusion_replay.report.text import count, table

if TYPE_CHECKING:
    from fusion_replay.operators import OperatorSpec, Param

_LIMITS = ("tolerance npu1", "npu2")


@examples("operators GEMV", "operators --new MyOp > my_op.py")
@click.command("operators")
@click.argument("name", required=False)
@click.option("--new", metavar="NAME", help="Print a Python file that declares operator NAME, to fill in and import.")
@click.option("--from", "recording", metavar="F", help="With --new: arguments and parameters as recorded in F.")
@json_option
@verbosity_options
def command(name: str | None, new: str | None, recording: str | None, as_json: bool) -> int:
    """Every operator with a reference; with NAME (an alias will do) all that is known of one."""
    if new is not None:
        return _new(new, recording, also=name or as_json)
    if recording is not None:
        raise UsageError("operators: --from fills in what --new NAME prints; add --new")
    from fusion_replay.refs import meant, specs

    out = Terminal(as_json)
    chosen = [meant(name)] if name else list(specs())
    if as_json:
        from fusion_replay.report.jsonl import encode

        for spec in chosen:
            click.echo(encode(record(spec)))
    elif name:
        out.report(_details(chosen[0]))
        if not chosen[0].shapeless:
            out.next(command_line("record", "--workload", f"op:{chosen[0].type}", "--sim", "npu2"))
    else:
        rows: list[list[str]] = [["operator", "required parameters", "devices", *_LIMITS, "forms", "source"]]
        rows += [_row(s) for s in chosen]
        for line in table(rows, indent="").splitlines():
            out.say(_brief(line, shutil.get_terminal_size().columns) if sys.stdout.isatty() else line)
        out.say(f"{count(len(chosen), 'operator')}; with its name, all of one")
        out.next(command_line("operators", chosen[0].type))
    return 0


def _new(name: str, recording: str | None, *, also: object) -> int:
    """Print the template and nothing else: the output is a file."""
    if also:
        raise UsageError("operators --new: prints a Python file; leave out the other NAME and --json")
    from fusion_replay.cli.template import of_recorded_step, runnable
    from fusion_replay.refs import lookup

    known = lookup(name)
    if known is not None:
        raise UsageError(f"operators --new {name}: {known.type} has a reference ({known.source}); choose another name")
    if recording is None:
        click.echo(runnable(name), nl=False)
        return 0
    from fusion_replay.snapshot import open_snapshot

    with open_snapshot(recording) as snapshot:
        step = next(snapshot.steps(op=name), None)
        if step is None:
            raise UsageError(f"operators --new {name}: no step of {recording} is of this type; leave out --from")
        click.echo(of_recorded_step(step, recording), nl=False)
    return 0


def record(spec: OperatorSpec) -> dict[str, Any]:
    """One operator as a typed record."""
    return {
        "type": "operator",
        "op": spec.type,
        "aliases": list(spec.aliases),
        "summary": spec.summary,
        "source": spec.source,
        "params": [_param(p) for p in spec.params],
        "flavours": sorted(spec.flavours),
        "answers": {name: form for form, names in spec.forms() for name in names},
        "devices": list(spec.devices),
        "tolerance": {device: t.to_dict() for device, t in _tolerances(spec)},
        "exact_bits": spec.exact_bits,
        "partial": spec.partial,
        "values": list(spec.values),
        "float32": list(spec.float32),
        "runlist": spec.runlist is not None,
        "defects": list(spec.defects),
    }


def _tolerances(spec: OperatorSpec) -> Iterable[tuple[str, Any]]:
    return ((device, spec.tolerance_for(device)) for device in spec.devices)


def _param(p: Param) -> dict[str, Any]:
    required = _required(p)
    default = None if required else p.default
    return {
        "name": p.name,
        "kind": p.type.__name__,
        "required": required,
        "default": list(default) if isinstance(default, tuple) else default,
        "decides": p.decides,
        "help": p.help,
    }


def _required(p: Param) -> bool:
    from fusion_replay.operators import REQUIRED

    return p.default is REQUIRED


def _row(spec: OperatorSpec) -> list[str]:
    """Short cells; NAME shows what is cut here."""
    required = ", ".join(p.name for p in spec.params if _required(p))
    limits = dict(_tolerances(spec))
    npu1, npu2 = (_brief(str(limits.get(device, "no design")), 24) for device in ("npu1", "npu2"))
    devices = ", ".join(spec.devices)
    return [spec.type, _brief(required, 24), devices, npu1, npu2, str(len(spec.forms())), spec.source]


def _brief(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip(", ") + "..."


def _details(spec: OperatorSpec) -> str:
    lines = [spec.type + (f": {spec.summary}" if spec.summary else "")]
    if spec.aliases:
        lines.append(f"  also called {', '.join(spec.aliases)}")
    rows = [
        [p.name, p.type.__name__, "required" if _required(p) else f"default {p.default!r}", p.help or _effect(p)]
        for p in spec.params
    ]
    lines += ["parameters", table(rows)] if rows else []
    if spec.values:
        lines.append(f"runtime values: {', '.join(spec.values)}")
    lines.append(f"devices: {', '.join(spec.devices)}")
    lines.append("tolerance")
    lines.append(table([[device, str(t), t.source] for device, t in _tolerances(spec)]))
    lines.append("reference flavours, those of one form together")
    lines.append(table([[", ".join(names), _answered_by(form, names)] for form, names in spec.forms()]))
    if spec.float32:
        lines.append(f"results stay float32, as IRON's do, in {', '.join(spec.float32)}")
    if spec.exact_bits:
        lines.append("moves bits: the device must reproduce the reference exactly")
    if spec.partial:
        lines.append("writes part of its output: the reference needs the old contents, which a recording keeps")
    if spec.runlist is not None:
        lines.append("has steps of its own for recordings")
    lines += [f"IRON's compare: {defect}" for defect in spec.defects]
    lines.append(f"source: {spec.source}")
    return "\n".join(lines)


def _answered_by(form: str, names: list[str]) -> str:
    return "" if form in names else f"answered by {form}"


def _effect(p: Param) -> str:
    return "" if p.decides else "shapes the design, not the result"
