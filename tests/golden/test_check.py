# SPDX-License-Identifier: Apache-2.0
"""What moved is what the first line says; what could not be checked is red, each with its own words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay import refs
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.errors import UsageError
from fusion_replay.golden.add import add
from fusion_replay.golden.check import CheckOptions, check_folder, check_golden
from fusion_replay.golden.check_report import GoldenResult
from fusion_replay.golden.document import Contents, Golden
from fusion_replay.golden.project import Project
from fusion_replay.golden.review import accept, waiting
from fusion_replay.simulator.operators import ReLU
from golden_maker import recipe, record_workload

Maker = Callable[..., Path]
SIM = CheckOptions(on="sim")
BF16 = ml_dtypes.bfloat16


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def only(result: GoldenResult) -> str:
    """The kind, where there is one."""
    (kind,) = result.kinds
    return kind


# --- what moved -----------------------------------------------------------------------------------------------------


def test_nothing_moved(make: Maker) -> None:
    path = make("gelu", "op:GELU", options={"calls": 2})
    found = check_golden(path, SIM)
    assert found.passed
    assert found.headline == "gelu: 2 steps as accepted"
    assert {(s.question, s.state) for s in found.steps} == {("reference", "same"), ("npu", "same")}


def test_a_moved_reference(make: Maker, registry: None) -> None:
    path = make("gelu", "op:GELU")
    spec = refs.find("GELU")
    floor = {n: lambda call, x: np.zeros_like(np.asarray(x)) for n in spec.flavours}
    refs.register(replace(spec, flavours=floor), replace=True)
    found = check_golden(path, SIM)
    assert only(found) == "reference"
    assert found.headline.startswith("gelu: 0:0 GELU A -> C: reference moved: output C: digest ")
    assert found.headline.endswith("; was a match, is a MISMATCH now")
    assert [s.state for s in found.steps if s.question == "npu"] == ["same"]


def test_a_moved_npu(make: Maker) -> None:
    """The recipe is changed to inject a fault: what the same command gives another day."""
    path = make("gelu", "op:GELU")
    edit(path, lambda d: d["recipe"].update(faults=["0:0:zeros"]))
    assert check_golden(path).passed, "the first question knows nothing of it"
    found = check_golden(path, SIM)
    assert only(found) == "npu"
    assert found.headline.startswith("gelu: 0:0 GELU A -> C: NPU moved: output C: digest ")
    assert [s.state for s in found.steps if s.question == "reference"] == ["same"]


def test_inside_its_limits_is_said_and_passes_unless_bits_are_asked_for(make: Maker) -> None:
    path = make("gelu", "op:GELU")
    edit(path, lambda d: d["recipe"].update(faults=["0:0:bitflip"]))
    loose = {"op": "GELU", "limits": {"rtol": 0.5, "error_rate": 0.5}, "why": "a test"}
    edit(path, lambda d: (d["tolerances"].append(loose), d["steps"][0].update(limits=loose["limits"])))
    found = check_golden(path, SIM)
    assert found.passed, found.headline
    assert found.headline == "gelu: 1 step as accepted, 1 within their limits"
    assert only(check_golden(path, CheckOptions(on="sim", exact=True))) == "npu"


def test_a_moved_tolerance(make: Maker, registry: None) -> None:
    path = make("gelu", "op:GELU")
    spec = refs.find("GELU")
    refs.register(replace(spec, tolerance={"*": Tolerance(ulps=0)}), replace=True)
    found = check_golden(path, SIM)
    assert only(found) == "tolerance"
    assert "tolerance moved: limits were " in found.headline
    assert found.headline.endswith("are 0 bf16 ulp now; was a match, is a MISMATCH now")


def test_moved_inputs(make: Maker) -> None:
    path = make("gelu", "op:GELU")
    edit(path, lambda d: d["recipe"]["options"].update(seed=1))
    found = check_golden(path, SIM)
    assert only(found) == "inputs"
    assert "0:0 GELU A -> C: inputs moved: input A: digest " in found.headline


def test_the_environment_is_named_where_something_moved(make: Maker) -> None:
    path = make("gelu", "op:GELU")
    edit(path, lambda d: d["provenance"]["packages"].update(numpy="1.0"))
    assert check_golden(path).passed
    edit(path, lambda d: d["steps"][0]["expected"].update(C="0" * 32))
    found = check_golden(path)
    assert f"; environment moved: numpy 1.0 -> {np.__version__}" in found.headline


def test_what_follows_a_moved_step_is_told_apart(make: Maker) -> None:
    path = make("llama", "llama-decode", options={"tokens": 1, "layers": 1})
    edit(path, lambda d: d["recipe"].update(faults=["0:1:zeros"]))
    found = check_golden(path, SIM)
    moved = [s.address for s in found.steps if s.state == "moved"]
    assert moved == ["0:1"]
    assert sum(s.state == "follows" for s in found.steps) > 5
    assert any("after it" in line for line in found.lines)


# --- half a golden --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thin", [False, True])
def test_deleting_half_the_steps_is_noticed(make: Maker, thin: bool) -> None:
    path = make("gelu", "op:GELU", options={"calls": 4}, thin=thin)
    lines = path.read_text().splitlines(keepends=True)
    steps = [i for i, line in enumerate(lines) if line.startswith('{"address"')]
    without = [line for i, line in enumerate(lines) if i not in steps[:2]]
    path.write_text("".join(without))
    found = check_golden(path)
    assert only(found) == "unreadable"
    assert "it says 4 steps and has 2: lines were deleted" in found.headline
    path.write_text("".join(without).replace('"n_steps":4', '"n_steps":2'))
    found = check_golden(path)
    assert only(found) == "steps"
    assert "2 of 4 recorded steps are not in the golden, first 0:0 GELU" in found.headline


def test_a_shorter_recording_is_noticed_too(make: Maker, tmp_path: Path) -> None:
    path = make("gelu", "op:GELU", options={"calls": 2})
    shorter = record_workload(tmp_path / "s.h5", "op:GELU", calls=1)
    shutil.copyfile(shorter, path.with_name("gelu.h5"))
    assert only(check_golden(path)) == "contents"
    edit(path, lambda d: d.update(contents=Contents.of(shorter, "gelu.h5").to_dict()))
    found = check_golden(path)
    assert only(found) == "steps"
    assert "1:0 GELU A -> C: steps moved: the golden has this step, the recording has not" in found.headline


# --- thin -----------------------------------------------------------------------------------------------------------


def test_a_thin_golden_is_recorded_again(make: Maker) -> None:
    path = make("gelu", "op:GELU", thin=True)
    assert [p.name for p in path.parent.iterdir()] == ["gelu.golden.json"]
    assert check_golden(path).passed
    edit(path, lambda d: d["recipe"].update(faults=["0:0:zeros"]))
    assert only(check_golden(path)) == "npu"


def test_a_thin_golden_sees_its_reference_move(make: Maker) -> None:
    path = make("gelu", "op:GELU", thin=True)
    edit(path, lambda d: d["steps"][0]["expected"].update(C="0" * 32))
    assert only(check_golden(path)) == "reference"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"test": "tests/test_x.py::test_y"}, "only its test records it again: pytest tests/test_x.py::test_y"),
        ({"command": ["true"]}, "its recipe runs code (command true); allow that with --run-recipes"),
        ({"python": "nothing.py:build"}, "allow that with --run-recipes"),
        ({"workload": "nope", "device": "npu2"}, "workload 'nope' is unknown"),
        ({"workload": "op:GELU", "device": 3}, "expected device"),
        ({"matrix": "nope"}, "no case of the matrix is called 'nope'"),
        ({"fly": 1}, "recipe with fly: expected one of matrix"),
        (None, "it has no recipe"),
    ],
)
def test_recipes_that_lead_nowhere(make: Maker, given: Any, why: str) -> None:
    path = make("gelu", "op:GELU", thin=True)
    edit(path, lambda d: d.update(recipe=given))
    found = check_golden(path)
    assert only(found) == "recipe"
    assert f"can't be recorded again: {why}" in found.headline or why in found.headline
    assert check_folder(path.parent).exit_status == 4


def test_a_recipe_of_one_s_own(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "again.py").write_text(
        "import fusion_replay as fr\nfrom fusion_replay.simulator.operators import ReLU\n"
        "def build():\n    return fr.simulate([(ReLU(size=64), 'a', 'b')], device='npu1')\n"
    )
    source = tmp_path / "r.h5"
    call = fr.simulate([(ReLU(size=64), "a", "b")], device="npu1")
    with fr.record(source, call):
        call()
    path, _ = add(source, tmp_path / "g", thin=True, recipe={"python": "again.py:build"})
    assert check_golden(path, CheckOptions(run_recipes=True)).passed
    assert only(check_golden(path)) == "recipe"
    found = check_golden(path, CheckOptions(on="npu", run_recipes=True))
    assert only(found) == "environment"
    assert "ran on the software NPU, an NPU was asked for" in found.headline


# --- files ----------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "kind", "why"),
    [
        (lambda p: p.with_name("x.h5").unlink(), "missing", "its contents are missing; restore the file, or say"),
        (lambda p: cut(p.with_name("x.h5")), "contents", "bytes, the golden was accepted with"),
        (lambda p: flip(p.with_name("x.h5")), "contents", "its SHA-256 is not the one that was accepted"),
        (
            lambda p: p.with_name("x.h5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "contents",
            "run `git lfs pull`",
        ),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "unreadable", "run `git lfs pull`"),
        (cut, "unreadable", "no JSON"),
        (lambda p: p.write_text('{"format":"fusion-replay.golden/7"}'), "unreadable", "update fusion-replay"),
        (lambda p: edit(p, lambda d: d.update(name="y")), "name", "it calls itself 'y'"),
        (lambda p: edit(p, lambda d: d.update(steps=[], n_steps=0)), "not_compared", "it has no step"),
        (
            lambda p: edit(p, lambda d: d["tolerances"].append({"step": "9:9", "limits": {}, "why": "w"})),
            "unused_tolerance",
            "a tolerance for 9:9, of which it has no step",
        ),
        (
            lambda p: edit(p, lambda d: d["tolerances"].append({"op": "Gemm", "limits": {}, "why": "w"})),
            "unused_tolerance",
            "a tolerance for Gemm, of which it has no step",
        ),
        (lambda p: edit(p, lambda d: d["steps"][0].update(verdict="mismatch")), "mismatch", "that nobody accepted"),
    ],
)  # fmt: skip
def test_a_spoilt_golden_says_how(make: Maker, spoil: Callable[[Path], object], kind: str, why: str) -> None:
    path = make("x", "op:GELU")
    spoil(path)
    found = check_golden(path)
    assert not found.passed
    assert found.kinds[0] == kind
    assert why in found.headline
    assert "\n" not in found.headline


def test_foreign_contents(make: Maker, tmp_path: Path) -> None:
    path = make("x", "op:GELU")
    (tmp_path / "other").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    shutil.copyfile(tmp_path / "other", path.with_name("x.h5"))
    edit(path, lambda d: d.update(contents=Contents.of(tmp_path / "other", "x.h5").to_dict()))
    assert only(check_golden(path)) == "contents"


def test_an_operator_that_the_project_does_not_know(tmp_path: Path) -> None:
    with refs.plugins.forgetting():

        @fr.operator("Mine")
        def mine(A: Any) -> Any:
            return A

        one = np.ones(4, BF16)
        with fr.record(tmp_path / "m.h5") as rec, rec.step("Mine", {"A": one}) as step:
            step.outputs["C"] = one
        path, _ = add(tmp_path / "m.h5", tmp_path / "g")
        assert check_golden(path).passed
    found = check_golden(path)
    assert "unknown_operator" in found.kinds
    assert "no reference for operator Mine" in found.headline or "no reference for operator Mine" in "".join(
        s.text for s in found.steps
    )
    report = check_folder(tmp_path / "g")
    assert report.exit_status == 4
    assert report.compared == 0


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_whose_goldens_all_fail_to_load_is_red(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.golden.json").write_text("nothing")
    report = check_folder(tmp_path)
    assert not report.passed
    assert report.exit_status == 3
    assert len(report.failed) == 2


def test_an_empty_folder_is_red(tmp_path: Path) -> None:
    report = check_folder(tmp_path)
    assert not report.passed
    assert report.exit_status == 4
    assert "no golden here" in str(report.problems[0])


def test_a_filter_that_matches_nothing_is_an_error(make: Maker) -> None:
    folder = make("x", "op:GELU").parent
    with pytest.raises(UsageError, match="no golden matches 'y'; it has 1, such as x"):
        check_folder(folder, only="y")
    assert check_folder(folder, only="?").passed


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder of goldens, found nothing"):
        check_folder(tmp_path / "none")


def test_contents_that_no_golden_names_are_named(make: Maker) -> None:
    folder = make("x", "op:GELU").parent
    shutil.copyfile(folder / "x.h5", folder / "y.h5")
    report = check_folder(folder)
    assert [p.kind for p in report.problems] == ["unused"]
    assert report.exit_status == 1
    assert report.results[0].passed


def test_two_goldens_of_one_name(make: Maker) -> None:
    path = make("x", "op:GELU")
    (path.parent / "sub").mkdir()
    for file in list(path.parent.glob("x.*")):
        shutil.copyfile(file, path.parent / "sub" / file.name)
    report = check_folder(path.parent)
    assert [p.kind for p in report.problems] == ["twins"]
    assert "two goldens of one name" in str(report.problems[0])


def test_the_report_is_the_same_for_any_number_of_workers(make: Maker) -> None:
    for name, op in {"a": "op:GELU", "b": "op:ReLU", "c": "op:Transpose"}.items():
        folder = make(name, op).parent
    edit(folder / "b.golden.json", lambda d: d["steps"][0]["outputs"].update(C="0" * 32))
    one, three = (list(check_folder(folder, workers=n).records()) for n in (1, 3))
    assert one == three
    assert [r["name"] for r in one if r["type"] == "golden"] == ["a", "b", "c"]
    assert one[-1]["failed"] == 1


# --- contents elsewhere ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["big", "file"])
def test_contents_elsewhere(make: Maker, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = make("x", "op:GELU")
    (tmp_path / "big").mkdir()
    shutil.move(path.with_name("x.h5"), tmp_path / "big" / "x.h5")
    value = "big" if where == "big" else (tmp_path / "big").as_uri()
    (tmp_path / "pyproject.toml").write_text(f'[tool.fusion-replay]\ngolden-contents = "{value}"\n')
    assert check_golden(path).passed
    flip(tmp_path / "big" / "x.h5")
    assert only(check_golden(path)) == "contents"
    assert not list((tmp_path / "cache").rglob("*.h5")), "what lies in a folder is read there"


def test_contents_in_a_folder_are_as_long_as_accepted(make: Maker, tmp_path: Path) -> None:
    path = make("x", "op:GELU")
    (tmp_path / "big").mkdir()
    moved = shutil.move(path.with_name("x.h5"), tmp_path / "big" / "x.h5")
    size = Path(moved).stat().st_size
    project = tmp_path / "pyproject.toml"
    keys = f'[tool.fusion-replay]\ngolden-contents = "{(tmp_path / "big").as_uri()}"\n'
    project.write_text(keys + "golden-max-bytes = 100\n")
    assert check_golden(path).passed, "a limit of what is fetched"
    with Path(moved).open("ab") as file:
        file.write(b"more")
    found = check_golden(path)
    assert only(found) == "contents"
    assert f"{size + 4:,} bytes, the golden was accepted with {size:,}" in found.headline
    Path(moved).unlink()
    assert only(check_golden(path)) == "missing"
    project.write_text('[tool.fusion-replay]\ngolden-contents = "ftp://x"\n')
    assert "expected a folder, or a URL of https, http, file" in check_golden(path).headline


def test_every_golden_records_where_it_came_from(make: Maker) -> None:
    golden = Golden.read(make("x", "op:GELU"))
    assert golden.provenance["packages"]["numpy"] == np.__version__
    assert golden.recipe == recipe("op:GELU")
    assert golden.recorded_on == ("the software NPU (npu2)",)


def test_an_accept_in_the_same_environment_changes_the_steps_that_moved_alone(make: Maker) -> None:
    path = make("gelu", "op:GELU", options={"calls": 3}, thin=True)
    right = path.read_text().splitlines()
    said = Golden.read(path)
    steps = list(said.steps)
    steps[1] = replace(steps[1], outputs={"C": "0" * 32})
    path.write_text(replace(said, steps=tuple(steps)).to_json())
    found = check_golden(path, CheckOptions(write_new=True))
    assert found.pending is not None
    accept(waiting(path.parent)[0], Project.find(path.parent))
    assert path.read_text().splitlines() == right
