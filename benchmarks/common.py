# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: candidates that take turns in one process, medians of paired ratios, a table, JSON.

The machine is never quiet, so every round runs each candidate once, in an order drawn anew, and a ratio is the median
of the rounds' own ratios. CPU seconds of the whole process stand beside the wall time.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MB = 1e6


@dataclass(slots=True)
class Run:
    """One run of one candidate: seconds, bytes, and whatever else it measured."""

    wall: float = 0.0
    cpu: float = 0.0
    nbytes: int = 0
    more: dict[str, float] = field(default_factory=dict)

    def seconds(self, what: str) -> float:
        return float(getattr(self, what)) if what in ("wall", "cpu") else self.more[what]


Candidate = Callable[[Path], dict[str, float] | None]
"""Does its work in the empty folder that it is given, and says what else it measured (seconds by name)."""


@dataclass(slots=True)
class Results:
    """Every run by candidate, in rounds."""

    runs: dict[str, list[Run]] = field(default_factory=dict)

    def median(self, name: str, what: str = "wall") -> float:
        return statistics.median(run.seconds(what) for run in self.runs[name])

    def ratio(self, name: str, base: str, what: str = "wall", base_what: str = "wall") -> float:
        """Median of the ratios round by round; a candidate that ran once is held against the base's median."""
        ours, theirs = self.runs[name], self.runs[base]
        if len(ours) != len(theirs):
            return self.median(name, what) / self.median(base, base_what)
        return statistics.median(a.seconds(what) / b.seconds(base_what) for a, b in zip(ours, theirs, strict=True))


def measure(
    candidates: dict[str, Candidate], rounds: int, folder: Path, once: Sequence[str] = (), seed: int = 0
) -> Results:
    """Run every candidate ``rounds`` times, in turns; those of ``once`` in the first round only."""
    results = Results()
    rng = random.Random(seed)
    for number in range(rounds):
        names = [n for n in candidates if number == 0 or n not in once]
        rng.shuffle(names)
        for name in names:
            results.runs.setdefault(name, []).append(run_once(candidates[name], folder))
    return results


def run_once(candidate: Candidate, parent: Path) -> Run:
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        more = candidate(folder)
        run = Run(time.perf_counter() - wall, time.process_time() - cpu, more=dict(more or {}))
        run.nbytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        return run
    finally:
        shutil.rmtree(folder)
        os.sync()  # what one candidate left to write must not be paid by the next


def write_raw(arrays: Sequence[np.ndarray], path: Path, *, digest: bool = True, sync: bool = False) -> None:
    """The least that keeping these bytes can cost: a digest and one write for each, into one open file."""
    import xxhash

    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for array in arrays:
            raw = array.reshape(-1).view(np.uint8)
            if digest:
                xxhash.xxh3_128_digest(raw)
            os.write(fd, raw.data)
        if sync:
            os.fdatasync(fd)
    finally:
        os.close(fd)


class RssAnon:
    """Peak of this process's anonymous memory above where it began, bytes; looked at by a thread now and then."""

    def __init__(self, every: float = 0.005) -> None:
        import threading

        self._every, self._stop = every, threading.Event()
        self.start = self.peak = rss_anon()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def extra(self) -> int:
        return self.peak - self.start

    def __enter__(self) -> RssAnon:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, rss_anon())

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.peak = max(self.peak, rss_anon())


def rss_anon() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be; the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def machine() -> dict[str, Any]:
    """Where a figure comes from."""
    model = next(
        (x.partition(":")[2].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--rounds", type=int, default=5, help="how often each candidate runs (default 5)")
    made.add_argument("--tiny", action="store_true", help="a workload of a moment, to see that everything works")
    made.add_argument("--folder", type=Path, help="where to write (default: the folder for temporary files)")
    made.add_argument("--json", type=Path, help="also write every run to this file")
    return made


def scratch(options: argparse.Namespace) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="benchmark_", dir=options.folder)


def finish(options: argparse.Namespace, results: Results, summary: dict[str, Any]) -> None:
    """Print the targets, write the JSON."""
    for name, value in summary.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    if options.json is not None:
        data = {
            "machine": machine(),
            "summary": summary,
            "runs": {name: [asdict(run) for run in runs] for name, runs in results.runs.items()},
        }
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
