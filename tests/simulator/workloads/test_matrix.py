# SPDX-License-Identifier: Apache-2.0
"""The report's parameter sets, and what each of them means in operators, worked out by hand for one of every kind."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads import find
from fusion_replay.simulator.workloads.matrix import MatrixCase, cases, data


def test_the_data_is_the_reports() -> None:
    assert {device: len(sets) for device, sets in data()["cases"].items()} == {"npu1": 71, "npu2": 94}
    assert "pull request 117" in data()["source"]
    kinds = Counter((c.device, c.kind) for c in cases())
    assert kinds == {
        ("npu1", "operator"): 71,
        ("npu2", "operator"): 94,
        ("npu2", "application"): 4,
        ("npu1", "ours"): 4,
        ("npu2", "ours"): 4,
    }
    runs = {tuple(c.parameters.values()) for c in cases() if c.kind == "application"}
    assert runs == {(1024, 1), (1024, 40), (13, 1), (13, 40)}


@pytest.mark.parametrize("device", ["npu1", "npu2"])
def test_every_tested_operator_is_there(device: str) -> None:
    assert {c.operator for c in cases(device) if c.kind != "application"} == set(data()["operators_tested"][device])
    unlisted = set(data()["operators_tested"][device]) - {c["operator"] for c in data()["cases"][device]}
    assert {c.operator for c in cases(device) if c.kind == "ours"} == unlisted


def test_names_are_unique_file_names() -> None:
    names = [c.name for c in cases()]
    assert len({n.lower() for n in names}) == len(names)
    assert all(re.fullmatch(r"npu[12]-[a-z_0-9.]+(-[A-Za-z0-9._]+)+", n) and len(n) < 80 for n in names)


@pytest.mark.parametrize("case", [c for c in cases() if c.kind != "application"], ids=lambda c: c.name)
def test_every_set_is_a_design_that_its_device_has(case: MatrixCase) -> None:
    """Operators, arg specs and buffer sizes fit; the rules of the design are checked by the kernels themselves."""
    from fusion_replay.simulator.core import Core
    from fusion_replay.simulator.kernels import find_kernel

    sequence = case.plan.sequence
    for op, *names in sequence.runlist:
        assert len(names) == len(op.arg_specs())
        find_kernel(type(op).__name__).check(op.params, Core(case.device))
    assert set(case.plan.inputs) == set(sequence.input_args) | {
        n for op, *names in sequence.runlist for n in names if n.startswith("w_")
    }


def only(name: str) -> Any:
    (case,) = cases(only=name)
    return case.plan.sequence.runlist[0][0]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("npu2-axpy-2048-c8-t256-by3", {"size": 2048, "num_aie_columns": 8, "tile_size": 256, "scalar_factor": 3.0}),
        ("npu1-dequant-2048-c4-ch2-t256-g32", {"size": 2048, "num_channels": 2, "tile_size": 256, "group_size": 32}),
        ("npu2-mem_copy-2048-cores16-ch2-t128", {"size": 2048, "num_cores": 16, "num_channels": 2, "bypass": False}),
        (
            "npu2-mha-seq_len16384-dim64-num_heads1-pipes8",
            {"seq_len": 16384, "d": 64, "num_heads": 1, "num_of_pipelines": 8, "num_KV_heads": 0},
        ),
        ("npu1-rope-rows32-cols512-angles8-c4", {"rows": 32, "cols": 512, "angle_rows": 8, "num_aie_columns": 4}),
        ("npu1-softmax-32768-c2-ch2-t512", {"rows": 64, "cols": 512, "num_aie_columns": 2, "num_channels": 2}),
        ("npu1-transpose-M2048-N64-c1-ch2-m64-n64-s8", {"M": 2048, "N": 64, "num_channels": 2, "m": 64, "s": 8}),
        # IRON's operator makes do with one channel where there are weights
        ("npu1-rms_norm-2048-c2-ch2-t512-weighted", {"tile_size": 512, "weighted": True, "num_channels": 1}),
        (
            "npu2-gemm-M896-K1792-N640-c8-ccol-m32-k64-n80",
            {
                "M": 896, "K": 1792, "N": 640, "tile_m": 32, "tile_k": 64, "tile_n": 80, "num_aie_columns": 8,
                "b_col_maj": False, "c_col_maj": True, "prio_accuracy": True, "emulate_bf16_mmul_with_bfp16": False,
            },
        ),
        ("npu1-gemv-M8192-K2048-c4-ti4-to1024", {"M": 8192, "K": 2048, "tile_size_input": 4, "tile_size_output": 1024}),
    ],
)  # fmt: skip
def test_the_reports_names_become_the_operators_fields(name: str, fields: dict[str, Any]) -> None:
    op = only(name)
    assert {k: getattr(op, k) for k in fields} == fields


def test_a_gemm_in_parts_shares_a_and_pads_b(tmp_path: Path) -> None:
    """256 columns in 4 parts of 64, each padded to the 4 columns times 64 that the design takes at least."""
    (case,) = cases("npu1", "npu1-gemm-M64-K512-N256-c4-bcol-m16-k64-n64-parts4")
    assert [names for _, *names in case.plan.sequence.runlist] == [["A", f"B_{i}", f"C_{i}"] for i in range(4)]
    run = case.build()
    run.execute()
    parts = [run.callable.get_buffer(f"B_{i}").numpy().reshape(256, 512).astype(np.float64) for i in range(4)]
    results = [run.callable.get_buffer(f"C_{i}").numpy().reshape(64, 256).astype(np.float64) for i in range(4)]
    a = run.callable.get_buffer("A").numpy().reshape(64, 512).astype(np.float64)
    for b, c in zip(parts, results, strict=True):
        assert (b[:64] > 0).mean() > 0.99
        assert not b[64:].any()
        assert not c[:, 64:].any()
        assert np.allclose(c[:, :64], a @ b[:64].T, rtol=0.005, atol=0.005 * np.abs(c).max())
    assert not np.array_equal(parts[0], parts[1])


def test_swiglu_is_the_chain_of_its_operators() -> None:
    (case,) = cases("npu1", "npu1-swiglu_decode-emb1024-hidden3584")
    assert [type(op).__name__ for op, *_ in case.plan.sequence.runlist] == [
        *("GEMV", "GEMV", "SiLU", "ElementwiseMul", "GEMV"),
    ]
    run = case.build()
    run.execute()

    def held(name: str, *shape: int) -> Any:
        return run.callable.get_buffer(name).numpy().astype(np.float64).reshape(shape)

    gate, up = (held(n, 3584, 1024) @ held("input", 1024) for n in ("w_gate", "w_up"))
    with np.errstate(over="ignore"):
        truth = held("w_down", 1024, 3584) @ (gate / (1 + np.exp(-gate)) * up)
    assert 3.5 < held("w_gate", 3584 * 1024).std() < 4.5
    found = held("output", 1024)
    assert np.linalg.norm(found - truth) < 0.02 * np.linalg.norm(truth)


def test_inputs_are_those_of_the_single_operator(tmp_path: Path) -> None:
    (case,) = cases("npu2", "npu2-gelu-2048-c8-ch2-t128")
    mine, other = case.build(), find("op:GELU").build("npu2", (), {"param": ("size=2048", "tile_size=256")})
    mine.execute()
    other.execute()
    assert mine.callable.get_buffer("A").numpy().tobytes() == other.callable.get_buffer("A").numpy().tobytes()


def test_the_sequence_has_the_cases_name(tmp_path: Path) -> None:
    (case,) = cases(only="npu1-relu-2048-c4-ch1-t512")
    run = case.build()
    with fr.record(tmp_path / "x.h5", run.callable):
        run.execute()
    with fr.open(tmp_path / "x.h5") as snap:
        assert snap.sequences[0].name == case.name
        assert snap.sequences[0].origin["device"] == "npu1"


def test_choosing() -> None:
    assert {c.device for c in cases("npu1")} == {"npu1"}
    assert {c.operator for c in cases(only="rope")} == {"rope"}
    assert len(cases("npu2", "rope")) == 8
    assert {c.operator for c in cases(only="npu2-swiglu")} == {"swiglu_decode", "swiglu_prefill"}
    with pytest.raises(UsageError, match=r"matrix case 'nope' is unknown; give a name such as npu1-axpy.*rms_norm"):
        cases(only="nope")
    with pytest.raises(UsageError, match=r"device 'npu3': expected one of npu1, npu2"):
        cases("npu3")
