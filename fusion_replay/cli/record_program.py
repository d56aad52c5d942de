# SPDX-License-Identifier: Apache-2.0
"""``record python app.py ...``: run an unmodified program, record what its processes dispatch, say what was not seen.

The program is a process of its own with its own streams, arguments and folder; only FUSION_REPLAY_* and PYTHONPATH are
added to its environment. Everything we say goes to stderr, after it has ended. Its non-zero exit status, or the signal
that ended it, is passed on.

Tested in tests/integration/test_record_program.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from fusion_replay import recording
from fusion_replay.cli.record_options import usable
from fusion_replay.cli.terminal import Terminal, command_line
from fusion_replay.errors import FusionReplayError, MissingError, TargetExistsError, UsageError
from fusion_replay.recording import child_log
from fusion_replay.recording.child_log import Process
from fusion_replay.recording.option_declaration import PREFIX
from fusion_replay.recording.options import Options
from fusion_replay.recording.options import options as all_options
from fusion_replay.report.text import count, one_line

_DEPENDENCIES = ("numpy", "ml_dtypes", "h5py", "zstandard", "xxhash", "array_api_compat")
SITE = Path(recording.__file__).resolve().parent / "site"
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def record_program(words: Sequence[str], options: Options) -> int:
    """Run ``words``, then report. Returns the exit status; where a signal ended the program it ends us too.

    Raises:
        UsageError, SnapshotError: the program is not there, or the target is, or what to compare with can't be read;
            nothing was run.
    """
    out = Terminal(as_json=True)  # stdout is the program's
    program = _find(words)
    weights = options.weights_in and str(Path(options.weights_in).absolute())
    options = replace(_with_target(words, options), against=usable(options.against), weights_in=weights)
    with tempfile.TemporaryDirectory(prefix="fusion-replay-") as folder:
        log = Path(folder) / "children"
        log.touch()
        status = _run([program, *words[1:]], _environment(replace(options, child_log=str(log))))
        processes = [_sealed(process) for process in child_log.read(log)]
    return _report(processes, status, words, options, out)


def _find(words: Sequence[str]) -> str:
    found = shutil.which(words[0])
    if found is not None:
        return found
    if words[0].endswith(".py") and Path(words[0]).is_file():
        raise UsageError(f"record {words[0]}: not executable; record python {' '.join(words)}")
    if words[0].startswith("-"):
        raise UsageError(f"record: no such option {words[0]}; options of record come before the program")
    raise UsageError(f"record {words[0]}: no such program; expected a command, such as: record python app.py")


def _with_target(words: Sequence[str], options: Options) -> Options:
    """The file's absolute name, since the program may change its folder; refused now rather than in the middle."""
    named = options.out is not None
    target = Path(os.path.abspath(options.out or f"{_stem(words)}.h5"))
    policy = options.if_exists or ("error" if named else "number")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: can't be written: the folder {target.parent} does not exist")
    if target.is_dir():
        raise UsageError(f"{target}: a directory; expected the name of the file to write")
    if policy == "error" and target.exists():
        raise TargetExistsError(f"{target} exists already; add --if-exists replace or number, or give another -o")
    return replace(options, out=str(target), if_exists=policy)


def _stem(words: Sequence[str]) -> str:
    """``python app.py`` -> ``app``, ``python -m pkg.tool`` -> ``tool``, ``pytest`` -> ``pytest``."""
    for i, word in enumerate(words[1:], 1):
        if word.endswith(".py"):
            return Path(word).stem
        if word == "-m" and i + 1 < len(words):
            return words[i + 1].rpartition(".")[2] or "app"
    name = Path(words[0]).stem
    return "app" if name.startswith("python") or not name else name


def _environment(options: Options) -> dict[str, str]:
    ours = {option.variable for option in all_options()}
    own = {k: v for k, v in os.environ.items() if k not in ours}
    before = own.get("PYTHONPATH")
    path = os.pathsep.join([str(SITE), before] if before else [str(SITE)])
    return {**own, **options.to_environ(), "PYTHONPATH": path, f"{PREFIX}BEHIND": _behind()}


def _behind() -> str:
    """For programs whose environment has no fusion_replay: our interpreter's kind, and where our packages lie."""
    places = [os.path.abspath(Path(recording.__file__).parents[2])]
    for name in _DEPENDENCIES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            places.append(os.path.dirname(os.path.dirname(os.path.abspath(spec.origin))))
    return os.pathsep.join([sys.implementation.cache_tag or "", *dict.fromkeys(places)])


# --- the program ------------------------------------------------------------------------------------------------


