# SPDX-License-Identifier: Apache-2.0
"""Runs at the start of every Python process of a recorded program, then makes room for the user's own file.

The folder leaves ``sys.path`` again, so that the program finds what it would have found; it stays in PYTHONPATH, so
that the program's children are recorded too.
"""

import os
import sys


def _begin() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != here]
    path = os.environ.get("FUSION_REPLAY_CHILD_LOG")
    if not path:
        return
    try:
        from fusion_replay.recording.program import start
    except BaseException as error:  # another interpreter than ours, say: the program must run all the same
        import json

        detail = f"fusion-replay can't be imported by {sys.executable}: {type(error).__name__}: {error}"
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
