# SPDX-License-Identifier: Apache-2.0
"""Replay from a file against the same references and statistics on tensors in memory: ``python -m benchmarks.replay``.

Isolated, flavour ``exact``, in one process; the recordings are decodes on the software NPU, made before anything is
timed. "In memory" is the same replay of a snapshot whose every content has been decoded before. BLAS has one thread on
both sides, as ``fusion-replay replay`` gives it on two cores: the other one reads ahead.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and "numpy" not in sys.modules:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from pathlib import Path
from typing import Any

import fusion_replay as fr
from benchmarks.common import MB, Candidate, Results, RssAnon, finish, machine, measure, parser, scratch, table
from fusion_replay.snapshot import open_snapshot

RECORDINGS: dict[str, dict[str, Any]] = {
    "small, 6 tokens": {"config": "small", "tokens": 6, "position": 100},
    "1B widths, 4 layers, 1 token": {"config": "llama-3.2-1b", "layers": 4, "context": 512, "tokens": 1},
    "1B widths, 4 layers, 3 tokens": {"config": "llama-3.2-1b", "layers": 4, "context": 512, "tokens": 3},
}
TINY = {"tiny, 2 tokens": {"config": "tiny", "tokens": 2}}


def record(path: Path, options: dict[str, Any]) -> None:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    made = [sys.executable, "-m", "fusion_replay", "record", "-q", "--workload", "llama-decode", "--sim", "npu2"]
    if os.spawnv(os.P_WAIT, sys.executable, [*made, "-o", str(path), *words]):
        raise SystemExit(f"recording {path} failed")


def replayed(snapshot: Any, digests: set[str]) -> Candidate:
    def run(folder: Path) -> None:
        digests.add(fr.replay(snapshot, reference="exact").digest)

    return run


def compare(path: Path, folder: Path, rounds: int) -> tuple[Results, int]:
    """Runs of both, which must give the same report; and the extra memory of a replay from the file, bytes."""
    digests: set[str] = set()
    with RssAnon() as memory:
        replayed(path, digests)(folder)
    with open_snapshot(path, cache_bytes=1 << 40) as warm:
        for row in range(len(warm.index.contents)):
            if warm.store.kept(row):
                warm.store.read(row, "warm")
        results = measure({"memory": replayed(warm, digests), "file": replayed(path, digests)}, rounds, folder)
    assert len(digests) == 1, "the same recording gave two reports"
    return results, memory.extra


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    together, rows, summary = Results(), [], {}
    with scratch(options) as name:
        folder = Path(name)
        for title, chosen in (TINY if options.tiny else RECORDINGS).items():
            path = folder / "recording.h5"
            record(path, chosen)
            size = path.stat().st_size
            results, extra = compare(path, folder, options.rounds)
            path.unlink()
            ratio, cpu = results.ratio("file", "memory"), results.ratio("file", "memory", "cpu", "cpu")
            figures = (results.median("memory"), results.median("file"), ratio, cpu)
            rows.append([title, f"{size / MB:.0f}", *(f"{x:.2f}" for x in figures), f"{extra / MB:.0f}"])
            summary[f"{title}: file / memory (target 1.8)"] = ratio
            together.runs |= {f"{title}, {kind}": runs for kind, runs in results.runs.items()}
    print(machine())
    print(table(["recording", "MB", "memory s", "file s", "ratio", "CPU ratio", "extra MB"], rows))
    finish(options, together, summary)


if __name__ == "__main__":
    main()
