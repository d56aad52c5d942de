# SPDX-License-Identifier: Apache-2.0
"""Replay of recorded steps on their own inputs: real files, results worked out by hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay import operators, refs
from fusion_replay.errors import (
    DamagedSnapshotError,
    MismatchError,
    MissingError,
    NothingComparedError,
    SnapshotNotFoundError,
    UsageError,
)
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.simulator.operators import GEMV, ElementwiseAdd, Softmax

BF16 = ml_dtypes.bfloat16


def bf(*values: float) -> np.ndarray:
    return np.array(values, np.float32).astype(BF16)


def add_step(rec: Any, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    with rec.step("ElementwiseAdd", inputs={"A": a, "B": b}, params={"size": a.size}) as s:
        s.outputs["C"] = c


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three additions; the second has one wrong element, the third NaN."""
    path = tmp_path / "three.h5"
    a, b = bf(1, 2, 3, 4), bf(0.5, 0.5, 0.5, 0.5)
    with fr.record(path) as rec:
        add_step(rec, a, b, bf(1.5, 2.5, 3.5, 4.5))
        add_step(rec, a, b, bf(1.5, 2.5, 5.5, 4.5))
        add_step(rec, a, b, bf(1.5, 2.5, float("nan"), 4.5))
    return path


def test_verdicts_figures_and_irons_opinion(three: Path) -> None:
    report = fr.replay(three)
    assert (report.compared, report.skipped, report.passed, bool(report)) == (3, 0, False, False)
    good, bad, nan = report.steps
    assert (good.address, good.index, good.invocation, good.op.type, good.flavour) == (
        "0:0", 0, 0, "ElementwiseAdd", "exact",
    )  # fmt: skip
    assert good.verdict.ok
    assert good.stats.bit_equal
    assert str(good.iron) == "ok"

    assert report.first_mismatch is bad
    assert not bad.verdict
    assert (bad.stats.max_abs, bad.stats.mean_abs, bad.stats.ref_max) == (2.0, 0.5, 4.5)
    assert bad.stats.max_rel == float(np.float32(2.0) / (np.float32(3.5) + np.float32(1e-6)))
    assert (bad.stats.worst_index, bad.stats.worst_actual, bad.stats.worst_expected) == ((2,), 5.5, 3.5)
    assert bad.iron.ok is False

    assert not nan.verdict
    assert str(nan.iron) == "ok, NaN passes its rule"
    assert report.mismatches == (bad, nan)


def test_the_chosen_rule_alone_decides(three: Path) -> None:
    by_iron = fr.replay(three, rule="iron-compare")
    assert [bool(s) for s in by_iron.steps] == [True, False, True]
    assert by_iron.rule == "iron-compare"
    assert [s.stats.mismatch for s in by_iron.steps] == [False, True, False]
    assert [bool(s) for s in fr.replay(three, rule="iron-test").steps] == [True, False, False]


def test_check_raises_with_the_table(three: Path) -> None:
    with pytest.raises(MismatchError) as caught:
        fr.replay(three).check()
    text = str(caught.value)
    assert text.startswith("2 of 3 steps mismatch, first 1:0 ElementwiseAdd A, B -> C")
    assert "operator        steps  mismatch" in text
    assert "ElementwiseAdd      3         2" in text
    assert caught.value.exit_code == 1
    fr.replay(three, steps="0:0").check()


