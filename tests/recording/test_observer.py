# SPDX-License-Identifier: Apache-2.0
"""Threads on one callable: what is recorded is right, and what is not is counted. Other observing: test_recorder.py."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.simulator import operators as sim

THREADS, CALLS, RUNLIST = 8, 4, 4
SEEDS = [*range(3), *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 20))]


def from_threads(path: Path, seed: int, around: Any) -> Any:
    """Eight threads call one callable, each call inside ``around``, and change places as often as they can."""
    add, mul = (kind(size=2048, tile_size=256, num_aie_columns=4) for kind in (sim.ElementwiseAdd, sim.ElementwiseMul))
    silu = sim.SiLU(size=2048, tile_size=256, num_aie_columns=4)
    runlist = [(add, "x", "h", "y"), (silu, "y", "y"), (mul, "y", "h", "z"), (add, "z", "x", "w")]
    call = fr.simulate(runlist, "npu2", input_args=["x", "h"], output_args=["w"])
    for name in ("x", "h"):
        buffer = call.get_buffer(name)
        buffer[:] = np.random.default_rng([seed, ord(name)]).standard_normal(buffer.numpy().shape).astype(np.float32)
    rng = random.Random(seed)
    pauses = [[rng.random() * 0.01 for _ in range(CALLS)] for _ in range(THREADS)]
    failed: list[BaseException] = []

    def work(own: list[float]) -> None:
        for pause in own:
            threading.Event().wait(pause)
            try:
                with around:
                    call()
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in pauses]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with fr.record(path, call) as rec:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(before)
    assert failed == [], "the program's calls go on"
    return rec


def tensors(step: Any) -> list[tuple[str, str, str]]:
    return [(side, tensor.name, tensor.digest) for side, tensor in step.tensors()]


@pytest.mark.parametrize("seed", SEEDS)
def test_calls_that_overlap_are_counted_and_the_others_recorded_right(tmp_path: Path, seed: int) -> None:
    """Right: as in a recording of one thread alone, which runs with the same inputs."""
    alone = from_threads(tmp_path / "alone.h5", seed, threading.Lock())
    assert (alone.report.steps, alone.report.losses) == (THREADS * CALLS * RUNLIST, ())
    rec = from_threads(tmp_path / "r.h5", seed, contextlib.nullcontext())
    assert rec.report.losses, "threads that never meet prove nothing: choose other pauses"
    with fr.open(tmp_path / "alone.h5") as snap:
        right = [tensors(snap[f"1:{index}"]) for index in range(RUNLIST)]
    with fr.open(tmp_path / "r.h5") as snap:
        whole = [step for step in snap if step.status == "complete"]
        marked = [step for step in snap if step.status == "failed"]
        assert len(whole) + len(marked) == len(snap)
        assert all("another thread called this callable" in (step.error or "") for step in marked)
        assert len(whole) + sum(loss.count for loss in snap.losses) == THREADS * CALLS * RUNLIST
        assert all("while several threads called it" in loss.detail for loss in snap.losses)
        assert [step.address for step in whole if tensors(step) != right[step.index]] == []


def test_threads_that_take_turns_are_recorded_whole(tmp_path: Path) -> None:
    rec = from_threads(tmp_path / "r.h5", 0, threading.Lock())
    assert (rec.report.steps, rec.report.invocations, rec.report.losses) == (128, 32, ())
    with fr.open(tmp_path / "r.h5") as snap:
        assert {step.status for step in snap} == {"complete"}
