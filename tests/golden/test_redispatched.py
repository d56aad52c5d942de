# SPDX-License-Identifier: Apache-2.0
"""Goldens that hold binaries run those on the NPU at hand; here pyxrt's double is that NPU."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.golden import redispatched
from fusion_replay.golden.add import add
from fusion_replay.golden.check import CheckOptions, check_folder, check_golden
from replaying.redispatch.conftest import machine, write

__all__ = ["machine"]

NPU = CheckOptions(on="npu")
STEPS = ["0:0", "0:1", "0:2", "0:3", "0:4"]


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden of five steps with their binaries, made once."""
    folder = tmp_path_factory.mktemp("accepted")
    return add(write(folder / "block.h5"), folder)[0]


@pytest.fixture
def golden(accepted: Path, goldens: Path) -> Path:
    goldens.mkdir()
    for file in accepted.parent.iterdir():
        shutil.copyfile(file, goldens / file.name)
    return goldens / accepted.name


def npu(found: Any) -> dict[str, str]:
    return {s.address: s.state for s in found.steps if s.question == "npu"}


def test_an_honest_device_gives_what_was_accepted(machine: Any, golden: Path) -> None:
    before = {p.name: p.read_bytes() for p in golden.parent.iterdir()}
    found = check_golden(golden, NPU)
    assert found.passed, found.lines
    assert npu(found) == dict.fromkeys(STEPS, "same")
    assert machine.runs == 5
    assert found.headline == "block: 5 steps as accepted"
    assert {p.name: p.read_bytes() for p in golden.parent.iterdir()} == before, "no journal either"


def test_a_drifted_device_is_the_npu_s_fault(machine: Any, golden: Path) -> None:
    """One ULP up: inside the limits of sums and SiLU, but a copy and ReLU are exact or wrong."""
    machine.behaviour = "drifted"
    found = check_golden(golden, NPU)
    assert npu(found) == {"0:0": "within", "0:1": "within", "0:2": "moved", "0:3": "moved", "0:4": "within"}
    assert found.kinds == ("npu",)
    assert found.headline.startswith("block: 0:2 StridedCopy ")
    assert "NPU moved: newly wrong: " in found.headline
    assert check_folder(golden.parent, NPU).exit_status == 1
    exact = check_golden(golden, CheckOptions(on="npu", exact=True))
    assert npu(exact) == dict.fromkeys(STEPS, "moved")


def test_a_golden_s_own_limits_are_in_force(machine: Any, golden: Path) -> None:
    """What drifted is let pass (0:3) and refused (0:0) by nobody but the golden."""
    machine.behaviour = "drifted"
    own = [{"op": "ReLU", "limits": {"ulps": 1}, "why": "a test"}, {"step": "0:0", "limits": {}, "why": "a test"}]
    data = json.loads(golden.read_text())
    golden.write_text(json.dumps({**data, "tolerances": own}))
    states = npu(check_golden(golden, NPU))
    assert states == {"0:0": "moved", "0:1": "within", "0:2": "moved", "0:3": "within", "0:4": "within"}


def test_a_lost_device_is_one_failure_and_the_rest_not_run(machine: Any, golden: Path) -> None:
    for file in list(golden.parent.iterdir()):
        shutil.copyfile(file, golden.parent / f"next{file.name.removeprefix('block')}")
    later = golden.parent / "next.golden.json"
    data = json.loads(later.read_text())
    later.write_text(json.dumps(data | {"name": "next", "contents": data["contents"] | {"file": "next.h5"}}))
    machine.behaviour, machine.strikes = "lost", frozenset({1})
    report = check_folder(golden.parent, NPU, workers=4)
    first, second = report.results
    assert npu(first) == {"0:0": "same", "0:1": "moved", **dict.fromkeys(STEPS[2:], "not_compared")}
    assert "NPU moved: device lost: " in first.headline
    assert "No such device" in first.headline
    assert npu(second) == dict.fromkeys(STEPS, "not_compared")
    assert not second.passed
    assert "the device was lost at block 0:1 SiLU" in second.headline
    assert {s.state for s in second.steps if s.question == "reference"} == {"same"}, "that needs no device"
    assert machine.runs == 2
    assert report.exit_status == 1
    assert sum(s.state == "moved" for r in report.results for s in r.steps) == 1


