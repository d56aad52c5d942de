# SPDX-License-Identifier: Apache-2.0
"""What ``diff`` costs: two long recordings, equal and with more and more that differs: ``python -m benchmarks.diff``.

The recordings have the shape of a decode (882 steps a token: in-place steps, a cache that every token extends, weights
that never change) and small tensors, since equal contents are never read: only the number of steps counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import fusion_replay as fr
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import SnapshotWriter

WIDTH = 16


def runlist(steps: int) -> SequenceDescription:
    """Additions: ``x + w_i -> y``, ``y + x -> x``, in turn; x is carried from one invocation to the next."""
    a, b, c = (ArgSpec(n, d, (WIDTH,), "float32") for n, d in (("A", "in"), ("B", "in"), ("C", "out")))  # type: ignore[arg-type]
    entries = [("x", f"w{i}", "y") if i % 2 == 0 else ("y", "x", "x") for i in range(steps)]
    names = dict.fromkeys(n for entry in entries for n in entry)
    return SequenceDescription(
        name="long",
        operators=(OperatorDescription("ElementwiseAdd", {"size": WIDTH}),),
        buffers=tuple(BufferDescription(n, 4 * WIDTH, external=n != "y") for n in names),
        steps=tuple(
            StepDescription(i, 0, tuple(OperandUse(s, n) for s, n in zip((a, b, c), entry, strict=True)))
            for i, entry in enumerate(entries)
        ),
        output_args=("x",),
        origin={"variant": "simulator", "device": "npu2", "flavour": "iron-2026-09"},
    )


def record(path: Path, steps: int, invocations: int, fault: tuple[int, int] | None = None) -> Path:
    """A recording of the runlist with honest float32 sums; from step ``fault`` on one element is wrong."""
    writer = SnapshotWriter(path)
    sequence = runlist(steps)
    number = writer.add_sequence(sequence)
    rng = np.random.default_rng(1)
    memory = {b.name: rng.standard_normal(WIDTH).astype(np.float32) for b in sequence.buffers}
    for i in range(invocations):
        memory["x"] = np.random.default_rng([2, i]).standard_normal(WIDTH).astype(np.float32)  # the host's, a token
        invocation = writer.begin_invocation(number)
        for step in sequence.steps:
            first, second, out = (u.buffer for u in step.operands)
            writer.begin_step(invocation, step.index, {0: memory[first], 1: memory[second]})
            result = memory[first] + memory[second]
            result *= np.float32(0.5)  # or the sums grow without bound; what the reference says of it does not matter
            if fault is not None and (i, step.index) >= fault:
                result[3] += 1
            memory[out] = result
            writer.end_step(invocation, step.index, {2: result})
        writer.end_invocation(invocation)
    return writer.close().path


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.diff", description=__doc__)
    options.add_argument("--steps", type=int, default=882, help="of one invocation")
    options.add_argument("--invocations", type=int, default=40)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    total = given.steps * given.invocations
    with tempfile.TemporaryDirectory(prefix="diff-bench-") as folder:
        root = Path(folder)
        clean = record(root / "a.h5", given.steps, given.invocations)
        cases: list[tuple[str, tuple[int, int] | None]] = [("equal", None)]
        for share in (1000, 100, 10):
            begin = total - max(total // share, 1)
            cases.append((f"1/{share} differs", divmod(begin, given.steps)))
        print(f"{total:,} steps in {given.invocations} invocations; seconds, best and worst of {given.rounds}")
        print(f"{'':16} {'steps that differ':>18} {'best':>8} {'worst':>8}")
        for name, fault in cases:
            other = record(root / f"{name.replace('/', '-')}.h5", given.steps, given.invocations, fault)
            times = []
            for _ in range(given.rounds):
                started = time.perf_counter()
                report = fr.diff(clean, other)
                times.append(time.perf_counter() - started)
            assert report.equal == (fault is None)
            print(f"{name:16} {len(report.steps):>18,} {min(times):8.2f} {max(times):8.2f}", flush=True)


if __name__ == "__main__":
    main()
