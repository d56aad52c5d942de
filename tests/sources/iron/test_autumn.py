# SPDX-License-Identifier: Apache-2.0
"""IRON as of autumn 2026: what makes an operator one and the same, what is folded into it, where a call has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from autumn_maker import break_device, build, flavours, recorded, whirl
from fusion_replay import refs
from fusion_replay.diverge.consistency import findings
from fusion_replay.errors import NothingComparedError
from fusion_replay.model.runlist import ArgSpec, OperandUse, OperatorDescription
from fusion_replay.report.history import history
from fusion_replay.report.step_view import view
from iron_doubles import autumn, machine, v6
from iron_doubles.operators import BF16, f32

GEMV, SiLU, Mul, Link = autumn.GEMV, autumn.SiLU, autumn.ElementwiseMul, autumn.Link
M, K = 48, 32


@pytest.fixture(autouse=True)
def npu() -> machine.Machine:
    machine.MACHINE.__init__()  # type: ignore[misc]
    return machine.MACHINE


# --- identity -------------------------------------------------------------------------------------------------------


def packed() -> Any:
    return build(autumn.PackedGEMM(M=16, K=16, N=16), "A", "B", "C")


def test_an_operator_of_the_same_name_in_another_package_is_judged_by_its_own_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = fr.replay(recorded(tmp_path, packed()))
    assert flavours(report) == ["stored"]
    assert report
    assert "IRON's own as recorded (GEMM)" in report.terms
    (tmp_path / "r.h5").unlink()
    break_device(monkeypatch, autumn.PackedGEMM)
    report = fr.replay(recorded(tmp_path, packed()))
    assert [s.address for s in report.mismatches] == ["0:0"]


def test_without_a_reference_of_its_own_nothing_judges_it(tmp_path: Path) -> None:
    path = recorded(tmp_path, packed(), with_reference=False)
    with pytest.raises(
        NothingComparedError, match=r"it is of iron\.operators\.flm\.gemm\.op, the reference of iron\.op"
    ):
        fr.replay(path)


def test_the_plain_one_is_the_catalogues(tmp_path: Path) -> None:
    assert flavours(fr.replay(recorded(tmp_path, build(autumn.GEMM(M=16, K=16, N=16), "A", "B", "C")))) == [
        "iron-2026-09"
    ]


@pytest.mark.parametrize(
    ("entry", "covered"),
    [
        ({"num_aie_columns": 4, "tile_size_input": 2, "pinned": frozenset({"num_aie_columns"})}, True),
        ({"trace": object()}, True),
        ({"num_batches": 2, "repeat": 1}, True),
        ({"bound_values": {"valid": "n"}}, False),
    ],
)
def test_fields_decide_unless_they_are_known_to_change_no_number(tmp_path: Path, entry: Any, covered: bool) -> None:
    callable_ = build(GEMV(M=M, K=K, **entry), "A", "B", "C")
    path = recorded(
        tmp_path, callable_, [dict.fromkeys(entry.get("bound_values", {}).values(), 3)], with_reference=False
    )
    if covered:
        assert fr.replay(path)
    else:
        with pytest.raises(NothingComparedError, match="per-call value valid is not known"):
            fr.replay(path)


def test_a_field_that_nobody_knows_makes_it_another_operator(tmp_path: Path) -> None:
    kind = type("GEMV", (GEMV,), {"__module__": "iron.operators.gemv", "__annotations__": {"twist": int}, "twist": 0})
    kind = autumn.dataclasses.dataclass(eq=False, kw_only=True)(kind)
    assert fr.replay(recorded(tmp_path, build(kind(M=M, K=K), "A", "B", "C"), with_reference=False))
    (tmp_path / "r.h5").unlink()
    path = recorded(tmp_path, build(kind(M=M, K=K, twist=1), "A", "B", "C"), with_reference=False)
    with pytest.raises(NothingComparedError, match="its field twist=1 is not known"):
        fr.replay(path)


def test_every_field_is_kept_as_data(tmp_path: Path) -> None:
    walk = autumn.TensorAccessPattern((4, 8), 8, [2, 4], [8, 1])
    op = autumn.Whirl(size=8, walk=walk, finish=(Link(SiLU(size=8), 0),))
    with fr.open(recorded(tmp_path, build(op, "x", "y", outputs=["y"]))) as snapshot:
        described = snapshot["0:0"].op
    assert described.module == "iron_doubles.autumn"
    assert described.given == ("finish", "size", "walk")
    params = described.params
    assert params["walk"] == {
        "class": "TensorAccessPattern",
        "tensor_dims": [4, 8],
        "offset": 8,
        "sizes": [2, 4],
        "strides": [8, 1],
    }
    assert params["mode"] == {"class": "Epilogue", "name": "SILU", "value": 1}
    assert params["tags"] == ["a", "b"]
    (link,) = params["finish"]
    assert (link["class"], link["at"], link["op"]["module"]) == ("Link", 0, "iron.operators.silu")
    assert link["op"]["params"]["size"] == 8
    assert link["op"]["given"] == ["size"]


def test_a_field_that_cannot_be_read_is_said_and_judges_nothing(tmp_path: Path) -> None:
    class Broken(GEMV):
        __module__ = "iron.operators.gemv"

        def __getattribute__(self, name: str) -> Any:
            if name == "epilogue":
                raise OSError("no device")
            return super().__getattribute__(name)

    Broken.__name__ = "GEMV"
    path = recorded(tmp_path, build(Broken(M=M, K=K), "A", "B", "C"), with_reference=False)
    with pytest.raises(NothingComparedError, match=r"its field epilogue could not be read \(OSError: no device\)"):
        fr.replay(path)


def test_two_operators_of_one_name_in_one_runlist_each_have_their_own(tmp_path: Path) -> None:
    plain, other = autumn.GEMM(M=16, K=16, N=16), autumn.PackedGEMM(M=16, K=16, N=16)
    sequence = v6.OperatorSequence("two", [(plain, "A", "B", "C"), (other, "C", "B", "D")], ["A", "B"], ["D"])
    callable_ = sequence.compile().get_callable()
    for name in "AB":
        callable_.get_buffer(name).numpy_view().reshape(-1)[:] = np.linspace(-1, 1, 256).astype(BF16)
    report = fr.replay(recorded(tmp_path, callable_))
    assert flavours(report) == ["iron-2026-09", "stored"]
    assert report


# --- folds ----------------------------------------------------------------------------------------------------------

NORM = autumn.RMSNorm(rows=1, tile_size=K, weighted=True)
FOLDED = {
    "unary finish": (GEMV(M=M, K=K, finish=(Link(SiLU(size=M)),)), "A", "B", "C"),
    "resolved at a tile": (GEMV(M=M, K=K, finish=(Link(SiLU(size=8, tile_size=8)),)), "A", "B", "C"),
    "binary finish": (GEMV(M=M, K=K, finish=(Link(Mul(size=M), 1),)), "A", "B", "C", "m"),
    "two finishes": (GEMV(M=M, K=K, finish=(Link(SiLU(size=M)), Link(Mul(size=M)))), "A", "B", "C", "m"),
    "prologue": (GEMV(M=M, K=K, prepare=(Link(NORM),)), "A", "B", "C", "w"),
    "both": (GEMV(M=M, K=K, prepare=(Link(NORM),), finish=(Link(SiLU(size=M)), Link(Mul(size=M)))), *"ABCwm"),
    "batches": (GEMV(M=M, K=K, num_batches=3, finish=(Link(SiLU(size=3 * M)),)), "A", "B", "C"),
    "elementwise": (Mul(size=M, finish=(Link(autumn.ElementwiseAdd(size=M)),)), "a", "b", "C", "d"),
}


@pytest.mark.parametrize("entry", FOLDED.values(), ids=FOLDED)
def test_folds_of_known_operators_are_composed(tmp_path: Path, entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    report = fr.replay(recorded(tmp_path, build(*entry), with_reference=False))
    assert flavours(report) == ["iron-2026-09"]
    assert report
    assert report.steps[0].stats.ulp_max <= 4  # of another order of summing; a fold left out is far off
    (tmp_path / "r.h5").unlink()
    break_device(monkeypatch, type(entry[0]))
    assert not fr.replay(recorded(tmp_path, build(*entry), with_reference=False))


def test_a_folds_inputs_are_named_after_it(tmp_path: Path) -> None:
    with fr.open(recorded(tmp_path, build(*FOLDED["both"]))) as snapshot:
        assert list(snapshot["0:0"].inputs) == ["A", "B", "prepare0_b", "finish1_b"]


def test_a_step_with_folds_is_spelled_as_it_was_written(tmp_path: Path) -> None:
    with fr.open(recorded(tmp_path, build(*FOLDED["both"]))) as snapshot:
        text = str(view(snapshot["0:0"]))
    assert "finish=[Link(op=SiLU(size=48), at=0), Link(op=ElementwiseMul(size=48), at=0)]" in text
    assert "prepare=[Link(op=RMSNorm(rows=1, tile_size=32, weighted=True), at=0)]" in text
    assert "of iron.operators.gemv" in text


@pytest.mark.parametrize("at", [0, 1])
def test_the_tile_enters_where_the_link_says(tmp_path: Path, at: int) -> None:
    """AXPY is not symmetric: s * x + y."""

    class AXPY(autumn.Elementwise):
        __module__ = "iron.operators.axpy"
        arguments = ("x", "y", "z")

        def compute(self, *inputs: np.ndarray) -> np.ndarray:
            return 3 * f32(inputs[0]) + f32(inputs[1])

    path = recorded(tmp_path, build(GEMV(M=M, K=K, finish=(Link(AXPY(size=M), at),)), *"ABCm"), with_reference=False)
    assert fr.replay(path)


@pytest.mark.parametrize(
    ("finish", "why"),
    [
        (Link(autumn.Whirl(size=M)), "operator 'Whirl' is unknown"),
        (Link(SiLU(size=M), 3), "takes the tile as input 3, it has 1"),
        (Link(autumn.RMSNorm(rows=1, tile_size=7)), "takes 7 elements, the tile is of"),
    ],
)
def test_a_fold_that_cannot_be_composed_is_nobodys_to_judge(tmp_path: Path, finish: Any, why: str) -> None:
    op = GEMV(M=M, K=K)
    op.finish = (finish,)
    op.result = lambda held: op.compute(held["A"], held["B"]).astype(BF16)  # type: ignore[method-assign]
    op._operands = op.declared  # type: ignore[method-assign]
    path = recorded(tmp_path, build(op, "A", "B", "C"), with_reference=False)
    with pytest.raises(NothingComparedError, match=why):
        fr.replay(path)


def test_a_finish_on_what_has_none_of_its_inputs_recorded_is_not_composed(tmp_path: Path) -> None:
    op = GEMV(M=M, K=K, finish=(Link(Mul(size=M)),))
    op._operands = op.declared  # type: ignore[method-assign]
    op.result = lambda held: op.compute(held["A"], held["B"]).astype(BF16)  # type: ignore[method-assign]
    path = recorded(tmp_path, build(op, "A", "B", "C"), with_reference=False)
    with pytest.raises(
        NothingComparedError, match="its in arguments have 1536, 32 elements, the reference takes 1536, 32, 48"
    ):
        fr.replay(path)


def described(params: dict[str, Any], given: tuple[str, ...] = ("size",)) -> OperatorDescription:
    return OperatorDescription("SiLU", {"size": 8, **params}, "iron.operators.silu", None, given)


def nested(depth: int) -> dict[str, Any]:
    inner = {"finish": [nested(depth - 1)]} if depth else {}
    op = {"type": "SiLU", "module": "iron.operators.silu", "params": {"size": 8, **inner}, "given": ["size"]}
    return {"class": "Link", "at": 0, "op": op}


@pytest.mark.parametrize(
    "params",
    [
        {"finish": "SiLU"},
        {"finish": [1]},
        {"finish": [{"op": {"type": "SiLU"}, "at": 0}]},
        {"finish": [{"op": {"type": ["SiLU"], "params": {}, "given": []}, "at": 0}]},
        {"finish": [{"op": {"type": "SiLU", "params": {"size": 8}, "given": [[]]}, "at": 0}]},
        {"finish": [{**nested(0), "at": "first"}]},
        {"finish": [nested(100)]},
        {"bound_values": {"x": {}}},
        {"size": {"class": "?", "unreadable": "OSError"}},
        {"size": [8]},
    ],
)
def test_what_a_file_may_say_of_an_operator_is_another_one(params: dict[str, Any]) -> None:
    found = refs.coverage(described(params), [OperandUse(ArgSpec("A", "in", (8,)), "a")])
    assert found.spec is None
    assert "\n" not in found.why


def test_what_a_file_may_say_of_folds_in_folds() -> None:
    assert refs.coverage(described({"finish": [nested(2)]})).spec is not None


# --- per-call places ------------------------------------------------------------------------------------------------

ROW = 64
SIZES = {"cache": 8 * ROW * 2}


def appended(tmp_path: Path, offsets: Any = (2 * ROW, 3 * ROW), **options: Any) -> Path:
    """Each call writes one row of a cache, beginning with its second, at its own place."""
    op = Mul(size=ROW, placements=(("c", 8 * ROW, ROW),), bound_values={"c_offset": "position"})
    callable_ = build(op, "a", "b", "cache", outputs=["cache"], sizes=SIZES)
    return recorded(tmp_path, callable_, [{"position": at - ROW} for at in offsets], **options)


def test_an_operand_that_a_call_places_is_where_the_call_has_it(tmp_path: Path, npu: machine.Machine) -> None:
    path = appended(tmp_path)
    with fr.open(path) as snapshot:
        assert [(w.address, w.start, w.stop) for w in history(snapshot, "cache").writes] == [
            ("0:0", 256, 384),
            ("1:0", 384, 512),
        ]
        assert [s.address for s in snapshot.steps(buffer="cache[300:310]")] == ["0:0"]
        assert findings(snapshot) == ()
        for step, seen in zip(snapshot.steps(), npu.log, strict=True):
            use = step.outputs[0].use
            assert step.outputs[0].numpy().tobytes() == seen.after[2][use.start : use.stop].tobytes()
    assert fr.replay(path)


@pytest.mark.parametrize(
    ("buffer", "kept"), [("cache[300:310]", ["0:0"]), ("cache[128:256],cache[390:392]", ["1:0"]), ("a", ["0:0", "1:0"])]
)
def test_a_filter_by_bytes_means_where_the_call_has_them(tmp_path: Path, buffer: str, kept: list[str]) -> None:
    """By its placement alone the step would write bytes 128 to 256, in every call."""
    with fr.open(appended(tmp_path, buffer=buffer)) as snapshot:
        assert [s.address for s in snapshot if s.withheld is None] == kept
        assert [s.address for s in snapshot] == ["0:0", "1:0"]


def test_bytes_that_a_call_wrote_elsewhere_are_nobodys_change(tmp_path: Path) -> None:
    """Both calls write other rows; what the third step reads is the first row of the second call."""
    put = Mul(size=ROW, placements=(("c", 8 * ROW, 0),), bound_values={"c_offset": "position"})
    get = Mul(size=ROW, placements=(("a", 8 * ROW, 0),), bound_values={"a_offset": "position"})
    runlist = [(put, "a", "b", "cache"), (get, "cache", "b", "y")]
    callable_ = v6.OperatorSequence("cached", runlist, ["a", "b"], ["y"], SIZES).compile().get_callable()
    path = tmp_path / "r.h5"
    with fr.record(path, callable_):
        for call in range(3):
            for name in "ab":
                callable_.get_buffer(name).numpy_view()[:] = np.full(ROW, call + 1.5, BF16)
            callable_.write_values({"position": np.int32(call * ROW)})
            callable_()
    with fr.open(path) as snapshot:
        assert findings(snapshot) == ()
        assert not any(step.noticed for step in snapshot)
        assert [s.inputs[0].buffer for s in snapshot.steps(step=1)] == [
            "cache[0:128]",
            "cache[128:256]",
            "cache[256:384]",
        ]
    assert fr.replay(path)
    assert fr.replay(path, mode="cumulative")


def test_somebody_who_does_change_such_bytes_is_found(tmp_path: Path) -> None:
    put = Mul(size=ROW, placements=(("c", 8 * ROW, 0),), bound_values={"c_offset": "position"})
    get = Mul(size=ROW, placements=(("a", 8 * ROW, 0),), bound_values={"a_offset": "back"})
    runlist = [(get, "cache", "b", "y"), (put, "a", "b", "cache")]
    callable_ = v6.OperatorSequence("cached", runlist, ["a", "b"], ["y"], SIZES).compile().get_callable()
    path = tmp_path / "r.h5"
    with fr.record(path, callable_):
        for call in range(3):
            for name in "ab":
                callable_.get_buffer(name).numpy_view()[:] = np.full(ROW, call + 1.5, BF16)
            if call == 2:
                callable_.get_buffer("cache").numpy_view()[ROW : 2 * ROW] = 7  # the row that call 1 wrote
            callable_.write_values({"position": np.int32(call * ROW), "back": np.int32(max(call - 1, 0) * ROW)})
            callable_()
    with fr.open(path) as snapshot:
        assert [(f.kind, f.addresses, f.buffers) for f in findings(snapshot)] == [
            ("caller_changed", ("2:0",), ("cache",))
        ]


def test_a_place_outside_its_buffer_is_told_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    op = Mul(size=ROW, placements=(("c", 8 * ROW, 0),), bound_values={"c_offset": "position"})
    op.device = lambda memory, scalars: None  # type: ignore[method-assign]
    callable_ = build(op, "a", "b", "cache", outputs=["cache"], sizes=SIZES)
    path = recorded(tmp_path, callable_, [{"position": 0}, {"position": 8 * ROW}])
    told = [line for line in capsys.readouterr().err.splitlines() if "argument C" in line]
    assert len(told) == 1
    with fr.open(path) as snapshot:
        assert len(snapshot) == 1
        assert [(x.kind, x.count) for x in snapshot.losses] == [("step", 1)]


# --- IRON's own comparison ------------------------------------------------------------------------------------------


def test_the_figures_of_its_first_log_format_are_kept_of_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_device(monkeypatch, GEMV)
    runlist = [(GEMV(M=M, K=K), "A", "B", "h"), (SiLU(size=M), "h", "C")]
    sequence = v6.OperatorSequence("compared", runlist, ["A", "B"], ["C"], dispatch="compare").compile()
    callable_ = v6.StepCallableV6a(sequence, compare=True)
    for name in "AB":
        callable_.get_buffer(name).numpy_view()[:] = np.asarray(0.5, BF16)
    path = tmp_path / "r.h5"
    with fr.record(path, callable_):
        callable_()
    with fr.open(path) as snapshot:
        wrong, right = (step.iron for step in snapshot)
    assert wrong == {
        "output": "h",
        "skipped": False,
        "max_abs": 64.0,
        "mean_abs": 1.333,
        "max_rel": 8.0,
        "ref_max": 8.0,
    }
    assert right == {"output": "C", "skipped": False, "max_abs": 0, "mean_abs": 0, "max_rel": 0, "ref_max": 72.0}


@pytest.mark.parametrize(("limit", "ok"), [(100.0, True), (1.0, False)])
def test_its_verdict_is_by_the_limits_of_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, ok: bool
) -> None:
    monkeypatch.setattr(GEMV, "limits", autumn.Tolerance(rtol=0.0, atol=limit))
    break_device(monkeypatch, GEMV)
    report = fr.replay(recorded(tmp_path, build(GEMV(M=M, K=K), "A", "B", "C")))
    assert not report  # by ours: 64 is far off in either case
    assert report.steps[0].iron.ok is ok


# --- the newest forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_a_norm_by_rows(tmp_path: Path, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = autumn.RMSNorm(rows=3, tile_size=K, weighted=weighted), *("xwC" if weighted else "xC")
    report = fr.replay(recorded(tmp_path, build(*entry), with_reference=False))
    assert flavours(report) == ["iron-2026-09"]
    assert report
    (tmp_path / "r.h5").unlink()
    break_device(monkeypatch, autumn.RMSNorm)
    assert not fr.replay(recorded(tmp_path, build(*entry), with_reference=False))


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_a_copy_on_access_patterns_with_a_bound_and_offsets(
    tmp_path: Path, npu: machine.Machine, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a block go into one slot of a cache, as many as the call says; the rest of the cache stays."""
    op = autumn.Copy(
        input_buffer_size=4 * 8,
        src=autumn.TensorAccessPattern((4, 8), 0, [4, 8], [8, 1]),
        output_buffer_size=4 * 3 * 8,
        dst=autumn.TensorAccessPattern((4, 3, 8), 0, [4, 8], [24, 1]),
        src_bound=0,
        dst_bound=0,
        bound_values={"out_offset": "slot", "src_valid": "rows", "dst_valid": "rows"},
    )
    callable_ = build(op, "x", "cache", outputs=["cache"])
    callable_.get_buffer("cache").numpy_view()[:] = 9
    path = recorded(tmp_path, callable_, [{"slot": 16, "rows": rows}], with_reference=True)
    assert flavours(fr.replay(path)) == ["iron-2026-09"]
    assert fr.replay(path)
    assert fr.replay(path, reference="stored")
    with fr.open(path) as snapshot:
        assert snapshot["0:0"].outputs[0].numpy().tobytes() == npu.log[0].after[1].tobytes()
        assert (snapshot["0:0"].outputs[0].numpy().reshape(4, 3, 8)[rows:] == 9).all()


