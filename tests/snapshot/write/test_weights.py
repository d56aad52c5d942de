# SPDX-License-Identifier: Apache-2.0
"""Weights in a side file, or left out: shared, found, refused where they are others, never damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusion_replay.errors import SnapshotError, TargetExistsError, UsageError
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.write.weights import WeightsKeeper
from snapshot_maker import BF16, bits, placed, random_bf16

ROWS, COLUMNS = 256, 256  # 128 KiB


def sequence(names: tuple[str, ...]) -> SequenceDescription:
    """GEMV of each weight with x, into y."""
    specs = ArgSpec("A", "in", (ROWS, COLUMNS)), ArgSpec("B", "in", (COLUMNS,)), ArgSpec("C", "out", (ROWS,))
    buffers = (*(BufferDescription(n, specs[0].nbytes, "scratch", True) for n in names),)
    return SequenceDescription(
        "weights",
        (OperatorDescription("GEMV", {"M": ROWS, "K": COLUMNS}),),
        (*buffers, BufferDescription("x", 2 * COLUMNS, "input", True), BufferDescription("y", 2 * ROWS)),
        tuple(
            StepDescription(i, 0, tuple(OperandUse(s, b) for s, b in zip(specs, (name, "x", "y"), strict=True)))
            for i, name in enumerate(names)
        ),
        ("x",),
        ("y",),
    )


def weight(seed: int) -> np.ndarray:
    return random_bf16(np.random.default_rng(seed), (ROWS, COLUMNS))


def write(writer: SnapshotWriter, weights: dict[str, np.ndarray], invocations: int = 2) -> None:
    number = writer.add_sequence(sequence(tuple(weights)))
    x, y = np.ones(COLUMNS, BF16), np.zeros(ROWS, BF16)
    for _ in range(invocations):
        invocation = writer.begin_invocation(number)
        for step, data in enumerate(weights.values()):
            writer.begin_step(invocation, step, {0: data, 1: x})
            writer.end_step(invocation, step, {2: y})
        writer.end_invocation(invocation)


def record(path: Path, side: Path | None, **seeds: int) -> Path:
    """A recording whose weights, by name and seed, go to ``side`` (None: nowhere)."""
    writer = SnapshotWriter(path, weights=WeightsKeeper(side))
    write(writer, {name: weight(seed) for name, seed in seeds.items()})
    return writer.close().path


def weights_in(path: Path, given: Path | None = None) -> dict[str, bytes | None]:
    with open_snapshot(path, weights=given) as snap:
        found = {s.inputs["A"].use.buffer: s.inputs["A"] for s in snap}
        return {name: bits(t.numpy()) if t.kept else None for name, t in found.items()}


def same(**seeds: int) -> dict[str, bytes]:
    return {name: bits(weight(seed)) for name, seed in seeds.items()}


def test_recordings_share_what_is_the_same(tmp_path: Path) -> None:
    side = tmp_path / "W.h5"
    first = record(tmp_path / "a.h5", side, W0=1, W1=2)
    once = side.stat()
    second = record(tmp_path / "b.h5", side, W0=1, W1=2)
    assert (side.stat().st_mtime_ns, side.stat().st_ino) == (once.st_mtime_ns, once.st_ino)  # nothing new
    third = record(tmp_path / "c.h5", side, W0=1, W1=3)
    assert weights_in(first) == weights_in(second) == same(W0=1, W1=2)
    assert weights_in(third) == same(W0=1, W1=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["W.h5", "a.h5", "b.h5", "c.h5"]
    assert first.stat().st_size < 20_000 < 3 * 0.6 * 2 * ROWS * COLUMNS < side.stat().st_size
    for path in (first, second, third, side):
        assert check(path).ok
    assert check(side).tensors == 3
    assert check(first).tensors == 4  # with both weights: x and y are its own
    with open_snapshot(side) as snap:
        sums = {w["name"]: w["sha256"] for w in snap.index.weights}
    import hashlib

    assert sums["W0"] == hashlib.sha256(bits(weight(1))).hexdigest()


def test_the_first_recording_into_a_side_file_copies_no_chunk_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stayed = placed(monkeypatch)
    side = tmp_path / "W.h5"
    path = record(tmp_path / "a.h5", side, W0=1, W1=2)
    assert len(stayed) == 2
    assert check(side).tensors == 2
    assert weights_in(path) == same(W0=1, W1=2)


def test_found_elsewhere_and_missing(tmp_path: Path) -> None:
    path = record(tmp_path / "a.h5", tmp_path / "W.h5", W0=1, W1=2)
    (tmp_path / "W.h5").rename(tmp_path / "moved.h5")
    with open_snapshot(path) as snap:
        assert "2 weights (0.3 MB) are not here" in snap.notes[0]
        assert "--weights" in snap.notes[0]
        tensor = snap["0:0"].inputs["A"]
        assert (tensor.kept, snap["0:0"].inputs["B"].kept) == (False, True)
        with pytest.raises(SnapshotError, match=r"of W0 are in the side file W\.h5, which can't be used"):
            tensor.numpy()
    assert check(path).ok
    assert weights_in(path, tmp_path / "moved.h5") == same(W0=1, W1=2)


def test_left_out_altogether(tmp_path: Path) -> None:
    path = record(tmp_path / "a.h5", None, W0=1, W1=2)
    assert path.stat().st_size < 20_000
    with open_snapshot(path) as snap:
        assert "left out of the recording: give them with --weights" in snap.notes[0]
        assert not snap["0:0"].inputs["A"].kept
    record(tmp_path / "b.h5", tmp_path / "W.h5", W0=1, W1=2)
    assert weights_in(path, tmp_path / "W.h5") == same(W0=1, W1=2)


def test_other_weights_are_refused_by_name_and_both_digests(tmp_path: Path) -> None:
    path = record(tmp_path / "a.h5", None, W0=1, W1=2)
    record(tmp_path / "b.h5", tmp_path / "W.h5", W0=1, W1=5)
    with open_snapshot(path) as snap:
        mine = snap["0:1"].inputs["A"].digest
    with open_snapshot(tmp_path / "b.h5") as snap:
        other = snap["0:1"].inputs["A"].digest
    with pytest.raises(UsageError, match=f"W1 has digest {other} there, {mine} was recorded"):
        open_snapshot(path, weights=tmp_path / "W.h5")
    record(tmp_path / "c.h5", tmp_path / "V.h5", V=9)
    with pytest.raises(UsageError, match="has none of its 2"):
        open_snapshot(path, weights=tmp_path / "V.h5")
    with pytest.raises(UsageError, match="leave out the side file"):
        open_snapshot(tmp_path / "W.h5", weights=tmp_path / "V.h5")


def test_a_side_file_with_other_bytes_under_the_same_fast_digest(tmp_path: Path) -> None:
    """The SHA-256 is what counts: here it is the recording's that was changed."""
    writer = SnapshotWriter(tmp_path / "a.h5", weights=WeightsKeeper(tmp_path / "W.h5"))
    write(writer, {"W0": weight(1)})
    real = writer.note_weights
    writer.note_weights = lambda ws: real([type(w)(**{**w.to_dict(), "sha256": "0" * 64}) for w in ws])  # type: ignore
    writer.close()
    with open_snapshot(tmp_path / "a.h5") as snap:
        assert "SHA-256" in snap.notes[0]
        assert "0" * 64 in snap.notes[0]
        assert not snap["0:0"].inputs["A"].kept
    with pytest.raises(UsageError, match="SHA-256"):
        open_snapshot(tmp_path / "a.h5", weights=tmp_path / "W.h5")


