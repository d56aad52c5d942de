# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay import refs
from fusion_replay.errors import UnknownOperatorError, UsageError
from fusion_replay.simulator.workloads import find

BF16 = np.dtype(ml_dtypes.bfloat16)
ALL = [s.type for s in refs.specs()]


def recorded(tmp_path: Path, name: str, device: str = "npu2", faults: tuple[str, ...] = (), **options: object) -> Path:
    run = find(f"op:{name}").build(device, faults, options)
    target = tmp_path / f"{name}-{device}.h5"
    with fr.record(target, run.callable, if_exists="replace"):
        run.execute()
    return target


@pytest.mark.parametrize("device", ["npu1", "npu2"])
@pytest.mark.parametrize("name", ALL)
def test_every_operator_runs_without_parameters(name: str, device: str, tmp_path: Path) -> None:
    if device not in refs.find(name).devices:
        with pytest.raises(UsageError, match=f"{name}: device=npu1: expected npu2"):
            recorded(tmp_path, name, device)
        return
    with fr.open(recorded(tmp_path, name, device, calls=2)) as snap:
        if name in ("SwiGLUDecode", "SwiGLUPrefill"):
            product = "GEMV" if name == "SwiGLUDecode" else "GEMM"
            assert [s.op.type for s in snap.steps()] == [product, product, "SiLU", "ElementwiseMul", product] * 2
            return
        assert [s.op.type for s in snap.steps()] == [name, name]
        first, second = snap.steps()
        assert first.inputs[0].digest != second.inputs[0].digest or name == "RoPE"
        spec = refs.find(name)
        args = spec.arg_specs(dict(first.op.params))
        assert [t.name for t in first.inputs.values()] == [a.name for a in args if a.reads]
        assert [t.name for t in first.outputs.values()] == [a.name for a in args if a.writes]
        for tensor in first.outputs.values():
            assert np.any(tensor.numpy().view(np.uint8))


def test_the_seed_decides_the_inputs(tmp_path: Path) -> None:
    def digest(**options: int) -> str | None:
        with fr.open(recorded(tmp_path, "GELU", **options)) as snap:
            return snap["0:0"].inputs[0].digest

    assert digest() == digest(seed=42) == digest()
    assert digest(seed=43) != digest()


@pytest.mark.parametrize(
    ("name", "arg", "low", "high"),
    [
        ("ElementwiseAdd", "A", 0, 4),
        ("ElementwiseMul", "B", 0, 4),
        ("SiLU", "A", -2, 2),
        ("ReLU", "A", -2, 2),
        ("GELU", "A", -4, 4),
        ("RMSNorm", "A", 0, 4),
        ("Softmax", "A", 0, 4),
    ],
)
def test_inputs_fill_the_range_of_irons_generators(name: str, arg: str, low: int, high: int, tmp_path: Path) -> None:
    with fr.open(recorded(tmp_path, name)) as snap:
        x = snap["0:0"].inputs[arg].numpy().astype(np.float64)
    assert low <= x.min() < low + 0.02
    assert high - 0.02 < x.max() <= high
    assert abs(x.mean() - (low + high) / 2) < 0.1


def test_gemv_inputs_are_normal_with_deviation_four(tmp_path: Path) -> None:
    with fr.open(recorded(tmp_path, "GEMV")) as snap:
        a = snap["0:0"].inputs["A"].numpy().astype(np.float64)
    assert abs(a.std() - 4) < 0.05
    assert abs(a.mean()) < 0.05


def test_rope_angles_are_cosines_and_sines(tmp_path: Path) -> None:
    with fr.open(recorded(tmp_path, "RoPE")) as snap:
        angles = snap["0:0"].inputs["angles"].numpy().astype(np.float64)
    np.testing.assert_allclose(angles[:, 0::2] ** 2 + angles[:, 1::2] ** 2, 1, atol=0.01)
    np.testing.assert_allclose(angles[3, :2], [np.cos(3), np.sin(3)], atol=0.004)
    np.testing.assert_allclose(angles[3, 2], np.cos(3 * 500_000 ** (-2 / 64)), atol=0.004)


