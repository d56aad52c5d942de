# SPDX-License-Identifier: Apache-2.0
"""``record``: an unmodified program, or a built-in workload on the software NPU, every step of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusion_replay.cli.imports import load_named
from fusion_replay.cli.progress import Progress
from fusion_replay.cli.record_options import recording_options, take_typed, usable
from fusion_replay.cli.terminal import Terminal, command_line, examples, verbosity_options
from fusion_replay.errors import FusionReplayError, MissingError, SnapshotError, TargetExistsError, UsageError
from fusion_replay.recording.option_declaration import PREFIX
from fusion_replay.recording.options import Options
from fusion_replay.report.text import count, human_bytes, human_seconds, one_line, table
from fusion_replay.system import platform

if TYPE_CHECKING:
    from fusion_replay.model.runlist import SequenceDescription, StepDescription
    from fusion_replay.recording.recorder import Recorder
    from fusion_replay.simulator.workloads import Run, Workload, WorkloadOption
    from fusion_replay.snapshot import WriteReport
    from fusion_replay.sources.protocol import KernelPaths, LiveStep, StepResult

_WORKLOAD = "fusion_replay.workload"
_WHERE = (f"{PREFIX}OUT", f"{PREFIX}IF_EXISTS")
"""What a workload takes from the environment."""


class _RecordCommand(click.Command):
    """Gains the options that the named workload declares, in parsing and in ``--help``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = self._before_program(args)
        name = _named_workload(own)
        if name is not None:
            load_named(own)  # op:NAME may be an operator that --import declares
            from fusion_replay.simulator.workloads import find

            ctx.meta[_WORKLOAD] = find(name)
        return super().parse_args(ctx, args)

    def _before_program(self, args: Sequence[str]) -> list[str]:
        """The words that are ours: what follows the program's name is the program's, whatever it looks like."""
        valued = {flag for p in self.params if isinstance(p, click.Option) and not _is_flag(p) for flag in p.opts}
        i = 0
        while i < len(args) and args[i].startswith("-") and args[i] != "--":
            i += 1 + (args[i] in valued)
            if "--workload" in args[i - 2 : i] or args[i - 1].startswith("--workload="):
                return list(args)  # its own options aren't known yet, and no program follows
        return list(args[:i])

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        workload: Workload | None = ctx.meta.get(_WORKLOAD)
        own = super().get_params(ctx)
        return [*own, *map(_click_option, workload.options)] if workload else own


def _is_flag(option: click.Option) -> bool:
    return option.is_flag or option.count


def _named_workload(args: Sequence[str]) -> str | None:
    """The value of ``--workload``, read before click knows which options there are."""
    for i, word in enumerate(args):
        if word == "--":
            return None
        if word == "--workload" and i + 1 < len(args):
            return args[i + 1]
        if word.startswith("--workload="):
            return word.partition("=")[2]
    return None


def _click_option(o: WorkloadOption) -> click.Option:
    flag = "--" + o.name.replace("_", "-")
    kind: Any = o.type
    if o.choices:
        kind = click.Choice(o.choices)
    elif o.type is int and o.minimum is not None:
        kind = click.IntRange(min=o.minimum)
    shown = f"  [default: {o.default}]" if o.default not in (None, ()) else ""
    declaration = f"{flag}/--no-{flag[2:]}" if o.type is bool else flag
    return click.Option(
        [declaration, o.name],
        type=None if o.type is bool else kind,
        default=None,  # the workload's own default applies: only what was typed is passed on
        multiple=o.repeat,
        help=o.help + shown,
    )