def test_a_copy_whose_bound_was_not_recorded_is_not_judged_by_the_whole_walk(tmp_path: Path) -> None:
    tap = autumn.TensorAccessPattern((4, 8), 0, [4, 8], [8, 1])
    op = autumn.Copy(input_buffer_size=32, src=tap, output_buffer_size=32, dst=tap, bound_values={"out_offset": "slot"})
    path = recorded(tmp_path, build(op, "x", "y", outputs=["y"]), [{"slot": 0}])
    assert fr.replay(path)
    (tmp_path / "r.h5").unlink()
    op = autumn.Copy(input_buffer_size=32, src=tap, output_buffer_size=32, dst=tap, src_bound=0)
    op.bound_values = {"src_valid": "rows"}
    op._moved = lambda x, y, values: None  # type: ignore[method-assign]
    type(op).values = property(lambda self: [])  # type: ignore[assignment]
    try:
        path = recorded(tmp_path, build(op, "x", "y", outputs=["y"]), [{"rows": 2}])
    finally:
        del type(op).values
    with pytest.raises(NothingComparedError, match="runtime value src_valid is bound per call, and was not recorded"):
        fr.replay(path)


# --- what follows from it -------------------------------------------------------------------------------------------


def test_a_chain_does_not_go_on_from_what_was_stored_for_other_inputs(tmp_path: Path) -> None:
    runlist = [(GEMV(M=16, K=K), "A", "B", "x"), (autumn.Whirl(size=16), "x", "y"), (SiLU(size=16), "y", "C")]
    callable_ = v6.OperatorSequence("chained", runlist, ["A", "B"], ["C"]).compile().get_callable()
    for name in "AB":
        callable_.get_buffer(name).numpy_view()[:] = np.asarray(0.25, BF16)
    path = tmp_path / "r.h5"
    with fr.record(path, callable_):
        callable_()
    assert flavours(fr.replay(path)) == ["iron-2026-09", "stored", "iron-2026-09"]
    chained = fr.replay(path, mode="cumulative")
    assert flavours(chained) == ["iron-2026-09"] * 2
    assert [(s.address, s.kind) for s in chained.skips] == [("0:1", "reference")]


