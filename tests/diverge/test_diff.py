# SPDX-License-Identifier: Apache-2.0
"""diff() on a small llama decode, where the software NPU says which faults it injected; and on byte runlists, where
the test says what each step made of its inputs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from byte_runlists import Entry, Use, record
from fusion_replay.errors import MismatchError, UsageError
from fusion_replay.simulator.errors import HostRuntimeError
from fusion_replay.simulator.workloads import find

BF16 = ml_dtypes.bfloat16


def llama(path: Path, *faults: str, seed: int = 0, device: str = "npu2", **options: Any) -> Path:
    run = find("llama-decode").build(device, faults, {"tokens": 2, "layers": 1, "context": 64, "seed": seed, **options})
    with fr.record(path, run.callable), contextlib.suppress(HostRuntimeError):  # a timeout ends the run
        run.execute()
    return path


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("clean") / "a.h5")


def test_equal_recordings(clean: Path, tmp_path: Path) -> None:
    report = fr.diff(clean, llama(tmp_path / "b.h5"))
    assert report.equal
    assert report.passed
    assert bool(report)
    assert report.compared == 82
    assert report.counts == {"same": 82}
    assert str(report).startswith("none of 82 steps differ")
    report.check()


def test_one_fault_is_the_first_and_the_only_one(clean: Path, tmp_path: Path) -> None:
    report = fr.diff(clean, llama(tmp_path / "b.h5", "0:32:zeros"))
    assert report.first is not None
    assert [s.address for s in report.introduced] == ["0:32"]
    assert report.path[0] == report.first.label
    assert "-> logits" in report.path[-1]
    assert [f.buffer for f in report.final][:1] == ["logits"]
    assert not report.passed
    with pytest.raises(MismatchError, match="0:32"):
        report.check()


def test_two_faults_are_both_listed(clean: Path, tmp_path: Path) -> None:
    """The second strikes where the first has already made every input differ."""
    report = fr.diff(clean, llama(tmp_path / "b.h5", "0:1:zeros", "0:35:shift"))
    assert [s.address for s in report.introduced] == ["0:1", "0:35"]
    second = report.introduced[1]
    assert second.inputs
    assert second.judged is not None
    assert (second.judged[0].ok, second.judged[1].ok) == (True, False)


def test_a_masked_fault_is_listed_as_masked(tmp_path: Path) -> None:
    """ReLU's input is negative with and without the fault: what comes out is the same zero."""
    from fusion_replay.simulator.operators import ElementwiseAdd, ReLU

    runlist = [
        (ElementwiseAdd(size=64, tile_size=64, num_aie_columns=1), "a", "b", "c"),
        (ReLU(size=64, tile_size=64, num_aie_columns=1), "c", "d"),
    ]
    paths = []
    for name, faults in (("a", []), ("b", ["0:0:zeros"])):
        call = fr.simulate(runlist, device="npu2", faults=faults)
        for buffer in "ab":
            call.get_buffer(buffer).numpy_view()[:] = -1
            call.get_buffer(buffer).to("npu")
        paths.append(tmp_path / f"{name}.h5")
        with fr.record(paths[-1], call):
            call()
    report = fr.diff(*paths)
    (fault,) = report.introduced
    assert (fault.address, fault.vanishes) == ("0:0", True)
    assert [s.address for s in report.of_kind("masked")] == ["0:1"]
    assert report.path == report.final == ()
    assert not report.passed, "it is a mismatch all the same"
    assert "masked: 0:0" in str(report)


def test_a_timeout_is_named_by_its_status(clean: Path, tmp_path: Path) -> None:
    report = fr.diff(clean, llama(tmp_path / "b.h5", "1:5:timeout"))
    assert report.first is not None
    assert (report.first.address, report.first.status) == ("1:5", ("complete", "failed"))
    missing = report.of_kind("missing")
    assert [s.address for s in missing] == [f"1:{i}" for i in range(6, 41)]
    assert not report.passed


def test_what_comes_from_outside_is_no_step_s_fault(clean: Path, tmp_path: Path) -> None:
    report = fr.diff(clean, llama(tmp_path / "b.h5", seed=1))
    assert not report.introduced
    assert not report.suspects
    names = {o.name for o in report.outside}
    assert {"x", "W_attn_query_0"} <= names
    assert "rope_angles" not in names
    assert not report.passed, "the logits are far apart"


def test_two_generations_differ_where_their_inputs_agree_and_nowhere_else(clean: Path, tmp_path: Path) -> None:
    """Their kernels round differently. Only a token's first step has the same inputs on both."""
    other = llama(tmp_path / "b.h5", device="npu1")
    report = fr.diff(clean, other)
    assert {s.address for s in report.introduced} <= {"0:0", "1:0"}
    assert not report.breaking
    assert not report.suspects
    assert not fr.diff(other, llama(tmp_path / "c.h5", seed=1)).introduced


