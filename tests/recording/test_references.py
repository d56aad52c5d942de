# SPDX-License-Identifier: Apache-2.0
"""IRON's own reference, asked while an operator runs that the catalogue does not cover; on doubles of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fusion_replay as fr
from autumn_maker import break_device, build, flavours, recorded, whirl
from fusion_replay.errors import NothingComparedError, UsageError
from fusion_replay.recording.references import Budget
from iron_doubles import autumn, machine
from iron_doubles.autumn import GEMV

M, K = 48, 32


@pytest.fixture(autouse=True)
def npu() -> machine.Machine:
    machine.MACHINE.__init__()  # type: ignore[misc]
    return machine.MACHINE


def test_an_operator_that_nobody_has_seen_is_judged_by_its_stored_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = fr.replay(recorded(tmp_path, whirl()))
    assert flavours(report) == ["stored"]
    assert report
    assert "IRON's own reference was kept for 1 step: " in capsys.readouterr().err
    (tmp_path / "r.h5").unlink()
    break_device(monkeypatch, autumn.Whirl)
    assert not fr.replay(recorded(tmp_path, whirl()))


def test_what_the_catalogue_covers_is_not_asked_unless_it_shall_be(tmp_path: Path) -> None:
    asked = []

    class Counting(GEMV):
        __module__ = "iron.operators.gemv"

        def reference(self, *inputs: np.ndarray) -> np.ndarray:
            asked.append(1)
            return super().reference(*inputs)

    Counting.__name__ = "GEMV"
    recorded(tmp_path, build(Counting(M=M, K=K), "A", "B", "C"))
    assert asked == []
    (tmp_path / "r.h5").unlink()
    path = recorded(tmp_path, build(Counting(M=M, K=K), "A", "B", "C"), with_reference=True)
    assert asked == [1]
    assert flavours(fr.replay(path)) == ["iron-2026-09"]
    assert flavours(fr.replay(path, reference="stored")) == ["stored"]


def test_one_that_raises_is_told_with_its_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def trouble(*inputs: np.ndarray) -> None:
        raise ArithmeticError("no such table")

    path = recorded(tmp_path, whirl(trouble), [{}] * 5)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "Whirl: its own reference raised ArithmeticError: no such table (5)" in told[0]
    with pytest.raises(NothingComparedError, match="no such table"):
        fr.replay(path)


def test_one_that_hangs_is_abandoned_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import threading

    begun: list[int] = []

    def trouble(*inputs: np.ndarray) -> None:
        begun.append(1)
        threading.Event().wait()

    path = recorded(tmp_path, whirl(trouble), [{}] * 4, reference_budget="0.2,1M")
    assert begun == [1]
    assert "had not come back after 0.2 s, and was abandoned (4)" in capsys.readouterr().err
    with fr.open(path) as snapshot:
        assert len(snapshot) == 4
        assert all(step.status == "complete" for step in snapshot)


def test_one_that_writes_over_its_inputs_changes_nothing(tmp_path: Path, npu: machine.Machine) -> None:
    def trouble(*inputs: np.ndarray) -> None:
        trouble.seen = [x.copy() for x in inputs]  # type: ignore[attr-defined]
        for x in inputs:
            x[...] = 0

    path = recorded(tmp_path, whirl(trouble))
    with fr.open(path) as snapshot:
        step = snapshot["0:0"]
        assert step.inputs[0].numpy().tobytes() == npu.log[0].before[0].tobytes() == trouble.seen[0].tobytes()  # type: ignore[attr-defined]
        assert step.outputs[0].numpy().tobytes() == npu.log[0].after[1].tobytes()


def test_beyond_its_budget_nothing_is_asked_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path, whirl(), [{}] * 3, reference_budget="5,80")
    assert "references of Whirl: beyond --reference-budget 5,80" in capsys.readouterr().err
    with fr.open(path) as snapshot:
        kept = [step.outputs[0].reference is not None for step in snapshot]
        assert kept == [True, False, False]
        assert "beyond --reference-budget 5,80" in snapshot["1:0"].noticed["reference"]
    report = fr.replay(path)
    assert (report.compared, report.skipped) == (1, 2)
    assert not report.passed


def test_a_step_that_is_bounded_per_call_is_left_to_nobody(tmp_path: Path) -> None:
    op = GEMV(M=M, K=K, bound_values={"valid": "n"})
    op.bound_extents = {"valid": "n"}  # type: ignore[misc]
    path = recorded(tmp_path, build(op, "A", "B", "C"), [{"n": 7}])
    with pytest.raises(NothingComparedError, match="valid is bounded per call"):
        fr.replay(path)


@pytest.mark.parametrize(
    ("text", "budget"),
    [("30,1G", Budget(30.0, 10**9)), ("0.5s,2MiB", Budget(0.5, 2**21)), (" 7 ", Budget(7.0, 10**9))],
)
def test_a_budget_is_seconds_and_a_size(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "1G", "-3,1G", "5,many", "nan,1G"])
def test_no_budget(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="reference_budget"):
        fr.record(tmp_path / "r.h5", reference_budget=text)