def test_a_recording_is_judged_by_what_is_stored_without_any_of_it_here(tmp_path: Path) -> None:
    """On another machine: neither IRON nor the doubles, in a process of its own."""
    import subprocess
    import sys

    path = recorded(tmp_path, whirl())
    words = [sys.executable, "-m", "fusion_replay", "replay", str(path)]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    assert "IRON's own as recorded (Whirl)" in done.stdout


def test_calls_of_one_operator_alone_have_buffers_of_their_own(tmp_path: Path) -> None:
    """Two calls of one StridedCopy with fresh outputs: nobody changed the first one's in between."""
    from fusion_replay.sources.iron.operator_calls import OperatorCalls
    from iron_doubles.operators import SPEC
    from iron_doubles.tensors import XRTTensor

    op = SPEC.StridedCopy((2, 8), (8, 1), 0, (2, 8), (16, 1), 0, 16, 32)
    path = tmp_path / "r.h5"
    with fr.record(path) as recorder:
        calls = OperatorCalls(recorder.recording.observer)
        for i in range(2):
            tensors = [XRTTensor((16,), BF16), XRTTensor((32,), BF16)]
            for tensor, value in zip(tensors, (i + 1, 5 * i), strict=True):
                tensor.numpy_view()[:] = value
                tensor.to("npu")
            call = calls.begin(op, tensors, {}, object())
            op.device([t.on_device() for t in tensors], {})
            call.finished(None)
    with fr.open(path) as snapshot:
        assert findings(snapshot) == ()
    assert fr.replay(path)