@examples("record python app.py", "record -o decode.h5 --workload llama-decode --sim npu2 --fault 1:69:shift")
@click.command("record", cls=_RecordCommand, context_settings={"allow_interspersed_args": False})
@click.option("--workload", metavar="NAME", help="llama, llama-decode, minilm, or op:NAME for one operator.")
@click.option("--sim", metavar="npu1|npu2", type=click.Choice(["npu1", "npu2"]), help="Which software NPU runs it.")
@click.option(
    "--fault",
    metavar="SPEC",
    multiple=True,
    help="Inject ADDRESS-OR-OPERATOR:KIND[:ARGS], e.g. 1:17:zeros or GEMV:shift; may be repeated.",
)
@click.option("--list", "listed", is_flag=True, help="List workloads, operators and kinds of faults.")
@click.option("--matrix", is_flag=True, help="Make the goldens of IRON's CI matrix again, into the folder -o names.")
@click.option("--device", type=click.Choice(["npu1", "npu2"]), help="With --matrix: only what ran on this device.")
@click.option("--only", metavar="CASE", help="With --matrix: one case, or all of an operator such as rms_norm.")
@recording_options
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[PROGRAM ARGUMENTS...]")
@verbosity_options
def command(
    workload: str | None,
    sim: str | None,
    fault: tuple[str, ...],
    listed: bool,
    matrix: bool,
    device: str | None,
    only: str | None,
    program: tuple[str, ...],
    **options: Any,
) -> int:
    """Record an unmodified IRON program (record python app.py ARGUMENTS...), or a built-in workload on the software
    NPU. Options of record come before the program. Each workload has options of its own: add --workload NAME to
    --help to see them.

    The program's output, arguments and folder stay its own, its non-zero exit status or signal is passed on. Where
    it ends with 0 and nothing could be recorded the exit status is 4, and the reason is told. Where to record can be
    given by the environment too, FUSION_REPLAY_OUT and _IF_EXISTS, and what a program is recorded with: _SEPARATE,
    _WHOLE_CALLS, _REPEAT_CALLS, _STEP_TIMEOUT, _SLOW_AFTER, _LEVEL, _OP, _STEP, _BUFFER, _INVOCATION, _ONLY_MATCHING,
    _MAX_BYTES, _MAX_STEPS, _MAX_INVOCATIONS, _KEEP, _AGAINST, _VERIFY_STATIC, _WITH_REFERENCE, _REFERENCE_BUDGET,
    _BINARIES, _WEIGHTS_IN, _NO_WEIGHTS, and _ON_ERROR (warn or raise). Options that are typed win.
    """
    typed = take_typed(options)
    if listed:
        if program or workload or sim or fault or matrix or typed:
            raise UsageError("record --list: takes nothing else; leave the other options out")
        return _list(Terminal())
    if "weights_in" in typed and "no_weights" in typed:
        raise UsageError(f"record --weights-in {typed['weights_in']}: goes without --no-weights; leave out one of them")
    if matrix:
        from fusion_replay.cli.record_matrix import record_matrix

        output = typed.pop("out", None)
        if program or workload or sim or fault or typed:
            raise UsageError("record --matrix: takes --device, --only and -o; leave the other options out")
        return record_matrix(device, only, output, Terminal())
    if device or only:
        raise UsageError("record: --device and --only choose from --matrix; a workload's device is --sim npu1|npu2")
    if program:
        if workload:
            raise UsageError(f"record --workload {workload}: unexpected argument {program[0]!r}")
        if sim or fault:
            raise UsageError("record: --sim and --fault are for --workload NAME; a program runs on what it chooses")
        if reason := platform.records_programs():
            raise MissingError(f"record PROGRAM: {reason}; its arrays can be recorded anywhere: fr.record() in Python")
        from fusion_replay.cli.record_program import record_program

        return record_program(program, Options.from_environ(os.environ, **typed))
    if "separate" in typed or "whole_calls" in typed:
        option = "--separate" if "separate" in typed else "--whole-calls"
        raise UsageError(f"record: {option} is for programs; a workload that can be fused takes --dispatch fused")
    if "binaries" in typed:
        raise UsageError("record: --no-binaries is for programs; the software NPU runs no binaries")
    where = Options.from_environ({name: value for name, value in os.environ.items() if name in _WHERE})
    chosen = Options.of(**{"out": where.out, "if_exists": where.if_exists, **typed})
    if workload is None and sim is None and not fault:
        raise UsageError(
            "record: what is to be recorded is missing; a program: record python app.py, or a workload on the software "
            "NPU: record --workload llama-decode --sim npu2; record --list names workloads and faults"
        )
    if workload is None or sim is None:
        from fusion_replay.simulator.workloads import names

        missing = "--workload NAME" if workload is None else "--sim npu1|npu2"
        raise UsageError(f"record: {missing} is missing; workloads: {', '.join(names())}; devices: npu1, npu2")
    target = Path(chosen.out if chosen.out is not None else f"{workload.replace(':', '-')}.h5")
    chosen = replace(chosen, if_exists=chosen.if_exists or ("error" if chosen.out is not None else "number"))
    if chosen.if_exists == "error" and target.exists():  # the writer checks again; before minutes of building is kinder
        raise TargetExistsError(f"{target} exists already; add --if-exists replace or number, or give another -o")
    _ = usable(chosen.against)
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if given.get("dispatch") == "fused":
        chosen = replace(chosen, whole_calls=True)
    recipe = {"workload": workload, "device": sim, "faults": list(fault), "options": given}
    return _record(_build(workload, sim, fault, given), target, chosen, Terminal(), recipe)


