# SPDX-License-Identifier: Apache-2.0
"""Other people's programs end with all that they started."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from fusion_replay.system.processes import run


def gone(pid: int) -> bool:
    """No process, or one that only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < end, f"process {pid} goes on"
        time.sleep(0.05)


def test_what_a_program_says_and_how_it_ends(tmp_path: Path) -> None:
    done = run(["sh", "-c", "echo $WORD; pwd >&2; exit 3"], 60, env={**os.environ, "WORD": "hello"}, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello\n", f"{tmp_path}\n")
    with pytest.raises(FileNotFoundError):
        run(["/no/such/program"], 60)


@pytest.mark.parametrize("and_then", ["wait", "exit 0"])  # a child that keeps our pipe outlives its parent
def test_out_of_time_means_all_of_it(tmp_path: Path, and_then: str) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(["sh", "-c", f"sleep 600 & echo $! > pid; {and_then}"], 1, cwd=tmp_path)
    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_bytes_that_are_no_text_are_no_error() -> None:
    assert run(["printf", r"a\377b"], 60).stdout == "a\ufffdb"
