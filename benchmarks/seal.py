# SPDX-License-Identifier: Apache-2.0
"""Closing a recording, and sealing one that was killed: ``python -m benchmarks.seal`` (``benchmarks.recover``).

Against copying a file of the sealed one's size, synced: the least that a seal could do which moves its bytes.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from benchmarks.common import MB, Candidate, finish, machine, measure, parser, scratch, table
from benchmarks.workload import TINY, Size, Workload, dispatch, make
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.fsck import recover

OURS, COPY = "seal", "copy, synced"


def ours(workload: Workload, *, killed: bool) -> Candidate:
    def run(folder: Path) -> dict[str, float]:
        writer = SnapshotWriter(folder / "decode.h5")
        dispatch(workload, writer)
        writer.drain()
        if killed:
            writer.abandon()
        started, cpu = time.perf_counter(), time.process_time()
        if killed:
            assert recover(folder / "decode.h5").recovered
        else:
            writer.close()
        return {"sealing": time.perf_counter() - started, "sealing_cpu": time.process_time() - cpu}

    return run


def copy(source: Path) -> Candidate:
    def run(folder: Path) -> dict[str, float]:
        started, cpu = time.perf_counter(), time.process_time()
        shutil.copyfile(source, folder / "copy")
        fd = os.open(folder / "copy", os.O_RDWR)
        os.fdatasync(fd)
        os.close(fd)
        return {"sealing": time.perf_counter() - started, "sealing_cpu": time.process_time() - cpu}

    return run


def main(*, killed: bool = False) -> None:
    options = parser(__doc__ or "").parse_args()
    workload = make(TINY if options.tiny else Size())
    with scratch(options) as name:
        folder = Path(name)
        writer = SnapshotWriter(folder / "source.h5")
        dispatch(workload, writer)
        sealed = writer.close()
        chosen = {OURS: ours(workload, killed=killed), COPY: copy(sealed.path)}
        results = measure(chosen, options.rounds, folder)
    print(machine())
    lines = [
        [
            name,
            *(f"{results.median(name, what):.3f}" for what in ("sealing", "sealing_cpu")),
            f"{run[0].nbytes / MB:.0f}",
        ]
        for name, run in results.runs.items()
    ]
    print(table(["recover" if killed else "seal", "wall s", "CPU s", "MB"], lines))
    finish(options, results, {"sealing / synced copy": results.ratio(OURS, COPY, "sealing", "sealing")})


if __name__ == "__main__":
    main()