def _list(out: Terminal) -> int:
    """What ``--workload`` and ``--fault`` take, a line each with where it comes from."""
    from fusion_replay.simulator.faults.catalogue import KINDS
    from fusion_replay.simulator.workloads import find, names
    from fusion_replay.simulator.workloads.op import DEFAULTS

    known = [name for name in names() if ":" not in name]
    out.say("workloads (--workload NAME --sim npu1|npu2; their options: --workload NAME --help)")
    rows = [[name, find(name).summary] for name in known]
    out.report(table([*rows, ["op:NAME", f"one operator: {', '.join(sorted(DEFAULTS))}"]]))
    out.say("faults (--fault 1:69:KIND at a step, --fault GEMV:KIND at an operator)")
    out.report(table([kind.name + kind.usage, kind.summary, kind.report] for kind in KINDS.values()))
    out.next(command_line("record", "--workload", known[1], "--sim", "npu2", "--fault", "1:69:shift"))
    return 0


def _build(workload: str, sim: str, faults: Sequence[str], options: dict[str, Any]) -> Run:
    from fusion_replay.simulator.faults import parse_fault
    from fusion_replay.simulator.workloads import find

    return find(workload).build(sim, [parse_fault(f) for f in faults], options)


def _record(run: Run, target: Path, options: Options, out: Terminal, recipe: Mapping[str, Any]) -> int:
    """Run every invocation under the recorder. A run that fails keeps its snapshot, and its failure is passed on.

    ``recipe`` goes into the provenance: a golden of this recording can be recorded again.
    """
    out.say(run.describe())
    with (
        Progress("recording", quiet=out.quiet) as progress,
        counting_steps(run, progress),
        _recorder_of(run, target, options) as recorder,
    ):
        recorder.recording.writer.add_provenance({"recipe": recipe})
        failure = _run(run)
        recorder.close()
    if failure is None:
        for name, value in run.result().items():
            out.say(f"{name}: {_brief(value)}")
        if out.verbosity > 0:
            exact = [f"{', '.join(t)} ({why})" for c in run.callables for why, t in c.exact_kinds.items()]
            out.say(f"may match to the bit: {'; '.join(exact) or 'nothing'}")
    else:
        what = f"the recorded run failed: {type(failure).__name__}: {failure}"
        out.error("interrupted" if isinstance(failure, KeyboardInterrupt) else what)
    status = _status(failure)
    report = recorder.report
    if recorder.unmatched is not None:
        out.error(recorder.unmatched)
        out.close(False, next=None if report is None else command_line("show", report.path))
        return status or UsageError.exit_code
    if report is None:  # could not be sealed; the recorder has said why, and how to get at what was recorded
        out.close(False, next=command_line("fsck", "--recover", recorder.path))
        return status or SnapshotError.exit_code
    out.say(describe(report))
    said = [f"{x.kind if x.asked_for else f'lost: {x.kind}'}: {x.detail} ({x.count})" for x in report.losses]
    if report.deviating is not None:
        said.insert(0, str(report.deviating))
    if isinstance(failure, KeyboardInterrupt):
        said.insert(0, f"sealed {report.path}")
    next_ = _next(report, options) if failure is None else command_line("show", report.path)
    out.close(failure is None and report.steps > 0, also="; ".join(said), next=next_)
    return status or (0 if report.steps else MissingError.exit_code)


