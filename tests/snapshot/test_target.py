# SPDX-License-Identifier: Apache-2.0
"""Names: nothing is ever half overwritten, and two recorders never meet in one file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fusion_replay.errors import TargetExistsError, UnsealedError, UsageError
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.seal import recording as seal_module
from snapshot_maker import bits, contents, gemv_silu, record, run


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_an_existing_file_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"precious")
    with pytest.raises(TargetExistsError, match=r"a\.h5: exists already; choose another name"):
        SnapshotWriter(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == b"precious"
    assert names(tmp_path) == ["a.h5"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "a.h5")
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    (tmp_path / "a.h5").write_bytes(b"precious")
    with pytest.raises(TargetExistsError, match=r"appeared while the recording ran.*fsck --recover"):
        writer.close()
    assert (tmp_path / "a.h5").read_bytes() == b"precious"
    assert names(tmp_path) == ["a.h5", "a.h5.chunks", "a.h5.journal", "a.h5.spill"]
    with open_snapshot(tmp_path / "a.h5.journal") as snap:
        assert len(snap) == 3


def test_replace_keeps_the_old_file_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = record(tmp_path / "a.h5", seed=1)
    before = old.read_bytes()
    writer = SnapshotWriter(old, if_exists="replace")
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    assert old.read_bytes() == before
    with open_snapshot(old) as snap:
        assert (len(snap), snap.notes) == (6, (f"an unfinished recording lies beside it: {old}.journal",))
    with monkeypatch.context() as patched:
        patched.setattr(seal_module, "body_digest", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(UnsealedError):
            writer.close()
    assert old.read_bytes() == before
    assert names(tmp_path) == ["a.h5", "a.h5.chunks", "a.h5.journal", "a.h5.spill"]
    writer = SnapshotWriter(old, if_exists="replace")
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    writer.close()
    with open_snapshot(old) as snap:
        assert len(snap) == 3
    left = ["a-left-001.h5.chunks", "a-left-001.h5.journal", "a-left-001.h5.spill"]
    assert names(tmp_path) == [*left, "a.h5"]
    assert recover(tmp_path / "a-left-001.h5").steps == 3


def test_what_a_killed_process_left_is_put_aside_with_a_note(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = [contents(0, i, 8, 50_000) for i in range(2)]
    for killed in (1, 2):
        child = os.fork()
        if child == 0:
            writer = SnapshotWriter(tmp_path / "a.h5", if_exists="replace")
            sequence = writer.add_sequence(gemv_silu(8, 50_000))
            run(writer, sequence, data[killed - 1])
            os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    writer = SnapshotWriter(tmp_path / "a.h5", if_exists="replace")
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 5))
    writer.close()
    told = capfd.readouterr().err
    for number in (1, 2):
        left = tmp_path / f"a-left-00{number}.h5"
        assert f"it is kept, see: fusion-replay fsck --recover {left}" in told
        assert recover(left).ok
        with open_snapshot(left) as snap:
            assert bits(snap["0:0"].inputs["A"].numpy()) == bits(data[number - 1]["W"])
            assert bits(snap["0:2"].outputs["A"].numpy()) == bits(data[number - 1]["y2"])
    assert names(tmp_path) == ["a-left-001.h5", "a-left-002.h5", "a.h5"]


def test_a_living_process_is_named(tmp_path: Path) -> None:
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        writer = SnapshotWriter(tmp_path / "a.h5")
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
        writer.close()
        os._exit(0)
    os.read(ready[0], 1)
    for if_exists in ("error", "replace"):
        with pytest.raises(TargetExistsError, match=f"process {child} is recording there"):
            SnapshotWriter(tmp_path / "a.h5", if_exists=if_exists)  # type: ignore[arg-type]
    os.write(go[1], b"1")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert check(tmp_path / "a.h5").steps == 3


def test_numbers_go_up_past_files_and_running_recordings(tmp_path: Path) -> None:
    first = SnapshotWriter(tmp_path / "app.h5", if_exists="number")
    second = SnapshotWriter(tmp_path / "app.h5", if_exists="number")
    assert (first.target.name, second.target.name) == ("app-001.h5", "app-002.h5")
    assert first.close().path.name == "app-001.h5"
    third = SnapshotWriter(tmp_path / "app.h5", if_exists="number")
    assert third.target.name == "app-003.h5"
    (tmp_path / "app-003.h5").write_bytes(b"precious")
    fourth = SnapshotWriter(tmp_path / "app.h5", if_exists="number")
    assert third.close().path.name == "app-005.h5"
    assert (tmp_path / "app-003.h5").read_bytes() == b"precious"
    second.close()
    fourth.close()
    assert names(tmp_path) == [f"app-00{n}.h5" for n in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("if_exists", ["error", "replace"])
def test_two_recorders_never_share_a_name(tmp_path: Path, if_exists: str) -> None:
    writer = SnapshotWriter(tmp_path / "a.h5")
    with pytest.raises(TargetExistsError, match=f"process {os.getpid()} is recording there"):
        SnapshotWriter(tmp_path / "a.h5", if_exists=if_exists)  # type: ignore[arg-type]
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    assert writer.close().steps == 3


def test_what_a_killed_recording_left_is_put_aside_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = SnapshotWriter(tmp_path / "a.h5")
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    writer.abandon()
    another = SnapshotWriter(tmp_path / "a.h5")
    left = tmp_path / "a-left-001.h5"
    assert f"a recording that was killed lay there; it is kept, see: fusion-replay fsck --recover {left}" in (
        capsys.readouterr().err
    )
    assert another.close().steps == 0
    with open_snapshot(left) as snap:
        assert len(snap) == 3
    assert names(tmp_path)[:2] == ["a-left-001.h5.chunks", "a-left-001.h5.journal"]


@pytest.mark.parametrize("if_exists", ["error", "replace", "number"])
def test_a_missing_folder_and_a_directory(tmp_path: Path, if_exists: str) -> None:
    with pytest.raises(UsageError, match=r"the folder .*nowhere does not exist"):
        SnapshotWriter(tmp_path / "nowhere" / "a.h5", if_exists=if_exists)  # type: ignore[arg-type]
    (tmp_path / "d.h5").mkdir()
    if if_exists != "number":  # which makes d-001.h5
        with pytest.raises(UsageError, match="a directory"):
            SnapshotWriter(tmp_path / "d.h5", if_exists=if_exists)  # type: ignore[arg-type]


def test_an_unknown_policy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="if_exists='maybe'"):
        SnapshotWriter(tmp_path / "a.h5", if_exists="maybe")  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="can't be written: Permission denied"):
        SnapshotWriter(tmp_path / "a.h5")


def test_without_hard_links_the_name_is_still_taken_safely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = record(tmp_path / "a.h5")
    assert check(path).ok
    writer = SnapshotWriter(tmp_path / "b.h5")
    (tmp_path / "b.h5").write_bytes(b"precious")
    with pytest.raises(TargetExistsError):
        writer.close()
    assert (tmp_path / "b.h5").read_bytes() == b"precious"


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "a.h5")
    sequence = writer.add_sequence(gemv_silu())
    child = os.fork()
    if child == 0:
        run(writer, sequence, contents(0, 7))
        os._exit(0)
    os.waitpid(child, 0)
    run(writer, sequence, contents(0, 0))
    assert writer.close().steps == 3
    assert check(tmp_path / "a.h5").ok
