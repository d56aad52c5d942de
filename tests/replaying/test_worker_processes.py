# SPDX-License-Identifier: Apache-2.0
"""Several processes over one recording: the same report, the same errors, users' operators, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import DamagedSnapshotError, UsageError
from fusion_replay.refs import plugins

OPERATOR = """
import pathlib, time
import fusion_replay as fr

@fr.operator("Doubled")
def doubled(A, *, seconds=0.0):
    pathlib.Path("started").touch()
    time.sleep(seconds)
    return 2 * A
"""


def record(path: Path, op: str, steps: int, **params: float) -> Path:
    with fr.record(path) as rec:
        for i in range(steps):
            a = np.full(64, i + 1, ml_dtypes.bfloat16)
            with rec.step(op, inputs={"A": a}, params=params) as step:
                step.outputs["C"] = a + a + (i == 3)  # the fourth one is wrong
    return path


@pytest.mark.usefixtures("registry")
def test_operators_from_a_file_and_the_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "double.py").write_text(OPERATOR)
    plugins.load("double.py")
    path = record(tmp_path / "doubled.h5", "Doubled", 6)
    seen: list[tuple[int, int]] = []
    shared = fr.replay(path, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert shared.to_dict() == fr.replay(path).to_dict()
    assert [s.address for s in shared.mismatches] == ["3:0"]
    assert seen == [(n, 6) for n in range(1, 7)]


@pytest.mark.usefixtures("registry")
def test_an_operator_that_no_other_process_finds_is_an_error(tmp_path: Path) -> None:
    @fr.operator("Doubled")
    def doubled(A: np.ndarray) -> np.ndarray:
        return 2 * A

    path = record(tmp_path / "doubled.h5", "Doubled", 2)
    assert fr.replay(path).passed
    doubled.__module__ = "nowhere"
    with pytest.raises(UsageError, match=r"operator 'Doubled' is declared where worker processes can't find it"):
        fr.replay(path, workers=2)


def test_damage_reaches_the_caller_as_from_one_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "add.h5"
    with fr.record(path) as rec:
        for _ in range(4):
            a = rng.standard_normal(1 << 16).astype(ml_dtypes.bfloat16)
            with rec.step("ReLU", inputs={"A": a}, params={"size": a.size}) as step:
                step.outputs["C"] = np.maximum(a, 0)
    with fr.open(path) as snapshot:
        row = snapshot["2:0"].inputs[0].row
        assert row is not None
        offset = int(snapshot.store.chunks_of(row)[0]["offset"])
    with open(path, "r+b") as file:
        file.seek(offset + 100)
        byte = file.read(1)
        file.seek(offset + 100)
        file.write(bytes([byte[0] ^ 1]))
    said = []
    for workers in (1, 2):
        with pytest.raises(DamagedSnapshotError, match="step 2:0") as caught:
            fr.replay(path, workers=workers)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_interrupted_once_for_all(tmp_path: Path) -> None:
    (tmp_path / "double.py").write_text(OPERATOR)
    record(tmp_path / "slow.h5", "Doubled", 400, seconds=0.25)  # more than a minute for two
    command = [sys.executable, "-m", "fusion_replay", "replay", "slow.h5", "--workers", "2", "--import", "double.py"]
    environment = {**os.environ, "PYTHONPATH": str(Path(fr.__file__).parents[1])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.strip() == "error: interrupted"
