# SPDX-License-Identifier: Apache-2.0
"""How much a long decode leaves on the disk and in memory: ``python -m benchmarks.decode``.

Llama's decode runlist on the software NPU, at the widths of Llama 3.2 1B unless told otherwise, recorded in full, with
its weights in a side file, and without weights; each in a process of its own, which also says how much anonymous memory
the run takes unrecorded. The full recording is then read back: every operand of every step against the SHA-1 that an
observer of its own took while it ran.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import MB, RssAnon, machine, table

MODES = ("unrecorded", "full", "side", "no-weights")


class Sums:
    """SHA-1 of every operand, by address, side and position; of a buffer that nobody writes once."""

    def __init__(self, written: set[str]) -> None:
        self.found: dict[tuple[int, int, str, int], bytes] = {}
        self._invocation = -1
        self._written = written
        self._static: dict[tuple[str, int, int], bytes] = {}

    def invocation_started(self, sequence: Any) -> None:
        self._invocation += 1

    def prepared(self, *args: Any) -> None:
        pass

    def before(self, step: Any) -> None:
        self._take(step, "in", lambda use: use.spec.reads)

    def after(self, step: Any, result: Any) -> None:
        self._take(step, "out", lambda use: use.spec.writes)

    def failed(self, step: Any, error: BaseException) -> None:
        raise AssertionError(f"step {step.description.index} failed: {error}")

    def judged(self, step: Any, statistics: Mapping[str, Any]) -> None:
        pass

    def invocation_finished(self) -> None:
        pass

    def _take(self, step: Any, side: str, wanted: Any) -> None:
        for position, use in enumerate(step.description.operands):
            if not wanted(use):
                continue
            key = use.buffer, use.start, use.spec.nbytes
            digest = self._static.get(key)
            if digest is None:
                digest = sha1(step.read(position))
                if use.buffer not in self._written and use.spec.nbytes >= 1 << 20:
                    self._static[key] = digest
            self.found[self._invocation, step.description.index, side, position] = digest


def sha1(array: np.ndarray) -> bytes:
    return hashlib.sha1(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()


def one(mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run, and record unless ``mode`` is "unrecorded"; what came of it. In a process of its own."""
    from fusion_replay import sources
    from fusion_replay.record import record
    from fusion_replay.simulator.workloads import find
    from fusion_replay.snapshot import SnapshotWriter

    choice = {"config": options.config, "context": options.context, "tokens": options.tokens}
    choice |= {"position": options.position} | ({} if options.layers is None else {"layers": options.layers})
    if mode == "unrecorded":
        choice["tokens"] = min(2, options.tokens)  # every token takes the same memory
    run = find("llama-decode").build("npu2", [], choice)
    source = sources.attach(run.callable)
    written = {u.buffer for s in source.sequence.steps for u in s.operands if u.spec.writes}
    weights = sum(
        {
            (u.buffer, u.start): u.spec.nbytes
            for s in source.sequence.steps
            for u in s.operands
            if u.buffer not in written and u.buffer not in source.sequence.input_args
        }.values()
    )
    sums = Sums(written)
    check = mode == "full" and options.check
    held: list[float] = []
    for name in ("begin_step", "end_step"):
        setattr(SnapshotWriter, name, timed(getattr(SnapshotWriter, name), held))
    per_token: list[float] = []
    held_tokens: list[float] = []
    path = options.folder / f"{mode}.h5"
    side = {"weights_in": options.folder / "W.h5"} if mode == "side" else {"no_weights": mode == "no-weights"}
    context = record(path, run.callable, **side) if mode != "unrecorded" else None
    with RssAnon() as memory:
        if context is not None:
            context.__enter__()
        if check:
            source.attach(sums)
        for i in range(run.invocations):
            started, before = time.perf_counter(), sum(held)
            run.prepare(i)
            run.callable()
            run.finish(i)
            per_token.append(time.perf_counter() - started)
            held_tokens.append(sum(held) - before)
        if check:
            source.detach()
        sealing = time.perf_counter()
        if context is not None:
            context.__exit__(None, None, None)
        sealing = time.perf_counter() - sealing
    found: dict[str, Any] = {
        "mode": mode, "tokens": run.invocations, "weights": weights,
        "rss_before": memory.start, "rss_extra": memory.extra,
        "first_token_s": per_token[0], "token_s": float(np.median(per_token[1:] or per_token)),
        "held_first_s": held_tokens[0], "held_token_s": float(np.median(held_tokens[1:] or held_tokens)),
        "closing_s": sealing,
    }  # fmt: skip
    if context is not None:
        assert context.report is not None
        assert not context.report.losses
        found |= {"bytes": path.stat().st_size, "seen": context.report.bytes_seen}
        if mode == "side":
            found["side_bytes"] = (options.folder / "W.h5").stat().st_size
    if check:
        found |= read_back(path, sums)
    return found


