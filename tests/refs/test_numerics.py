# SPDX-License-Identifier: Apache-2.0
"""Bounds against the software NPU, which states the same hardware apart: no element outside, whatever goes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_replay import refs
from fusion_replay.compare.numerics.evaluator import bound, predicted
from fusion_replay.compare.numerics.stages import DEVICES, MODES, Constant, Model, Numerics, walk
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import BFLOAT16
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel
from wild_numbers import KINDS, outside, run

sizes = st.sampled_from([16, 32, 48, 96])


@st.composite
def parameters(draw: st.DrawFn, op: str, device: str) -> dict[str, Any]:
    """Parameters that the operator takes on this device, small."""
    rows, eights = draw(st.integers(1, 5)), draw(st.sampled_from([64, 128, 192, 512]))
    if op == "RMSNorm":
        return {"size": rows * eights, "tile_size": eights, "weighted": draw(st.booleans())}
    if op == "LayerNorm":
        return {"size": rows * eights, "tile_size": eights}
    if op == "Softmax":
        return {"rows": 16, "cols": eights, "rtp_vector_size": draw(st.sampled_from([None, 1, eights - 3]))}
    if op == "RoPE":
        return {"rows": 4 * rows, "cols": 64, "angle_rows": rows, "method_type": draw(st.sampled_from([0, 1]))}
    if op == "GEMV":
        gelu = device == "npu2" and draw(st.booleans())
        return {"M": 32, "K": eights, "num_batches": 2, "repeat": draw(st.sampled_from([1, 2])),
                "epilogue": "gelu" if gelu else "none",
                "kernel_vector_size": draw(st.sampled_from([None, 16, 32, 64]))}  # fmt: skip
    if op == "GEMM":
        return {
            "M": 64, "K": eights, "N": 16, "tile_m": 16, "tile_k": draw(st.sampled_from([16, 32, 64])), "tile_n": 16,
            "num_aie_columns": 1, "prio_accuracy": draw(st.booleans()), "round_conv_even": draw(st.booleans()),
            "emulate_bf16_mmul_with_bfp16": draw(st.booleans()), "b_col_maj": draw(st.booleans()),
            "c_col_maj": draw(st.booleans()), "epilogue": draw(st.sampled_from(["none", "gelu"])),
        }  # fmt: skip
    if op == "Dequant":
        return {"size": 64 * rows * 4, "tile_size": 64, "group_size": 32}
    if op == "DepthwiseConv1d":
        return {"rows": 4 + rows, "channels": 32, "num_aie_columns": 1}
    if op == "GQAContext":
        return {"groups": 2, "heads_per_group": rows % 3 + 1, "seq_len": eights}
    if op == "DualGEMVSiLUMul":
        return {"M": 32, "K": eights, "num_aie_columns": 1, "tile_size_output": 16}
    if op == "WeightedRMSNorm":
        return {"rows": rows, "tile_size": eights}
    if op == "FusedQKVProj":
        return {"embedding_dim": eights, "q_dim": 32, "k_dim": 16, "v_dim": 16, "num_aie_columns": 1}
    extra = {"Pointwise": {"mode": draw(st.sampled_from(["add", "mul", "gelu"]))}}
    extra |= {"AXPY": {"scalar_factor": draw(st.floats(-5, 5))}, "Clamp": {"low": -0.3, "high": 1.7}}
    extra["LeakyReLU"] = {"alpha": draw(st.floats(0, 0.5))}
    return {"size": draw(sizes), **extra.get(op, {})}


def stated() -> list[str]:
    return sorted(spec.type for spec in refs.specs() if spec.numerics is not None)


ON = [(op, device) for op in stated() for device in DEVICES if device in refs.find(op).devices]


def ordinary(op: str) -> dict[str, Any]:
    params: dict[str, Any] = {"size": 4096}
    params |= {"RMSNorm": {"tile_size": 256}, "LayerNorm": {"tile_size": 256}, "Clamp": {"low": -0.3, "high": 1.7}}.get(
        op, {}
    )
    return {
        "Softmax": {"rows": 16, "cols": 256}, "RoPE": {"rows": 32, "cols": 64, "angle_rows": 8},
        "GEMV": {"M": 512, "K": 256}, "Dequant": {"size": 4096, "tile_size": 1024},
        "GEMM": {"M": 64, "K": 256, "N": 64, "tile_m": 16, "tile_n": 16, "num_aie_columns": 1},
        "DepthwiseConv1d": {"rows": 64, "channels": 64, "num_aie_columns": 1},
        "GQAContext": {"groups": 4, "heads_per_group": 4, "seq_len": 128},
        "DualGEMVSiLUMul": {"M": 512, "K": 256, "num_aie_columns": 1, "tile_size_output": 16},
        "FusedQKVProj": {"embedding_dim": 256, "q_dim": 256, "k_dim": 128, "v_dim": 128},
        "Pointwise": {"size": 4096, "mode": "gelu"}, "WeightedRMSNorm": {"rows": 16, "tile_size": 256},
    }.get(op, params)  # fmt: skip


@pytest.mark.parametrize("name", ["tile_k", "emulate_bf16_mmul_with_bfp16", "prio_accuracy", "round_conv_even"])
def test_what_iron_chose_and_did_not_say_has_no_bound(name: str) -> None:
    spec = refs.lookup("GEMM")
    assert spec is not None
    assert spec.numerics is not None
    params = spec.bind({**ordinary("GEMM"), name: None})
    with pytest.raises(UsageError, match=f"GEMM: {name}=None"):
        spec.numerics.stages_of(params, spec.numerics.models(params, "npu2")[0])


@pytest.mark.parametrize(("op", "device"), ON)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_no_honest_element_is_outside(op: str, device: str, data: st.DataObject) -> None:
    params = data.draw(parameters(op, device))
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=2))
    seed, mode = data.draw(st.integers(0, 1 << 20)), data.draw(st.sampled_from(MODES))
    numerics, bound_params, inputs, actual = run(op, device, params, kinds, seed, mode)
    models = numerics.models(bound_params, device)
    with np.errstate(all="ignore"):
        assert not outside(bound(numerics, bound_params, inputs, {}, models, "W"), actual).any()
        assert not outside(bound(numerics, bound_params, inputs, {}, models, "W", flushes=True), actual).any()
        hull = numerics.models(bound_params, None)
        assert not outside(bound(numerics, bound_params, inputs, {}, hull, "W"), actual).any()
        mine = [m for m in models if len(models) == 1 or m.rounding == mode]
        model = bound(numerics, bound_params, inputs, {}, mine, "M")
        assert not outside(model, actual).any()


@pytest.mark.parametrize(("op", "device"), ON)
def test_a_model_names_nearly_every_value_and_another_device_does_not(op: str, device: str) -> None:
    """Ordinary numbers: the device's own model predicts at least 98.5 % of elements to the bit."""
    numerics, bound_params, inputs, actual = run(op, device, ordinary(op), ["normal"], 0, "floor")
    own = numerics.models(bound_params, device)[0]
    assert np.mean(predicted(numerics, bound_params, inputs, {}, own) == actual) > 0.985


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", ["Tanh", "Sigmoid", "SiLU", "GELU", "ReLU", "LeakyReLU", "Clamp"])
def test_unary_kernels_over_every_value_there_is(op: str, device: str, mode: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(BFLOAT16)
    spec = refs.lookup(op)
    assert spec is not None
    assert spec.numerics is not None
    params = spec.bind({"size": every.size, "low": -0.3, "high": 1.7})
    actual = find_kernel(op).run(Dispatch(Core(device, mode), params, [every]))[0].astype(np.float32)
    models = spec.numerics.models(params, device)
    assert not outside(bound(spec.numerics, params, [every], {}, models), actual).any()
    own = next(m for m in models if m.rounding == mode)
    assert np.array_equal(predicted(spec.numerics, params, [every], {}, own), actual, equal_nan=True)


@pytest.mark.parametrize("op", stated())
def test_each_stage_and_each_constant_has_a_source(op: str) -> None:
    spec = refs.lookup(op)
    assert spec is not None
    numerics = spec.numerics
    assert numerics is not None
    assert ".cc" in numerics.source or ".py" in numerics.source or "iron/" in numerics.source
    bound_params = spec.bind(ordinary(op))
    for device in DEVICES:
        for stage in walk(numerics.stages(bound_params, device)):
            assert stage.error is None or stage.error.source


def test_data_without_a_source_is_refused() -> None:
    with pytest.raises(UsageError, match="no source; say where it is from"):
        Constant(-1, 1, "relative", "", "assumed")
    with pytest.raises(UsageError, match="numerics without a source"):
        Numerics(lambda _params, _device: (), "")


def test_an_unknown_device_and_unknown_types_are_named() -> None:
    spec = refs.lookup("GEMM")
    assert spec is not None
    assert spec.numerics is not None
    params = spec.bind({"M": 64, "K": 64, "N": 64, "dtype_in": "f32"})
    with pytest.raises(UsageError, match="device 'npu9'"):
        spec.numerics.models(params, "npu9")
    with pytest.raises(UsageError, match="dtype_in='f32'"):
        spec.numerics.stages_of(params, Model("npu2", "floor"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", ["GEMM", "GEMV", "RMSNorm", "LayerNorm", "Softmax", "DepthwiseConv1d", "GQAContext"])
def test_where_nan_goes_in_nan_is_due_and_nothing_else_is_accepted(op: str, device: str) -> None:
    numerics, params, inputs, _ = run(op, device, ordinary(op), ["normal"], 0, "floor")
    inputs[0].reshape(-1)[3] = np.nan
    previous = [np.zeros(s.shape, BFLOAT16) for s in refs.find(op).arg_specs(ordinary(op)) if s.writes]
    core = Core(device, "floor")
    actual = find_kernel(op).run(Dispatch(core, params, inputs, previous))[0].reshape(-1).astype(np.float32)
    found = bound(numerics, params, inputs, {}, numerics.models(params, device), "P")
    assert np.isnan(actual).any()
    assert np.isnan(found.lo[np.isnan(actual)]).all()
    assert outside(found, np.zeros_like(actual))[np.isnan(actual)].all()


def test_who_sets_the_mode() -> None:
    def modes(op: str, device: str, **params: Any) -> list[str]:
        spec = refs.lookup(op)
        assert spec is not None
        assert spec.numerics is not None
        return [m.rounding for m in spec.numerics.models(spec.bind(params), device)]

    size = {"M": 64, "K": 64, "N": 64}
    assert modes("ElementwiseAdd", "npu1", size=64) == ["floor", "conv_even"]
    assert modes("RMSNorm", "npu2", size=64, tile_size=64) == ["conv_even"]
    assert modes("GEMM", "npu2", **size) == ["conv_even"]
    assert modes("GEMM", "npu2", **size, round_conv_even=False) == ["floor"]
    assert modes("GEMM", "npu1", **size, round_conv_even=False) == ["floor", "conv_even"]


def test_what_is_assumed_is_said() -> None:
    def assumed(op: str, device: str | None, **params: Any) -> tuple[str, ...]:
        spec = refs.lookup(op)
        assert spec is not None
        assert spec.numerics is not None
        return spec.numerics.assumed(spec.bind(params), device)

    assert assumed("ElementwiseAdd", None, size=64) == ()
    assert assumed("RMSNorm", "npu1", size=64, tile_size=64) == ()
    assert assumed("SiLU", "npu2", size=64) == ("tanh to 1 bf16 ulp",)
    assert assumed("GEMM", "npu1", M=64, K=64, N=64) == ()
    assert assumed("GEMM", "npu2", M=64, K=64, N=64) == ("errors of bfp16 operands to be independent",)