def _recorder_of(run: Run, target: Path, options: Options) -> Recorder:
    """Attached before it begins: what does not fit the run is refused before there is a file."""
    from fusion_replay.record import recorder

    made = recorder(target, None, options)
    for callable_ in run.callables:
        made.attach(callable_)
    return made


def _run(run: Run) -> Exception | KeyboardInterrupt | None:
    """Every invocation; what ended them early: Ctrl-C, or a step's time being up, as well."""
    try:
        for i in range(run.invocations):
            run.prepare(i)
            run.callable()
            run.finish(i)
    except (Exception, KeyboardInterrupt) as error:
        return error
    return None


def _status(failure: BaseException | None) -> int:
    from fusion_replay.cli import INTERRUPTED

    if isinstance(failure, FusionReplayError):
        return failure.exit_code
    return INTERRUPTED if isinstance(failure, KeyboardInterrupt) else int(failure is not None)


def _next(report: WriteReport, options: Options) -> str:
    """What to type next: contents are compared, or judged, where there are any."""
    found = report.deviating
    if (found is not None and not found.kept) or options.level == "digest":
        return command_line("show", report.path)
    against = options.against
    return command_line("diff", against, report.path) if against else command_line("replay", report.path)


def describe(report: WriteReport) -> str:
    """What was written, on one line."""
    return (
        f"{report.path}: {count(report.steps, 'step')} in {count(report.invocations, 'invocation')}, "
        f"{human_bytes(report.bytes_seen)} seen, {human_bytes(report.bytes_unique)} unique, "
        f"{human_bytes(report.file_bytes)} written, sealed in {human_seconds(report.seconds_sealing)}"
    )


@contextlib.contextmanager
def counting_steps(run: Run, progress: Progress) -> Iterator[None]:
    """Tell ``progress`` of every finished step; does nothing where there is no display."""
    if not progress.active:
        yield
        return
    from fusion_replay import sources

    counter = _StepCounter(progress, run.dispatches)
    watched = [sources.attach(c) for c in run.callables]
    for source in watched:
        source.attach(counter)
    try:
        yield
    finally:
        for source in watched:
            source.detach()


class _StepCounter:
    """An observer that only counts."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def invocation_started(self, sequence: SequenceDescription) -> None:
        pass

    def prepared(self, kernels: Callable[[], Sequence[KernelPaths]]) -> None:
        pass

    def before(self, step: LiveStep) -> None:
        pass

    def after(self, step: LiveStep, result: StepResult) -> None:
        self._done += 1
        self._progress(self._done, self._total)

    def failed(self, step: LiveStep, error: BaseException) -> None:
        pass

    def judged(self, step: StepDescription, statistics: Mapping[str, Any]) -> None:
        pass

    def invocation_finished(self) -> None:
        pass


def _brief(value: Any) -> str:
    """A result on one line: long lists by their first few."""
    if isinstance(value, (list, tuple)) and len(value) > 8:
        return f"[{', '.join(_brief(v) for v in value[:8])}, ...] ({len(value):,} values)"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_brief(v) for v in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else one_line(str(value))
