# SPDX-License-Identifier: Apache-2.0
"""What is kept for ever outlives the interpreter's own end; a process that keeps nothing ends as usual."""

from __future__ import annotations

import subprocess
import sys

import pytest

OBJECT = """
import atexit, sys
from fusion_replay.system.unfinished import keep_for_ever, leave
class Run:
    def __del__(self): print("freed")
atexit.register(print, "at exit")
run = Run()
"""


@pytest.mark.parametrize(
    ("code", "status", "out"),
    [
        ("", 0, "at exit\nfreed\n"),
        ("keep_for_ever(run)", 0, "at exit\n"),
        ("keep_for_ever(run); print('report', end=''); leave(1)", 1, "report"),
        ("sys.exit(leave(4))", 4, "at exit\nfreed\n"),
        ("keep_for_ever(run); sys.stdout = None; leave(1)", 1, ""),
    ],
)
def test_what_is_kept_is_never_freed(code: str, status: int, out: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", OBJECT + code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, out, "")
