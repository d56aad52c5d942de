# SPDX-License-Identifier: Apache-2.0
"""A program: runs command lines of ours in a process that lacks what Windows and macOS lack, or refuse.

    python other_system.py win32 CASES.json OUTCOMES.json

The calls are hidden, the modules are gone, text is not UTF-8 by default, an open file can't be replaced, renamed or
removed. What can't be tried here: paths with ``\\``, and whatever the real systems do besides.
"""

from __future__ import annotations

import concurrent.futures.process  # noqa: F401
import contextlib
import http.client  # noqa: F401
import io
import json
import multiprocessing.synchronize  # noqa: F401
import os
import shutil  # noqa: F401
import signal
import sys
import sysconfig
import urllib.request  # noqa: F401
import warnings
from pathlib import Path
from typing import Any

import array_api_compat.numpy  # noqa: F401 - other people's modules see the system as it is
import click  # noqa: F401
import h5py  # noqa: F401
import ml_dtypes
import numpy as np
import rich.console
import rich.progress
import rich.table  # noqa: F401
import xxhash  # noqa: F401
import zstandard  # noqa: F401

CALLS = {
    "darwin": "preadv pwritev posix_fallocate fdatasync sched_getaffinity pidfd_open memfd_create",
    "win32": "pread preadv pwrite pwritev posix_fallocate fdatasync sched_getaffinity fork forkpty register_at_fork "
    "pidfd_open memfd_create geteuid getuid getegid getgid killpg getpgid setsid fchmod fchown mkfifo openat "
    "O_CLOEXEC O_NONBLOCK O_NOCTTY O_NOFOLLOW O_DIRECTORY O_SYNC ttyname tcgetpgrp getpgrp uname",
}
MODULES = {"darwin": (), "win32": ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")}
SIGNALS = {"darwin": (), "win32": ("SIGPIPE", "SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "pthread_sigmask")}


def hide(system: str) -> None:
    sysconfig.get_config_vars()
    for name in CALLS[system].split():
        if hasattr(os, name):
            delattr(os, name)
    for name in MODULES[system]:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in SIGNALS[system]:
        delattr(signal, name)
    sys.platform = system
    if system == "win32":
        for name in ("replace", "rename", "unlink", "remove"):
            setattr(os, name, refusing_open_files(getattr(os, name)))
        folders = os.open

        def open_no_folder(path: Any, *args: Any, **named: Any) -> int:
            if os.path.isdir(path):
                raise PermissionError(13, "Permission denied", str(path))
            return folders(path, *args, **named)

        os.open = open_no_folder


def refusing_open_files(call: Any) -> Any:
    def refusing(*paths: Any, **named: Any) -> None:
        held = set()
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                held.add(os.path.realpath(f"/proc/self/fd/{number}"))
        for path in paths:
            if os.path.realpath(path) in held:
                raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
        call(*paths, **named)

    return refusing


def outcome(words: list[str]) -> dict[str, Any]:
    """Exit status and what was printed by a command line; ``["arrays", FILE]`` records arrays into a file."""
    from fusion_replay.__main__ import main

    streams = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        status = record_arrays(words[1]) if words[0] == "arrays" else main(words)
    return {"status": status, "out": streams[0].getvalue(), "err": streams[1].getvalue()}


def record_arrays(path: str) -> int:
    import fusion_replay as fr

    a = np.linspace(-2, 2, 4096, dtype=np.float32).astype(ml_dtypes.bfloat16)
    with fr.record(path) as recording:
        for factor in (1, 2):
            scaled = (a.astype(np.float32) * factor).astype(ml_dtypes.bfloat16)
            with recording.step("ReLU", {"A": scaled}, {"size": 4096}) as step:
                step.outputs["C"] = np.maximum(scaled, 0).astype(ml_dtypes.bfloat16)
    return 0


def run(system: str, cases: str, outcomes: str) -> None:
    warnings.filterwarnings("error", category=EncodingWarning, module="fusion_replay")
    if system != "linux":
        hide(system)
    lines = json.loads(Path(cases).read_text("utf-8"))
    Path(outcomes).write_text(json.dumps([outcome(words) for words in lines]), "utf-8")


if __name__ == "__main__":
    run(*sys.argv[1:])
