# SPDX-License-Identifier: Apache-2.0
"""replay and record: exit statuses, last lines, and every JSON record against the published schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import ml_dtypes
import numpy as np
import pytest

from fusion_replay.record import record
from fusion_replay.report.jsonl import schema


def test_all_match(run, good: Path) -> None:
    result = run("replay", good)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("3 of 3 steps match")
    assert result.out.splitlines()[-1].startswith("PASSED in ")
    assert "next:" not in result.out


def test_mismatch(run, bad: Path) -> None:
    result = run("replay", bad)
    assert result.status == 1
    assert "1:0 ElementwiseAdd A, B -> C" in result.out
    assert result.out.splitlines()[-1].endswith(f"next: fusion-replay show {bad} 1:0")
    every = run("replay", bad, "--all")
    assert [f"{i}:0" in every.out for i in range(3)] == [True] * 3


def test_the_choice_of_rule_and_reference_is_named(run, good: Path) -> None:
    for rule in ("auto", "iron-compare", "iron-test", "aie-verify", "strict"):
        assert f"rule {rule}" in run("replay", good, "--rule", rule).out
    for flavour in ("pr117", "iron-2026-08", "iron-2026-09", "exact"):
        assert flavour in run("replay", good, "--reference", flavour).out
    assert run("replay", good, "--reference", "installed").status == 4


def test_comparing_nothing_is_no_pass(run, unknown: Path, tmp_path: Path) -> None:
    result = run("replay", unknown)
    assert result.status == 4
    assert "Frobnicate" in result.err
    with record(tmp_path / "nothing.h5"):
        pass
    assert run("replay", tmp_path / "nothing.h5").status == 4


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A step nobody can judge beside one that is right (or, in ``wrong.h5``, wrong)."""
    a = np.ones(64, ml_dtypes.bfloat16)
    for name, c in (("mixed.h5", a + a), ("wrong.h5", a)):
        with record(tmp_path / name) as rec:
            with rec.step("Frobnicate", inputs={"A": a}) as step:
                step.outputs["C"] = a
            with rec.step("ElementwiseAdd", inputs={"A": a, "B": a}, params={"size": 64}) as step:
                step.outputs["C"] = c
    return tmp_path / "mixed.h5"


def test_a_missing_reference_is_4_and_a_mismatch_outranks_it(run, mixed: Path) -> None:
    missing = run("replay", mixed)
    assert missing.status == 4
    assert "1 of 1 step" in missing.out, "what could be compared is printed"
    assert "Frobnicate" in missing.out
    assert missing.out.splitlines()[-1].startswith("FAILED in ")
    wrong = run("replay", mixed.with_name("wrong.h5"))
    assert wrong.status == 1
    assert "Frobnicate" in wrong.out


def test_quiet_leaves_the_last_line(run, bad: Path) -> None:
    result = run("-q", "replay", bad)
    assert result.status == 1
    assert len(result.out.splitlines()) == 1
    assert run("replay", "-q", bad).out.startswith("FAILED in ")


def test_no_colour_without_a_terminal(run, bad: Path) -> None:
    assert "\x1b" not in run("replay", bad).out


@pytest.mark.parametrize(
    ("words", "types"),
    [
        (["replay", "{bad}"], "config step explanation summary"),
        (["replay", "{bad}", "--mode", "cumulative"], "config step final summary"),
        (["replay", "{mixed}"], "config step skip summary"),
        (["show", "{bad}"], "snapshot sequence invocation operator_use"),
        (["show", "{bad}", "1:0"], "recorded_step tensor"),
        (["show", "{bad}", "--all"], "listed_step"),
        (["show", "{bad}", "--buffer", "C"], "buffer write"),
        (["fsck", "{bad}"], "fsck"),
        (["operators"], "operator"),
        (["operators", "GEMM"], "operator"),
        (["doctor"], "check"),
    ],
    ids=" ".join,
)
def test_every_record_follows_the_schema(run, bad: Path, mixed: Path, words: list[str], types: str) -> None:
    result = run(*(w.format(bad=bad, mixed=mixed) for w in words), "--json")
    records = [json.loads(line) for line in result.out.splitlines()]
    validator = jsonschema.Draft202012Validator(schema())
    for found in records:
        # the definition itself, because an error under oneOf names none
        definition = {"$ref": f"#/$defs/{found['type']}", "$defs": schema()["$defs"]}
        jsonschema.Draft202012Validator(definition).validate(found)
        validator.validate(found)
    assert {r["type"] for r in records} == set(types.split())


def test_record_on_the_software_npu(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["record", "--workload", "op:ElementwiseAdd", "--sim", "npu2"]
    first, second = run(*words), run(*words)
    assert (first.status, second.status) == (0, 0)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["op-ElementwiseAdd-001.h5", "op-ElementwiseAdd-002.h5"]
    assert first.out.splitlines()[-1].endswith(f"next: fusion-replay replay {names[0]}")
    assert all(run("replay", n).status == 0 for n in names)
    assert run(*words, "-o", names[0]).status == 2
    assert run(*words, "-o", names[0], "--if-exists", "replace").status == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_the_options_of_a_workload_are_in_its_help(run) -> None:
    assert "--tokens" not in run("record", "--help").out
    assert "--tokens" in run("record", "--workload", "llama-decode", "--help").out
    assert "--text" in run("record", "--workload=minilm", "--help").out


def test_the_first_mismatch_has_a_cause_and_a_place(run, tmp_path: Path) -> None:
    path = tmp_path / "swapped.h5"
    words = ["--workload", "op:ElementwiseMul", "--sim", "npu2", "--param", "tile_size=256"]
    assert run("record", "-o", str(path), *words, "--fault", "0:0:swap-columns:2:5").status == 0
    found = run("replay", str(path))
    assert "cause    columns-swapped, proved: columns 2 and 5 have changed places" in found.out
    assert any(f"where    columns {first} (50%), {second} (50%) of 8" in found.out for first, second in ("25", "52"))
    assert all(len(line) <= 100 for line in found.out.splitlines()[:-1]), "the last one has the path in it"
    assert "(down" in run("replay", str(path), "--all").out, "a map of the array"