def test_filters(three: Path) -> None:
    def addresses(**filters: Any) -> list[str]:
        return [s.address for s in fr.replay(three, **filters).steps]

    assert addresses(steps="1:0") == ["1:0"]
    assert addresses(steps=(1, 0)) == ["1:0"]
    assert addresses(steps=["2:0", (0, 0)]) == ["0:0", "2:0"]
    assert addresses(invocation=2) == ["2:0"]
    assert addresses(op="elementwise_add", buffer="A") == ["0:0", "1:0", "2:0"]
    for nothing in (
        {"op": "GEMM"},
        {"buffer": "Z"},
        {"invocation": 3},
        {"steps": "9:9"},
        {"steps": "1:0", "invocation": 0},
    ):
        with pytest.raises(UsageError) as caught:
            fr.replay(three, **nothing)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="3 steps of 3 invocations and the operators ElementwiseAdd"):
        fr.replay(three, op="GEMM")
    with pytest.raises(UsageError, match=r"buffer 'Z' is not in .*three.h5; it has A, B, C$"):
        fr.replay(three, buffer="Z[0:2]")
    with pytest.raises(UsageError, match=r"buffer 'AA' is not in .*three.h5; nearest: A$"):
        fr.replay(three, buffer="AA")
    with pytest.raises(UsageError, match="matches buffer A, invocation 3"):
        fr.replay(three, buffer="A", invocation=3)


