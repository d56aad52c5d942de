# SPDX-License-Identifier: Apache-2.0
"""FIFOs, devices, sockets and directories where a file of ours should be: refused at once by every verb, unharmed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion_replay.errors import UsageError
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.write.weights import WeightsKeeper
from snapshot_maker import contents, gemv_silu, record, run


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")  # it never ends


def directory(path: Path) -> None:
    path.mkdir()


def listener(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


MAKERS = (
    pytest.param(fifo, id="fifo"),
    pytest.param(device, id="device"),
    pytest.param(directory, id="directory", marks=pytest.mark.long),
    pytest.param(listener, id="socket", marks=pytest.mark.long),
)

CHILD = """
import sys
from fusion_replay.__main__ import main
for command in sys.argv[1:]:
    try:
        code = main(command.split())
    except SystemExit as end:
        code = end.code
    print("exit", code, flush=True)
"""


def exits(folder: Path, *commands: str) -> list[str]:
    """Of these commands, in one process; none may wait for anything."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *commands], cwd=folder, capture_output=True, text=True, timeout=100
    )
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("exit ")]
    assert len(found) == len(commands), done.stderr[-2000:]
    return found


READING = ("show {}", "fsck {}", "fsck --recover {}", "replay {}", "diff {} {}", "export {} --step 0:0 -o out.npz")


def commands(name: str) -> list[str]:
    return [command.replace("{}", name) for command in READING]


def killed(path: Path) -> None:
    writer = SnapshotWriter(path)
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    writer.abandon()


@pytest.mark.parametrize("make", MAKERS)
def test_in_place_of_a_snapshot_or_its_journal(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.h5")
    make(tmp_path / "b.h5.journal")
    before = sorted(p.name for p in tmp_path.iterdir())
    given = [*commands("a.h5"), *commands("b.h5"), *commands("b.h5.journal")]
    assert dict(zip(given, exits(tmp_path, *given), strict=True)) == dict.fromkeys(given, "3")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("suffix", [".spill", pytest.param(".chunks", marks=pytest.mark.long)])
@pytest.mark.parametrize("make", MAKERS)
def test_beside_a_journal(tmp_path: Path, make: Callable[[Path], None], suffix: str) -> None:
    """Not as if it were missing: recovery would drop what it takes for lost, and remove the rest."""
    killed(tmp_path / "a.h5")
    beside = tmp_path / f"a.h5{suffix}"
    beside.unlink(missing_ok=True)
    make(beside)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert set(exits(tmp_path, *commands("a.h5"))) == {"3"}
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("make", MAKERS)
def test_a_target_that_recovery_would_replace(tmp_path: Path, make: Callable[[Path], None]) -> None:
    writer = SnapshotWriter(tmp_path / "a.h5", if_exists="replace")
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0))
    writer.abandon()
    make(tmp_path / "a.h5")
    assert exits(tmp_path, "fsck --recover a.h5") == ["3"]
    assert not (tmp_path / "a.h5").is_file()
    assert (tmp_path / "a.h5.journal").exists()


@pytest.mark.parametrize("make", MAKERS)
def test_in_place_of_a_side_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    record(tmp_path / "a.h5", 1, rows=256, columns=256, weights=WeightsKeeper(tmp_path / "w.h5"))
    assert exits(tmp_path, "show a.h5", "fsck a.h5") == ["0", "0"]
    (tmp_path / "w.h5").unlink()
    make(tmp_path / "w.h5")
    assert exits(tmp_path, "show a.h5", "fsck a.h5") == ["0", "0"]  # no damage of the recording, and told
    assert exits(tmp_path, "show a.h5 --weights w.h5", "fsck a.h5 --weights w.h5") == ["3", "3"]


@pytest.mark.parametrize("make", MAKERS)
def test_a_recording_does_not_begin_there(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.h5.journal")
    with pytest.raises(UsageError):
        SnapshotWriter(tmp_path / "a.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5.journal"]
