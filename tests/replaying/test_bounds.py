# SPDX-License-Identifier: Apache-2.0
"""Which limit decides a recorded step: on the software NPU, on arrays, with limits of its own, without numerics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.compare.tolerance import relative
from fusion_replay.model.bf16 import BFLOAT16, narrow
from fusion_replay.replaying.judge import Plan, evaluate_step, judge
from fusion_replay.simulator.operators import ElementwiseMul

ROWS, SIZE = 8, 64


def draw(seed: int, *shape: int) -> np.ndarray:
    return narrow(np.random.default_rng(seed).standard_normal(shape))


def rms_norm(x: np.ndarray, count: int = SIZE) -> np.ndarray:
    wide = x.astype(np.float64)
    return narrow(wide / np.sqrt((wide**2).sum(axis=1, keepdims=True) / count + 1e-5))


def arrays(path: Path, op: str, params: dict[str, object], output: np.ndarray, **inputs: np.ndarray) -> Path:
    with fr.record(path) as rec, rec.step(op, inputs=inputs, params=params) as step:
        step.outputs["C"] = output
    return path


NORM = {"size": ROWS * SIZE, "tile_size": SIZE}


def test_arrays_are_decided_by_the_tolerance_and_listed_outside_the_bound(tmp_path: Path) -> None:
    x = draw(0, ROWS, SIZE)
    path = arrays(tmp_path / "x.h5", "RMSNorm", NORM, rms_norm(x, SIZE + 2), A=x)
    report = fr.replay(path)
    assert report.passed
    assert [s.address for s in report.outside] == ["0:0"]
    assert "1 step inside the tolerance and outside the bound, first 0:0 RMSNorm A -> C" in str(report)
    strict = fr.replay(path, rule="bound")
    assert [s.address for s in strict.mismatches] == ["0:0"]
    assert strict.steps[0].verdict.decided_by == "bound"
    old = fr.replay(path, rule="tolerance")
    assert old.passed
    assert not old.outside


@pytest.mark.parametrize("cut", [False, True])
def test_an_unknown_device_may_compute_exactly_and_round_or_cut(tmp_path: Path, cut: bool) -> None:
    x = draw(1, ROWS, SIZE)
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5)
    bits = exact.astype(np.float32).view(np.uint32)
    down = ((bits >> 16) + ((bits >> 31) & ((bits & 0xFFFF) != 0))).astype(np.uint16).view(BFLOAT16)
    path = arrays(tmp_path / "x.h5", "RMSNorm", NORM, down if cut else narrow(exact), A=x)
    assert fr.replay(path, rule="bound").passed


def simulated(path: Path, fault: str | None = None) -> Path:

    call = fr.simulate(
        [(ElementwiseMul(size=512, tile_size=64, num_aie_columns=4), "a", "b", "c")],
        device="npu1",
        faults=[fault] if fault else [],
    )
    with fr.record(path, call):
        for name, seed in (("a", 2), ("b", 3)):
            call.get_buffer(name)[:] = draw(seed, 512)
        call()
    return path


def test_the_software_npu_is_decided_by_the_bound(tmp_path: Path) -> None:
    verdict = fr.replay(simulated(tmp_path / "x.h5")).steps[0].verdict
    assert verdict.decided_by == "bound"
    assert verdict.within is not None
    assert verdict.within.models == ("npu1, floor", "npu1, conv_even")
    assert verdict.within.assumed == ()
    assert verdict.within.accepts <= 2
    assert verdict.to_dict()["bound"]["n_outside"] == 0


def test_limits_that_somebody_gave_decide(tmp_path: Path) -> None:
    with fr.open(simulated(tmp_path / "x.h5")) as snapshot:
        step = snapshot["0:0"]
        plan = Plan(tolerances={"ElementwiseMul": relative(0.5, 0.0)})
        evaluation = evaluate_step(step, plan)
        report = judge(step, plan, evaluation, [t.numpy() for t in step.outputs.in_order()], lambda _: True)
    assert report.verdict.decided_by == "tolerance"
    assert report.verdict.within is not None


def test_why_there_is_no_bound(tmp_path: Path) -> None:
    q = draw(4, 64, 64)
    params = {"num_heads": 1, "seq_len": 64, "d": 64, "num_KV_heads": 1}
    with fr.record(tmp_path / "x.h5") as rec, rec.step("MHA", inputs={"Q": q, "K": q, "V": q}, params=params) as step:
        step.outputs["O"] = q
    verdict = fr.replay(tmp_path / "x.h5").steps[0].verdict
    assert verdict.within is None
    assert verdict.unbound == "MHA: how its kernel computes is not stated"
    x = draw(5, ROWS, SIZE).astype(np.float32)
    path = arrays(tmp_path / "y.h5", "RMSNorm", NORM, rms_norm(x), A=x)
    assert "inputs of float32" in fr.replay(path).steps[0].verdict.unbound


def test_a_chain_of_references_has_no_bound(tmp_path: Path) -> None:
    report = fr.replay(simulated(tmp_path / "x.h5"), mode="cumulative")
    assert report.steps[0].verdict.decided_by == "tolerance"


def test_constant_operands_whose_conversion_errors_add_up_are_honest(tmp_path: Path) -> None:
    """Errors of bfp16 are taken for independent; where they are not, a model of the conversion reproduces them."""
    from fusion_replay.simulator.operators import GEMM

    gemm = GEMM(M=64, K=256, N=16, tile_m=16, tile_n=16, num_aie_columns=1, prio_accuracy=True)
    call = fr.simulate([(gemm, "a", "b", "c")], device="npu2")
    with fr.record(tmp_path / "x.h5", call):
        for name, size in (("a", 64 * 256), ("b", 256 * 16)):
            call.get_buffer(name)[:] = narrow(np.full(size, 1.0078125))
        call()
    verdict = fr.replay(tmp_path / "x.h5").steps[0].verdict
    assert verdict.decided_by == "bound"
    assert verdict.ok
