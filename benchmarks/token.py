# SPDX-License-Identifier: Apache-2.0
"""What recording adds to a token that comes after the first: ``python -m benchmarks.token``.

Llama's decode on the software NPU, at the widths of Llama 3.2 1B and with fewer layers (``--layers``: time and bytes
grow with them alike, but for the last matrix, which every token reads). One run, whose tokens take turns: one is
recorded, the next is not, then all bytes that the recorded token's steps saw are written raw. The first recorded token,
which writes the weights, is counted nowhere.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import MB, Results, Run, finish, machine, parser, table, write_raw
from fusion_replay import sources
from fusion_replay.recording.recorder import Recorder
from fusion_replay.simulator.workloads import find

RECORDED, PLAIN, RAW = "recorded", "unrecorded", "raw write of all bytes"
_BLOCK = 1 << 26  # bytes of noise, written as often as it takes


def timed(work: Callable[[], object], afterwards: Callable[[], object] = lambda: None) -> Run:
    """``afterwards`` (what other threads still have to do) counts in CPU seconds alone."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    wall = time.perf_counter() - wall
    afterwards()
    return Run(wall, time.process_time() - cpu)


def tokens(choice: dict[str, object], rounds: int, folder: Path) -> tuple[Results, int]:
    """Every round's runs, and the bytes that the steps of one token see."""
    run = find("llama-decode").build("npu2", [], {**choice, "tokens": 2 * rounds + 2})
    source = sources.attach(run.callable)
    noise = np.random.default_rng(0).integers(0, 256, _BLOCK, np.uint8)
    results = Results({RECORDED: [], PLAIN: [], RAW: []})
    seen = 0
    number = 0

    def token() -> None:
        nonlocal number
        run.prepare(number)
        run.callable()
        run.finish(number)
        number += 1

    with Recorder(folder / "tokens.h5", None, dispatches=False) as recorder:
        observer, writer = recorder.recording.observer(), recorder.recording.writer
        for round_ in range(rounds + 1):
            before = writer.bytes_seen
            source.attach(observer)
            recorded = timed(token, writer.drain)
            source.detach()
            seen = writer.bytes_seen - before
            plain = timed(token)
            whole, rest = divmod(seen, _BLOCK)
            arrays = [noise] * whole + [noise[:rest]]
            raw = timed(lambda arrays=arrays: write_raw(arrays, folder / "raw"))
            (folder / "raw").unlink()
            if round_:
                for name, found in ((RECORDED, recorded), (PLAIN, plain), (RAW, raw)):
                    results.runs[name].append(found)
    assert recorder.report is not None
    assert not recorder.report.losses
    assert recorder.report.invocations == rounds + 1
    return results, seen


def added(results: Results, what: str) -> float:
    """Median of what recording added, in raw writes of the same round."""
    rounds = zip(results.runs[RECORDED], results.runs[PLAIN], results.runs[RAW], strict=True)
    return statistics.median((r.seconds(what) - p.seconds(what)) / w.seconds(what) for r, p, w in rounds)


def main() -> None:
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--layers", type=int, default=2)
    options_parser.add_argument("--context", type=int, default=512)
    options = options_parser.parse_args()
    choice: dict[str, object] = {"config": "llama-3.2-1b", "context": options.context, "layers": options.layers}
    if options.tiny:
        choice = {"config": "tiny"}
    with tempfile.TemporaryDirectory(prefix="benchmark_", dir=options.folder) as name:
        results, seen = tokens(choice, options.rounds, Path(name))
    print(machine())
    print(f"{choice}, software NPU; {seen / MB:.0f} MB seen by the steps of a token")
    lines = [
        [
            name,
            f"{results.median(name):.3f}",
            f"{min(r.wall for r in runs):.3f}-{max(r.wall for r in runs):.3f}",
            f"{results.median(name, 'cpu'):.3f}",
        ]
        for name, runs in results.runs.items()
    ]
    print(table(["a token", "wall s", "min-max", "CPU s"], lines))
    summary = {
        "recorded / unrecorded (target 1.3)": results.ratio(RECORDED, PLAIN),
        "the same in CPU seconds": results.ratio(RECORDED, PLAIN, "cpu", "cpu"),
        "added / raw write of all bytes (target 0.5)": added(results, "wall"),
        "added in CPU seconds / raw write of all bytes": added(results, "cpu"),
        "MB seen a token": seen / MB,
    }
    finish(options, results, summary)


if __name__ == "__main__":
    main()
