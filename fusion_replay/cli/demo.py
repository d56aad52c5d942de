# SPDX-License-Identifier: Apache-2.0
"""``demo``: the tour. A decode goes wrong on the software NPU, the recording says where; a few seconds, no NPU."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusion_replay.cli.progress import Progress
from fusion_replay.cli.record import counting_steps, describe
from fusion_replay.cli.terminal import Terminal, command_line, examples, verbosity_options
from fusion_replay.errors import MismatchError
from fusion_replay.export.target import output

if TYPE_CHECKING:
    from fusion_replay.model.runlist import StepDescription
    from fusion_replay.recording.options import IfExists
    from fusion_replay.simulator.workloads import Run

DEVICE = "npu2"
VICTIM = "W_attn_output_decode_1"  # the step that reads this buffer is the one to break
KIND = "shift"


@examples("demo", "demo --app")
@click.command("demo")
@click.option("-o", "--output", "target", metavar="F", help="The file to write.  [default: demo.h5, app.py]")
@click.option("--app", is_flag=True, help="Write a program instead that stands in for yours, to record python app.py.")
@click.option(
    "--if-exists",
    type=click.Choice(["error", "replace", "number"]),
    help="What to do about an existing file.  [default: number; with --app: error]",
)
@verbosity_options
def command(target: str | None, app: bool, if_exists: IfExists | None) -> int:
    """Record a small llama decode with one fault inside, replay the recording, find the fault.

    Exit 0 when replay names the very step that was broken, 1 when it does not.
    """
    out = Terminal()
    if app:
        return _write_app(Path(target or "app.py"), if_exists or "error", out)
    target = target or "demo.h5"
    out.say("A llama decode on the software NPU, as it should be:")
    good = _build()
    out.say(f"  {good.describe()}")
    tokens = good.execute()["tokens"]
    out.say(f"  tokens {tokens}")

    victim = _victim(good)
    address = f"{good.invocations - 1}:{victim.index}"
    fault = f"{address}:{KIND}"
    out.report(f"\nThe same decode with one fault inside ({fault}, as in {_report_of(KIND)}), recorded:")
    typed = command_line("record", "--workload", "llama-decode", "--sim", DEVICE, "--fault", fault, "-o", target)
    out.say(f"  $ {typed}")
    path, bad_tokens = _record(_build(fault), Path(target), if_exists or "number", out)
    out.say(f"  tokens {bad_tokens}, although every step reported success")

    out.report("\nReplay knows nothing but that file, and judges every step on the inputs it really had:")
    out.report(f"  $ {command_line('replay', path)}\n")
    found, text = _replay(path, out)
    out.report(text)
    label = f"{address} {good.callable.op.runlist[victim.index][0].__class__.__name__}"
    if found != [address]:
        raise MismatchError(f"demo: the fault is in {label}, replay names {', '.join(found) or 'no step'}")
    out.report(f"\nReplay names {label}: the step that was broken, and no other. Go on with")
    for words in (("show", path, address), ("show", path, "--buffer", victim.operands[-1].buffer), ("operators",)):
        out.say(f"  {command_line(*words)}")
    out.close(True, next=command_line("show", path, address))
    return 0


def _write_app(path: Path, if_exists: IfExists, out: Terminal) -> int:
    """The program, which needs neither IRON nor an NPU."""
    program = files(__package__).joinpath("app.py.txt").read_bytes()
    if not (path.is_file() and path.read_bytes() == program):  # typed twice it is no other
        with output(path, if_exists) as written:
            written.part.write_bytes(program)
        path = written.path
    out.say(f"{path}: a block of three operators, called three times on the software NPU, and one step goes wrong")
    out.next(command_line("record", "python", path))
    return 0


def _build(*faults: str) -> Run:
    from fusion_replay.simulator.faults import parse_fault
    from fusion_replay.simulator.workloads import find

    return find("llama-decode").build(DEVICE, [parse_fault(f) for f in faults], {"config": "tiny", "tokens": 2})


def _victim(run: Run) -> StepDescription:
    """The step to break, by what it reads: its number depends on the configuration."""
    from fusion_replay import sources

    steps = sources.attach(run.callable).sequence.steps
    return next(s for s in steps if any(use.buffer == VICTIM for use in s.operands))


def _report_of(kind: str) -> str:
    """The bug report that the fault is modelled on."""
    from fusion_replay.simulator.faults.catalogue import KINDS

    return str(KINDS[kind].report)


def _record(run: Run, target: Path, if_exists: IfExists, out: Terminal) -> tuple[Path, Any]:
    from fusion_replay.record import record

    with (
        Progress("recording", quiet=out.quiet) as progress,
        counting_steps(run, progress),
        record(target, run.callable, if_exists=if_exists) as recorder,
    ):
        tokens = run.execute()["tokens"]
    assert recorder.report is not None
    out.say(f"  {describe(recorder.report)}")
    return recorder.report.path, tokens


def _replay(path: Path, out: Terminal) -> tuple[list[str], str]:
    """Addresses of all mismatches, and the report in words."""
    from fusion_replay.diverge.explain import explain_first
    from fusion_replay.replay import replay
    from fusion_replay.report.terminal import layout
    from fusion_replay.snapshot import open_snapshot

    with open_snapshot(path) as snapshot, Progress("replaying", quiet=out.quiet) as progress:
        report = replay(snapshot, progress=progress)
        text = layout(report, why=explain_first(snapshot, report))
    return [s.address for s in report.steps if not s.verdict], text
