# SPDX-License-Identifier: Apache-2.0
"""Runs at the start of every Python process of a recorded program, then makes room for the user's own file.

The folder leaves ``sys.path`` again, so that the program finds what it would have found; it stays in PYTHONPATH, so
that the program's children are recorded too.

Where the program's environment has no fusion_replay, that of the recorder is offered behind everything of the
program's own (FUSION_REPLAY_BEHIND), and so is what it needs and the program has not: to the recorder alone, so that
the program finds and misses what it would have found and missed.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # the module typing would be loaded into every process
if TYPE_CHECKING:
    from typing import Any

_NEEDED = ("fusion_replay", "numpy", "ml_dtypes", "h5py", "zstandard", "xxhash", "array_api_compat")
"""What a recorded process imports, ours and the dependencies in pyproject.toml but for the command line's."""


class _Behind:
    """The last finder: packages of the recorder's environment, asked for by one of them."""

    def __init__(self, folders: list[str]) -> None:
        self.folders = folders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if path is not None or name not in _NEEDED or not self._asked_by_us():
            return None
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, self.folders)

    @staticmethod
    def _asked_by_us() -> bool:
        frame: Any = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
            frame = frame.f_back
        asks = "" if frame is None else frame.f_globals.get("__name__", "")
        return asks.partition(".")[0] in (*_NEEDED, "sitecustomize")


def _offer() -> bool:
    """Whether the recorder's environment is offered: only where the interpreter is like its own, for compiled code."""
    tag, *folders = os.environ.get("FUSION_REPLAY_BEHIND", "").split(os.pathsep)
    if not folders or tag != sys.implementation.cache_tag:
        return False
    sys.meta_path.append(_Behind(folders))
    return True


def _begin() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != here]
    path = os.environ.get("FUSION_REPLAY_CHILD_LOG")
    if not path:
        return
    try:
        try:
            from fusion_replay.recording.program import start
        except ModuleNotFoundError:
            if not _offer():
                raise
            from fusion_replay.recording.program import start
    except BaseException as error:  # another interpreter than ours, say: the program must run all the same
        import json

        detail = (
            f"fusion-replay can't be imported by {sys.executable}: {type(error).__name__}: {error}; "
            f"install it there: {sys.executable} -m pip install fusion-replay"
        )
        line = json.dumps({"event": "failure", "pid": os.getpid(), "detail": detail}) + "\n"
        try:
            with open(path, "a") as log:
                log.write(line)
        except OSError:
            pass
        return
    start()


def _users_own() -> None:
    """The sitecustomize that would have run without us, if there is one."""
    import importlib.util

    ours = sys.modules.pop("sitecustomize")  # or it would be found again
    try:
        spec = importlib.util.find_spec("sitecustomize")
    finally:
        sys.modules["sitecustomize"] = ours  # the import that runs this file expects it there
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_begin()
_users_own()
