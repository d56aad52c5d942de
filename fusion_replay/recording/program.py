# SPDX-License-Identifier: Apache-2.0
"""Inside a recorded program: opens a snapshot when something can be recorded, seals it when the process ends.

Loaded before the program's own first line (``recording/site``), so it imports next to nothing: numpy, h5py and the
rest come with the first dispatch. Nothing that goes wrong in here reaches the program.

Tested in tests/integration/test_record_program.py.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import UsageError
from fusion_replay.recording import child_log
from fusion_replay.recording.option_declaration import PREFIX
from fusion_replay.recording.options import Options
from fusion_replay.sources.iron.watching.all_dispatches import AllDispatches
from fusion_replay.system import platform

if TYPE_CHECKING:
    from pathlib import Path

    from fusion_replay.recording.recorder import Recorder
    from fusion_replay.sources.protocol import StepObserver, StepSource

_LOG = f"{PREFIX}CHILD_LOG"
_CHILD_EVENTS = {"subprocess.Popen": (1, 3), "os.posix_spawn": (1, 2), "os.exec": (1, 2)}
"""Audit events that start a program -> where in their arguments the command and the environment are."""


def start() -> None:
    """Called once per process that ``record`` has started, or whose parent it has."""
    try:
        options = Options.from_environ(os.environ)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    if options.child_log is not None:
        Program(options, options.child_log).start()


class Program:
    """One process of the recorded program; the host of ``AllDispatches``."""

    def __init__(self, options: Options, log: str) -> None:
        self._options, self._log = options, log
        self._all_dispatches = AllDispatches(
            separate_dispatch=options.separate, whole_calls=options.whole_calls, repeat_calls=options.repeat_calls
        )
        self._recorder: Recorder | None = None
        self._failed = False
        self._ended = False
        self._unseen: dict[tuple[str, str], int] = {}
        self._lock = threading.RLock()

    def start(self) -> None:
        self._say("started", command=self._command())
        self._all_dispatches.attach(self)
        atexit.register(self.end)
        platform.after_fork_in_child(self._forked)
        sys.addaudithook(self._audit)

    def end(self) -> None:
        """Seal what was recorded. Idempotent: exec, multiprocessing and the interpreter's exit may all come here."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            if self._all_dispatches.iron_seen:
                self._say("iron")
            recorder = self._recorder
            if recorder is None:
                for (kind, detail), count in self._unseen.items():
                    self._say("unseen", kind=kind, detail=detail, count=count)
                return
            with recorder.recording.guard("IRON's statistics of the last steps", "statistics"):
                self._all_dispatches.settle()
            report = recorder.close()
            if report is not None or recorder.unmatched is not None:
                made = None if report is None else report.to_dict()
                self._say("sealed", report=made, unmatched=recorder.unmatched)

    # --- the host -----------------------------------------------------------------------------------------------

    def observer(self) -> StepObserver:
        return self._open().recording.observer()

    def watch(self, source: StepSource) -> None:
        self._open().recording.watch(source)

    def unseen(self, kind: str, detail: str) -> None:
        with self._lock:
            if self._recorder is not None:
                self._recorder.recording.unseen(kind, detail)
            else:
                self._unseen[kind, detail] = self._unseen.get((kind, detail), 0) + 1

    @contextlib.contextmanager
    def contain(self, what: str) -> Iterator[None]:
        if self._recorder is not None:
            with self._recorder.recording.guard(what, "dispatch"):
                yield
            return
        try:
            yield
        except Exception as error:
            self._fail(what, error)

    # --- parts --------------------------------------------------------------------------------------------------

    def _open(self) -> Recorder:
        with self._lock:
            if self._recorder is None:
                if self._failed or self._ended:
                    raise UsageError("no snapshot could be opened" if self._failed else "the program is ending")
                from fusion_replay.record import recorder as recorder_of

                # Handlers run in reverse order: HDF5 must be loaded before ours is registered (again), or it is shut
                # down when the seal needs it, which ends in a crash.
                importlib.import_module("fusion_replay.snapshot.seal.recording")
                atexit.unregister(self.end)
                atexit.register(self.end)
                options = self._options if self._is_first() else replace(self._options, if_exists="number")
                recorder = recorder_of(options.out or "app.h5", None, options, dispatches=False, tells=False)
                recorder.__enter__()
                self._recorder = recorder
                self._say("opened", path=str(_absolute(recorder.path)))
                for (kind, detail), count in self._unseen.items():
                    recorder.recording.unseen(kind, detail, count)
                self._unseen.clear()
                self._seal_in_workers()
            return self._recorder

    def _is_first(self) -> bool:
        """Whether this process is the first of the run to record: that one gets the name itself."""
        try:
            os.close(os.open(f"{self._log}.first", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError:
            return False
        return True

    def _fail(self, what: str, error: Exception) -> None:
        failed, self._failed = self._failed or self._ended, True
        detail = f"{what}: {type(error).__name__}: {' '.join(str(error).split())}"
        if not failed:
            self._say("failure", detail=detail)
            with contextlib.suppress(Exception):
                print(f"fusion-replay: recording failed at {detail}; the program goes on", file=sys.stderr, flush=True)

    def _seal_in_workers(self) -> None:
        """Processes of multiprocessing leave by ``os._exit`` after its own finalizers."""
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(None, self.end, exitpriority=-100)

    def _forked(self) -> None:
        """A forked child records for itself: the parent's snapshot is the parent's."""
        self._lock = threading.RLock()
        self._recorder, self._failed, self._ended = None, False, False
        self._unseen.clear()
        with contextlib.suppress(Exception):
            self._all_dispatches.forget()
        self._say("started", command=f"{self._command()} (forked)")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Children that are started with an environment of their own, in which ours is missing, record nothing."""
        if event not in _CHILD_EVENTS:
            return
        with contextlib.suppress(Exception):
            command, environment = (arguments[i] for i in _CHILD_EVENTS[event])
            if environment is None or _LOG in {os.fsdecode(k) for k in environment}:
                return
            words = [command] if isinstance(command, str | bytes | os.PathLike) else list(command)
            name = os.path.basename(os.fsdecode(words[0]))
            if name.startswith(("python", "pytest", "pypy")):
                text = " ".join(os.fsdecode(w) for w in words)
                self.unseen("child", f"a child process was started without our environment: {text[:200]}")

    def _say(self, event: str, **data: Any) -> None:
        child_log.write(self._log, event, **data)

    @staticmethod
    def _command() -> str:
        words = sys.orig_argv
        return " ".join([os.path.basename(words[0]), *words[1:]])[:500] if words else ""


def _absolute(path: Path) -> str:
    return os.path.abspath(path)


__all__ = ["Program", "start"]
