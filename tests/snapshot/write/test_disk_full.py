# SPDX-License-Identifier: Apache-2.0
"""A full disk: the run goes on, losses are counted, and what was recorded stays readable."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_replay.errors import UnsealedError
from fusion_replay.snapshot import Snapshot, SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.journal.frames import KEPT_FREE, JournalFile
from snapshot_maker import BF16, bits, contents, file_size_limit, gemv_silu, run

ADD = 16  # invocations of the runs below


def assert_true_as_far_as_it_goes(snap: Snapshot, columns: int) -> int:
    """Every tensor that is there is right; the number of tensors that are."""
    present = 0
    for step in snap:
        data = contents(0, step.invocation, 8, columns)
        want = {"0A": data["W"], "0B": data["x"], "0C": data["y0"], "1A": data["y0"], "1B": data["y1"]}
        for side in (step.inputs, step.outputs):
            for tensor in side.values():
                expected = want.get(f"{step.index}{tensor.name}")
                if tensor.kept and expected is not None:
                    assert bits(tensor.numpy()) == bits(expected), step.label
                    present += 1
    return present


@pytest.mark.parametrize("columns", [16, 100_000])
def test_the_disk_fills_up_for_good(tmp_path: Path, columns: int) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu(8, columns))
    run(writer, sequence, contents(0, 0, 8, columns))
    writer.drain()
    size = (tmp_path / "t.h5.journal").stat().st_size
    with file_size_limit(size + 700 + KEPT_FREE):
        for number in range(1, ADD):
            run(writer, sequence, contents(0, number, 8, columns))  # raises nothing
        writer.drain()
        assert (tmp_path / "t.h5.journal").stat().st_size <= size + 700 + KEPT_FREE
        with open_snapshot(tmp_path / "t.h5") as live:
            assert assert_true_as_far_as_it_goes(live, columns) >= 5
    assert writer.write_error is not None
    report = writer.close()
    lost = sum(loss.count for loss in report.losses)
    assert lost > 0
    with open_snapshot(report.path) as snap:
        present = assert_true_as_far_as_it_goes(snap, columns)
        assert present >= 5
        assert snap.losses == report.losses
        by_kind = {loss.kind: loss.count for loss in snap.losses}
        missing_steps = 3 * ADD - len(snap)
        in_flight = sum(step.status == "in_flight" for step in snap)
        assert by_kind.get("step", 0) == missing_steps
        assert by_kind.get("outputs", 0) == in_flight
    assert check(report.path).ok


def test_room_comes_back(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu())
    run(writer, sequence, contents(0, 0))
    with file_size_limit((tmp_path / "t.h5.journal").stat().st_size):
        invocation = run(writer, sequence, contents(0, 1))
    assert run(writer, sequence, contents(0, 2)) == 2
    report = writer.close()
    with open_snapshot(report.path) as snap:
        steps = {step.address: step.status for step in snap}
        assert {a: s for a, s in steps.items() if a.startswith(("0:", "2:"))} == {
            f"{i}:{s}": "complete" for i in (0, 2) for s in range(3)
        }
        assert not any(a.startswith(f"{invocation}:") for a in steps)
        assert {loss.kind: loss.count for loss in snap.losses}["step"] == 3


def test_only_large_tensors_are_lost_where_small_ones_fit(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu(8, 100_000))
    data = contents(0, 0, 8, 100_000)
    with file_size_limit(60_000):  # x alone has 200 kB
        run(writer, sequence, data)
    report = writer.close()
    with open_snapshot(report.path) as snap:
        assert [step.status for step in snap] == ["complete"] * 3
        gemv = snap["0:0"]
        assert (gemv.inputs["A"].kept, gemv.inputs["B"].kept, gemv.outputs["C"].kept) == (False, False, True)
        assert gemv.inputs["B"].digest  # it is known what it was
        assert bits(gemv.outputs["C"].numpy()) == bits(data["y0"])
        assert [(loss.kind, loss.count) for loss in snap.losses] == [("contents", 2)]


def test_what_was_not_kept_is_kept_when_it_comes_again(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu(8, 100_000))
    with file_size_limit(60_000):
        run(writer, sequence, contents(0, 0, 8, 100_000))
    run(writer, sequence, contents(0, 1, 8, 100_000))
    report = writer.close()
    with open_snapshot(report.path) as snap:
        assert snap["1:0"].inputs["A"].kept
        assert bits(snap["0:0"].inputs["A"].numpy()) == bits(contents(0, 0, 8, 100_000)["W"])


class Faults(threading.local):
    """One generator per thread: the faults of the thread that records are the same in every run, whenever the threads
    that write behind its back come to their turns."""

    def __init__(self, seed: int) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.rng = random.Random(seed if main else seed + 1000)


@pytest.mark.parametrize("seed", range(12))
def test_writes_that_fail_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    faults = Faults(seed)
    real_pwritev, real_pwrite = os.pwritev, os.pwrite
    armed, failed = False, Counter[bool]()  # by whether a part was written

    def pwritev(fd: int, buffers: list, offset: int) -> int:
        if armed and faults.rng.random() < 0.3:
            data = b"".join(bytes(b) for b in buffers)
            partly = faults.rng.random() < 0.5
            failed[partly] += 1
            if partly:
                return real_pwrite(fd, data[: faults.rng.randrange(1, len(data))], offset)
            raise OSError(28, "No space left on device")
        return real_pwritev(fd, buffers, offset)

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if armed and faults.rng.random() < 0.3:
            failed[False] += 1
            raise OSError(28, "No space left on device")
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "pwrite", pwrite)
    columns = 100_000 if seed % 3 == 0 else 16
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu(8, columns))
    armed = True
    for number in range(ADD):
        run(writer, sequence, contents(0, number, 8, columns))
    armed = False
    report = writer.close()
    assert min(failed[True], failed[False]) > 0, "or nothing was tried"
    with open_snapshot(report.path) as snap:
        assert_true_as_far_as_it_goes(snap, columns)
        # An invocation whose end alone was lost has all of its steps: that is a loss of its own kind.
        by_kind = Counter[str]()
        for loss in snap.losses:
            by_kind[loss.kind] += loss.count
        assert by_kind["step"] == 3 * ADD - len(snap)
        assert by_kind["outputs"] == sum(step.status == "in_flight" for step in snap)
        assert by_kind["invocation"] == sum(call.status == "in_flight" for call in snap.invocations)
    assert check(report.path).ok


@pytest.mark.parametrize(
    "room", [0, 8_000, *(pytest.param(room, marks=pytest.mark.long) for room in (600, 3_000, 6_000))]
)
def test_sealing_on_a_full_disk_leaves_the_journal(tmp_path: Path, room: int) -> None:
    """In a process of its own: HDF5 may not let go of a file that it could not finish."""
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import test_disk_full as t
from pathlib import Path
t.seal_with_little_room(Path({str(tmp_path)!r}))
"""
    env = {**os.environ, "ROOM": str(room), "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.h5.chunks", "t.h5.journal", "t.h5.spill"]
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert len(snap) == 6
    assert recover(tmp_path / "t.h5").ok


