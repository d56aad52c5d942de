# SPDX-License-Identifier: Apache-2.0
"""``record --matrix``: make the goldens of IRON's CI matrix again, on the software NPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import Terminal, command_line
from fusion_replay.errors import FusionReplayError, MismatchError, UsageError
from fusion_replay.report.text import count, human_bytes, one_line

if TYPE_CHECKING:
    from fusion_replay.golden.matrix import Entry

FOLDER = "snapshots"


def record_matrix(device: str | None, only: str | None, output: str | None, out: Terminal) -> int:
    """Record every case and judge it; one line per case that is new, changed or wrong, and one for all.

    Raises:
        UsageError: no such case, or ``output`` is no folder.
    """
    from fusion_replay.golden.matrix import make
    from fusion_replay.simulator.workloads.matrix import cases

    chosen = cases(device, only)
    folder = Path(output if output is not None else FOLDER)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"record --matrix -o {folder}: expected a folder, found a file")
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    status = 0
    with Progress("recording the matrix", quiet=out.quiet) as progress:
        for i, case in enumerate(chosen):
            try:
                entry = make(case, folder)
            except FusionReplayError as error:  # the other cases are worth having all the same
                out.say(f"{case.name}: FAILED: {error}")
                status = status or error.exit_code
            else:
                entries.append(entry)
                status = MismatchError.exit_code if entry.mismatches else status
                if entry.state != "unchanged" or entry.mismatches:
                    out.say(_line(entry))
            progress(i + 1, len(chosen))
    out.say(_summary(entries, len(chosen), folder))
    out.close(status == 0, next=command_line("golden", "check", folder))
    return status


def _line(entry: Entry) -> str:
    judged = f"MISMATCH at {one_line(entry.mismatches[0])}" if entry.mismatches else "matches"
    return f"{entry.path.name}: {entry.state}, {count(entry.steps, 'step')}, {human_bytes(entry.file_bytes)}, {judged}"


def _summary(entries: list[Entry], chosen: int, folder: Path) -> str:
    states = Counter(e.state for e in entries)
    whole = sum(e.whole for e in entries)
    right = sum(not e.mismatches for e in entries)
    return (
        f"{folder}: {right} of {count(chosen, 'parameter set')} recorded and matching on the software NPU; "
        f"{whole} whole, {len(entries) - whole} thin, {human_bytes(sum(e.file_bytes for e in entries))}; "
        + ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    )