def test_two_invocations_of_one_recording(clean: Path) -> None:
    report = fr.diff(f"{clean}@0", f"{clean}@1")
    assert report.compared == 41
    assert not report.introduced
    assert not report.suspects
    names = {o.name for o in report.outside}
    assert {"x", "rope_angles", "keys_cache_0"} <= names
    assert any(n.startswith("value ") for n in names)
    assert all(s.invocation == 1 for s in report.steps)
    assert fr.diff(clean, clean, invocation=1).compared == 41
    with pytest.raises(UsageError, match="no invocation 7"):
        fr.diff(f"{clean}@0", f"{clean}@7")


def fusing(path: Path, fused: bool, *faults: str) -> Path:
    """The gated half of a feed-forward, its three steps one by one or fused into one design, between two others."""
    from fusion_replay.simulator import operators as op

    m, k = 64, 128
    gate = [
        (op.GEMV(M=m, K=k), "W_gate", "x", "gate"),
        (op.GEMV(M=m, K=k), "W_up", "x", "up"),
        (op.SiLU(size=m), "gate", "gate"),
        (op.ElementwiseMul(size=m), "gate", "up", "hidden"),
    ]
    one = [(op.DualGEMVSiLUMul(M=m, K=k, num_aie_columns=1), "W_both", "x", "hidden")]
    before = [
        (op.ElementwiseAdd(size=k), "in", "bias", "sum"),
        (op.ElementwiseMul(size=k), "sum", "scale", "scaled"),
        (op.ReLU(size=k), "scaled", "x"),
    ]
    behind = [
        (op.GEMV(M=m, K=m), "W_down", "hidden", "down"),
        (op.ElementwiseAdd(size=m), "down", "offset", "out"),
        (op.SiLU(size=m), "out", "y"),
    ]
    call = fr.simulate([*before, *(one if fused else gate), *behind], device="npu2", faults=faults)
    rng = np.random.default_rng(5)
    half = {n: rng.standard_normal((m, k)).astype(BF16) / 8 for n in ("W_gate", "W_up")}
    filled = {n: rng.standard_normal(k) for n in ("in", "bias", "scale")} | {"offset": rng.standard_normal(m), **half}
    filled["W_down"] = rng.standard_normal((m, m)) / 8
    if fused:
        filled = {n: x for n, x in filled.items() if n not in half} | {"W_both": np.concatenate([*half.values()])}
    for name, values in filled.items():
        call.get_buffer(name).numpy_view()[:] = values.astype(BF16).reshape(-1)
        call.get_buffer(name).to("npu")
    with fr.record(path, call):
        call()
    return path


def test_a_fused_step_shifts_nothing_and_is_named(tmp_path: Path) -> None:
    apart, fused = fusing(tmp_path / "a.h5", False), fusing(tmp_path / "b.h5", True)
    report = fr.diff(apart, fused)
    told = [(s.kind, s.address, s.op) for s in report.steps]
    removed = [("removed", f"0:{i}", op) for i, op in enumerate(("GEMV", "GEMV", "SiLU", "ElementwiseMul"), 3)]
    assert [t for t in told if t[0] == "removed"] == removed
    assert [t for t in told if t[0] == "added"] == [("added", "0:3", "DualGEMVSiLUMul")]
    assert report.compared == 6, "what stands before and behind it, by what they are"
    assert not report.introduced
    assert {t[1] for t in told if t[0] == "inherited"} <= {"0:4", "0:5", "0:6"}
    assert all(f.verdict is not None and f.verdict.stats.rel_l2 < 0.02 for f in report.final), "rounded less often"
    broken = fr.diff(apart, fusing(tmp_path / "c.h5", True, "0:5:shift:7"))
    assert [s.address for s in broken.introduced] == ["0:5"], "and of what is behind it a fault is still seen"


CHAIN = [
    Entry((Use("x", "in"), Use("y", "out"))),
    Entry((Use("y", "in"), Use("z", "out")), "Second"),
    Entry((Use("z", "inout"),), "Between"),
    Entry((Use("z", "in"), Use("v", "out")), "Third"),
    Entry((Use("v", "in"), Use("u", "out")), "Fourth"),
]


def test_a_step_taken_out_shifts_nothing_and_is_named(tmp_path: Path) -> None:
    whole = record(tmp_path / "a.h5", CHAIN, outputs=["u"])
    short = record(tmp_path / "b.h5", [*CHAIN[:2], *CHAIN[3:]], outputs=["u"])
    report = fr.diff(whole, short)
    assert [(s.kind, s.label.split()[1]) for s in report.steps] == [
        ("removed", "Between"),
        ("inherited", "Third"),
        ("inherited", "Fourth"),
    ]
    assert [(o.name, o.address) for o in report.outside] == [("z", "0:2")]
    assert "by a step that b's runlist lacks" in report.outside[0].why
    back = fr.diff(short, whole)
    assert [s.kind for s in back.steps] == ["added", "inherited", "inherited"]
    assert back.outside == (), "the step that was put in made the difference"
