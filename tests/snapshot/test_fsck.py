# SPDX-License-Identifier: Apache-2.0
"""fsck names what is damaged, and brings killed recordings into a sealed file."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusion_replay.errors import (
    DamagedSnapshotError,
    ForeignFileError,
    SnapshotError,
    SnapshotNotFoundError,
    UnsealedError,
    UsageError,
)
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot import target as target_module
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.seal import recording as seal_module
from snapshot_maker import bits, contents, gemv_silu, record, run


def killed(path: Path, stops: tuple[int, ...] = (6, 3), columns: int = 16, **options: object) -> Path:
    """A recording that ended without close; the target's path."""
    writer = SnapshotWriter(path, **options)  # type: ignore[arg-type]
    sequence = writer.add_sequence(gemv_silu(8, columns))
    for number, stop in enumerate(stops):
        run(writer, sequence, contents(0, number, 8, columns), stop)
    writer.abandon()
    return path


def killed_before_compressing(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One in which no worker thread could be started: all bytes are still raw."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        return killed(path, columns=200_000)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_a_sound_file(tmp_path: Path) -> None:
    path = record(tmp_path / "t.h5", 2)
    report = check(path)
    assert report.ok
    assert bool(report)
    assert (report.sealed, report.problems, report.steps, report.invocations) == (True, (), 6, 2)
    assert report.bytes == path.stat().st_size
    assert report.tensors == 11  # W, and five per invocation; a digest alone is no tensor
    assert "all as they were sealed" in str(report)
    assert report.to_dict()["ok"] is True


def test_a_damaged_tensor_is_named_by_its_step(tmp_path: Path) -> None:
    path = record(tmp_path / "t.h5", 1)
    with open_snapshot(path) as snap:
        chunk = snap.store.chunks_of(snap["0:1"].outputs[0].row or 0)[0]
    flip(path, int(chunk["offset"]) + int(chunk["size"]) - 3)  # of the two that lie in it the second
    report = check(path)
    assert not report.ok
    assert any("0:1 SiLU y -> y: B is damaged" in problem for problem in report.problems)
    assert any("digest of the whole" in problem for problem in report.problems)
    with open_snapshot(path) as snap:  # it opens, and the other tensors can be had
        assert bits(snap["0:0"].inputs["A"].numpy()) == bits(contents(0, 0)["W"])
        with pytest.raises(DamagedSnapshotError, match="step 0:1 SiLU, output B"):
            snap["0:1"].outputs[0].numpy()


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    import json

    path = record(tmp_path / "t.h5", 1)
    raw = path.read_bytes()
    start = raw.index(b'{"format":[1,')
    directory, _ = json.JSONDecoder().raw_decode(raw[start:].decode("latin-1"))
    for name, entry in directory["tables"].items():
        if not entry["size"]:
            continue
        broken = tmp_path / "broken.h5"
        shutil.copy(path, broken)
        flip(broken, entry["offset"] + entry["size"] // 2)
        assert any(name in problem for problem in check(broken).problems), name
        with pytest.raises(DamagedSnapshotError, match=name):
            open_snapshot(broken)


def test_damage_that_only_people_would_see_is_found_too(tmp_path: Path) -> None:
    path = record(tmp_path / "t.h5", 1)
    flip(path, path.read_bytes().index(b"export --as plain-h5"))
    report = check(path)
    assert not report.ok
    assert any("the damage is in HDF5's own structure" in problem for problem in report.problems)


def test_a_killed_recording_is_told_and_recovered(tmp_path: Path) -> None:
    path = killed(tmp_path / "t.h5")
    report = check(path)
    assert (report.ok, report.sealed, report.recoverable, report.steps) == (False, False, True, 5)
    assert str(report) == str(check(tmp_path / "t.h5.journal")) == f"{path}.journal: the recording was not closed"
    recovered = recover(path)
    assert (recovered.ok, recovered.sealed, recovered.recovered, recovered.steps) == (True, True, True, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]
    with open_snapshot(path) as snap:
        assert [step.status for step in snap] == ["complete"] * 4 + ["in_flight"]
        assert bits(snap["1:1"].inputs[0].numpy()) == bits(contents(0, 1)["y0"])
    again = recover(path)
    assert (again.ok, again.recovered, again.removed) == (True, False, ())


def test_what_there_is_one_of_has_no_plural(tmp_path: Path) -> None:
    path = killed(tmp_path / "t.h5", stops=(1,))
    assert f"sealed {path}: 1 step of 1 invocation recovered" in str(recover(path))
    assert f"{path}: sealed, 1 step of 1 invocation, " in str(check(path))
    with (
        open_snapshot(path) as snap,
        pytest.raises(UsageError, match=r"no step 1:0; it has 1 step of 1 invocation, 0:0$"),
    ):
        snap["1:0"]


def test_recover_takes_the_journal_by_name_too(tmp_path: Path) -> None:
    path = killed(tmp_path / "t.h5")
    assert recover(tmp_path / "t.h5.journal").path == path


def test_uncompressed_pieces_in_the_spill_are_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = killed_before_compressing(tmp_path / "t.h5", monkeypatch)
    assert (tmp_path / "t.h5.spill").stat().st_size > 3_000_000
    with open_snapshot(path) as snap:
        assert bits(snap["0:0"].inputs["A"].numpy()) == bits(contents(0, 0, 8, 200_000)["W"])
    assert recover(path).ok
    with open_snapshot(path) as snap:
        assert bits(snap["0:0"].inputs["A"].numpy()) == bits(contents(0, 0, 8, 200_000)["W"])
        assert bits(snap["1:0"].inputs["B"].numpy()) == bits(contents(0, 1, 8, 200_000)["x"])


def test_a_missing_spill_costs_its_tensors_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = killed_before_compressing(tmp_path / "t.h5", monkeypatch)
    (tmp_path / "t.h5.spill").unlink()
    with open_snapshot(path) as snap, pytest.raises(DamagedSnapshotError, match=r"spill file .* is missing"):
        snap["0:0"].inputs["A"].numpy()
    assert any("A is damaged" in problem for problem in check(path).problems)
    report = recover(path)
    assert report.ok
    assert any("damaged in the journal" in note for note in report.notes)
    with open_snapshot(path) as snap:
        assert not snap["0:0"].inputs["A"].kept
        assert snap["0:0"].inputs["A"].digest
        assert sum(loss.count for loss in snap.losses) == 3
        with pytest.raises(SnapshotError, match="not kept, only their digest"):
            snap["0:0"].inputs["A"].numpy()


def test_a_damaged_frame_in_a_journal_costs_no_more_than_itself(tmp_path: Path) -> None:
    path = killed(tmp_path / "t.h5")
    raw = (tmp_path / "t.h5.journal").read_bytes()
    flip(tmp_path / "t.h5.journal", raw.index(b"COMPLETED"))  # in the end of step 0:0
    report = check(path)
    assert any("disagrees with its checksum" in problem for problem in report.problems)
    assert recover(path).ok
    with open_snapshot(path) as snap:
        assert [step.status for step in snap] == ["in_flight", "complete", "complete", "complete", "in_flight"]
        assert any(loss.kind == "journal" for loss in snap.losses)


def test_a_recording_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    report = check(tmp_path / "t.h5")
    assert (report.ok, report.recoverable, report.steps) == (False, False, 3)
    assert "is still being recorded" in str(report)
    with pytest.raises(UsageError, match=rf"process {os.getpid()} is still recording"):
        recover(tmp_path / "t.h5")
    assert writer.close().steps == 3


def test_killed_between_naming_the_file_and_removing_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(seal_module, "remove_working_files", lambda target: None)
        path = record(tmp_path / "t.h5")
    assert (tmp_path / "t.h5.journal").exists()
    assert check(path).ok
    report = recover(path)
    assert (report.ok, report.recovered) == (True, False)
    assert report.removed == (tmp_path / "t.h5.journal",)
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


def test_the_journal_stays_while_the_sealed_file_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(seal_module, "remove_working_files", lambda target: None)
        path = record(tmp_path / "t.h5")
    flip(path, path.read_bytes().index(b"export --as plain-h5"))
    assert not recover(path).ok
    assert (tmp_path / "t.h5.journal").exists()


def test_another_recording_under_the_same_name_is_not_overwritten(tmp_path: Path) -> None:
    killed(tmp_path / "t.h5")
    other = record(tmp_path / "other.h5", seed=5)
    shutil.copy(other, tmp_path / "t.h5")
    with pytest.raises(UsageError, match="holds another recording"):
        recover(tmp_path / "t.h5")
    assert (tmp_path / "t.h5").read_bytes() == other.read_bytes()
    assert (tmp_path / "t.h5.journal").exists()


def test_a_killed_replacement_still_replaces(tmp_path: Path) -> None:
    record(tmp_path / "t.h5", seed=5)
    killed(tmp_path / "t.h5", if_exists="replace")
    assert recover(tmp_path / "t.h5").steps == 5
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert bits(snap["0:0"].inputs["A"].numpy()) == bits(contents(0, 0)["W"])


def test_sealing_that_fails_leaves_the_journal_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=1, f_bfree=0, f_bavail=0, f_frsize=4096))
        with pytest.raises(UnsealedError, match=r"\(\d+ bytes needed, 0 free\).*make room.*fsck --recover"):
            writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.h5.chunks", "t.h5.journal", "t.h5.spill"]
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert len(snap) == 3
    assert recover(tmp_path / "t.h5").ok


