# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin under pytest 8 and 9, with and without pytest-xdist, alone and beside other snapshot plugins.

Each pytest is installed into a folder of its own, which comes first on the path; what else is needed comes from the
environment at hand. `make test-plugins` demands them; elsewhere what cannot be installed is skipped, with that reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "golden_project"
INSTALLED = ROOT / ".venv-plugins"
NAME = "tests.test_softcap.test_capped_sum"
MOVED = f"{NAME}: 0:1 SoftCap sum -> out: NPU moved: output C"

# A test of each neighbour's own, with what it had accepted; syrupy and pytest-snapshot can't be installed together.
NEIGHBOURS: Mapping[str, Mapping[str, str]] = {
    "": {},
    "syrupy": {
        "tests/test_beside.py": "def test_beside(snapshot): assert snapshot == 'text'\n",
        "tests/__snapshots__/test_beside.ambr": "# serializer version: 1\n# name: test_beside\n  'text'\n# ---\n",
    },
    "pytest-snapshot": {
        "tests/test_beside.py": """
def test_beside(snapshot):
    snapshot.snapshot_dir = "beside"
    snapshot.assert_match("text", "x.txt")
""",
        "beside/x.txt": "text",
    },
    "pytest-replay": {"tests/test_beside.py": "def test_beside(): pass\n"},
    "pytest-golden": {
        "tests/test_beside.py": """
import pytest

@pytest.mark.golden_test("beside.yml")
def test_beside(golden): assert golden["input"] == golden.out["output"]
""",
        "tests/beside.yml": "input: text\noutput: text\n",
    },
}

pytestmark = pytest.mark.long


@pytest.fixture
def project(tmp_path: Path, neighbour: str) -> Path:
    copy = Path(shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__", "*.new")))
    for name, text in NEIGHBOURS[neighbour].items():
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text)
    return copy


def installed(major: int, neighbour: str) -> Path:
    """A folder with that pytest, pytest-xdist, the neighbour, and our own entry point, as an installation has it."""
    folder = INSTALLED / f"pytest{major}{'-' if neighbour else ''}{neighbour}"
    if folder.is_dir():
        return folder
    INSTALLED.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=INSTALLED, prefix=".making-"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(made)]
    wanted = [f"pytest=={major}.*", "pytest-xdist", *([neighbour] if neighbour else [])]
    done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        shutil.rmtree(made)
        why = f"{' '.join(wanted)}: can't be installed: {done.stderr.strip().splitlines()[-1]}"
        (pytest.fail if os.environ.get("REQUIRE_PLUGINS") else pytest.skip)(why)
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    info = made / "fusion_replay-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fusion-replay\nVersion: 0\n")
    lines = [f"{key} = {value}" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    try:
        made.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(made)
    return folder


def run(folder: Path, where: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("CI", "GITHUB", "PYTEST"))}
    env |= {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(
        command, cwd=where, capture_output=True, text=True, env={**outside, **env}, check=False, timeout=300
    )


def cases(path: Path) -> dict[str, ET.Element]:
    return {f"{c.get('classname')}::{c.get('name')}": c for c in ET.parse(path).iter("testcase")}


def said(case: ET.Element) -> dict[str | None, str | None]:
    return {p.get("name"): p.get("value") for p in case.iter("property")}


@pytest.mark.parametrize("workers", [("-p", "no:xdist"), ("-n", "2")], ids=["one-process", "xdist"])
@pytest.mark.parametrize("neighbour", NEIGHBOURS, ids=lambda n: n or "alone")
@pytest.mark.parametrize("major", [8, 9])
def test_beside(project: Path, major: int, neighbour: str, workers: tuple[str, ...]) -> None:
    folder = installed(major, neighbour)
    versions = {d.name: d.version for d in distributions(path=[str(folder)])}
    assert versions["pytest"].startswith(f"{major}.")
    beside = bool(neighbour)
    record = ("--replay-record-dir=replays",) if neighbour == "pytest-replay" else ()

    fine = run(folder, project, *workers, *record, "--junitxml=fine.xml")
    assert fine.returncode == 0, fine.stdout + fine.stderr
    lines = fine.stdout.splitlines()
    assert "1 of 1 golden holds; 2 steps compared" in lines
    assert f" {3 + beside} passed in " in lines[-1]
    assert any(f"pytest-{versions['pytest']}," in x for x in lines), "the pytest of that folder ran"
    if beside:
        assert any(x.startswith("plugins:") and f"{neighbour.removeprefix('pytest-')}-" in x for x in lines)
    found = cases(project / "fine.xml")
    assert len(found) == 3 + beside
    assert said(found["tests.test_softcap::test_capped_sum"]) == {
        "fr_golden": NAME,
        "fr_compared": "2",
        "fr_within": "0",
        "fr_headline": f"{NAME}: 2 steps as accepted",
    }
    if beside:
        theirs = next(c for name, c in found.items() if name.startswith("tests.test_beside::test_beside"))
        assert said(theirs) == {}, "nothing of ours in other people's tests"

    golden = project / "goldens" / f"{NAME}.golden.json"
    before = golden.read_bytes()
    again = ("--replay=replay.txt",) if record else ()  # of all workers: each wrote a file of its own
    (project / "replay.txt").write_text("".join(p.read_text() for p in (project / "replays").glob("*.txt")))
    fault = run(folder, project, *workers, *again, "--junitxml=fault.xml", FAULTS="SoftCap:shift")
    assert fault.returncode == 1, fault.stdout + fault.stderr
    assert any(x.startswith(MOVED) for x in fault.stdout.splitlines())
    assert f" 1 failed, {2 + beside} passed in " in fault.stdout.splitlines()[-1]
    assert "0 of 1 golden holds; 2 steps compared" in fault.stdout
    case = cases(project / "fault.xml")["tests.test_softcap::test_capped_sum"]
    failure = case.find("failure")
    assert failure is not None
    assert (failure.text or "").startswith(MOVED)
    assert said(case)["fr_moved"] == "npu"
    assert (said(case)["fr_step 0:1"] or "").startswith("NPU moved: output C")
    assert golden.read_bytes() == before
    assert golden.with_name(f"{golden.name}.new").exists()
