# SPDX-License-Identifier: Apache-2.0
"""Clean runs: every step of both workloads passes rule auto, and every arithmetic kind deviates where it must.

Steps are judged as they run, without a recording: references on the very bytes that the kernels were given.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusion_replay import refs as catalogue
from fusion_replay.compare.verdict import Verdict, compare
from fusion_replay.operators import evaluate
from fusion_replay.simulator.operators import parameters_of
from fusion_replay.simulator.workloads import Run, find
from fusion_replay.simulator.workloads.minilm_model import PACKAGE

MOVEMENT = {"Transpose", "Repeat", "StridedCopy"}


def judged(run: Run, device: str) -> dict[str, list[Verdict]]:
    """Verdicts by operator type, one per step, of a run that is executed here."""
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    plan = run.callable._execution_plan

    def watch(kernel: Any, op: Any) -> Callable[..., Any]:
        specs, params = op.arg_specs(), parameters_of(op)
        spec = catalogue.find(type(op).__name__)

        def cut(tensor: Any, arg: Any) -> Any:
            return tensor.numpy().reshape(-1)[: arg.size].reshape(arg.shape).copy()

        def call(*tensors: Any, **values: Any) -> Any:
            before = [cut(t, s) for t, s in zip(tensors, specs, strict=True)]
            result = kernel(*tensors, **values)
            (expected,), _ = evaluate(
                spec,
                params,
                [x for x, s in zip(before, specs, strict=True) if s.reads],
                "iron-2026-09",
                previous=[x for x, s in zip(before, specs, strict=True) if s.writes],
                values=values,
            )
            actual = cut(tensors[-1], specs[-1])
            limits = spec.tolerance_for(device, params)
            verdicts[spec.type].append(compare(actual, expected, rule="auto", tolerance=limits))
            return result

        call.dispatch_params = kernel.dispatch_params  # type: ignore[attr-defined]
        return call

    plan[:] = [
        (watch(kernel, step[0]), args) for (kernel, args), step in zip(plan, run.callable.op.runlist, strict=True)
    ]
    run.execute()
    return verdicts


def assert_clean(verdicts: dict[str, list[Verdict]], steps: int) -> None:
    assert sum(map(len, verdicts.values())) == steps
    failed = [f"{kind}: {v}" for kind, group in verdicts.items() for v in group if not v.ok]
    assert not failed, failed[:3]
    for kind in MOVEMENT & set(verdicts):
        assert all(v.stats.bit_equal for v in verdicts[kind]), kind


def exact_kinds(verdicts: dict[str, list[Verdict]]) -> set[str]:
    return {kind for kind, group in verdicts.items() if all(v.stats.max_abs == 0 for v in group)}


@pytest.mark.parametrize("device", ["npu1", "npu2"])
def test_llama_decode(device: str) -> None:
    run = find("llama-decode").build(device, (), {"tokens": 3})
    verdicts = judged(run, device)
    assert_clean(verdicts, 3 * 80)
    # RMSNorm leaves its core rounding to even, under which sums, products and float32 accumulators come out exact
    assert {"RoPE", "SiLU", "Softmax"}.isdisjoint(exact_kinds(verdicts))


@pytest.mark.minilm
@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="needs the MiniLM weights (make minilm)")
@pytest.mark.parametrize(
    ("device", "bfp16"), [("npu1", False), pytest.param("npu2", False, marks=pytest.mark.long), ("npu2", True)]
)
def test_minilm(device: str, bfp16: bool) -> None:
    run = find("minilm").build(device, (), {"bfp16": bfp16, "text": "One of these numbers is not like the others."})
    verdicts = judged(run, device)
    assert_clean(verdicts, 375)
    # a product of two bf16 values fits float32, so only the rounding state could show, and GEMM leaves it at even
    assert exact_kinds(verdicts) == MOVEMENT | {"ElementwiseMul"}
    reasons = {kind: why for why, kinds in run.callable.exact_kinds.items() for kind in kinds}
    assert set(reasons) == exact_kinds(verdicts)
    assert "conv_even" in reasons["ElementwiseMul"]


def test_a_fault_is_not_clean() -> None:
    """The judge above can fail."""
    run = find("llama-decode").build("npu2", ["0:11:zeros"], {"tokens": 1})
    verdicts = judged(run, "npu2")
    assert [v.ok for v in verdicts["ElementwiseMul"]].count(False) == 1


@pytest.mark.long
def test_llama_3_2_1b_dimensions() -> None:
    """One layer of the real size: logits of the output head against float64 on a sample of its 128,256 rows."""
    run = find("llama-decode").build("npu2", (), {"config": "llama-3.2-1b", "layers": 1, "tokens": 1, "position": 100})
    run.execute()
    c = run.callable
    x = c.get_buffer("x").numpy().astype(np.float64)  # normed in place by the step before the head
    rows = np.linspace(0, 128255, 97).astype(int)
    head = c.get_buffer("W_out_head").numpy().reshape(128256, 2048)[rows].astype(np.float64)
    logits = c.get_buffer("logits").numpy()[rows].astype(np.float64)
    assert np.abs(logits - head @ x).max() < 2**-8 * 8
    assert len(np.unique(rows)) == 97