def timed(method: Any, held: list[float]) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            held.append(time.perf_counter() - started)

    return wrapper


def read_back(path: Path, sums: Sums) -> dict[str, Any]:
    """Every operand against its SHA-1; how many were right, and in how many ways they are stored."""
    import fusion_replay

    right, hashed = 0, {}
    with fusion_replay.open(path) as snap:
        for step in snap:
            for side, tensors in (("in", step.inputs), ("out", step.outputs)):
                for tensor in tensors.values():
                    if tensor.row not in hashed:
                        hashed[tensor.row] = sha1(tensor.numpy())
                    was = sums.found[step.invocation, step.index, side, tensor.position]
                    assert hashed[tensor.row] == was, f"{step.label} {tensor.name} is not what it was"
                    right += 1
        encodings = np.bincount(snap.index.contents["encoding"], minlength=256)
        assert right == len(sums.found)
    names = {0: "whole", 1: "patches", 2: "parts", 3: "derived"}
    return {"read_back": right} | {names[n]: int(encodings[n]) for n in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="llama-3.2-1b")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--position", type=int, default=0, help="tokens that the caches hold before the first")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--no-check", dest="check", action="store_false", help="don't read the full recording back")
    parser.add_argument("--folder", type=Path, help="where to write (default: the folder for temporary files)")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    parser.add_argument("--one", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options)))
        return
    with tempfile.TemporaryDirectory(prefix="benchmark_", dir=options.folder) as folder:
        found = {m: in_a_process(m, options, folder) for m in options.modes.split(",")}
    show(found, options)


def in_a_process(mode: str, options: argparse.Namespace, folder: str) -> dict[str, Any]:
    words = [f"--{n}={getattr(options, n)}" for n in ("config", "context", "layers", "tokens", "position")]
    words = [w for w in words if not w.endswith("=None")] + ([] if options.check else ["--no-check"])
    command = [sys.executable, "-m", "benchmarks.decode", f"--one={mode}", f"--folder={folder}", *words]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]))


def show(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    rows = []
    plain = found.get("unrecorded", {}).get("rss_extra", 0)
    summary: dict[str, Any] = {}
    for mode, f in found.items():
        size = f"{f['bytes'] / MB:.1f}" if "bytes" in f else ""
        memory = (f["rss_extra"] - plain) / MB
        rows.append(
            [
                mode,
                str(f["tokens"]),
                size,
                *(f"{f[key]:.2f}" for key in ("first_token_s", "token_s", "held_first_s", "held_token_s", "closing_s")),
                f"{memory:.0f}",
            ]
        )
        if mode in ("full", "no-weights"):
            weights = f["weights"] * 0.70 if mode == "full" else 0
            limit = weights + 10e6 * f["tokens"]
            summary[f"{mode}: bytes / (weights x 0.70 + 10 MB a token)"] = f["bytes"] / limit
            summary[f"{mode}: MB a token beyond the weights"] = (f["bytes"] - weights) / f["tokens"] / MB
    header = ["", "tokens", "MB", "first s", "token s", "held first s", "held s", "closing s", "memory + MB"]
    print(machine())
    print(table(header, rows))
    if "read_back" in found.get("full", {}):
        full = found["full"]
        ways = ", ".join(f"{full[n]} {n}" for n in ("whole", "patches", "parts", "derived"))
        print(f"read back bit for bit: {full['read_back']} operands; contents: {ways}")
    for name, value in summary.items():
        print(f"{name}: {value:.3f}")
    if options.json is not None:
        data = {"machine": machine(), "summary": summary, "runs": found}
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
