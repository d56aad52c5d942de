# SPDX-License-Identifier: Apache-2.0
"""The screen that ``replay`` prints: what must be on it, and that it fits."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.model.text import LINES, WIDTH
from fusion_replay.report.terminal import layout

BF16 = ml_dtypes.bfloat16
ONE, TWO = (np.array([x], np.float32).astype(BF16) for x in (1, 2))


def fits(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) <= LINES and max(map(len, lines)) <= WIDTH


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = tmp_path / "x.h5"
    with fr.record(path) as rec:
        for c in (TWO, ONE):
            with rec.step("ElementwiseMul", {"A": ONE, "B": TWO}, {"size": 1}) as s:
                s.outputs["C"] = c
        with rec.step("ElementwiseAdd", {"A": ONE, "B": ONE}, {"size": 1}) as s:
            s.outputs["C"] = TWO
        with rec.step("NobodyKnows", {"A": ONE}) as s:
            s.outputs["C"] = ONE
    return path


def test_one_screen_says_it_all(mixed: Path) -> None:
    text = layout(fr.replay(mixed))
    lines = text.splitlines()
    assert lines[0] == "1 of 3 steps mismatches, first 1:0 ElementwiseMul A, B -> C"
    assert "rule auto, reference exact, on each step's recorded inputs" in lines[1]
    rows = {line[2:].split()[0]: line[2:].split()[1:] for line in lines if line[2:].startswith("Elementwise")}
    assert rows["ElementwiseMul"] == ["2", "1", "1", "128", "5.00e-01", "tolerance", "1", "fail"]
    assert [line.split()[1] for line in lines if line.startswith("> ")] == ["ElementwiseMul"]  # what is wrong is marked
    assert "MISMATCH" not in text, "IRON's own rule can't be taken for ours"
    assert rows["ElementwiseAdd"] == ["1", "0", "0", "0", "0", "tolerance", "ok"]
    assert next(iter(rows)) == "ElementwiseMul"  # what is wrong comes first
    for words in ("first mismatch: 1:0 ElementwiseMul A, B -> C", "actual 1, expected 2", "max_rel 0.5",
                  "signed mean -128", "cosine 1.0", "atol 1 with rtol 0",
                  "not compared: 3:0 NobodyKnows A -> C: no reference"):  # fmt: skip
        assert words in text
    assert fits(text)


def test_a_pass_is_short(mixed: Path) -> None:
    text = layout(fr.replay(mixed, steps=["0:0", "2:0"]))
    assert text.splitlines()[0] == "2 of 2 steps match"
    assert "mismatch:" not in text
    assert len(text.splitlines()) == 5


def test_every_step_on_request(mixed: Path) -> None:
    lines = layout(fr.replay(mixed), every=True).splitlines()
    rows = [line[2:].split() for line in lines if line[2:].split()[0] in ("0:0", "1:0", "2:0", "3:0")]
    assert [line.split()[1] for line in lines if line.startswith("> ")] == ["1:0", "ElementwiseMul"]
    assert [row[:2] for row in rows] == [["0:0", "ok"], ["1:0", "MISMATCH"], ["2:0", "ok"], ["3:0", "skipped"]]
    assert "unknown_operator" in rows[3]


@pytest.mark.usefixtures("registry")
def test_many_operators_many_reasons_and_hostile_names_still_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.h5"
    with fr.record(path) as rec:
        for i in range(40):
            name = f"UserOperator{i:02}_" + "long" * 30
            fr.operator(name)(lambda A: A)
            with rec.step(name, {"A": ONE}) as s:
                s.outputs["C"] = TWO if i == 30 else ONE
        for i in range(20):
            with rec.step(f"Unknown{i}\x1b[31m", {"A": ONE}) as s:
                s.outputs["C"] = ONE
    report = fr.replay(path)
    piped = layout(report)
    assert "... and" not in piped, "what goes to a file or a pipe is whole"
    assert all(f"UserOperator{i:02}_" + "long" * 30 in piped for i in range(40))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    text = layout(report)
    assert fits(text)
    assert "\x1b" not in text
    assert "... and" in text  # what does not fit is counted
    assert "first mismatch: 30:0 UserOperator30" in text
    assert "\x1b" not in layout(report, every=True)
    assert len(layout(report, every=True).splitlines()) > 60


def test_cumulative_says_that_the_limits_are_one_steps_and_still_fits(mixed: Path) -> None:
    hint = "  rule auto is for one step, honest rounding accumulates: judge final outputs by rel_l2 and cosine"
    isolated, report = fr.replay(mixed), fr.replay(mixed, mode="cumulative")
    text = layout(report)
    assert text.splitlines().count(hint) == 1
    assert str(report).splitlines().count(hint) == 1
    assert fits(text)
    for other in (layout(isolated), str(isolated), *map(str, report.records())):  # nor in what machines read
        assert "honest rounding" not in other


def test_cumulative_shows_the_final_outputs(tmp_path: Path) -> None:
    from fusion_replay.simulator.operators import ElementwiseAdd

    path = tmp_path / "x.h5"
    call = fr.simulate(
        [(ElementwiseAdd(size=64, tile_size=16, num_aie_columns=4), "a", "b", "c")], output_args=["c"], device="npu1"
    )
    with fr.record(path, call):
        call()
    text = " ".join(layout(fr.replay(path, mode="cumulative")).split())
    assert "output c of invocation 0: match with the whole chain, rel_l2 0.00e+00, cosine 1.000000" in text
    assert "chained from the external inputs; run on the software NPU (npu1)" in text


def test_steps_that_mismatch_are_listed_ten_by_default_and_all_on_request(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with fr.record(path) as rec:
        for i in range(14):
            with rec.step("ElementwiseMul", {"A": ONE, "B": TWO}, {"size": 1}) as s:
                s.outputs["C"] = TWO if i in (3, 7) else ONE
    report = fr.replay(path)

    def listed(text: str) -> list[str]:
        words = [line.split() for line in text.splitlines() if line.startswith("> ")]
        return [w[1] for w in words if ":" in w[1]]

    wrong = [f"{i}:0" for i in range(14) if i not in (3, 7)]
    assert listed(layout(report)) == wrong[:10]
    assert "  ... and 2 others (--failed lists all)" in layout(report).splitlines()
    assert listed(layout(report, failed=True)) == wrong
    assert " 3:0 " not in layout(report, failed=True)


def test_no_screen_cuts_who_is_to_blame(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Causes of any length stay whole on a terminal of 40 columns, with what explains the elements as well."""
    from fusion_replay.diverge.explain import explain_first

    report = fr.replay(mixed)
    with fr.open(mixed) as snapshot:
        why = explain_first(snapshot, report)
    assert why is not None
    long = [dataclasses.replace(c, detail=" ".join(f"{c.detail}{i}" for i in range(60))) for c in why.causes]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    text = " ".join(layout(report, why=dataclasses.replace(why, causes=tuple(long))).split())
    assert long
    assert all(" ".join(str(cause).split()) in text for cause in long)