def _run(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Its return code, negative for a signal. Signals to us go to it; Ctrl-C reaches it from the terminal."""
    child: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: Any) -> None:
        if child and not (number == signal.SIGINT and _terminal_is_ours()):
            with contextlib.suppress(ProcessLookupError):
                child[0].send_signal(number)

    with _handling(forward):
        child.append(subprocess.Popen(words, env=environment))
        return child[0].wait()


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[None]:
    # Handlers, not SIG_IGN: a handler is reset when the program starts, SIG_IGN would be inherited.
    before = {}
    for number in (signal.SIGINT, *_FORWARDED):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's choice stays
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _terminal_is_ours() -> bool:
    """Whether Ctrl-C went to the whole foreground group, so that the program has it already."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


# --- what became of it ------------------------------------------------------------------------------------------


def _sealed(process: Process) -> Process:
    """A process that was killed, or left without its exit handlers, leaves a journal: seal it in its place."""
    if process.path is None or process.report is not None or process.unmatched is not None:
        return process
    from fusion_replay.snapshot import fsck, open_snapshot

    try:
        found = fsck.recover(process.path)
        with open_snapshot(found.path) as snap:
            losses = [loss.to_dict() for loss in snap.losses]
    except FusionReplayError as error:
        return replace(process, failure=process.failure or str(error))
    report = {"path": str(found.path), "steps": found.steps, "invocations": found.invocations, "losses": losses}
    return replace(process, path=found.path, report=report)


def _report(processes: Sequence[Process], status: int, words: Sequence[str], options: Options, out: Terminal) -> int:
    written = [p for p in processes if p.report is not None and p.report["steps"]]
    steps = sum(p.report["steps"] for p in written if p.report is not None)
    invocations = sum(p.report["invocations"] for p in written if p.report is not None)
    for process in written[1:]:
        assert process.report is not None
        n, of = count(process.report["steps"], "step"), count(process.report["invocations"], "invocation")
        found = f"; {_found(process)}" if _found(process) else ""
        out.note(f"{_shown(process.report['path'])}: {of} ({n}) of the child process {process.command}{found}")
    for process in processes:
        if process.failure:
            out.note(process.failure)
    missed = _missed(processes)
    unmatched = _unmatched(processes)
    if unmatched is not None:
        out.note(f"error: {one_line(unmatched)}")
    said = f"Recorded {count(invocations, 'invocation')} ({count(steps, 'step')})"
    where = f" in {_shown(written[0].report['path'])}" if written and written[0].report is not None else ""
    also = f"{said}{where}." + (f" Not recorded: {missed}." if missed else "")
    if written and (found := _found(written[0])):
        also += f" {found[0].upper()}{found[1:]}."
    also += "".join(f" {told}." for p in written if (told := (p.report or {}).get("references")))
    if not steps and status >= 0:
        also += f" {_why_nothing(processes, words)}"
    ended = _ending(status)
    next_ = _next(written[0].report, options) if written and written[0].report is not None else None
    out.close(status == 0 and steps > 0 and unmatched is None, also=f"{ended}{one_line(also)}", next=next_)
    if status < 0:
        _end_like(-status)
    if unmatched is not None:
        return status or UsageError.exit_code
    return status or (0 if steps else MissingError.exit_code)


def _found(process: Process) -> str:
    """With ``--keep mismatch``: what deviated."""
    return str(((process.report or {}).get("deviating") or {}).get("sentence", ""))


def _next(report: Mapping[str, Any], options: Options) -> str:
    found = report.get("deviating")
    nothing = found is not None and not (found["deviating"] or found["alone"] or found["unjudged"])
    nothing |= options.level == "digest"
    return command_line("show" if nothing else "replay", _shown(report["path"]))


def _unmatched(processes: Sequence[Process]) -> str | None:
    """What is wrong with the filters; None where they matched in one of the processes that recorded."""
    found = [p.unmatched for p in processes if p.path is not None]
    return next(iter(found), None) if all(found) else None


def _missed(processes: Sequence[Process]) -> str:
    """What was dispatched and not recorded, with counts; losses of the snapshots and what no snapshot holds."""
    found: Counter[str] = Counter()
    for process in processes:
        for (_, detail), n in process.unseen.items():
            found[detail] += n
        for loss in (process.report or {}).get("losses", ()):
            found[loss["detail"]] += loss["count"]
    shown = [f"{n:,} x {detail}" if n > 1 else detail for detail, n in found.most_common(5)]
    more = len(found) - len(shown)
    return "; ".join(shown + ([f"and {more} other kinds"] if more > 0 else []))


def _why_nothing(processes: Sequence[Process], words: Sequence[str]) -> str:
    if any(p.unseen for p in processes):
        kinds = {kind for p in processes for kind, _ in p.unseen}
        if kinds == {"child"}:
            return "A child process did the work where the recorder is not loaded: pass it the whole environment."
        return (
            "Fused dispatch shows no steps: add --separate, or --whole-calls to record it as it is."
            if "sequence" in kinds
            else ""
        )
    if any(p.failure for p in processes):
        return "The recorder itself could not work, see above."
    if not processes:
        return (
            f"The recorder was never loaded: {words[0]} is no Python program, or it was started with -I, -E or -S, "
            "which ignore PYTHONPATH."
        )
    if not any(p.iron for p in processes):
        return "The program imported no IRON and no mlir-aie runtime."
    return "The program imported IRON and dispatched nothing."


def _ending(status: int) -> str:
    if status < 0:
        return f"the program was ended by {_signal_name(-status)}; "
    return f"the program ended with exit status {status}; " if status else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_like(number: int) -> NoReturn:
    """Die of the program's signal, so that our parent sees what happened; without a core of our own."""
    import resource

    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise click.exceptions.Exit(128 + number)  # a signal that does not end a process by default


def _shown(path: str | os.PathLike[str]) -> str:
    """Relative where that is shorter."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)


__all__ = ["record_program"]
