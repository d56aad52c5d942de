# SPDX-License-Identifier: Apache-2.0
"""``golden add`` and ``golden check`` as they are typed: exit status, first line, summary, next."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from cli.conftest import write_adds
from commands import Command, Result
from fusion_replay.golden.add import add
from fusion_replay.report.jsonl import schema
from golden_maker import recipe, record_workload

GELU = {"param": ["size=256"], "calls": 2}
NAMES = ("gelu", "relu")
SCHEMA = jsonschema.validators.validator_for(schema())(schema())


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A project of its own, in no CI job."""
    for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two goldens of two steps each, made once."""
    folder = tmp_path_factory.mktemp("accepted")
    for name, workload in zip(NAMES, ("op:GELU", "op:ReLU"), strict=True):
        made = record_workload(folder / f"{name}.h5", workload, **GELU)
        add(made, folder, recipe=recipe(workload, **GELU))
    return folder


@pytest.fixture
def folder(accepted: Path) -> Path:
    shutil.copytree(accepted, "goldens")
    return Path("goldens")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def records(seen: Result) -> list[dict[str, Any]]:
    found = [json.loads(line, parse_constant=pytest.fail) for line in seen.out.splitlines()]
    for record in found:
        SCHEMA.validate(record)
    return found


# --- add --------------------------------------------------------------------------------------------------------------


def test_add_and_the_command_that_it_names(run: Command, good: Path) -> None:
    seen = run("golden", "add", good)
    first, last = seen.out.splitlines()
    assert seen.status == 0
    assert first.startswith("goldens/good.golden.json: 3 steps, ")
    assert first.endswith(", no recipe")
    assert last.startswith("PASSED in ")
    assert last.endswith("; next: fusion-replay golden check goldens")
    assert sorted(p.name for p in Path("goldens").iterdir()) == ["good.golden.json", "good.h5"]
    assert run("golden", "check", "goldens").status == 0


def test_a_recording_of_a_workload_brings_its_recipe(run: Command) -> None:
    words = ("record", "-o", "r.h5", "--workload", "op:ReLU", "--sim", "npu1", "--param", "size=256")
    assert run(*words).status == 0
    assert ", thin, workload op:ReLU\n" in run("golden", "add", "r.h5", "--thin", "--name", "thin").out
    assert sorted(p.name for p in Path("goldens").iterdir()) == ["thin.golden.json"]
    assert run("golden", "check").status == 0


def test_limits_of_its_own_are_written_with_their_reason(run: Command, good: Path) -> None:
    words = ("--tolerance", "ElementwiseAdd=ulps 1 because of a test", "--tolerance", "1:0=exact because of two")
    assert run("golden", "add", good, *words).status == 0
    said = json.loads(Path("goldens/good.golden.json").read_text())["tolerances"]
    assert said == [
        {"op": "ElementwiseAdd", "limits": {"ulps": 1}, "why": "of a test"},
        {"step": "1:0", "limits": {}, "why": "of two"},
    ]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["none.h5"], 3, "none.h5: "),
        (["bad.h5"], 1, '1 of 3 steps mismatch, first 1:0 ElementwiseAdd A, B -> C; see `fusion-replay replay bad.h5`'),
        (["unknown.h5"], 4, "0:0 Frobnicate A, B -> C cannot be part of a golden (and 2 more steps): "),
        (["good.h5", "--thin"], 2, "say how with --command or --python"),
        (["good.h5", "--name", "../x"], 2, "golden name '../x': expected letters, digits"),
        (["good.h5", "--dir", "good.h5/x"], 2, "can't be written: Not a directory"),
        (["good.h5", "--tolerance", "GEMV=ulps 2 because x"], 2, "tolerance for GEMV: good.h5 has no such step"),
        (["good.h5", "--tolerance", "9:9=ulps 2 because x"], 2, "tolerance for 9:9: good.h5 has no such step"),
        (["good.h5", "--tolerance", "ElementwiseAdd=ulps 2"], 2, "expected its reason, as in"),
        (["good.h5", "--tolerance", "ElementwiseAdd=ulp 2 because x"], 2, "'ulp': expected one of ulps"),
        (["good.h5", "--command", "x", "--python", "y"], 2, "are two ways to record it again; give one"),
        (["there.h5"], 2, "there.golden.json: exists already; give another --name"),
        (["pyproject.toml"], 3, "pyproject.toml: "),
    ],
)  # fmt: skip
def test_what_add_refuses(run: Command, words: list[str], status: int, says: str) -> None:
    makers = {"bad.h5": {"wrong": 1}, "unknown.h5": {"op": "Frobnicate"}}
    if words[0] in ("good.h5", "bad.h5", "unknown.h5", "there.h5"):
        write_adds(Path(words[0]), **makers.get(words[0], {}))  # type: ignore[arg-type]
    Path("goldens").mkdir()
    Path("goldens/there.golden.json").write_text("mine")
    seen = run("golden", "add", *words)
    assert (seen.status, seen.out) == (status, "")
    assert says in seen.err
    assert len(seen.err.splitlines()) == 1
    assert {p.name: p.read_text() for p in Path("goldens").iterdir()} == {"there.golden.json": "mine"}


def test_a_document_that_can_not_be_written_leaves_no_contents(
    run: Command, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusion_replay.golden import add as module

    def full(target: Path, what: str | Path) -> None:
        if isinstance(what, str):
            raise OSError(28, "No space left on device")
        shutil.copyfile(what, target)

    monkeypatch.setattr(module, "write_new", full)
    seen = run("golden", "add", good)
    assert seen.status == 2
    assert "goldens: can't be written: No space left on device" in seen.err
    assert list(Path("goldens").iterdir()) == []


def test_a_mismatch_is_accepted_for_a_reason_and_told_at_every_check(run: Command, bad: Path) -> None:
    assert run("golden", "add", bad, "--accept-mismatch", "firmware 1.5").status == 0
    seen = run("golden", "check")
    assert seen.status == 0
    assert "bad: note: 1 known mismatch: firmware 1.5" in seen.out


# --- check ------------------------------------------------------------------------------------------------------------


def test_what_holds_is_one_line_and_the_end(run: Command, folder: Path) -> None:
    seen = run("golden", "check", folder, "--on", "sim")
    assert seen.status == 0
    summary, last = seen.out.splitlines()
    assert summary == "2 of 2 goldens hold; 4 steps compared"
    assert last.startswith("PASSED in ")
    assert "next" not in last


def moved_npu(folder: Path) -> None:
    edit(folder / "gelu.golden.json", lambda d: d["recipe"].update(faults=["1:0:zeros"]))


def moved_inputs(folder: Path) -> None:
    edit(folder / "gelu.golden.json", lambda d: d["recipe"]["options"].update(seed=1))


def moved_reference(folder: Path) -> None:
    edit(folder / "gelu.golden.json", lambda d: d["steps"][1].update(expected={"C": "0" * 32}))


def moved_tolerance(folder: Path) -> None:
    edit(folder / "gelu.golden.json", lambda d: d["steps"][1]["limits"].update(rtol=0.5))


@pytest.mark.parametrize(
    ("spoil", "first"),
    [
        (moved_npu, "gelu: 1:0 GELU A -> C: NPU moved: output C: digest "),
        (moved_inputs, "gelu: 0:0 GELU A -> C: inputs moved: input A: digest "),
        (moved_reference, "gelu: 1:0 GELU A -> C: reference moved: output C: digest "),
        (moved_tolerance, "gelu: 1:0 GELU A -> C: tolerance moved: limits were "),
    ],
)
def test_the_first_line_says_which_side_moved(
    run: Command, folder: Path, spoil: Callable[[Path], None], first: str
) -> None:
    spoil(folder)
    seen = run("golden", "check", folder, "--on", "sim")
    assert seen.status == 1
    lines = seen.out.splitlines()
    assert lines[0].startswith(first)
    assert lines[-2] == "1 of 2 goldens hold; 4 steps compared"
    assert lines[-1].startswith("FAILED in ")
    assert lines[-1].endswith("; next: fusion-replay golden check goldens --filter gelu --write-new --on sim")
    listed = records(run("golden", "check", folder, "--on", "sim", "--json"))
    assert [r["passed"] for r in listed if r["type"] == "golden"] == [False, True]
    assert listed[0]["headline"] == lines[0]
    assert listed[-1]["type"] == "golden_summary"
    assert (listed[-1]["on"], listed[-1]["failed"], listed[-1]["compared"]) == ("sim", 1, 4)
    assert {r["state"] for r in listed if r["type"] == "golden_step"} == {"moved"} | (
        {"follows"} if spoil is moved_inputs else set()
    )


def test_the_environment_stands_in_the_first_line(run: Command, folder: Path) -> None:
    moved_npu(folder)
    edit(folder / "gelu.golden.json", lambda d: d["provenance"].update(driver="1.0-old"))
    edit(folder / "gelu.golden.json", lambda d: d["provenance"]["packages"].update(numpy="1.0"))
    first = run("golden", "check", folder, "--on", "sim").out.splitlines()[0]
    assert "NPU moved" in first
    assert "; environment moved: numpy 1.0 -> " in first


def test_what_was_not_compared_is_counted_with_its_reason(run: Command, folder: Path) -> None:
    import numpy as np

    import fusion_replay as fr
    from fusion_replay.refs import plugins

    with plugins.forgetting():

        @fr.operator("Mine")
        def mine(A: Any) -> Any:
            return A

        with fr.record("m.h5") as rec, rec.step("Mine", {"A": np.ones(4, np.float32)}) as step:
            step.outputs["C"] = np.ones(4, np.float32)
        assert run("golden", "add", "m.h5").status == 0
    seen = run("golden", "check", folder)
    assert seen.status == 4
    summary = seen.out.splitlines()[-2]
    assert summary.startswith("2 of 3 goldens hold; 4 steps compared; 1 not compared: no reference for operator Mine")
    assert records(run("golden", "check", folder, "--json"))[-1]["not_compared"] != {}


def test_a_filter_leaves_out_and_says_so(run: Command, folder: Path) -> None:
    assert run("golden", "check", folder, "--filter", "re*").out.splitlines()[0] == (
        "1 of 1 golden holds; 2 steps compared; 1 left out by the filter"
    )


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--filter", "none"], 2, "no golden matches 'none'; it has 2, such as gelu, relu"),
        (["--exact"], 2, "--exact is for --on sim or --on npu"),
        (["--on", "tpu"], 2, "tpu"),
        (["--workers", "0"], 2, "workers"),
    ],
)
def test_usage(run: Command, folder: Path, words: list[str], status: int, says: str) -> None:
    seen = run("golden", "check", folder, *words)
    assert (seen.status, seen.out) == (status, "")
    assert says in seen.err


def test_no_folder_and_an_empty_one(run: Command, tmp_path: Path) -> None:
    seen = run("golden", "check", "none")
    assert seen.status == 2
    assert "none: expected a folder of goldens, found nothing; `fusion-replay golden add` makes one" in seen.err
    assert "found a file" in run("golden", "check", "pyproject.toml").err
    Path("empty").mkdir()
    seen = run("golden", "check", "empty")
    assert seen.status == 4
    assert seen.out.splitlines()[0] == "empty: no golden here; `fusion-replay golden add F` makes one of a recording"
    assert seen.out.splitlines()[-1].startswith("FAILED")


def test_goldens_that_all_fail_to_load_are_red(run: Command, folder: Path) -> None:
    for path in folder.glob("*.golden.json"):
        path.write_bytes(path.read_bytes()[:-20])
    seen = run("golden", "check", folder)
    assert seen.status == 3
    assert seen.out.splitlines()[-2] == "0 of 2 goldens hold; 0 steps compared"
    assert run("golden", "check", folder, "--json").status == 3


def test_an_npu_that_is_not_here_is_missing(run: Command, folder: Path) -> None:
    seen = run("golden", "check", folder, "--on", "npu")
    assert seen.status == 1, "its recipe runs on the software NPU: that is no answer"
    assert seen.out.splitlines()[0] == (
        "gelu: environment moved: its recipe ran on the software NPU, an NPU was asked for"
    )


def test_a_pull_request_of_many_failures_stays_a_screenful(run: Command, accepted: Path) -> None:
    Path("goldens").mkdir()
    for i in range(25):
        Path(f"goldens/{i:02}.golden.json").write_text("nothing")
    lines = run("golden", "check").out.splitlines()
    assert "and 5 goldens more that fail; --json has all" in lines
    assert len(lines) < 30


def test_a_golden_of_another_device_leads_to_no_command_that_fails_alike(run: Command, folder: Path) -> None:
    seen = run("golden", "check", folder, "--on", "npu", "--filter", "gelu")
    assert seen.status == 1
    assert "its recipe ran on the software NPU, an NPU was asked for" in seen.out
    assert "next:" not in seen.out


# --- *.new ------------------------------------------------------------------------------------------------------------


def test_a_failing_check_leads_to_the_review(run: Command, folder: Path) -> None:
    moved_inputs(folder)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    seen = run("golden", "check", folder, "--on", "sim", "--write-new")
    assert seen.status == 1
    assert seen.out.splitlines()[-1].endswith("; next: fusion-replay golden review goldens")
    assert "  for review: goldens/gelu.golden.json.new" in seen.out.splitlines()
    assert {p: p.read_bytes() for p in before} == before
    assert sorted(p.name for p in folder.glob("*.new")) == ["gelu.golden.json.new", "gelu.h5.new"]
    elsewhere = run("golden", "check", folder, "--on", "sim", "--new-dir", "new")
    assert elsewhere.out.splitlines()[-1].endswith("; next: fusion-replay golden review new --into goldens")
    (golden,) = [r for r in records(run("golden", "check", folder, "--on", "sim", "--json")) if r.get("notes")]
    assert golden["notes"] == ["goldens/gelu.golden.json.new waits for a review"]


def test_what_is_left_over_is_named_and_not_overwritten(run: Command, folder: Path) -> None:
    moved_inputs(folder)
    left = folder / "gelu.golden.json.new"
    left.write_text("mine")
    seen = run("golden", "check", folder, "--on", "sim", "--write-new")
    assert seen.status == 1
    assert "note: goldens/gelu.golden.json.new: left over from before, it was not overwritten" in seen.out
    assert "`fusion-replay golden accept gelu --dir goldens` or `reject gelu --dir goldens`" in seen.out
    assert left.read_text() == "mine"
    left.unlink()
    (folder / "gelu.h5.new").write_text("mine")
    seen = run("golden", "check", folder, "--on", "sim", "--write-new")
    assert "gelu.h5.new: left over from before, it was not overwritten" in seen.out
    assert (folder / "gelu.h5.new").read_text() == "mine"
    assert not left.exists(), "a document never waits without its contents"


def test_a_folder_that_can_not_be_written_is_a_note(run: Command, folder: Path) -> None:
    moved_inputs(folder)
    seen = run("golden", "check", folder, "--on", "sim", "--new-dir", "pyproject.toml/new")
    assert seen.status == 1
    assert "pyproject.toml/new: can't be written (Not a directory); give another folder with --new-dir" in seen.out


def test_a_read_only_folder_is_a_note(run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion_replay.golden import pending

    def refused(target: Path, what: object) -> None:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(pending, "write_new", refused)
    moved_inputs(folder)
    seen = run("golden", "check", folder, "--on", "sim", "--write-new")
    assert seen.status == 1
    assert "goldens: can't be written (Permission denied); give another folder with --new-dir" in seen.out
    assert seen.out.splitlines()[0].startswith("gelu: 0:0 GELU A -> C: inputs moved")


# --- GitHub Actions ---------------------------------------------------------------------------------------------------


def test_annotations_and_the_step_summary(run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    moved_npu(folder)
    seen = run("golden", "check", folder, "--on", "sim")
    (error,) = [line for line in seen.out.splitlines() if line.startswith("::")]
    assert error.startswith("::error file=goldens/gelu.golden.json,title=golden gelu::gelu: 1:0 GELU A -> C: NPU moved")
    told = Path("summary.md").read_text()
    assert told.startswith("### Goldens: FAILED\n\n1 of 2 goldens hold; 4 steps compared\n")
    assert "| gelu | npu | `gelu: 1:0 GELU A -> C: NPU moved" in told
    assert all(r["type"].startswith("golden") for r in records(run("golden", "check", folder, "--json")))
    assert Path("summary.md").read_text().startswith(told), "appended to"


# --- list, show, remove, JUnit ----------------------------------------------------------------------------------------


def test_list_show_and_remove(run: Command, folder: Path) -> None:
    seen = run("golden", "list")
    assert seen.status == 0
    assert [line.split("  ")[0] for line in seen.out.splitlines()] == [*NAMES, "2 goldens"]
    seen = run("golden", "show", "gelu")
    assert seen.out.startswith("goldens/gelu.golden.json: 2 steps, ")
    assert "0:0 GELU A -> C  match" in seen.out
    assert run("golden", "remove", "gelu", "nobody").status == 2
    assert run("golden", "list").out.endswith("2 goldens\n")
    assert run("golden", "remove", "gelu").status == 0
    assert sorted(p.name for p in folder.iterdir()) == ["relu.golden.json", "relu.h5"]
    (folder / "relu.golden.json").write_text("{")
    seen = run("golden", "list")
    assert (seen.status, "no JSON" in seen.err) == (3, True)


def test_the_same_words_everywhere(run: Command, folder: Path) -> None:
    """Place, size and cause of an output that moved: in the first line of a check, in JUnit and in the review."""
    edit(folder / "gelu.golden.json", lambda d: d["recipe"]["faults"].append("GELU:shift:64"))
    seen = run("golden", "check", "--on", "sim", "--write-new", "--junit", "j.xml")
    headline = seen.out.splitlines()[0]
    assert headline.startswith("gelu: 0:0 GELU A -> C: NPU moved: output C: digest ")
    assert re.search(r"; rel_l2 [\d.]+, max_abs [\d.]+ from the accepted one; where: .+; cause: .*shift.*64", headline)
    root = ElementTree.parse("j.xml").getroot()
    failures = {c.get("name"): c.find("failure") for c in root.iter("testcase")}
    assert list(failures) == ["gelu", "relu", "folder"]
    assert failures["relu"] is None
    assert failures["gelu"] is not None
    assert failures["gelu"].get("message") == headline
    assert f"  {headline.removeprefix('gelu: ')}" in run("golden", "review").out.splitlines()
    assert run("golden", "accept", "gelu", "--accept-mismatch", "a fault").status == 0
    assert "moved" not in json.loads((folder / "gelu.golden.json").read_text())
