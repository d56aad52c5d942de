#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Recordings that lose their disk or the end of their journal: what returned is there, what is there is right.

    scripts/torn_test.py full --count 50 --seed 1    # files can't grow beyond random sizes (a limit on the process)
    scripts/torn_test.py cut --count 65536           # the journal, cut at each of its last so many bytes

Both exit 1 if something that was acknowledged is gone without being counted in the losses, or wrong. A cut of the last
64 KiB takes about ten minutes on one core. The journal alone is cut: what it says of other files was true at that time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from kill_test import ENDED, INVOCATIONS, STEPS, Progress, recorder, sequence, tensor

from fusion_replay.errors import FusionReplayError, SnapshotError
from fusion_replay.snapshot import Snapshot, SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import check, recover

WINDOW = 1 << 16  # bytes


def wrong(snap: Snapshot, seed: int) -> list[str]:
    """Contents that are there and are not what was recorded."""
    found = []
    for step in snap:
        want = [("A", step.inputs, 0), ("B", step.inputs, 1), ("B", step.outputs, 2), ("C", step.outputs, 3)]
        for name, side, what in want:
            kept = name in side and side[name].kept
            if kept and side[name].numpy().tobytes() != tensor(seed, what, step.invocation, step.index).tobytes():
                found.append(f"{step.address} {name} differs")
    return found


# --- a full disk ----------------------------------------------------------------------------------------------------


@dataclass
class Full:
    limit: int
    ended: str
    missing: int = 0
    problems: list[str] = field(default_factory=list)


def fill_once(folder: Path, seed: int, limit: int) -> Full:
    """Record where no file may grow beyond ``limit`` bytes; then, with room again, look at what is left."""
    path, progress = folder / f"f{seed}.h5", Progress()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            recorder(path, seed, progress, "full")
            code = 0
        except FusionReplayError:
            code = 2  # it could not be opened, or not be sealed
        finally:
            os._exit(code)
    ended = {0: "sealed", 2: "not sealed"}.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "crashed")
    outcome = Full(limit, ended)
    if ended == "crashed":
        outcome.problems.append("the recorder raised something else than its own errors")
    try:
        if ended == "not sealed" and path.with_name(path.name + ".journal").exists():
            recover(path)
        if path.exists():
            outcome.problems += look(path, seed, progress, outcome)
        elif progress.ended and ended == "sealed":
            outcome.problems.append("nothing is left")
    except SnapshotError as error:
        if limit > WINDOW:  # below it there is no room for as much as the description of the run
            outcome.problems.append(str(error))
    for old in folder.iterdir():
        old.unlink()
    return outcome


def look(path: Path, seed: int, progress: Progress, outcome: Full) -> list[str]:
    found = [] if check(path).ok else ["the file is not sound"]
    with open_snapshot(path) as snap:
        found += wrong(snap, seed)
        for invocation in range(INVOCATIONS):
            for number in range(STEPS):
                step = snap.get(invocation, number)
                whole = step is not None and step.status == "complete" and all(t.kept for _, t in step.tensors())
                outcome.missing += progress.get(invocation, number) == ENDED and not whole
        if outcome.missing and not snap.losses:
            found.append(f"{outcome.missing} steps are not whole, and no loss is counted")
    return found


def fill(count: int, seed: int, folder: Path) -> list[Full]:
    rng = random.Random(seed)
    recorder(folder / "whole.h5", seed, Progress(), "full")
    size = (folder / "whole.h5").stat().st_size
    (folder / "whole.h5").unlink()
    return [fill_once(folder, 1000 * seed + n, int(rng.random() * 1.2 * size)) for n in range(count)]


# --- a journal that ends early --------------------------------------------------------------------------------------


def record_journal(path: Path, seed: int) -> list[tuple[int, int, int, bool]]:
    """A recording left without a seal: (size of the journal, invocation, step, whether it ended) of every return."""
    writer = SnapshotWriter(path)
    number = writer.add_sequence(sequence())
    journal, returned, index = path.with_name(path.name + ".journal"), [], 0
    while not returned or returned[-1][0] < returned[0][0] + WINDOW + 4096:
        invocation = writer.begin_invocation(number)
        for step in range(STEPS):
            before, after, fresh = (tensor(seed, what, index, step) for what in (1, 2, 3))
            writer.begin_step(invocation, step, {0: tensor(seed, 0, 0, step), 1: before}, watched={2: fresh * 0})
            returned.append((journal.stat().st_size, invocation, step, False))
            writer.end_step(invocation, step, {1: after, 2: fresh})
            writer.drain()  # chunks are placed before the next return: only the journal's own end is cut
            returned.append((journal.stat().st_size, invocation, step, True))
        index += 1
    writer.abandon()
    return returned