def test_what_is_no_snapshot(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "empty.h5.journal").touch()
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["x"] = [1, 2, 3]
    for look in (check, recover, open_snapshot):
        with pytest.raises(SnapshotNotFoundError, match=r"no such file, and no nothing\.h5\.journal beside it"):
            look(tmp_path / "nothing.h5")
        for folder in (tmp_path, Path("."), Path("/")):
            with pytest.raises(SnapshotNotFoundError, match="a directory"):
                look(folder)
        with pytest.raises(ForeignFileError, match="no snapshot"):
            look(tmp_path / "text.h5")
        with pytest.raises(ForeignFileError, match="an HDF5 file without fusion-replay's user block"):
            look(tmp_path / "plain.h5")
    for look in (check, open_snapshot):
        with pytest.raises(ForeignFileError, match="empty file"):
            look(tmp_path / "empty.h5")
    with pytest.raises(DamagedSnapshotError, match="no recording can be read from it; delete it"):
        recover(tmp_path / "empty.h5")
    assert (tmp_path / "empty.h5.journal").exists()


def test_an_empty_journal_beside_a_sealed_file_is_a_leftover(tmp_path: Path) -> None:
    path = record(tmp_path / "t.h5")
    (tmp_path / "t.h5.journal").touch()
    assert recover(path).ok
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


def test_publishing_never_follows_a_race(tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    part.write_bytes(b"new")
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(Exception, match="appeared while"):
        target_module.publish(part, tmp_path / "a", "error")
    assert (tmp_path / "a").read_bytes() == b"old"
    target_module.publish(part, tmp_path / "a", "replace")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert not part.exists()
