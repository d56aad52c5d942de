# SPDX-License-Identifier: Apache-2.0
"""The catalogue: names, parameters, arg specs, flavours, tolerances, and what an evaluation refuses."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay import refs
from fusion_replay.compare.tolerance import Tolerance, relative
from fusion_replay.errors import UnknownOperatorError, UsageError
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import FLAVOURS, Call, OperatorSpec, Param, evaluate
from fusion_replay.refs import find, lookup, reference, specs

# The operators of the two workloads, with parameters that make a small one of each.
SMALL = {
    "ElementwiseAdd": {"size": 8},
    "ElementwiseMul": {"size": 8},
    "SiLU": {"size": 8},
    "GELU": {"size": 8},
    "ReLU": {"size": 8},
    "RMSNorm": {"size": 8, "tile_size": 4, "weighted": True},
    "LayerNorm": {"size": 8, "tile_size": 4},
    "Softmax": {"rows": 2, "cols": 4},
    "RoPE": {"rows": 2, "cols": 4},
    "GEMV": {"M": 2, "K": 4},
    "GEMM": {"M": 2, "K": 4, "N": 3},
    "Transpose": {"M": 2, "N": 4},
    "Repeat": {"rows": 2, "cols": 4, "repeat": 3},
    "StridedCopy": {
        "input_sizes": [4],
        "input_strides": [1],
        "input_offset": 0,
        "output_sizes": [2, 2],
        "output_strides": [3, 1],
        "output_offset": 1,
        "input_buffer_size": 4,
        "output_buffer_size": 8,
    },
}


def made_up(**changes: object) -> OperatorSpec:
    fields: dict[str, object] = {
        "type": "MadeUp",
        "args": lambda p: (ArgSpec("A", "in", (p.size,)), ArgSpec("C", "out", (p.size,))),
        "params": (Param("size", int), Param("scale", float, 1.0)),
        "flavours": {"exact": lambda call, a: a * call.params.scale},
        "tolerance": {"*": relative(0.5, 0.25), "npu1": relative(0.125, 0.0)},
    }
    return OperatorSpec(**(fields | changes))  # type: ignore[arg-type]


class TestNames:
    def test_class_name_ci_name_and_old_name_are_one_operator(self) -> None:
        for name in ("RMSNorm", "rms_norm", "AIERMSNorm"):
            assert find(name).type == "RMSNorm"

    def test_every_name_leads_to_one_operator(self) -> None:
        names = [n for s in specs() for n in {s.type, *s.aliases}]
        assert len(names) == len(set(names))
        for spec in specs():
            assert all(find(n) is spec for n in (spec.type, *spec.aliases, f"AIE{spec.type}"))

    def test_an_unknown_one_says_what_is_known(self) -> None:
        with pytest.raises(UnknownOperatorError, match=r"'Gemm2' is unknown; nearest: GEMM\. .*operator\('Gemm2'\)"):
            find("Gemm2")
        assert lookup("Gemm2") is None
        with pytest.raises(UnknownOperatorError, match="nearest: RMSNorm"):  # by an alias, whatever its case
            find("RMS_Norms")
        with pytest.raises(UnknownOperatorError, match=r"'Frobnicate' is unknown; known: AXPY, .*, Transpose"):
            find("Frobnicate")

    def test_the_workloads_operators_are_there(self) -> None:
        assert set(SMALL) <= {s.type for s in specs()}

    @pytest.mark.usefixtures("registry")
    def test_a_registered_operator_must_not_hide_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refs.register(made_up())
        assert find("MadeUp").type == "MadeUp"
        with pytest.raises(UsageError, match="MadeUp"):
            refs.register(made_up())
        with pytest.raises(UsageError, match="GEMM"):
            refs.register(made_up(type="GEMM"))
        refs.register(made_up(summary="second"), replace=True)
        assert find("MadeUp").summary == "second"


class TestParameters:
    def test_defaults_are_filled_in_and_unknown_fields_ignored(self) -> None:
        bound = find("GEMV").bind({"M": 4, "K": 8, "field_of_2027": object()})
        assert (bound.num_batches, bound.epilogue, bound.tile_size_output) == (1, "none", None)
        assert not hasattr(bound, "field_of_2027")

    def test_a_missing_one_is_named_with_what_was_given(self) -> None:
        with pytest.raises(UsageError, match=r"GEMV: parameter 'K' \(int\) is required; given: M=4"):
            find("GEMV").arg_specs({"M": 4})

    @pytest.mark.parametrize("value", ["8", 8.5, True, [8], math.nan, math.inf])
    def test_what_is_no_integer_is_refused(self, value: object) -> None:
        with pytest.raises(UsageError, match=r"parameter K=.*expected int"):
            find("GEMV").bind({"M": 4, "K": value})

    @pytest.mark.parametrize("value", [["4"], [4.5], [math.inf], 4, "4"])
    def test_what_is_no_list_of_integers_is_refused(self, value: object) -> None:
        with pytest.raises(UsageError, match=r"parameter input_sizes=.*expected tuple"):
            find("StridedCopy").bind(SMALL["StridedCopy"] | {"input_sizes": value})

    @pytest.mark.parametrize("value", [8, 8.0, np.int64(8), np.float32(8)])
    def test_integral_numbers_are_integers(self, value: object) -> None:
        bound = find("GEMV").bind({"M": 4, "K": value})
        assert (bound.K, type(bound.K)) == (8, int)

    def test_json_types_come_out_as_declared(self) -> None:
        copy = find("StridedCopy").bind(SMALL["StridedCopy"])
        assert copy.input_sizes == (4,)
        norm = find("RMSNorm").bind({"size": 4, "tile_size": 4, "weighted": 1, "epsilon": 1})
        assert norm.weighted is True
        assert isinstance(norm.epsilon, float)
        with pytest.raises(UsageError, match="parameter epilogue=3: expected str, found int"):
            find("GEMV").bind({"M": 4, "K": 4, "epilogue": 3})

    @pytest.mark.parametrize("params", [{"M": -1, "K": 4}, {"M": 1 << 30, "K": 1 << 30}])
    def test_absurd_shapes_are_refused_before_anything_is_allocated(self, params: dict[str, int]) -> None:
        with pytest.raises(UsageError, match=r"GEMV: argument A: expected a shape of sizes >= 0 .* found \("):
            find("GEMV").arg_specs(params)


class TestArgSpecs:
    @pytest.mark.parametrize(
        ("op", "shapes"),
        [
            ("ElementwiseAdd", [(8,), (8,), (8,)]),
            ("SiLU", [(8,), (8,)]),
            ("RMSNorm", [(2, 4), (4,), (2, 4)]),
            ("LayerNorm", [(8,), (8,)]),
            ("Softmax", [(8,), (8,)]),
            ("RoPE", [(2, 4), (2, 4), (2, 4)]),
            ("GEMV", [(2, 4), (4,), (2,)]),
            ("GEMM", [(2, 4), (4, 3), (2, 3)]),
            ("Transpose", [(8,), (8,)]),
            ("Repeat", [(2, 4), (6, 4)]),
            ("StridedCopy", [(4,), (8,)]),
        ],
    )
    def test_irons_shapes_and_directions(self, op: str, shapes: list[tuple[int, ...]]) -> None:
        args = find(op).arg_specs(SMALL[op])
        assert [a.shape for a in args] == shapes
        assert [a.direction for a in args] == ["in"] * (len(shapes) - 1) + ["out"]
        assert {a.dtype for a in args} == {"bfloat16"}

    def test_names_are_unique_within_an_operator(self) -> None:
        for op, params in SMALL.items():
            names = [a.name for a in find(op).arg_specs(params)]
            assert len(names) == len(set(names)), op


class TestFlavours:
    @pytest.mark.parametrize("op", sorted(SMALL))
    def test_every_operator_answers_every_flavour_in_the_specs_shape(self, op: str) -> None:
        spec = find(op)
        *given, out = spec.arg_specs(SMALL[op])
        inputs = [np.arange(1, a.size + 1, dtype=np.float32) / 8 for a in given]
        previous = np.zeros(out.size, np.float32) if spec.partial else None
        for flavour in FLAVOURS:
            (result,), used = evaluate(spec, SMALL[op], inputs, flavour, previous=previous)
            assert used == flavour
            assert (result.shape, result.dtype) == (out.shape, np.dtype(ml_dtypes.bfloat16))
            assert result.flags.c_contiguous
            assert np.isfinite(result.astype(np.float32)).all()

    def test_the_nearest_form_answers_and_says_so(self) -> None:
        def form(value: float):
            return lambda call, a: call.xp.full_like(a, value)

        both = made_up(flavours={"iron-2026-09": form(2.0), "exact": form(1.0)})
        x = np.zeros(1, np.float32)
        answers = {f: evaluate(both, {"size": 1}, [x], f) for f in FLAVOURS}
        assert [answers[f][1] for f in FLAVOURS] == ["iron-2026-09", "iron-2026-09", "iron-2026-09", "exact"]
        assert float(answers["pr117"][0][0][0]) == 2.0
        assert float(answers["exact"][0][0][0]) == 1.0

    def test_an_unknown_flavour(self) -> None:
        with pytest.raises(UsageError, match="flavour 'torch': expected one of pr117"):
            reference("ReLU", {"size": 1}, [np.zeros(1, np.float32)], "torch")

    def test_no_flavour_at_all(self) -> None:
        with pytest.raises(UnknownOperatorError, match="MadeUp has no reference"):
            evaluate(made_up(flavours={}), {"size": 1}, [np.zeros(1, np.float32)], "exact")


class TestEvaluation:
    def test_inputs_by_name_in_any_order_and_as_lists(self) -> None:
        a, b = [[1.0, 2.0], [3.0, 4.0]], [10.0, 1.0]
        by_name = reference("GEMV", {"M": 2, "K": 2}, {"B": b, "A": a})[0]
        assert by_name.tolist() == [12.0, 34.0]

    def test_missing_and_unknown_names(self) -> None:
        x = np.zeros(2, np.float32)
        with pytest.raises(UsageError, match="ElementwiseAdd: expected inputs A, B; missing B; unknown b"):
            reference("ElementwiseAdd", {"size": 2}, {"A": x, "b": x})

    def test_wrong_counts(self) -> None:
        x = np.zeros(2, np.float32)
        with pytest.raises(UsageError, match=r"ElementwiseAdd: expected 2 inputs \(A, B\), found 3"):
            reference("ElementwiseAdd", {"size": 2}, [x, x, x])
        with pytest.raises(UsageError, match=r"argument B needs 2 elements \(2,\), found 3 \(3,\)"):
            reference("ElementwiseAdd", {"size": 2}, [x, np.zeros(3, np.float32)])

    def test_a_reference_with_the_wrong_result_is_caught(self) -> None:
        short = made_up(flavours={"exact": lambda call, a: a[:1]})
        two = made_up(flavours={"exact": lambda call, a: (a, a)})
        x = np.zeros(2, np.float32)
        with pytest.raises(UsageError, match=r"gave \(1,\) for output C \(2,\)"):
            evaluate(short, {"size": 2}, [x], "exact")
        with pytest.raises(UsageError, match="gave 2 results for 1 outputs"):
            evaluate(two, {"size": 2}, [x], "exact")

    @pytest.mark.parametrize(
        ("gives", "told"), [(None, "NoneType"), (1.5, "float"), (np.zeros(2, np.complex128), "complex128")]
    )
    def test_a_reference_that_gives_no_numbers_is_named(self, gives: object, told: str) -> None:
        spec = made_up(flavours={"exact": lambda call, a: gives})
        with pytest.raises(UsageError, match=f"the reference gave {told}; expected arrays of real numbers"):
            evaluate(spec, {"size": 2}, [np.zeros(2, np.float32)], "exact")

    def test_one_array_instead_of_a_list_of_inputs(self) -> None:
        with pytest.raises(UsageError, match=r"inputs \(A\) as a list or by name, found one array \(64,\)"):
            reference("SiLU", {"size": 64}, np.zeros(64, np.float32))

    def test_inputs_are_not_written_to(self) -> None:
        for op, params in SMALL.items():
            spec = find(op)
            *given, out = spec.arg_specs(params)
            inputs = [np.ones(a.shape, np.float32).astype(ml_dtypes.bfloat16) for a in given]
            previous = np.zeros(out.shape, ml_dtypes.bfloat16) if spec.partial else None
            for x in (*inputs, *(() if previous is None else (previous,))):
                x.setflags(write=False)
            evaluate(spec, params, inputs, "exact", previous=previous)

    def test_strange_numbers_raise_no_warning(self, recwarn: pytest.WarningsRecorder) -> None:
        x = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32)
        for op in ("ElementwiseAdd", "ElementwiseMul"):
            reference(op, {"size": 4}, [x, x])
        for op in ("SiLU", "GELU", "ReLU"):
            reference(op, {"size": 4}, [x])
        reference("RMSNorm", {"size": 4, "tile_size": 4}, [x], "pr117")
        reference("Softmax", {"rows": 1, "cols": 4}, [x])
        reference("GEMV", {"M": 1, "K": 4}, [x, x])
        assert not recwarn.list

    def test_runtime_values_by_role_or_by_the_symbol_a_parameter_names(self) -> None:
        seen: list[dict[str, float]] = []

        def look(call: Call, a: np.ndarray) -> np.ndarray:
            seen.append(dict(call.values))
            return a

        spec = made_up(
            values=("offset",),
            params=(Param("size", int), Param("offset_parameter", str, None)),
            flavours={"exact": look},
        )
        x = np.zeros(1, np.float32)
        for params, values in (
            ({}, {"offset": 3}),
            ({"offset_parameter": "cache_offset"}, {"cache_offset": 4, "other": 9}),
            ({}, {"cache_offset": 4}),
        ):
            evaluate(spec, {"size": 1} | params, [x], "exact", values=values)
        assert seen == [{"offset": 3}, {"offset": 4}, {}]


class TestTolerances:
    def test_the_devices_own_else_the_common_one(self) -> None:
        spec = made_up()
        assert spec.tolerance_for("npu1").rtol == 0.125
        assert spec.tolerance_for("npu2").rtol == spec.tolerance_for(None).rtol == 0.5

    def test_limits_that_parameters_decide(self) -> None:
        def limits(p: SimpleNamespace) -> Tolerance:
            return relative(0.0, 1.0 if p.size is None else 1.0 / p.size)

        spec = made_up(tolerance={"*": limits})
        assert spec.tolerance_for("npu1", {"size": 4}).atol == 0.25
        assert spec.tolerance_for("npu1").atol == 1.0
        with pytest.raises(UsageError, match="'size'"):
            spec.tolerance_for("npu1", {})

    def test_every_limit_of_the_catalogue_has_a_source(self) -> None:
        for spec in specs():
            for device in ("npu1", "npu2", None):
                assert spec.tolerance_for(device).source, spec.type
                if spec.type in SMALL:
                    assert spec.tolerance_for(device, SMALL[spec.type]).source, spec.type
            assert spec.source, spec.type
            assert spec.summary, spec.type

    def test_irons_failures_are_asked_with_runtime_values(self) -> None:
        spec = made_up(values=("offset",), iron_fails=lambda p, f: f"{f} at {p.values['offset']}" if p.values else None)
        assert spec.iron_failure({"size": 1}, "pr117", {"offset": 2}) == "pr117 at 2"
        assert spec.iron_failure({"size": 1}, "pr117") is None
        assert made_up().iron_failure({"size": 1}, "pr117") is None


def test_the_catalogue_needs_neither_torch_nor_h5py() -> None:
    code = (
        "import sys; from fusion_replay.refs import specs; n = len(list(specs()));"
        "print(n, sorted({'torch', 'h5py', 'rich', 'click'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    count, heavy = out.split(maxsplit=1)
    assert int(count) >= len(SMALL)
    assert heavy.strip() == "[]"