def cut(count: int, seed: int, folder: Path, workers: int = 1) -> list[str]:
    """The journal, cut at each of its last ``count`` bytes; ``workers`` processes share the cuts."""
    (folder / "0").mkdir()
    returned = record_journal(folder / "0" / "cut.h5", seed)
    for worker in range(1, workers):
        shutil.copytree(folder / "0", folder / str(worker))
    shares = [(folder / str(worker), range(worker, count + 1, workers), returned, seed) for worker in range(workers)]
    if workers == 1:
        return cut_at(*shares[0])
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return [problem for found in pool.starmap(cut_at, shares) for problem in found]


def cut_at(folder: Path, shorter: range, returned: list[tuple[int, int, int, bool]], seed: int) -> list[str]:
    """Cuts by so many bytes, fewest first."""
    journal = folder / "cut.h5.journal"
    size = journal.stat().st_size
    found = []
    for end in (size - less for less in shorter):
        os.truncate(journal, end)
        try:
            with open_snapshot(journal) as snap:
                states = {(s.invocation, s.index): s for s in snap}
                there = [r for r in returned if r[0] <= end]
                for _, invocation, step, ended in there:
                    if (invocation, step) not in states or (ended and states[invocation, step].status != "complete"):
                        found.append(f"cut at {end}: {invocation}:{step} is gone")
                last = [step for step in states.values() if step.invocation >= there[-1][1]]
                found += [f"cut at {end}: {problem}" for problem in unlike(last, there, seed)]
        except SnapshotError as error:
            found.append(f"cut at {end}: {error}")
        if len(found) > 20:
            break
    return found


def unlike(steps: list, there: list[tuple[int, int, int, bool]], seed: int) -> list[str]:
    """Of the newest invocation: contents that are wrong, and those that had returned and are not kept."""
    found = []
    begun = {(invocation, step) for _, invocation, step, _ in there}
    ended = {(invocation, step) for _, invocation, step, done in there if done}
    for step in steps:
        at = step.invocation, step.index
        for side, known, names in ((step.inputs, begun, {"B": 1}), (step.outputs, ended, {"B": 2, "C": 3})):
            for name, what in names.items():
                try:
                    right = np.array_equal(side[name].numpy(), tensor(seed, what, *at))
                    found += [] if right else [f"{step.address} {name} differs"]
                except SnapshotError as error:
                    if at in known:  # else its slot may have been used again since: refused, as it should be
                        found.append(f"{step.address} {name} is gone: {error}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Full disks and journals cut short; nothing that returned may be lost."
    )
    parser.add_argument("what", choices=["full", "cut"])
    parser.add_argument("--count", type=int, help="disks to fill [50], bytes to cut at [65536]")
    parser.add_argument("--seed", type=int, default=1, help="of sizes and contents")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the cuts")
    options = parser.parse_args()
    folder, started = Path(tempfile.mkdtemp(prefix="torn_test_")), time.perf_counter()
    try:
        if options.what == "full":
            outcomes = fill(options.count or 50, options.seed, folder)
            problems = [f"limit {o.limit}: {p}" for o in outcomes for p in o.problems]
            ends = ", ".join(f"{k}: {v}" for k, v in Counter(o.ended for o in outcomes).items())
            missing = sum(o.missing for o in outcomes)
            print(f"{len(outcomes)} full disks; {ends}; steps not whole, counted in the losses: {missing}")
        else:
            problems = cut(options.count or WINDOW, options.seed, folder, options.workers)
            print(f"a journal cut at its last {options.count or WINDOW} bytes, each")
    finally:
        shutil.rmtree(folder)
    print(f"lost or wrong: {len(problems)}; {time.perf_counter() - started:.0f} s", *problems[:20], sep="\n  ")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
