# SPDX-License-Identifier: Apache-2.0
"""``rec.invocation``: steps given as arrays as one runlist, chained by contents, calls that were cut short, names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.diverge.dataflow import HANDED, OUTSIDE, dataflow
from fusion_replay.errors import UsageError
from fusion_replay.snapshot.read.groups import grouped

SIZE = 16


def _token(rec: Any, x: Any, weight: Any, scale: float = 1.0, stop: int = 3) -> Any:
    """y = x * weight; z = y + x; out = z * z."""
    with rec.step("ElementwiseMul", {"A": x, "B": weight}, {"size": SIZE}) as s:
        s.outputs["C"] = y = _bf16(x.astype(np.float32) * weight.astype(np.float32) * scale)
    if stop > 1:
        with rec.step("ElementwiseAdd", {"A": y, "B": x}, {"size": SIZE}) as s:
            s.outputs["C"] = z = _bf16(y.astype(np.float32) + x.astype(np.float32))
    if stop > 2:
        with rec.step("ElementwiseMul", {"A": z, "B": z}, {"size": SIZE}) as s:
            s.outputs["C"] = _bf16(z.astype(np.float32) ** 2)


def _bf16(values: Any) -> Any:
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16)


def _inputs(n: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [_bf16(rng.standard_normal(SIZE)) for _ in range(n)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    weight, *tokens = _inputs(4)
    with fr.record(tmp_path / "f.h5") as rec:
        for i, x in enumerate(tokens):
            with rec.invocation("decode"):
                _token(rec, x, weight, 2.0 if i == 1 else 1.0)
    return tmp_path / "f.h5"


def test_calls_are_invocations_of_one_runlist(path: Path) -> None:
    with fr.open(path) as snapshot:
        assert [s.address for s in snapshot] == [f"{i}:{k}" for i in range(3) for k in range(3)]
        assert len(snapshot.sequences) == 1
        assert [(i.sequence, i.status, i.steps_recorded) for i in snapshot.invocations] == [(0, "complete", 3)] * 3
        sequence = snapshot.sequences[0]
        assert sequence.name == "decode"
        assert [s.flow for s in sequence.steps] == ["A, B -> C", "C, A -> C_1", "C_1, C_1 -> C_2"]
        assert {b.name: b.role for b in sequence.buffers} == {
            "A": "input", "B": "input", "C": "scratch", "C_1": "scratch", "C_2": "output",
        }  # fmt: skip
        np.testing.assert_array_equal(snapshot["2:1"].inputs["B"].numpy(), _inputs(4)[3])
        graph = dataflow(snapshot)
        edges = [(e["producer"], e["consumer"], e["state"]) for e in graph.edges]
        assert (0, 1, HANDED) in edges
        assert (1, 2, HANDED) in edges
        assert all(p == OUTSIDE or p // 3 == c // 3 for p, c, _ in edges)  # no token reads another one's


def test_verbs_follow_the_chain(path: Path) -> None:
    report = fr.replay(path)
    assert [m.address for m in report.mismatches] == ["1:0"]
    assert fr.replay(path, mode="cumulative").final[-1].buffer == "C_2"
    found = fr.bisect(path, invocation=1)
    assert found.outputs == ("C_2",)
    assert found.steps == 3
    assert found.step is not None
    assert found.step.address == "1:0"
    fr.export(path, path.with_name("part.h5"), steps=["1:0", "1:1"])
    with fr.open(path.with_name("part.h5")) as part:
        assert [s.label.partition(" ")[2] for s in part] == [s.label.partition(" ")[2] for s in fr.open(path)][3:5]


def test_a_call_that_ended_early_is_one_and_others_keep_their_places(tmp_path: Path) -> None:
    weight, *tokens = _inputs(4)
    with fr.record(tmp_path / "f.h5") as rec:
        with rec.invocation():
            _token(rec, tokens[0], weight)
        with rec.step("ElementwiseAdd", {"A": weight, "B": weight}, {"size": SIZE}) as s:
            s.outputs["C"] = _bf16(2 * weight.astype(np.float32))
        with rec.invocation():
            _token(rec, tokens[1], weight, stop=1)
        with rec.invocation():
            _token(rec, tokens[2], weight, stop=2)
    with fr.open(tmp_path / "f.h5") as snapshot:
        assert [s.address for s in snapshot] == ["0:0", "0:1", "0:2", "1:0", "2:0", "3:0", "3:1"]
        names = [snapshot.sequences[i.sequence].name for i in snapshot.invocations]
        assert names == ["arrays", "ElementwiseAdd", "arrays", "arrays"]
        assert [len(snapshot.sequences[i.sequence].steps) for i in snapshot.invocations] == [3, 1, 1, 3]
        assert [i.status for i in snapshot.invocations] == ["complete", "complete", "complete", "in_flight"]


def test_a_call_under_way_is_there_as_far_as_it_came(tmp_path: Path) -> None:
    weight, x, *_ = _inputs(3)
    with fr.record(tmp_path / "f.h5") as rec:
        with rec.invocation("decode"):
            _token(rec, x, weight)
        with rec.invocation("decode"):
            _token(rec, weight, x, stop=2)
            with fr.open(tmp_path / "f.h5") as journal:  # what a kill would leave
                assert [s.address for s in journal] == ["0:0", "0:1", "0:2", "1:0", "1:1"]
                assert [i.status for i in journal.invocations] == ["complete", "in_flight"]


def test_a_step_that_raises_inside(tmp_path: Path) -> None:
    weight, x, *_ = _inputs(3)
    with fr.record(tmp_path / "f.h5") as rec, pytest.raises(OSError, match="hung"):
        _hangs(rec, x, weight)
    with fr.open(tmp_path / "f.h5") as snapshot:
        assert [(s.address, s.status) for s in snapshot] == [("0:0", "complete"), ("0:1", "failed")]
        assert snapshot.invocations[0].status == "failed"


def _hangs(rec: Any, x: Any, weight: Any) -> None:
    with rec.invocation("decode"):
        _token(rec, x, weight, stop=1)
        with rec.step("ElementwiseAdd", {"A": x, "B": x}, {"size": SIZE}):
            raise OSError("hung")


def test_what_is_in_place_stays_one_buffer(tmp_path: Path) -> None:
    x, weight, *_ = _inputs(3)
    held = np.array(x)
    with fr.record(tmp_path / "f.h5") as rec, rec.invocation("decode"):
        for _ in range(2):
            with rec.step("Mine", {"A": held, "W": weight}, outputs={"A": held}):
                held += weight
    with fr.open(tmp_path / "f.h5") as snapshot:
        assert [s.flow for s in snapshot.sequences[0].steps] == ["A, W -> A", "A, W -> A"]


def test_bad_calls_are_errors(tmp_path: Path) -> None:
    with fr.record(tmp_path / "f.h5") as rec:
        with pytest.raises(UsageError, match="expected a sequence's name"):
            rec.invocation("").__enter__()
        with rec.invocation("a"), pytest.raises(UsageError, match="'a' is under way; end it first"):
            rec.invocation("b").__enter__()
        with rec.step("Mine", {"A": np.ones(2)}) as s:
            s.outputs["C"] = np.ones(2)
    with pytest.raises(UsageError, match=r"inside 'with record"):
        rec.invocation("a")


@pytest.mark.parametrize("group", [7, {}, {"sequence": 3, "call": 0}, {"sequence": "x", "call": -1}, {"sequence": "x"}])
def test_groups_that_are_none_leave_the_steps_alone(tmp_path: Path, group: Any) -> None:
    weight, x, *_ = _inputs(3)
    with fr.record(tmp_path / "f.h5") as rec:
        _token(rec, x, weight)
    with fr.open(tmp_path / "f.h5") as snapshot:
        index = dataclasses.replace(snapshot.index, details=[{**d, "group": group} for d in snapshot.index.details])
        assert grouped(index) is index
