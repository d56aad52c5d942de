#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kill recordings with SIGKILL at seeded moments and look at what is left.

Every recorder is forked from this warm parent, so that the moments fall between the first byte of its journal and its
seal, not into imports. Half of the moments are any at all; the other half lie inside a kernel that the recorder was
seen to have begun, since how often a moment falls there by itself depends on the machine. The recorder tells the parent
through shared memory what it was doing: a byte after every ``begin_step`` and ``end_step`` that returned. After the
kill every step so acknowledged must read back bit for bit, and the step in flight must show its inputs; then the
recording is sealed and all of it is checked again.

    scripts/kill_test.py --count 200 --seed 1

prints a histogram of the moments and exits 1 if anything that was acknowledged is gone or wrong. With ``--level
mismatch`` contents of two steps of three are dropped when they end, as ``record --keep mismatch`` does; the step in
flight shows its inputs all the same.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash

from fusion_replay.errors import ForeignFileError, SnapshotError
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import RecordedStep, Snapshot, SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import recover
from fusion_replay.snapshot.seal import recording as _  # noqa: F401 - h5py is warm before the fork

STEPS = 6  # per invocation
INVOCATIONS = 5
LARGE, SMALL = 150_000, 2_000  # elements: through the spill file, and inside the journal
KERNEL_SECONDS = 0.016  # what a kernel takes, at most: half of a recording is spent in one
LEVELS = ("full", "digest", "mismatch")
SEALED = 255
BEGUN, LEFT_KERNEL, ENDED = 1, 2, 3  # what a step has come to; its end is being recorded in LEFT_KERNEL


