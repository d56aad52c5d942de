# SPDX-License-Identifier: Apache-2.0
"""examples/golden_project, from a copy under version control: what passes, what moves, what a diff shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "examples" / "golden_project"
NAME = "tests.test_softcap.test_capped_sum"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__", "*.new")))
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=copy, check=True)
    return copy


def run(where: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("CI", "GITHUB", "PYTEST"))}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, env={**outside, **env}, check=False)


def checked(where: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return run(where, "pytest", "-p", "fusion_replay.golden.pytest.plugin", **env)


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_from_a_fresh_clone_to_an_accepted_change(clone: Path) -> None:
    fresh = checked(clone)
    assert fresh.returncode == 0, fresh.stdout
    assert "1 of 1 golden holds; 2 steps compared" in fresh.stdout

    fault = checked(clone, FAULTS="SoftCap:shift")
    assert fault.returncode == 1
    assert f"{NAME}: 0:1 SoftCap sum -> out: NPU moved" in fault.stdout
    rejected = run(clone, "fusion_replay", "golden", "reject", "--all")
    assert rejected.returncode == 0, rejected.stderr

    change(clone / "softcap.py", "cap * np.tanh(A / cap)", 'cap * np.tanh((A / cap).astype("f2"))')
    moved = checked(clone)
    assert moved.returncode == 1
    assert f"{NAME}: 0:1 SoftCap sum -> out: reference moved" in moved.stdout
    assert "NPU moved" not in moved.stdout
    accepted = run(clone, "fusion_replay", "golden", "accept", "--all")
    assert accepted.returncode == 0, accepted.stderr
    again = checked(clone)
    assert again.returncode == 0, again.stdout

    shown = subprocess.run(["git", "diff", "--", "goldens"], cwd=clone, capture_output=True, text=True, check=True)
    lines = [x for x in shown.stdout.splitlines() if x.startswith(("+", "-")) and not x.startswith(("+++", "---"))]
    assert [x[:21] for x in lines] == ['-{"address":"0:1","ex', '+{"address":"0:1","ex'], "one step, one line"


def test_a_tightened_tolerance(clone: Path) -> None:
    change(clone / "softcap.py", "fr.bf16_ulps(2)", "fr.bf16_ulps(1)")
    found = checked(clone)
    assert found.returncode == 1
    assert "0:1 SoftCap sum -> out: tolerance moved: limits were 2 bf16 ulp, are 1 bf16 ulp now" in found.stdout
