# SPDX-License-Identifier: Apache-2.0
"""``show`` of a recording of 100,000 steps, start-up included: ``python -m benchmarks.show``.

Every candidate is a process of its own, as its user starts it. ``import numpy`` stands beside: no reader of arrays
starts faster. The recording is one decode of 40 layers (800 steps), dispatched 125 times with the same arrays, which is
made before anything is timed.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.common import Candidate, finish, machine, measure, parser, scratch, table
from benchmarks.workload import TINY, Size, Workload, make, record
from fusion_replay.snapshot import SnapshotWriter

SIZE = Size(layers=40, tokens=1, emb=32, hidden=64, kv_heads=1, head_dim=32, context=64, filled=8)
PROGRAM = [sys.executable, "-m", "fusion_replay"]

SHOW, JSON, SMALL, NUMPY = "show", "show --json", "show, 800 steps", "import numpy"


def again(workload: Workload, times: int) -> Workload:
    """The workload's one invocation, ``times`` times."""
    steps = [replace(step, invocation=i) for i in range(times) for step in workload.steps]
    return replace(workload, steps=steps)


def command(*words: object) -> Candidate:
    """Seconds of the process, and those that it computed."""

    def run(folder: Path) -> dict[str, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([str(w) for w in words], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"user": after.ru_utime - before.ru_utime, "system": after.ru_stime - before.ru_stime}

    return run


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    one = make(replace(TINY, tokens=1) if options.tiny else SIZE)
    times = 3 if options.tiny else 125
    with scratch(options) as name:
        folder = Path(name)
        large, small = folder / "large.h5", folder / "small.h5"
        record(again(one, times), SnapshotWriter(large))
        record(one, SnapshotWriter(small))
        candidates = {
            SHOW: command(*PROGRAM, "show", large),
            JSON: command(*PROGRAM, "show", large, "--json"),
            SMALL: command(*PROGRAM, "show", small),
            NUMPY: command(sys.executable, "-c", "import numpy"),
        }
        results = measure(candidates, options.rounds, folder)
    print(machine())
    print(f"{times * len(one.steps):,} steps")
    rows = [
        [
            name,
            f"{results.median(name):.3f}",
            f"{min(r.wall for r in runs):.3f}-{max(r.wall for r in runs):.3f}",
            f"{results.median(name, 'user'):.3f}",
            f"{results.median(name, 'system'):.3f}",
        ]
        for name, runs in results.runs.items()
    ]
    print(table(["candidate", "wall s", "min-max", "user s", "system s"], rows))
    summary = {
        "show of all steps, wall seconds with start-up (target 0.5)": results.median(SHOW),
        "the same, user seconds": results.median(SHOW, "user"),
    }
    finish(options, results, summary)


if __name__ == "__main__":
    main()