def sequence() -> SequenceDescription:
    """Steps that read a large constant (from the second invocation on: known) and a vector, and write one in place."""
    weight, vector = ArgSpec("A", "in", (LARGE,), "uint16"), ArgSpec("B", "inout", (SMALL,), "uint16")
    fresh = ArgSpec("C", "out", (LARGE // 3,), "uint16")
    return SequenceDescription(
        name="kill",
        operators=(OperatorDescription("Kill", {"size": SMALL}),),
        buffers=(BufferDescription("x", 2 * SMALL, "input", True),),
        steps=tuple(
            StepDescription(n, 0, (OperandUse(weight, f"W{n}"), OperandUse(vector, "x"), OperandUse(fresh, f"y{n}")))
            for n in range(STEPS)
        ),
    )


@lru_cache(maxsize=400)
def tensor(seed: int, what: int, invocation: int, step: int) -> np.ndarray:
    """Contents of operand ``what`` (0 weight, 1 vector before, 2 vector after, 3 fresh output), known to both sides."""
    elements = (LARGE, SMALL, SMALL, LARGE // 3)[what]
    rng = np.random.default_rng([seed, what, step, 0 if what == 0 else invocation])
    return rng.integers(0, 1 << 12, elements, dtype=np.uint16)


def deviates(seed: int, invocation: int, step: int) -> bool:
    """Level mismatch: whether the contents of this step are kept, known to both sides."""
    return (seed + invocation * STEPS + step) % 3 == 0


@dataclass
class Progress:
    """Shared memory: [0] state of the recorder, [1:] one byte per step."""

    memory: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 1 + STEPS * INVOCATIONS))

    def set(self, invocation: int, step: int, value: int) -> None:
        self.memory[1 + invocation * STEPS + step] = value

    def get(self, invocation: int, step: int) -> int:
        return self.memory[1 + invocation * STEPS + step]

    @property
    def begun(self) -> int:
        return sum(byte > 0 for byte in self.memory[1:])

    @property
    def ended(self) -> int:
        return sum(byte == ENDED for byte in self.memory[1:])

    @property
    def in_kernel(self) -> bool:
        return BEGUN in self.memory[1:]


def recorder(path: Path, seed: int, progress: Progress, level: str) -> None:
    """What the child does until it is killed: record, acknowledge, run the "kernel", record, acknowledge, ..."""
    rng = random.Random(seed)
    mismatch = level == "mismatch"
    writer = SnapshotWriter(
        path, level="digest" if level == "digest" else "full", keep="mismatch" if mismatch else "all"
    )
    number = writer.add_sequence(sequence())
    for index in range(INVOCATIONS):
        invocation = writer.begin_invocation(number)
        for step in range(STEPS):
            before, after, fresh = (tensor(seed, what, index, step) for what in (1, 2, 3))
            writer.begin_step(
                invocation, step, {0: tensor(seed, 0, 0, step), 1: before}, watched={2: np.zeros_like(fresh)}
            )
            progress.set(invocation, step, BEGUN)
            time.sleep(rng.random() * KERNEL_SECONDS)
            progress.set(invocation, step, LEFT_KERNEL)
            reason = None if deviates(seed, invocation, step) else "as in good.h5"
            writer.end_step(
                invocation,
                step,
                {1: after, 2: fresh},
                elapsed_ns=step,
                decide=(lambda seen, reason=reason: reason) if mismatch else None,  # type: ignore[misc]
            )
            progress.set(invocation, step, ENDED)
        writer.end_invocation(invocation)
    progress.memory[0] = 1
    writer.close()
    progress.memory[0] = SEALED


def fork(path: Path, seed: int, progress: Progress, level: str) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            recorder(path, seed, progress, level)
            code = 0
        finally:
            os._exit(code)
    return child


def duration(folder: Path, seed: int, level: str) -> float:
    """Seconds from the first byte of a journal to the end of its seal, on this machine, now."""
    path, progress = folder / "timing.h5", Progress()
    child = fork(path, seed, progress, level)
    wait_for_journal(path)
    started = time.perf_counter()
    os.waitpid(child, 0)
    if progress.memory[0] != SEALED:
        raise SystemExit("the recorder fails without being killed")
    path.unlink()
    return time.perf_counter() - started


def sealing_time(folder: Path, seed: int, level: str) -> float:
    """Seconds from the end of the last step to the end of the seal."""
    path, progress = folder / "timing.h5", Progress()
    child = fork(path, seed, progress, level)
    while not progress.memory[0]:
        time.sleep(0.0002)
    started = time.perf_counter()
    os.waitpid(child, 0)
    path.unlink()
    return time.perf_counter() - started


def wait_for_journal(path: Path) -> None:
    journal = path.with_name(path.name + ".journal")
    while True:
        try:
            if journal.stat().st_size:
                return
        except FileNotFoundError:
            if path.exists():
                return
        time.sleep(0.0002)


@dataclass
class Outcome:
    moment: float
    begun: int
    ended: int
    phase: str
    in_kernel: bool
    problems: list[str]


def kill_once(
    folder: Path,
    seed: int,
    share: float,
    seconds: float,
    level: str = "full",
    *,
    tail: float = 0,
    in_kernel: bool = False,
) -> Outcome:
    """Fork a recorder, kill it ``share`` of the way through, and compare what is left with what was acknowledged.

    With ``tail`` the moment is ``share`` of those seconds instead, counted from when sealing begins; with ``in_kernel``
    it is the first kernel that begins when ``share`` of the steps are past.
    """
    path, progress = folder / f"k{seed}.h5", Progress()
    child = fork(path, seed, progress, level)
    wait_for_journal(path)
    started = time.perf_counter()
    if in_kernel:
        while progress.begun <= share * STEPS * INVOCATIONS or not (progress.in_kernel or progress.memory[0]):
            time.sleep(0.0002)
    else:
        while tail and not progress.memory[0]:
            time.sleep(0.0002)
        time.sleep(share * (tail or seconds))
    moment = time.perf_counter() - started if in_kernel else share * (tail or seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    phase = {0: "recording", 1: "sealing", SEALED: "sealed"}[progress.memory[0]]
    outcome = Outcome(moment, progress.begun, progress.ended, phase, progress.in_kernel, [])
    for what in ("as left", "recovered"):
        try:
            if what == "recovered" and not recover(path).ok:
                outcome.problems.append("recovered file is not sound")
            with open_snapshot(path) as snap:
                outcome.problems += [f"{what}: {problem}" for problem in compare(snap, seed, progress, level)]
        except ForeignFileError as error:
            if progress.begun:  # else it was killed before there was anything
                outcome.problems.append(f"{what}: {error}")
    leftovers = [p.name for p in folder.iterdir() if p.name.startswith(path.name + ".")]
    if leftovers and progress.begun:
        outcome.problems.append(f"left behind: {leftovers}")
    for old in folder.iterdir():
        old.unlink()
    return outcome


def compare(snap: Snapshot, seed: int, progress: Progress, level: str) -> list[str]:
    problems = []
    for invocation in range(INVOCATIONS):
        for number in range(STEPS):
            acknowledged = progress.get(invocation, number)
            if not acknowledged:
                continue
            step = snap[invocation, number]
            want = [("A", step.inputs, 0), ("B", step.inputs, 1)]
            if acknowledged == ENDED:
                want += [("B", step.outputs, 2), ("C", step.outputs, 3)]
                if step.status != "complete":
                    problems.append(f"{step.address} is {step.status}")
            for name, side, what in want:
                try:
                    want_bytes = tensor(seed, what, invocation, number).tobytes()
                    if side[name].digest != xxhash.xxh3_128_hexdigest(want_bytes):
                        problems.append(f"{step.address} {name} has another digest")
                    needed = level == "full" or (level == "mismatch" and needs_contents(acknowledged, step, seed))
                    if (needed or side[name].kept) and side[name].numpy().tobytes() != want_bytes:
                        problems.append(f"{step.address} {name} differs")
                except SnapshotError as error:
                    problems.append(str(error))
    return problems


def needs_contents(acknowledged: int, step: RecordedStep, seed: int) -> bool:
    """Level mismatch: in flight, or found to deviate; in between its end may have reached the disk."""
    if acknowledged == ENDED:
        return deviates(seed, step.invocation, step.index)
    return step.status == "in_flight" or deviates(seed, step.invocation, step.index)


def histogram(values: list[float], seconds: float, bins: int = 10) -> list[str]:
    counts = Counter(min(bins - 1, int(value / seconds * bins)) for value in values)
    return [
        f"  {100 * b // bins:3d}-{100 * (b + 1) // bins:3d} %  {counts[b]:4d} {'#' * counts[b]}" for b in range(bins)
    ]


def run(
    count: int, seed: int, folder: Path, level: str = "full", *, sealing: bool = False
) -> tuple[list[Outcome], float]:
    """``count`` kills, every second one inside a kernel; the others, uniform over the measured length of a recording.

    One in each of ``count`` slices, of the steps or of the time. ``sealing``: all of them over the time of the seal
    alone, which is a small part of it.
    """
    rng = random.Random(seed)
    seconds = sorted(duration(folder, seed + n, level) for n in range(3))[1]
    tail = sorted(sealing_time(folder, seed + n, level) for n in range(3))[1] if sealing else 0.0
    shares = [(slot + rng.random()) / count for slot in range(count)]
    rng.shuffle(shares)
    outcomes = [
        kill_once(folder, 1000 * seed + n, s, seconds, level, tail=tail, in_kernel=bool(n % 2 and not sealing))
        for n, s in enumerate(shares)
    ]
    return outcomes, tail or seconds


def report(outcomes: list[Outcome], seconds: float) -> str:
    after = sum(o.ended > 0 for o in outcomes)
    inside = sum(o.in_kernel for o in outcomes)
    phases = Counter(o.phase for o in outcomes)
    bad = [o for o in outcomes if o.problems]
    lines = [
        f"{len(outcomes)} kills, a recording takes {seconds:.3f} s; moments:",
        *histogram([o.moment for o in outcomes], seconds),
        f"after a finished step: {after}; inside a kernel: {inside}; "
        + ", ".join(f"{k}: {v}" for k, v in phases.items()),
        f"acknowledged: {sum(o.ended for o in outcomes)} finished steps and {inside} in flight; "
        f"kills after which something was missing or wrong: {len(bad)}",
        *(f"  {o.moment:.4f} s: {'; '.join(o.problems[:3])}" for o in bad),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill recordings at random moments; nothing acknowledged may be lost.")
    parser.add_argument("--count", type=int, default=200, help="recorders to kill")
    parser.add_argument("--level", choices=LEVELS, default="full", help="of the recordings")
    parser.add_argument("--sealing", action="store_true", help="all moments between the last step and the seal")
    parser.add_argument("--seed", type=int, default=1, help="of moments and contents")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill_test_"))
    try:
        outcomes, seconds = run(options.count, options.seed, folder, options.level, sealing=options.sealing)
    finally:
        shutil.rmtree(folder)
    print(report(outcomes, seconds))
    return 1 if any(o.problems for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
