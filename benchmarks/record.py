# SPDX-License-Identifier: Apache-2.0
"""Recording the benchmark's decode, sealed, against other ways to keep the same: ``python -m benchmarks.record``.

Recording is timed with and without what brings the file to the disk, the raw writes too. ``held up`` is the time that
the dispatching thread spends inside the recorder until its last step has returned.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.common import (
    MB,
    Candidate,
    Results,
    RssAnon,
    finish,
    machine,
    measure,
    parser,
    scratch,
    table,
    write_raw,
)
from benchmarks.workload import TINY, Size, Workload, dispatch, make, watch
from fusion_replay.recording.options import Options
from fusion_replay.recording.recorder import Recorder
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.write.writer import Level

RAW, RAW_SYNC, ALL, ALL_SYNC = "raw unique", "raw unique, synced", "raw all", "raw all, synced"
OURS, OURS_SYNC, DIGEST = "fusion-replay", "fusion-replay, synced", "fusion-replay, level digest"
SOURCE, SOURCE_DIGEST = "fusion-replay, a source, synced", "fusion-replay, a source, level digest"


def ours(workload: Workload, *, sync: bool, level: Level = "full") -> Candidate:
    def run(folder: Path) -> dict[str, float]:
        with syncing(sync):
            started, cpu = time.perf_counter(), time.thread_time()
            writer = SnapshotWriter(folder / "decode.h5", level=level)
            dispatch(workload, writer)
            held, held_cpu = time.perf_counter() - started, time.thread_time() - cpu
            report = writer.close()
        assert not report.losses
        return {"held": held, "held_cpu": held_cpu, "sealing": report.seconds_sealing}

    return run


def through_a_source(workload: Workload, *, sync: bool, level: Level = "full") -> Candidate:
    """With all that stands between a source and the writer; weights are taken for unchanged, as always."""

    def run(folder: Path) -> dict[str, float]:
        started, cpu = time.perf_counter(), time.thread_time()
        made = Recorder(folder / "decode.h5", options=Options(level=level), dispatches=False, tells=False)
        with syncing(sync), made as recorder:
            watch(workload, recorder.recording.observer())
            held, held_cpu = time.perf_counter() - started, time.thread_time() - cpu
        assert recorder.report is not None
        assert not recorder.report.losses, recorder.report.losses[0]
        assert not recorder.report.notes
        assert recorder.report.steps == len(workload.steps)
        return {"held": held, "held_cpu": held_cpu, "sealing": recorder.report.seconds_sealing}

    return run


@contextmanager
def syncing(wanted: bool) -> Iterator[None]:
    """Unless wanted nothing is brought to the disk."""
    keep = os.fsync, os.fdatasync
    if not wanted:
        os.fsync = os.fdatasync = lambda fd: None
    try:
        yield
    finally:
        os.fsync, os.fdatasync = keep


def candidates(workload: Workload) -> dict[str, Candidate]:
    everything, unique = list(workload.arrays()), workload.unique()

    def raw(arrays: list, sync: bool) -> Candidate:
        return lambda folder: write_raw(arrays, folder / "raw", sync=sync)

    return {
        RAW: raw(unique, False),
        RAW_SYNC: raw(unique, True),
        ALL: raw(everything, False),
        ALL_SYNC: raw(everything, True),
        OURS: ours(workload, sync=False),
        OURS_SYNC: ours(workload, sync=True),
        SOURCE: through_a_source(workload, sync=True),
        DIGEST: ours(workload, sync=False, level="digest"),
        SOURCE_DIGEST: through_a_source(workload, sync=False, level="digest"),
    }


def main() -> None:
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--no-peers", action="store_true", help="only raw writes and this package")
    options = options_parser.parse_args()
    workload = make(TINY if options.tiny else Size())
    chosen = candidates(workload)
    others = {} if options.no_peers else peers.candidates(workload)
    with scratch(options) as name:
        folder = Path(name)
        ours(workload, sync=False)(_made(folder / "warm"))
        with RssAnon() as memory:
            ours(workload, sync=False)(_made(folder / "memory"))
        results = measure(
            {**chosen, **{n: p.run for n, p in others.items()}},
            options.rounds,
            folder,
            once=[n for n, p in others.items() if p.slow],
        )
    print(machine())
    print(
        f"{len(workload.steps)} steps, {workload.bytes_seen / MB:.0f} MB seen, "
        f"{sum(a.nbytes for a in workload.unique()) / MB:.0f} MB different"
    )
    print(rows(results))
    seen = workload.bytes_seen
    summary = {
        "recording + sealing / raw unique, both synced (target 2.0)": results.ratio(OURS_SYNC, RAW_SYNC),
        "the same, neither synced": results.ratio(OURS, RAW),
        "the same in CPU seconds, neither synced": results.ratio(OURS, RAW, "cpu", "cpu"),
        "held up / raw unique, synced (target 1.0)": results.ratio(OURS_SYNC, RAW_SYNC, "held"),
        "through a source that names its weights: recording + sealing": results.ratio(SOURCE, RAW_SYNC),
        "the same, held up": results.ratio(SOURCE, RAW_SYNC, "held"),
        "held up / raw unique, not synced": results.ratio(OURS, RAW, "held"),
        "held up in CPU seconds / raw unique, not synced": results.ratio(OURS, RAW, "held_cpu", "cpu"),
        "level digest / raw all, neither synced (target 0.2)": results.ratio(DIGEST, ALL),
        "the same in CPU seconds": results.ratio(DIGEST, ALL, "cpu", "cpu"),
        "the same through a source": results.ratio(SOURCE_DIGEST, ALL),
        "size / bytes seen (target 0.15)": results.runs[OURS][0].nbytes / seen,
        "extra anonymous memory, MB (target 256)": memory.extra / MB,
    }
    finish(options, results, summary)


def rows(results: Results) -> str:
    lines = []
    for name, runs in results.runs.items():
        base = RAW_SYNC if name.endswith("synced") else RAW
        held = f"{results.median(name, 'held'):.3f}" if "held" in runs[0].more else ""
        lines.append(
            [
                name,
                f"{results.median(name):.3f}",
                f"{min(r.wall for r in runs):.3f}-{max(r.wall for r in runs):.3f}",
                f"{results.median(name, 'cpu'):.3f}",
                held,
                f"{runs[0].nbytes / MB:.0f}",
                f"{results.ratio(name, base):.2f}",
            ]
        )
    return table(["candidate", "wall s", "min-max", "CPU s", "held up s", "MB", "x raw unique"], lines)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
