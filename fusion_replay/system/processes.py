# SPDX-License-Identifier: Apache-2.0
"""Runs a command; on a timeout or an interrupt it is killed with all that it started."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusion_replay.system import platform


def run(
    words: Sequence[str],
    timeout: float | None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int | None = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run``; where its time is up, or we are interrupted, it is killed with all that it started.

    Args:
        timeout: seconds; None: any number.

    Raises:
        OSError: it could not be started.
        subprocess.TimeoutExpired: it was killed.
    """
    with subprocess.Popen(
        words, env=env, cwd=cwd, stdout=stdout, stderr=stderr, text=True, errors="replace", start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                platform.kill_with_children(process)  # also where it ended, and what it started holds its streams
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


__all__ = ["run"]
