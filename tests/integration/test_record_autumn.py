# SPDX-License-Identifier: Apache-2.0
"""``record python app.py``, then ``replay``, on a program of autumn 2026: folds, places per call, two judges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fusion_replay as fr
from fusion_replay.diverge.consistency import findings
from fusion_replay.recording.option_declaration import PREFIX

TESTS = Path(__file__).parent.parent
PATHS = [str(TESTS), str(TESTS / "fake_iron" / "autumn"), str(TESTS / "fake_iron" / "common")]


def run(*words: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith((PREFIX, "FAKE_")) and k != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, words)], cwd=cwd, env={**clean, **more}, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(f"import sys\nsys.path[:0] = {PATHS!r}\nimport autumn_app\nautumn_app.main()\nsys.exit(3)\n")
    return path


def recorded(app: Path, **more: str) -> Path:
    """Of a run whose output and exit status are those of the same run unrecorded."""
    plain = run(sys.executable, app, cwd=app.parent, **more)
    words = (sys.executable, "-m", "fusion_replay", "record", "-o", "r.h5", sys.executable, app)
    done = run(*words, cwd=app.parent, **more)
    assert (plain.returncode, done.returncode) == (3, 3), done.stderr
    assert done.stdout == plain.stdout != ""
    assert "Recorded 3 invocations (15 steps) in r.h5." in done.stderr
    assert "IRON's own reference was kept for 6 steps" in done.stderr
    assert "Not recorded" not in done.stderr
    return app.parent / "r.h5"


def replayed(path: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "fusion_replay", "replay", path, cwd=path.parent)


def test_an_honest_device(app: Path) -> None:
    path = recorded(app)
    done = replayed(path)
    assert done.returncode == 0, done.stdout
    assert "15 of 15 steps match" in done.stdout
    assert "IRON's own as recorded (GEMM, Whirl)" in done.stdout
    with fr.open(path) as snapshot:
        assert findings(snapshot) == ()
        assert [s.outputs[0].buffer for s in snapshot.steps(step=1)] == [
            "cache[64:128]",
            "cache[128:192]",
            "cache[192:256]",
        ]


@pytest.mark.parametrize("step", [1, *(pytest.param(step, marks=pytest.mark.long) for step in (0, 2, 3, 4))])
def test_a_faulty_one_at_the_right_step(app: Path, step: int) -> None:
    done = replayed(recorded(app, FAKE_FAULT=str(step)))
    assert done.returncode == 1, done.stdout
    assert f"3 of 15 steps mismatch, first 0:{step} " in done.stdout