def seal_with_little_room(folder: Path) -> None:
    writer = SnapshotWriter(folder / "t.h5")
    sequence = writer.add_sequence(gemv_silu())
    for number in range(2):
        run(writer, sequence, contents(0, number))
    with file_size_limit(int(os.environ["ROOM"])):
        try:
            writer.close()
        except UnsealedError as error:
            text = str(error)
        else:
            raise AssertionError("it was sealed")
    assert "could not be sealed" in text
    assert "fsck --recover" in text
    assert "\n" not in text


def test_the_spill_fills_up_while_workers_are_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion_replay.snapshot.journal import frames
    from fusion_replay.snapshot.write import writer as writer_module

    monkeypatch.setattr(writer_module, "SPILL_SLOTS", 3)
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu(8, 100_000))
    real = frames.JournalFile.append

    def no_chunks(journal: frames.JournalFile, batch: list) -> list:
        if any(kind == frames.PLACED for kind, _ in batch):
            raise OSError(28, "No space left on device")
        return real(journal, batch)

    monkeypatch.setattr(frames.JournalFile, "append", no_chunks)
    for number in range(4):
        run(writer, sequence, contents(0, number, 8, 100_000))  # neither raises nor waits for ever
    report = writer.close()
    assert sum(loss.count for loss in report.losses if loss.kind == "contents")
    with open_snapshot(report.path) as snap:
        assert len(snap) == 12
        assert_true_as_far_as_it_goes(snap, 100_000)
        assert snap["0:0"].inputs["A"].kept
        assert np.dtype(BF16) == snap["0:0"].inputs["A"].numpy().dtype


def test_no_threads_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from fusion_replay.snapshot.write import writer as writer_module

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(writer_module, "SPILL_SLOTS", 6)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu(8, 100_000))
    for number in range(8):
        run(writer, sequence, contents(0, number, 8, 100_000))  # neither raises nor waits for ever
    report = writer.close()
    with open_snapshot(report.path) as snap:
        assert len(snap) == 24
        assert_true_as_far_as_it_goes(snap, 100_000)
        assert bits(snap["0:0"].inputs["A"].numpy()) == bits(contents(0, 0, 8, 100_000)["W"])
        kept = sum(snap[number, 0].inputs["B"].kept for number in range(8))
        assert (kept, sum(loss.count for loss in snap.losses)) == (4, 4)


def test_a_large_recording_is_sealed_without_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 8 MiB of chunks on a thread brings them to the disk early, where there is one."""
    import threading

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu(64, 100_000))
    data = contents(0, 0, 64, 100_000)
    run(writer, sequence, data)
    writer.drain()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    report = writer.close()
    assert report.file_bytes > 1 << 23
    with open_snapshot(report.path) as snap:
        assert bits(snap["0:0"].inputs["A"].numpy()) == bits(data["W"])


def test_the_reserve_is_for_saying_what_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one byte is left, at the end either: the losses reach the journal in the space that was held back."""
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu(8, 16))
    run(writer, sequence, contents(0, 0, 8, 16))
    writer.drain()
    spill, append = tmp_path / "t.h5.spill", JournalFile.append
    held_back = spill.stat().st_blocks * 512
    assert held_back >= 1 << 16

    def full(journal: JournalFile, frames: list[Any]) -> None:
        if spill.stat().st_blocks * 512 >= held_back:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(journal, frames)

    def no_seal(*_: Any, **__: Any) -> None:
        raise UnsealedError("no room to seal in")

    monkeypatch.setattr(JournalFile, "append", full)
    monkeypatch.setattr("fusion_replay.snapshot.seal.recording.seal", no_seal)
    for number in (1, 2):
        run(writer, sequence, contents(0, number, 8, 16))
    with pytest.raises(UnsealedError):
        writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert len(snap) == 3
        assert snap.losses == writer.losses
        assert {loss.kind: loss.count for loss in snap.losses}["step"] == 6
