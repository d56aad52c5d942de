# SPDX-License-Identifier: Apache-2.0
"""A program that closes descriptors which it did not open, and opens files of its own, at seeded random moments.

``python closing_program.py FOLDER FIRST LAST``: one forked process per seed; each prints a JSON line with what became
of its own files and of its recording.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import fusion_replay as fr
from fusion_replay.simulator.operators import ElementwiseAdd

CALLS = 10


class Program:
    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.folder = folder / str(seed)
        self.folder.mkdir()
        self.files: dict[int, tuple[Path, bytes]] = {}
        """Its own, by descriptor: what it has written into them."""
        self.raised: list[str] = []

    def close_and_open(self) -> None:
        """What a daemon's start does, or a stray ``close``; what was freed becomes files of its own, or stays free."""
        there = [int(name) for name in os.listdir("/proc/self/fd")]
        numbers = [fd for fd in there if fd > 2 and fd not in self.files]
        numbers = [fd for fd in numbers if self.exists(fd)]
        if self.rng.random() < 0.5:
            numbers = self.rng.sample(numbers, self.rng.randint(min(1, len(numbers)), len(numbers)))
        for fd in numbers:
            os.close(fd)
        if self.rng.random() < 0.7:
            for fd in numbers:
                self.open_at(fd)

    def exists(self, fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True

    def open_at(self, number: int) -> None:
        path = self.folder / f"own-{len(list(self.folder.glob('own-*')))}"
        data = self.rng.randbytes(self.rng.randint(1, 5000))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if fd != number:
            os.dup2(fd, number)
            os.close(fd)
        os.write(number, data)
        self.files[number] = path, data

    def run(self) -> dict[str, Any]:
        dispatch = self.rng.choice([self.arrays, self.sequence])
        moments = {self.rng.randrange(-1, CALLS + 1) for _ in range(self.rng.randint(1, 3))}
        dispatched = 0
        prepare, call = dispatch()
        rec = prepare()
        with self.watched(), rec:
            for number in range(-1, CALLS + 1):
                if number in moments:
                    self.close_and_open()
                if 0 <= number < CALLS:
                    with self.watched():
                        dispatched += call(rec, number)
        report = rec.report
        return {
            "raised": self.raised,
            "changed": [path.name for path, data in self.files.values() if path.read_bytes() != data],
            "closed": [fd for fd, (path, _) in self.files.items() if not self.leads_to(fd, path)],
            "dispatched": dispatched,
            "told": rec.error,
            "steps": None if report is None else report.steps,
            "losses": [] if report is None else [loss.to_dict() for loss in report.losses],
        }

    def arrays(self) -> Any:
        size = self.rng.choice([16, 100_000])  # of float32: into the journal, or through the spill

        def call(rec: fr.Recorder, number: int) -> int:
            with rec.step("Op", inputs={"A": np.full(size, number, np.float32)}) as step:
                if self.rng.random() < 0.1:
                    self.close_and_open()
                step.outputs["C"] = np.full(size, -number, np.float32)
            return 1

        return lambda: fr.record(self.folder / "r.h5"), call

    def sequence(self) -> Any:
        add = ElementwiseAdd(size=65536, tile_size=256, num_aie_columns=4)
        callable_ = fr.simulate([(add, "x", "h", "y"), (add, "y", "h", "z")], "npu2", output_args=["z"])

        def call(rec: fr.Recorder, number: int) -> int:
            buffer = callable_.get_buffer("x")
            buffer[:] = np.full(buffer.numpy().shape, number)
            callable_()
            return 2

        return lambda: fr.record(self.folder / "r.h5", callable_), call

    def leads_to(self, fd: int, path: Path) -> bool:
        return self.exists(fd) and os.path.samestat(os.fstat(fd), os.stat(path))

    @contextlib.contextmanager
    def watched(self) -> Any:
        try:
            yield
        except Exception:
            self.raised.append(traceback.format_exc()[-600:])


def main(folder: Path, seeds: range) -> None:
    for seed in seeds:
        if (child := os.fork()) == 0:
            found = Program(folder, seed).run()
            os.write(1, (json.dumps({"seed": seed, **found}) + "\n").encode())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, seed


if __name__ == "__main__":
    main(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])))