def test_a_hung_step_is_tried_again_at_the_next_check(
    machine: Any, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redispatched, "redispatch", partial(redispatched.redispatch, timeout=0.05))
    machine.behaviour, machine.strikes = "hanging", frozenset({1})
    found = check_golden(golden, NPU)
    assert npu(found) == {**dict.fromkeys(STEPS, "same"), "0:1": "moved"}
    assert "NPU moved: hung: ERT_CMD_STATE_TIMEOUT" in found.headline
    machine.behaviour = "honest"
    assert check_golden(golden, NPU).passed, "no journal of the earlier check is believed"


def test_without_pyxrt_it_is_missing_with_the_reason(golden: Path) -> None:
    report = check_folder(golden.parent, NPU)
    assert report.exit_status == 4
    assert not report.passed
    (result,) = report.results
    assert "can't be dispatched again: pyxrt: expected XRT's Python binding, found none" in result.headline
    assert result.compared == 5, "the reference is asked all the same"


def test_another_generation_is_missing_too(machine: Any, golden: Path) -> None:
    machine.device_name = "NPU Strix"
    report = check_folder(golden.parent, NPU)
    assert report.exit_status == 4
    assert "recorded on npu1, the device here is NPU Strix" in report.results[0].headline


def test_binaries_of_some_steps_only(machine: Any, tmp_path: Path, goldens: Path) -> None:
    from replaying.redispatch.conftest import kernel_files

    source = write(tmp_path / "half.h5", files=lambda sequence: kernel_files(sequence)[:2])
    path, _ = add(source, goldens)
    found = check_golden(path, NPU)
    assert npu(found) == {"0:0": "same", "0:1": "same", **dict.fromkeys(STEPS[2:], "not_compared")}
    assert "the recording has no binaries of it" in found.headline
    assert check_folder(goldens, NPU).exit_status == 4


def test_binaries_that_were_not_kept_leave_the_recipe(machine: Any, tmp_path: Path, goldens: Path) -> None:
    path, _ = add(write(tmp_path / "bare.h5", keep=False), goldens)
    found = check_golden(path, NPU)
    assert found.kinds == ("recipe",)
    assert machine.runs == 0


def test_a_recipe_that_may_run_goes_before_binaries(machine: Any, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "again.py").write_text("def build():\n    raise OSError('the compiler is not there')\n")
    data = json.loads(golden.read_text())
    golden.write_text(json.dumps(data | {"recipe": {"python": "again.py:build"}}))
    assert check_golden(golden, NPU).passed
    found = check_golden(golden, CheckOptions(on="npu", run_recipes=True))
    assert found.kinds == ("recipe",)
    assert "python again.py:build failed: OSError: the compiler is not there" in found.headline


def test_what_moved_without_a_recording_says_how_to_get_one(machine: Any, golden: Path) -> None:
    machine.behaviour = "idle"
    found = check_golden(golden, CheckOptions(on="npu", write_new=True))
    assert "NPU moved: wrote nothing: the run completed, no byte of its outputs changed" in found.headline
    assert found.pending is None
    assert any("--run-recipes makes what can be reviewed" in note for note in found.notes)


def test_a_recording_of_the_software_npu_needs_no_recipe(golden: Path) -> None:
    found = check_golden(golden, CheckOptions(on="sim"))
    assert found.passed
    assert npu(found) == dict.fromkeys(STEPS, "same")
    data = json.loads(golden.read_text())
    golden.write_text(json.dumps(data | {"recipe": {"fly": 1}}))
    assert check_golden(golden, CheckOptions(on="sim")).kinds == ("recipe",), "a recipe that is wrong is told"
