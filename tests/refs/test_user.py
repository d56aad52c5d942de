# SPDX-License-Identifier: Apache-2.0
"""``@fr.operator``: what the function receives, what may come back, and how it replays."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import MissingError, UnknownOperatorError, UsageError
from fusion_replay.refs import find, lookup, reference, specs

pytestmark = pytest.mark.usefixtures("registry")

BF16 = ml_dtypes.bfloat16


def bf16(*values: float) -> np.ndarray:
    return np.array(values, BF16)


def test_inputs_arrive_as_float64_and_the_result_is_rounded_once() -> None:
    seen = []

    @fr.operator("Third")
    def third(A, *, by=3):
        seen.append((A.dtype, A.shape, by))
        return A / by

    (c,) = fr.reference("Third", {}, [bf16(1, 2).reshape(2, 1)])
    assert seen == [(np.float64, (2, 1), 3)]
    assert c.dtype == BF16
    # bf16 has 8 significant bits: 1/3 = 0.333984375, 2/3 = 0.66796875.
    assert c.astype(np.float64).tolist() == [[0.333984375], [0.66796875]]
    assert fr.reference("Third", {"by": 1, "unknown_field": 7}, {"A": bf16(5)})[0].tolist() == [5]


def test_the_function_itself_comes_back() -> None:
    @fr.operator("Twice")
    def twice(A):
        return 2 * A

    assert twice(21) == 42


def test_a_parameter_without_default_is_required() -> None:
    @fr.operator("Scaled")
    def scaled(A, *, by):
        return A * by

    with pytest.raises(UsageError, match="Scaled: parameter 'by'"):
        fr.reference("Scaled", {}, [bf16(1)])
    with pytest.raises(UsageError, match="Scaled: expected 1 inputs"):
        fr.reference("Scaled", {"by": 2}, [bf16(1), bf16(1)])


def test_a_declaration_that_means_something_else() -> None:
    """Each was taken before, and failed when the first recording was judged, or never."""
    with pytest.raises(UsageError, match=r'expected the operator\'s type, as in @fusion_replay.operator\("Scale"\)'):

        @fr.operator
        def scale(A):
            return A

    with pytest.raises(UsageError, match="expected the operator's type"):
        fr.operator("")
    for limits in (0.1, {"npu1": "2 ulps"}):
        with pytest.raises(UsageError, match=r"operator 'Scale': tolerance=.*: expected a Tolerance"):
            fr.operator("Scale", tolerance=limits)
    with pytest.raises(UsageError, match=r"eps has a default, .*: def with_eps\(\.\.\., \*, eps=\.\.\.\)"):

        @fr.operator("Scale")
        def with_eps(A, eps=1e-5):
            return A + eps

    assert lookup("Scale") is None


def test_every_flavour_has_the_one_meaning() -> None:
    @fr.operator("Same")
    def same(A):
        return A

    for flavour in ("pr117", "iron-2026-08", "iron-2026-09", "exact"):
        assert fr.reference("Same", {}, [bf16(3)], flavour)[0].tolist() == [3]


def record_one(path: Path, op: str, inputs: dict, outputs: dict, **more: object) -> Path:
    with fr.record(path) as rec, rec.step(op, inputs=inputs, **more) as step:  # type: ignore[arg-type]
        step.outputs.update(outputs)
    return path


def test_outputs_by_name_are_found_in_any_order(tmp_path: Path) -> None:
    @fr.operator("DivMod", tolerance=fr.exact())
    def divmod_(A, *, by):
        return {"rest": A % by, "quotient": A // by}

    a = np.array([7, 8, 9], np.float32)
    outputs = {"quotient": np.array([2, 2, 3], np.float32), "rest": np.array([1, 2, 0], np.float32)}
    path = record_one(tmp_path / "divmod.h5", "DivMod", {"A": a}, outputs, params={"by": 3})
    report = fr.replay(path)
    assert report.passed, str(report)
    assert [o.name for o in report.steps[0].outputs] == ["quotient", "rest"]

    outputs["rest"] = np.array([1, 2, 1], np.float32)
    path = record_one(tmp_path / "wrong.h5", "DivMod", {"A": a}, outputs, params={"by": 3})
    assert fr.replay(path).steps[0].deciding.name == "rest"


def test_outputs_in_order_as_a_tuple(tmp_path: Path) -> None:
    @fr.operator("MinMax", tolerance=fr.exact())
    def min_max(A):
        return A.min(keepdims=True), A.max(keepdims=True)

    path = record_one(tmp_path / "m.h5", "MinMax", {"A": bf16(3, 1, 2)}, {"low": bf16(1), "high": bf16(3)})
    assert fr.replay(path).passed


def test_wrong_output_names_or_counts_are_no_verdict(tmp_path: Path) -> None:
    @fr.operator("Named")
    def named(A):
        return {"D": A}

    path = record_one(tmp_path / "n.h5", "Named", {"A": bf16(1)}, {"C": bf16(1)})
    with pytest.raises(MissingError, match="Named: the reference gave D, the outputs are C"):
        fr.replay(path)


def test_previous_makes_it_a_partial_writer(tmp_path: Path) -> None:
    @fr.operator("SetSlot", tolerance=fr.exact())
    def set_slot(A, *, at, previous):
        assert previous.dtype == np.float64
        out = previous.copy()
        out[at] = A[0]
        return out

    assert find("SetSlot").partial
    with pytest.raises(MissingError, match="previous=array"):
        fr.reference("SetSlot", {"at": 1}, [bf16(9)])
    (c,) = fr.reference("SetSlot", {"at": 1}, [bf16(9)], previous=bf16(1, 2, 3))
    assert c.tolist() == [1, 9, 3]

    old, new = bf16(1, 2, 3), bf16(1, 9, 3)
    path = record_one(tmp_path / "s.h5", "SetSlot", {"A": bf16(9)}, {"C": new}, params={"at": 1}, previous={"C": old})
    assert fr.replay(path).passed
    wiped = bf16(0, 9, 0)
    path = record_one(tmp_path / "w.h5", "SetSlot", {"A": bf16(9)}, {"C": wiped}, params={"at": 1}, previous={"C": old})
    assert not fr.replay(path).passed


def test_runtime_values_are_not_parameters(tmp_path: Path) -> None:
    @fr.operator("Head", values=["count"], tolerance=fr.exact())
    def head(A, *, count=99):
        return np.where(np.arange(A.size) < count, A, 0)

    (c,) = fr.reference("Head", {"count": 1}, [bf16(5, 6, 7)], values={"count": 2})
    assert c.tolist() == [5, 6, 0]
    path = record_one(tmp_path / "h.h5", "Head", {"A": bf16(5, 6, 7)}, {"C": bf16(5, 0, 0)}, values={"count": 1})
    assert fr.replay(path).passed


def test_exact_bits_keep_nan_payloads() -> None:
    @fr.operator("Reverse", exact_bits=True)
    def reverse(A):
        return A[::-1]

    odd_nan = np.array([0x7F81, 0x3F80], np.uint16).view(BF16)
    (c,) = fr.reference("Reverse", {}, [odd_nan])
    assert c.view(np.uint16).tolist() == [0x3F80, 0x7F81]
    assert find("Reverse").exact_bits


def declare_rows(**more: object) -> None:
    def arg_specs(p):
        return fr.ArgSpec("A", "in", (p.rows, 4)), fr.ArgSpec("C", "out", (p.rows,), "float32")

    @fr.operator("RowSum", args=arg_specs, **more)
    def row_sum(A, *, rows):
        return A.sum(axis=1)


def test_arg_specs_give_shapes_and_dtypes() -> None:
    declare_rows()
    (c,) = fr.reference("RowSum", {"rows": 2}, [np.arange(8, dtype=np.float32)])
    assert c.dtype == np.float32
    assert c.tolist() == [6, 22]
    with pytest.raises(UsageError, match=r"RowSum: argument A needs 8 elements \(2, 4\), found 6"):
        fr.reference("RowSum", {"rows": 2}, [np.zeros(6, np.float32)])


def test_arg_specs_must_name_the_functions_inputs() -> None:
    @fr.operator("Off", args=lambda p: (fr.ArgSpec("X", "in", (1,)), fr.ArgSpec("C", "out", (1,))))
    def off(A):
        return A

    with pytest.raises(UsageError, match="Off: args gives the inputs X, the function takes A"):
        fr.reference("Off", {}, [bf16(1)])


def test_tolerance_by_device() -> None:
    @fr.operator("Loose", tolerance={"npu1": fr.bf16_ulps(9), "*": fr.exact()})
    def loose(A):
        return A

    assert str(find("Loose").tolerance_for("npu1")) == str(fr.bf16_ulps(9))
    assert str(find("Loose").tolerance_for("npu2")) == "exact"


@pytest.mark.parametrize("name", ["GEMV", "gemv", "AIEGEMV"])
def test_names_of_built_in_operators_are_taken(name: str) -> None:
    with pytest.raises(UsageError, match=r"built in.*replace=True"):
        fr.operator(name)(lambda A: A)


def test_replace_takes_the_place_and_is_listed_once() -> None:
    @fr.operator("ReLU", replace=True)
    def relu(A):
        return A * 0 + 5

    assert fr.reference("ReLU", {}, [bf16(-1)])[0].tolist() == [5]
    assert [s.type for s in specs()].count("ReLU") == 1


def test_a_second_declaration_names_the_first() -> None:
    fr.operator("Mine", aliases=["my_own"])(lambda A: A)
    assert lookup("my_own") is find("Mine")
    with pytest.raises(UsageError, match=r"'Mine' is registered already by .*test_a_second_declaration"):
        fr.operator("Mine")(lambda A: A)
    with pytest.raises(UsageError, match=r"'my_own' is registered already .* as an alias of Mine"):
        fr.operator("my_own")(lambda A: A)


def test_signatures_that_name_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no \*, no \*\*"):
        fr.operator("Star")(lambda *inputs: inputs)
    with pytest.raises(UsageError, match="values count"):
        fr.operator("NoValue", values=["count"])(lambda A: A)
    assert lookup("Star") is None
    assert lookup("NoValue") is None


def test_an_unknown_operator_says_how_to_describe_it() -> None:
    with pytest.raises(UnknownOperatorError, match="fusion-replay operators --new 'My Op'"):
        reference("My Op", {}, [])


@pytest.mark.torch
def test_torch_tensors_stay_torch() -> None:
    torch = pytest.importorskip("torch")

    @fr.operator("Half")
    def half(A):
        return A / 2

    (c,) = fr.reference("Half", {}, [torch.tensor([1.0, 3.0], dtype=torch.bfloat16)])
    assert c.dtype == torch.bfloat16
    assert c.tolist() == [0.5, 1.5]