@pytest.mark.parametrize("what", ["foreign", "recording", "folder", "damaged"])
def test_what_is_no_side_file(tmp_path: Path, what: str) -> None:
    side = tmp_path / "W.h5"
    if what == "foreign":
        side.write_bytes(b"something else")
    elif what == "folder":
        side.mkdir()
    else:
        record(tmp_path / "a.h5", side, W0=1)
        if what == "recording":
            shutil.copy(tmp_path / "a.h5", side)
        else:
            side.write_bytes(side.read_bytes()[:-1])
    before = side.read_bytes() if side.is_file() else b""
    with pytest.raises((SnapshotError, UsageError)) as caught:
        WeightsKeeper(side)
    assert str(side) in str(caught.value)
    assert not list(tmp_path.glob("W.h5.*"))
    assert (side.read_bytes() if side.is_file() else b"") == before


def test_while_another_records_into_it(tmp_path: Path) -> None:
    keeper = WeightsKeeper(tmp_path / "W.h5")
    with pytest.raises((TargetExistsError, UsageError), match=f"process {os.getpid()} is"):
        WeightsKeeper(tmp_path / "W.h5")
    keeper.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_running_recording_reads_them(tmp_path: Path) -> None:
    record(tmp_path / "a.h5", tmp_path / "W.h5", W0=1)
    writer = SnapshotWriter(tmp_path / "b.h5", weights=WeightsKeeper(tmp_path / "W.h5"))
    write(writer, {"W0": weight(1), "W1": weight(2)})
    assert weights_in(tmp_path / "b.h5") == same(W0=1, W1=2)
    writer.close()
    assert weights_in(tmp_path / "b.h5") == same(W0=1, W1=2)


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from snapshot.write.test_weights import *
writer = SnapshotWriter(Path({folder!r}) / "b.h5", weights=WeightsKeeper(Path({folder!r}) / "W.h5"))
write(writer, {{"W0": weight(1), "W1": weight(2)}})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_recorders_lose_nothing_and_the_side_file_stays_whole(tmp_path: Path) -> None:
    record(tmp_path / "a.h5", tmp_path / "W.h5", W9=9)
    old = (tmp_path / "W.h5").read_bytes()
    code = KILLED.format(path=sys.path, folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert (tmp_path / "W.h5").read_bytes() == old
    assert weights_in(tmp_path / "b.h5") == same(W0=1, W1=2)  # journals of both
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert recover(tmp_path / "b.h5").recovered
    assert recover(tmp_path / "W.h5").recovered
    assert check(tmp_path / "W.h5").tensors == 3
    assert weights_in(tmp_path / "b.h5") == same(W0=1, W1=2)
    assert weights_in(tmp_path / "a.h5") == same(W9=9)
    # The next recording into it recovers it by itself.
    record(tmp_path / "copy/c.h5", tmp_path / "copy/W.h5", W5=5)
    assert check(tmp_path / "copy/W.h5").tensors == 4
    assert weights_in(tmp_path / "copy/b.h5") == same(W0=1, W1=2)


def test_a_full_disk_keeps_the_weights_in_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = WeightsKeeper(tmp_path / "W.h5")
    writer = SnapshotWriter(tmp_path / "a.h5", weights=keeper)
    monkeypatch.setattr(SnapshotWriter, "add_weight", lambda *args: False)
    write(writer, {"W0": weight(1)})
    writer.close()
    assert not (tmp_path / "W.h5").exists()
    assert weights_in(tmp_path / "a.h5") == same(W0=1)


def test_the_same_bytes_elsewhere_are_kept_whole(tmp_path: Path) -> None:
    """An output with the bytes of a weight must not depend on the side file."""
    spec = ArgSpec("A", "in", (ROWS, COLUMNS)), ArgSpec("C", "out", (ROWS, COLUMNS))
    copying = SequenceDescription(
        "copy",
        (OperatorDescription("MemCopy", {"size": ROWS * COLUMNS}),),
        (BufferDescription("W", spec[0].nbytes), BufferDescription("y", spec[1].nbytes)),
        (StepDescription(0, 0, (OperandUse(spec[0], "W"), OperandUse(spec[1], "y"))),),
    )
    writer = SnapshotWriter(tmp_path / "a.h5", weights=WeightsKeeper(tmp_path / "W.h5"))
    number = writer.begin_invocation(writer.add_sequence(copying))
    writer.begin_step(number, 0, {0: weight(1)})
    writer.end_step(number, 0, {1: weight(1)})
    writer.close()
    (tmp_path / "W.h5").unlink()
    with open_snapshot(tmp_path / "a.h5") as snap:
        assert bits(snap["0:0"].outputs["C"].numpy()) == bits(weight(1))
    assert check(tmp_path / "a.h5").ok
