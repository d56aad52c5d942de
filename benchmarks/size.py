# SPDX-License-Identifier: Apache-2.0
"""What the benchmark's decode comes to on the disk, and what each further token adds: ``python -m benchmarks.size``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.common import MB, finish, machine, measure, parser, scratch, table
from benchmarks.workload import TINY, Size, Workload, make, record
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.write.writer import Level


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    size = TINY if options.tiny else Size()
    workloads = {n: make(replace(size, tokens=n)) for n in (1, 2, size.tokens)}

    def candidate(workload: Workload, level: Level = "full"):
        def run(folder: Path) -> None:
            record(workload, SnapshotWriter(folder / "decode.h5", level=level))

        return run

    chosen = {f"{n} tokens": candidate(w) for n, w in workloads.items()}
    chosen["level digest"] = candidate(workloads[size.tokens], "digest")
    with scratch(options) as name:
        results = measure(chosen, options.rounds, Path(name))
    print(machine())
    bytes_of = {name: runs[0].nbytes for name, runs in results.runs.items()}
    print(table(["recording", "MB"], [[name, f"{n / MB:.3f}"] for name, n in bytes_of.items()]))
    most, seen = bytes_of[f"{size.tokens} tokens"], workloads[size.tokens].bytes_seen
    added = (most - bytes_of["1 tokens"]) / max(1, size.tokens - 1)
    finish(options, results, {"size / bytes seen (target 0.15)": most / seen, "MB a further token": added / MB})


if __name__ == "__main__":
    main()