@pytest.mark.parametrize(
    "bad", [{"mode": "both"}, {"rule": "loose"}, {"reference": "newest"}, {"workers": 0}, {"steps": "first"}]
)
def test_unknown_names(three: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        fr.replay(three, **bad)


@pytest.mark.parametrize("name", ["installed", "stored"])
def test_references_that_are_not_here(three: Path, name: str) -> None:
    with pytest.raises(MissingError, match=name):
        fr.replay(three, reference=name)


def test_fail_fast_and_progress(three: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = fr.replay(three, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for workers in (1, 2):
        report = fr.replay(three, fail_fast=True, workers=workers)
        assert [s.address for s in report.steps] == ["0:0", "1:0"]


def test_an_open_snapshot_is_left_open(three: Path) -> None:
    with fr.open(three) as snap:
        first = fr.replay(snap).digest
        assert fr.replay(snap).digest == first
        assert snap["0:0"].outputs["C"].numpy()[0] == 1.5


def test_the_digest_knows_nothing_of_path_time_or_threads(three: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other" / "name.h5"
    elsewhere.parent.mkdir()
    shutil.copy(three, elsewhere)
    digests = {fr.replay(p, workers=w).digest for p, w in ((three, 1), (elsewhere, 2), (three, 3))}
    assert len(digests) == 1
    assert fr.replay(three, rule="strict").digest not in digests
    assert fr.replay(three, steps="0:0").digest not in digests
    assert str(tmp_path) not in str(fr.replay(three).to_dict())


# --- what is not compared -------------------------------------------------------------------------------------------


def test_unknown_operators_are_skipped_and_missed(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with fr.record(path) as rec:
        add_step(rec, bf(1), bf(2), bf(3))
        with rec.step("NobodyKnows", inputs={"A": bf(1)}) as s:
            s.outputs["C"] = bf(1)
    report = fr.replay(path)
    assert (report.compared, report.skipped, report.passed) == (1, 1, False)
    assert [(s.address, s.kind) for s in report.missing] == [("1:0", "unknown_operator")]
    assert "no reference for operator NobodyKnows" in str(report)
    with pytest.raises(MissingError, match="NobodyKnows"):
        report.check()
    with pytest.raises(NothingComparedError, match=r"nothing was compared.*NobodyKnows") as caught:
        fr.replay(path, op="NobodyKnows")
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_mismatch_outranks_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with fr.record(path) as rec:
        with rec.step("NobodyKnows", inputs={"A": bf(1)}) as s:
            s.outputs["C"] = bf(1)
        add_step(rec, bf(1), bf(2), bf(4))
    with pytest.raises(MismatchError):
        fr.replay(path).check()


def test_an_empty_recording_compares_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with fr.record(path):
        pass
    with pytest.raises(NothingComparedError, match="holds no step"):
        fr.replay(path)


@pytest.mark.usefixtures("user_operator")
def test_a_step_without_elements_compares_nothing(tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone.h5", tmp_path / "beside.h5"
    for path in (alone, beside):
        with fr.record(path) as rec:
            with rec.step("SumAndDifference", {"A": bf(), "B": bf()}) as s:
                s.outputs["sum"] = s.outputs["difference"] = bf()
            if path == beside:
                add_step(rec, bf(1), bf(2), bf(3))
    with pytest.raises(NothingComparedError, match="its outputs have no elements"):
        fr.replay(alone)
    report = fr.replay(beside)
    assert (report.passed, report.compared) == (True, 1)
    assert [(s.address, s.kind) for s in report.skips] == [("0:0", "empty")]


def test_failed_and_in_flight_steps_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with fr.record(path) as rec:
        add_step(rec, bf(1), bf(2), bf(3))
        with pytest.raises(ZeroDivisionError), rec.step("ElementwiseAdd", {"A": bf(1), "B": bf(2)}, {"size": 1}) as s:
            s.outputs["C"] = bf(1 / 0)
        step = rec.step("ElementwiseAdd", {"A": bf(1), "B": bf(2)}, {"size": 1})
        step.__enter__()
        alive = fr.replay(f"{path}.journal")  # what a hung kernel leaves behind
        step.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    kinds = [(s.address, s.kind) for s in alive.skips]
    assert kinds == [("1:0", "failed"), ("2:0", "in_flight")]
    assert "division by zero" in alive.skips[0].reason
    assert alive.compared == 1
    assert not alive.passed  # nothing that could be judged is wrong, and yet the run was not right
    assert alive.sentence == (
        "1 of 1 step matches; 1 step had not come back: 2:0 ElementwiseAdd A, B -> C; "
        "1 step failed: 1:0 ElementwiseAdd A, B -> C"
    )
    assert "not compared: 1:0 ElementwiseAdd" in str(alive)
    with pytest.raises(MismatchError, match="1 step failed: 1:0"):
        alive.check()
    assert fr.replay(path, steps="0:0").passed  # what was asked for is right


def test_inputs_that_fit_no_reference_are_a_reason_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with fr.record(path) as rec:
        add_step(rec, bf(1), bf(2), bf(3))
        with rec.step("ElementwiseAdd", {"A": bf(1, 2), "B": bf(2, 3)}, {"size": 3}) as s:  # sizes disagree
            s.outputs["C"] = bf(3, 5)
        with rec.step("ElementwiseAdd", {"X": bf(1), "Y": bf(2)}, {"size": 1}) as s:  # names given by the caller
            s.outputs["C"] = bf(3)
        with rec.step("ElementwiseAdd", {"A": bf(1), "B": bf(2)}, {}) as s:  # a parameter is missing
            s.outputs["C"] = bf(3)
        with rec.step("ElementwiseAdd", {"A": bf(1), "B": bf(2)}, {"size": 1}) as s:
            s.outputs["C"] = bf(3, 3)  # more than the operator gives
        with rec.step("StridedCopy", {"A": bf(1)}, {"input_sizes": [1], "input_strides": [1], "input_offset": 0,
                      "output_sizes": [1], "output_strides": [1], "output_offset": 0,
                      "input_buffer_size": 1, "output_buffer_size": 2}) as s:  # fmt: skip
            s.outputs["C"] = bf(1, 2)  # nobody said what was there before
    report = fr.replay(path)
    assert report.compared == 1
    found = {s.address: (s.kind, s.reason) for s in report.skips}
    assert [kind for kind, _ in found.values()] == ["reference"] * 4 + ["not_kept"]
    for address, words in {
        "1:0": "needs 3 elements",
        "2:0": "missing A, B",
        "3:0": "'size'",
        "4:0": "recorded",
    }.items():
        assert words in found[address][1]
    assert not report.passed


def test_missing_damaged_and_foreign_files(three: Path, tmp_path: Path) -> None:
    with pytest.raises(SnapshotNotFoundError):
        fr.replay(tmp_path / "absent.h5")
    with fr.open(three) as snap:
        chunk = snap.store.chunks_of(snap["1:0"].outputs["C"].row)[0]
    damaged = bytearray(three.read_bytes())
    damaged[int(chunk["offset"]) + int(chunk["size"]) // 2] ^= 1
    three.write_bytes(damaged)
    with pytest.raises(DamagedSnapshotError, match=r"step [01]:0 .*, output C"):
        fr.replay(three)


# --- operators with more to them ------------------------------------------------------------------------------------


def test_runtime_values_and_previous_contents(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    x = np.zeros(16 * 64, np.float32).astype(BF16)
    masked = np.zeros((16, 64), np.float32)
    masked[:, :4] = 0.25
    copy = {"input_sizes": [2], "input_strides": [1], "input_offset": 0, "output_sizes": [2], "output_strides": [1],
            "output_offset": 0, "input_buffer_size": 2, "output_buffer_size": 6,
            "output_offset_parameter": "cache_offset"}  # fmt: skip
    with fr.record(path) as rec:
        with rec.step("Softmax", {"A": x}, {"rows": 16, "cols": 64}, values={"vector_size": 4}) as s:
            s.outputs["C"] = masked.astype(BF16).reshape(-1)
        with rec.step(
            "StridedCopy", {"A": bf(8, 9)}, copy, values={"cache_offset": 3}, previous={"C": bf(1, 2, 3, 4, 5, 6)}
        ) as s:
            s.outputs["C"] = bf(1, 2, 3, 8, 9, 6)
    report = fr.replay(path)
    assert report.passed
    assert all(s.stats.bit_equal for s in report.steps)
    old = fr.replay(path, reference="pr117")
    assert [s.iron.ok for s in old.steps] == [None, None]
    assert "ignores the mask" in str(old.steps[0].iron)
    assert str(old.steps[1].iron).startswith("no verdict, IRON's StridedCopy of pull request 117 has no reference()")
    assert [s.iron.ok for s in fr.replay(path, reference="iron-2026-09").steps] == [True, True]


def test_batched_gemv_which_irons_old_reference_cannot(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    a = np.arange(12, dtype=np.float32).reshape(2, 2, 3).astype(BF16)
    b = np.array([[1, 2, 3], [4, 5, 6]], np.float32).astype(BF16)
    c = bf(8, 26, 107, 152)  # rows (0 1 2), (3 4 5) times (1 2 3); rows (6 7 8), (9 10 11) times (4 5 6)
    with fr.record(path) as rec, rec.step("GEMV", {"A": a, "B": b}, {"M": 2, "K": 3, "num_batches": 2}) as s:
        s.outputs["C"] = c
    step = fr.replay(path, reference="iron-2026-08").steps[0]
    assert step.stats.bit_equal
    assert step.iron.ok is None


def test_noise_floor_of_a_flavour_that_rounds_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4, 256)).astype(np.float32).astype(BF16)
    wide = x.astype(np.float64)
    true = wide / np.sqrt((wide * wide).mean(axis=1, keepdims=True) + 1e-5)
    nearest = true.astype(np.float32).astype(BF16)
    with fr.record(path) as rec, rec.step("RMSNorm", {"A": x}, {"size": 1024, "tile_size": 256}) as s:
        s.outputs["C"] = nearest
    floor = fr.replay(path, reference="iron-2026-08").steps[0].noise_floor
    assert floor is not None
    assert floor.actual_ulp_mean < 0.01  # the device gave the true values (float32 may round one twice)
    assert floor.reference_ulp_mean > 0.1  # six roundings
    assert not floor.further
    assert fr.replay(path, reference="exact").steps[0].noise_floor is None
    own = fr.replay(path, reference="pr117").steps[0].noise_floor  # its meaning puts epsilon outside the root
    assert own is not None
    outside = wide / (np.sqrt((wide * wide).mean(axis=1, keepdims=True)) + 1e-5)
    assert own.actual_rel_l2 == pytest.approx(
        np.linalg.norm(nearest.astype(float) - outside.astype(np.float32).astype(BF16).astype(float))
        / np.linalg.norm(outside),
        rel=0.02, abs=1e-5,
    )  # fmt: skip


@pytest.fixture
def user_operator(registry: None) -> None:

    @fr.operator("SumAndDifference", tolerance=fr.exact())
    def sum_and_difference(A: Any, B: Any, *, scale: float = 1.0) -> Any:
        return scale * (A + B), scale * (A - B)

    @fr.operator("Raises")
    def raises(A: Any) -> Any:
        def table() -> Any:
            raise KeyError("no such table")

        return table()


@pytest.mark.usefixtures("user_operator")
def test_a_users_operator_with_two_outputs(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with fr.record(path) as rec:
        with rec.step("SumAndDifference", {"B": bf(1, 1), "A": bf(2, 3)}, {"scale": 2.0}) as s:
            s.outputs["sum"] = bf(6, 8)
            s.outputs["difference"] = bf(2, 5)
        with rec.step("Raises", {"A": bf(1)}) as s:
            s.outputs["C"] = bf(1)
    report = fr.replay(path)
    step = report.steps[0]
    assert [o.verdict.ok for o in step.outputs] == [True, False]
    assert step.deciding.name == "difference"
    assert (step.stats.worst_actual, step.stats.worst_expected) == (5.0, 4.0)
    line = [text.strip() for text in Path(__file__).read_text().splitlines()].index('raise KeyError("no such table")')
    where = f"in test_replay.py, line {line + 1}"
    assert report.skips[0].reason == f"its reference raised KeyError: 'no such table', {where}"
    assert report.missing


@pytest.mark.usefixtures("registry")
def test_outputs_and_old_contents_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def keep(call: operators.Call, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = call.previous
        return a + np.asarray(first, np.float64), np.asarray(second, np.float64)

    one = (1,)
    refs.register(
        operators.OperatorSpec(
            type="Keeper",
            args=lambda _: (ArgSpec("A", "in", one), ArgSpec("C", "out", one), ArgSpec("D", "out", one)),
            params=(),
            flavours={"exact": keep},
            tolerance={"*": fr.exact()},
            partial=True,
        )
    )
    path = tmp_path / "x.h5"
    with fr.record(path) as rec, rec.step("Keeper", {"A": bf(1)}, previous={"D": bf(20), "C": bf(10)}) as s:
        s.outputs["D"] = bf(20)
        s.outputs["C"] = bf(11)
    assert fr.replay(path).passed


# --- recorded from the software NPU ---------------------------------------------------------------------------------


def gemv_add_softmax(*faults: str) -> Any:
    runlist = [(GEMV(M=64, K=64, num_aie_columns=1, tile_size_input=4, tile_size_output=4), "W", "x", "y"),
               (ElementwiseAdd(size=64, tile_size=16, num_aie_columns=4), "y", "x", "z"),
               (Softmax(rows=16, cols=64), "s", "p")]  # fmt: skip
    return fr.simulate(runlist, device="npu1", faults=faults, input_args=["x", "s"], output_args=["z", "p"])


def run_twice(path: Path, *faults: str, same: bool = True) -> Path:
    """Two calls; the second with the same inputs or others."""
    call = gemv_add_softmax(*faults)
    rng = np.random.default_rng(11)

    def fill(name: str, n: int) -> None:
        call.get_buffer(name)[:] = rng.standard_normal(n).astype(np.float32).astype(BF16)

    fill("W", 64 * 64)
    with fr.record(path, call):
        for turn in range(2):
            if turn == 0 or not same:
                fill("x", 64)
                fill("s", 16 * 64)
            call()
    return path


def test_the_recording_names_flavour_and_device(tmp_path: Path) -> None:
    report = fr.replay(run_twice(tmp_path / "x.h5"))
    assert report.passed
    assert {s.flavour for s in report.steps} == {"iron-2026-09"}
    assert report.recorded_on == ("the software NPU (npu1)",)
    assert "the software NPU (npu1)" in str(report)
    softmax = [s for s in report.steps if s.op.type == "Softmax"]
    assert all(s.stats.max_abs > 0 for s in softmax)  # honest, inexact ...
    assert all(s.verdict.tolerance.rtol == 0.128 for s in softmax)  # ... and judged by the limits of this device


def test_outputs_that_stay_the_same_for_a_reason_pass(tmp_path: Path) -> None:
    """Same inputs twice: every output of the second call keeps its old contents, rounding errors and all."""
    path = run_twice(tmp_path / "x.h5", same=True)
    with fr.open(path) as snap:
        second = snap["1:2"].outputs[0]
        assert second.unchanged
    assert not fr.replay(path, steps="1:2").steps[0].stats.bit_equal
    assert fr.replay(path).passed


@pytest.mark.parametrize("fault", ["1:1:unwritten", "1:2:unwritten"])
def test_outputs_that_nobody_wrote_fail(tmp_path: Path, fault: str) -> None:
    report = fr.replay(run_twice(tmp_path / "x.h5", fault, same=False))
    assert [s.address for s in report.mismatches] == [fault[:3]]
    assert report.first_mismatch is not None
    assert "never written" in report.first_mismatch.verdict.detail


def test_a_call_that_nobody_recorded_may_have_left_the_right_contents(tmp_path: Path) -> None:
    """Warmed up first: every output of the recorded call keeps its old contents, which are right."""
    path = tmp_path / "x.h5"
    call = gemv_add_softmax()
    rng = np.random.default_rng(11)
    for name, n in (("W", 64 * 64), ("x", 64), ("s", 16 * 64)):
        call.get_buffer(name)[:] = rng.standard_normal(n).astype(BF16)
    call()
    with fr.record(path, call):
        call()
    with fr.open(path) as snap:
        assert [s.outputs[0].unchanged for s in snap.steps()] == [True] * len(snap)
    report = fr.replay(path)
    assert report.passed, str(report)
    assert not all(s.stats.bit_equal for s in report.steps), "rounding errors and all"
    with fr.record(path.with_name("kept.h5"), call, keep="mismatch"):
        call()
    with fr.open(path.with_name("kept.h5")) as snap:
        assert {s.withheld for s in snap.steps()} == {"as the reference"}, "what is right deviates from nothing"


def test_a_wrong_result_that_comes_again_was_written(tmp_path: Path) -> None:
    """The same fault on the same inputs: wrong both times, and not for want of writing."""
    report = fr.replay(run_twice(tmp_path / "x.h5", "0:1:shift", "1:1:shift", same=True), steps="1:1")
    assert not report.passed
    assert report.first_mismatch is not None
    assert "never written" not in report.first_mismatch.verdict.detail


def test_an_old_output_inside_the_tolerance_is_found_by_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    runlist = [(ElementwiseAdd(size=64, tile_size=16, num_aie_columns=4), "a", "b", "c")]
    call = fr.simulate(runlist, device="npu1", faults=["1:0:unwritten"])
    call.get_buffer("b")[:] = np.full(64, 1.0, np.float32).astype(BF16)
    with fr.record(path, call):
        for value in (1.0, 1.015625):
            call.get_buffer("a")[:] = np.full(64, value, np.float32).astype(BF16)
            call()
    assert fr.replay(path, rule="tolerance").passed
    report = fr.replay(path)
    assert [s.address for s in report.mismatches] == ["1:0"]
    assert report.steps[1].verdict.n_failing == 64  # the sum is exact: its bound is one value
    assert "never written" in report.steps[1].verdict.detail


def test_neither_torch_nor_the_terminal_is_loaded(three: Path) -> None:
    code = (
        "import sys, fusion_replay as fr; fr.replay(sys.argv[1]); "
        "assert not {'torch', 'rich', 'click', 'pyxrt'} & set(sys.modules), set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(three)], check=True)
