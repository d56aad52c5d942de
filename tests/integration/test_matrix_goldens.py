# SPDX-License-Identifier: Apache-2.0
"""The goldens in snapshots/: complete, small, right by rule auto, and what the software NPU still computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fusion_replay as fr
from fusion_replay.golden.document import SUFFIX, Golden
from fusion_replay.golden.matrix import is_kept_whole, recipe_of
from fusion_replay.simulator.workloads import find
from fusion_replay.simulator.workloads.matrix import MatrixCase, cases

FOLDER = Path(__file__).parents[2] / "snapshots"
BUDGET = 8_000_000  # bytes of the whole folder

WHOLE = [c for c in cases() if is_kept_whole(c)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fusion_replay", *arguments], capture_output=True, text=True, check=False
    )


def place(case: MatrixCase) -> str:
    return f"{case.device}/{case.operator}/{case.name}"


def named(case: MatrixCase) -> str:
    return case.name


def test_every_case_has_its_golden_and_nothing_else_is_there() -> None:
    expected = {f"{place(c)}.h5" for c in WHOLE} | {f"{place(c)}{SUFFIX}" for c in cases()}
    found = {str(p.relative_to(FOLDER)) for p in FOLDER.rglob("*") if p.is_file() and p.parent.name != "__pycache__"}
    assert found == expected | {"README.md", "conftest.py"}


def test_the_folder_stays_small() -> None:
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < BUDGET


@pytest.mark.parametrize("case", cases(), ids=named)
def test_what_a_golden_says_of_itself(case: MatrixCase) -> None:
    """That it holds, and comes out again, is a test of its own: the plugin collects snapshots/."""
    path = FOLDER / f"{place(case)}{SUFFIX}"
    golden = Golden.read(path)
    assert golden.recipe == recipe_of(case)
    assert golden.mismatches == golden.losses == golden.tolerances == ()
    assert path.read_text() == golden.to_json(), "canonical: made again it is the same text"


def test_replay_of_a_golden_on_the_command_line() -> None:
    done = run("replay", str(FOLDER / "npu2/elementwise_add/npu2-elementwise_add-2048-c8-t256.h5"))
    assert done.returncode == 0, done.stderr
    assert "1 of 1 step matches" in done.stdout


def test_record_matrix_on_the_command_line(tmp_path: Path) -> None:
    arguments = ("record", "--matrix", "--device", "npu1", "--only", "elementwise_mul", "-o", str(tmp_path / "made"))
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    assert "3 of 3 parameter sets recorded and matching on the software NPU; 3 whole, 0 thin" in first.stdout
    assert "npu1-elementwise_mul-2048-c4-t512.golden.json: new, 1 step" in first.stdout
    assert "PASSED" in first.stdout
    again = run(*arguments)
    assert "3 unchanged" in again.stdout
    assert "new" not in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--matrix", "--only", "nope"), "matrix case 'nope' is unknown"),
        (("--matrix", "--sim", "npu1"), "record --matrix: takes --device, --only and -o"),
        (("--only", "gemm"), "--device and --only choose from --matrix"),
        (("--matrix", "-o", __file__), "expected a folder, found a file"),
    ],
)
def test_what_record_matrix_refuses(arguments: tuple[str, ...], message: str) -> None:
    done = run("record", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_the_application_at_full_size(tmp_path: Path) -> None:
    """Llama 3.2 1B with all its layers and widths, seeded weights: a prompt and one decoded token; 7 GB of disk."""
    run_ = find("llama").build("npu2", (), {"config": "llama-3.2-1b", "prompt": 13, "tokens": 2})
    with fr.record(tmp_path / "llama.h5", on_error="raise") as recorder:
        for callable_ in run_.callables:
            recorder.attach(callable_)
        run_.execute()
    report = fr.replay(tmp_path / "llama.h5")
    assert report.passed, str(report)
    assert report.compared == run_.dispatches == 16 * (15 + 32) + 1 + 4 + 882
