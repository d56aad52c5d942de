# SPDX-License-Identifier: Apache-2.0
"""Sealing where the chunks can't stay where they are: they are copied, and everything reads back as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion_replay.errors import SnapshotError
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.journal import frames
from fusion_replay.snapshot.seal import hdf5, in_place
from snapshot_maker import bits, contents, gemv_silu, placed, run

COLUMNS = 200_000  # W takes four chunks, x one: through the spill into the file of chunks
OPERANDS = (
    ("0", "inputs", "A", "W"),
    ("0", "inputs", "B", "x"),
    ("0", "outputs", "C", "y0"),
    ("1", "outputs", "B", "y1"),
)


def recording(path: Path) -> SnapshotWriter:
    writer = SnapshotWriter(path)
    sequence = writer.add_sequence(gemv_silu(8, COLUMNS))
    for number in range(2):
        run(writer, sequence, contents(0, number, 8, COLUMNS))
    writer.drain()
    return writer


def right_and_lost(path: Path) -> tuple[int, int]:
    """How many operands are what they were, and how many say that they are not there; none is anything else."""
    right = lost = 0
    with open_snapshot(path) as snap:
        for number in range(2):
            want = contents(0, number, 8, COLUMNS)
            for step, side, argument, name in OPERANDS:
                tensor = getattr(snap[f"{number}:{step}"], side)[argument]
                try:
                    assert bits(tensor.numpy()) == bits(want[name]), (number, step, argument)
                    right += 1
                except SnapshotError:
                    lost += 1
    return right, lost


def test_chunks_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = placed(monkeypatch)
    path = recording(tmp_path / "t.h5").close().path
    assert len(tried) == 6  # four of W, one of each x
    assert right_and_lost(path) == (8, 0)


def test_an_hdf5_that_puts_the_first_chunk_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = placed(monkeypatch)
    monkeypatch.setattr(in_place, "hand_out", lambda *_: None)  # so it gives out what it likes
    path = recording(tmp_path / "t.h5").close().path
    assert len(tried) == 1
    assert right_and_lost(path) == (8, 0)
    assert check(path).ok
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


@pytest.mark.parametrize("good", [1, 4])
def test_an_hdf5_that_puts_a_later_chunk_elsewhere(good: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = placed(monkeypatch)
    count = 0
    real = hdf5.PartFile.place_chunk

    def place(part: hdf5.PartFile, dataset: object, place: tuple, offset: int, size: int, mask: int) -> None:
        nonlocal count
        count += 1
        if count > good:
            hdf5.contiguous(hdf5.root_group(part_file[0]), "taken", hdf5.element_type("uint8"), None, (64,))
        real(part, dataset, place, offset, size, mask)

    part_file: list[object] = []
    create = hdf5.create

    def creating(part: hdf5.PartFile) -> object:
        part_file.append(create(part))
        return part_file[-1]

    monkeypatch.setattr(hdf5, "create", creating)
    monkeypatch.setattr(hdf5.PartFile, "place_chunk", place)
    path = recording(tmp_path / "t.h5").close().path
    part_file.clear()
    assert len(tried) == good + 1
    assert right_and_lost(path) == (8, 0)
    assert check(path).ok
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


def test_a_damaged_chunk_costs_its_tensor_alone(tmp_path: Path) -> None:
    recording(tmp_path / "t.h5").abandon()
    chunks = tmp_path / "t.h5.chunks"
    data = bytearray(chunks.read_bytes())
    data[len(data) // 2] ^= 0x10
    chunks.write_bytes(data)
    report = recover(tmp_path / "t.h5")
    assert report.recovered
    right, lost = right_and_lost(tmp_path / "t.h5")
    assert right + lost == 8
    assert lost == 2  # W, which both invocations read
    assert check(tmp_path / "t.h5").ok
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert any("damaged in the journal" in loss.detail for loss in snap.losses)


def test_a_file_of_chunks_that_is_gone(tmp_path: Path) -> None:
    recording(tmp_path / "t.h5").abandon()
    (tmp_path / "t.h5.chunks").unlink()
    assert recover(tmp_path / "t.h5").recovered
    assert right_and_lost(tmp_path / "t.h5") == (4, 4)  # the small ones stand in the journal
    assert check(tmp_path / "t.h5").ok


def test_a_place_that_the_journal_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the chunks no longer follow each other: the others are copied, and what lacks a piece is told as lost."""
    recording(tmp_path / "t.h5").abandon()
    journal = tmp_path / "t.h5.journal"
    data = bytearray(journal.read_bytes())
    with open(journal, "rb") as file:
        found = [f for f in frames.scan(file, frames.ScanResult()) if f.kind == frames.PLACED]
    assert len(found) == 6
    data[found[1].offset] ^= 1
    journal.write_bytes(data)
    tried = placed(monkeypatch)
    spill = np.memmap(tmp_path / "t.h5.spill", np.uint8, "r+")
    spill[:] = 0  # its slot has been used again since
    del spill
    assert recover(tmp_path / "t.h5").recovered
    assert not tried
    right, lost = right_and_lost(tmp_path / "t.h5")
    assert (right, lost) == (6, 2)
    assert check(tmp_path / "t.h5").ok
