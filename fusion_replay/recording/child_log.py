# SPDX-License-Identifier: Apache-2.0
"""The file in which the processes of a recorded program say what became of them, one JSON line per event.

Every line is one ``write`` to a file opened for appending, so processes don't mix theirs, and a process that is killed
has said what it had to say.

Tested in tests/integration/test_record_program.py.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def write(log: str | os.PathLike[str], event: str, /, **data: Any) -> None:
    """Append one event of this process. A log that is gone (the recording ended before this child) is no error."""
    line = json.dumps({"event": event, "pid": os.getpid(), **data}) + "\n"
    with contextlib.suppress(OSError):
        fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


@dataclass
class Process:
    """What one process said of itself."""

    pid: int
    command: str = ""
    iron: bool = False
    """It imported IRON, or mlir-aie's host runtime."""
    path: Path | None = None
    """Its snapshot, once it had something to record."""
    report: Mapping[str, Any] | None = None
    """The writer's report; None where the process ended without sealing."""
    unseen: dict[tuple[str, str], int] = field(default_factory=dict)
    """What was dispatched and not recorded, where no snapshot keeps that: (kind, detail) -> how often."""
    unmatched: str | None = None
    """What is wrong with the filters, where they chose nothing."""
    failure: str | None = None
    """Why it recorded nothing, where the reason is ours."""


def read(log: str | os.PathLike[str]) -> list[Process]:
    """Every process in the order in which they started; damaged lines are passed over."""
    found: dict[int, Process] = {}
    for line in Path(log).read_text("utf-8", "replace").splitlines():
        try:
            data = json.loads(line)
            process = found.setdefault(int(data["pid"]), Process(int(data["pid"])))
        except (ValueError, KeyError, TypeError):
            continue
        match data.get("event"):
            case "started":
                process.command = str(data.get("command", ""))
            case "iron":
                process.iron = True
            case "opened":
                process.path = Path(str(data.get("path")))
            case "sealed":
                process.report = data.get("report")
                process.unmatched = data.get("unmatched")
            case "failure":
                process.failure = process.failure or str(data.get("detail"))
            case "unseen":
                key = (str(data.get("kind")), str(data.get("detail")))
                process.unseen[key] = process.unseen.get(key, 0) + int(data.get("count", 1))
    return list(found.values())


__all__ = ["Process", "read", "write"]
