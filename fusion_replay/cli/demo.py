# SPDX-License-Identifier: Apache-2.0
"""``demo``: the tour. A decode goes wrong on the software NPU, the recording says where; a few seconds, no NPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusion_replay.cli.progress import Progress
from fusion_replay.cli.record import counting_steps, describe
from fusion_replay.cli.terminal import Terminal, command_line, verbosity_options
from fusion_replay.errors import MismatchError

if TYPE_CHECKING:
    from fusion_replay.model.runlist import StepDescription
    from fusion_replay.recording.options import IfExists
    from fusion_replay.simulator.workloads import Run

DEVICE = "npu2"
VICTIM = "W_attn_output_decode_1"  # the step that reads this buffer is the one to break
KIND = "shift"


@click.command("demo")
@click.option("-o", "--output", metavar="F", default="demo.h5", help="The snapshot to write.  [default: demo.h5]")
@click.option(
    "--if-exists",
    type=click.Choice(["error", "replace", "number"]),
    default="number",
    help="What to do about an existing F.  [default: number]",
)
@verbosity_options
def command(output: str, if_exists: IfExists) -> int:
    """Record a small llama decode with one fault inside, replay the recording, find the fault.

    Exit 0 when replay names the very step that was broken, 1 when it does not.
    """
    out = Terminal()
    out.say("A llama decode on the software NPU, as it should be:")
    good = _build()
    out.say(f"  {good.describe()}")
    tokens = good.execute()["tokens"]
    out.say(f"  tokens {tokens}")

    victim = _victim(good)
    address = f"{good.invocations - 1}:{victim.index}"
    fault = f"{address}:{KIND}"
    out.report(f"\nThe same decode with one fault inside ({fault}, as in {_report_of(KIND)}), recorded:")
    typed = command_line("record", "--workload", "llama-decode", "--sim", DEVICE, "--fault", fault, "-o", output)
    out.say(f"  $ {typed}")
    path, bad_tokens = _record(_build(fault), Path(output), if_exists, out)
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
