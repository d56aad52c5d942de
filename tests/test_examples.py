# SPDX-License-Identifier: Apache-2.0
"""Every example runs, command by command as its README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(p.parent for p in EXAMPLES.glob("*/README.md"))
PROGRAMS = {"python": [sys.executable], "fusion-replay": [sys.executable, "-m", "fusion_replay"]}


def commands(folder: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *words = command.split()
    env = {**os.environ, "PYTEST_PLUGINS": "fusion_replay.golden.pytest.plugin"}  # installed or not
    return subprocess.run([*PROGRAMS[program], *words], cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(request.param, tmp_path / request.param.name))


def test_there_are_examples() -> None:
    assert FOLDERS
    assert [p for p in EXAMPLES.glob("*/*.py") if p.parent not in FOLDERS] == []


@pytest.mark.parametrize("copied", FOLDERS, ids=lambda p: p.name, indirect=True)
def test_every_command_of_its_readme_works(copied: Path) -> None:
    typed = commands(copied)
    assert typed
    for command in typed:
        ran = run(command, copied)
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    project = copied / "pyproject.toml"  # names what every command imports
    named = " ".join([*typed, project.read_text() if project.exists() else ""])
    assert [p.name for p in copied.glob("*.py") if p.name not in named] == []  # no example that nothing runs


@pytest.mark.parametrize("copied", [EXAMPLES / "user_operator"], indirect=True)
def test_the_user_operators_claims(copied: Path) -> None:
    source = (copied / "my_op.py").read_text()
    code = [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith(("#", '"""'))]
    assert len(code) <= 20  # from nothing to a golden in twenty lines
    assert run("python my_op.py", copied).returncode == 0
    alone = run("fusion-replay replay golden.h5", copied)
    assert alone.returncode == 4
    assert alone.stdout.rstrip().endswith("next: fusion-replay operators --new GatedScale --from golden.h5")
    (copied / "pyproject.toml").write_text('[tool.fusion-replay]\nimport = ["my_op.py"]\n')
    assert run("fusion-replay replay golden.h5", copied).returncode == 0
    assert "1 of 1 step mismatches" in run("python on_the_software_npu.py", copied).stdout