def test_parameters_by_their_types(tmp_path: Path) -> None:
    path = recorded(tmp_path, "GEMM", param=["K=128", "b_col_maj=true", "prio_accuracy=1", "N=1024"])
    with fr.open(path) as snap:
        params = snap["0:0"].op.params
        assert (params["K"], params["N"], params["M"]) == (128, 1024, 256)
        assert (params["b_col_maj"], params["prio_accuracy"]) == (True, True)
        assert snap["0:0"].inputs["B"].shape == (1024, 128)
    copy = ["input_sizes=4x64", "output_sizes=4,64", "output_strides=[128,1]", "output_offset=0", "transfer_size=none"]
    with fr.open(recorded(tmp_path, "StridedCopy", param=copy)) as snap:
        step = snap["0:0"]
        assert step.op.params["output_sizes"] == [4, 64]
        old, new = step.outputs[0].previous.numpy(), step.outputs[0].numpy()
        moved = np.zeros(new.size, bool)
        moved[(np.arange(4)[:, None] * 128 + np.arange(64)).reshape(-1)] = True
        assert old.view(np.uint16).any()  # old contents that show
        np.testing.assert_array_equal(new.reshape(-1)[~moved].view(np.uint16), old.reshape(-1)[~moved].view(np.uint16))
        np.testing.assert_array_equal(new.reshape(-1)[moved], step.inputs[0].numpy().reshape(-1)[:256])


def test_runtime_values_reach_the_kernel_and_the_recording(tmp_path: Path) -> None:
    with fr.open(recorded(tmp_path, "Softmax", value=["vector_size=40"])) as snap:
        step = snap["0:0"]
        assert step.values == {"vector_size": 40}
        rows = step.outputs[0].numpy().reshape(16, 256).astype(np.float64)
    assert not rows[:, 40:].any()
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=0.05)


def test_a_fault_that_would_never_strike_is_refused() -> None:
    for name, fault, invocations in (
        ("op:ElementwiseAdd", "1:0:zeros", "0 alone"),
        ("llama-decode", "2:69:shift", "0 to 1"),
    ):
        with pytest.raises(UsageError, match=f"{name}: fault {fault} never strikes: its invocations are {invocations}"):
            find(name).build("npu2", [fault], {"tokens": 2} if name == "llama-decode" else {})


def test_faults_reach_the_device(tmp_path: Path) -> None:
    with fr.open(recorded(tmp_path, "ElementwiseAdd", faults=("0:0:zeros",))) as snap:
        assert not snap["0:0"].outputs[0].numpy().astype(np.float32).any()


def test_aliases_describe_and_result(tmp_path: Path) -> None:
    workload = find("op:elementwise_add")
    assert workload.name == "op:ElementwiseAdd"
    run = workload.build("npu1", (), {"calls": 2})
    assert "npu1" in run.describe()
    assert "A (4096,), B (4096,) -> C (4096,), 2 calls" in run.describe()
    result = run.execute()
    assert result["operator"] == "ElementwiseAdd"
    assert abs(result["C"]["mean_abs"] - 4) < 0.2


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("GEMV", {"param": ["rows=3"]}, ["param 'rows=3'", "M, K,"]),
        ("GEMV", {"param": ["M"]}, ["param 'M'", "K=V"]),
        ("GEMV", {"param": ["M=many"]}, ["M='many'", "int"]),
        ("GEMM", {"param": ["b_col_maj=maybe"]}, ["b_col_maj='maybe'", "bool"]),
        ("StridedCopy", {"param": ["input_sizes=ax"]}, ["input_sizes='ax'", "8x64"]),
        ("Softmax", {"value": ["vector_size=x"]}, ["vector_size=x", "COUNT"]),
        ("Softmax", {"value": ["length=3"]}, ["length=3", "vector_size"]),
        ("GEMV", {"value": ["n=3"]}, ["unknown option value"]),
        ("GEMM", {"param": ["M=100"]}, ["GEMM", "M=100", "multiple of 256"]),
        ("ElementwiseAdd", {"param": ["num_aie_columns=9"]}, ["num_aie_columns=9", "1 to 8"]),
    ],
)
def test_what_cannot_be_built_is_said(name: str, options: dict[str, list[str]], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        find(f"op:{name}").build("npu2", (), options)
    assert [w for w in words if w not in str(caught.value)] == []


def test_unknown_operators() -> None:
    with pytest.raises(UnknownOperatorError, match="'Nonsense'"):
        find("op:Nonsense")
