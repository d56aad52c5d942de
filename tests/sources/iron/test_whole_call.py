# SPDX-License-Identifier: Apache-2.0
"""Fused callables and the one-kernel form, each call as one step, against what the double's device saw and wrote."""

from __future__ import annotations

import contextlib
import gc
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import NotAttachableError, NothingComparedError
from fusion_replay.sources.iron.watching.all_dispatches import AllDispatches
from iron_doubles import VARIANTS, Variant, machine, v0
from iron_doubles.operators import BF16

every = pytest.mark.parametrize("variant", VARIANTS, ids=str)
X = np.linspace(-4, 4, 64).astype(BF16)


@pytest.fixture(autouse=True)
def npu() -> machine.Machine:
    machine.MACHINE.__init__()  # type: ignore[misc]
    return machine.MACHINE


def fused(variant: Variant, kind: str = "") -> Any:
    """x + w -> (scratch h) -> SiLU -> y, in one dispatch."""
    ops = variant.ops
    runlist = [(ops.ElementwiseAdd(64), "x", "w", "h"), (ops.SiLU(64), "h", "y")]
    if variant.label != "V0b":
        return variant.build(runlist, ["x"], ["y"], dispatch="fused")
    sequence = v0.FusedMLIROperator("double", runlist, ["x"], ["y"])
    sequence.full_elf = True
    sequence.compile()
    return v0.FusedXclbinCallableV0a(sequence) if kind == "V0a" else sequence.get_callable()


def run(variant: Variant, callable_: Any, scale: float = 1.0) -> bytes:
    variant.write(callable_, "x", (X.astype(np.float32) * scale).astype(BF16))
    variant.write(callable_, "w", np.ones(64, BF16))
    callable_()
    return variant.result(callable_, "y").tobytes()


@pytest.mark.parametrize(("variant", "kind"), [(VARIANTS[0], "V0a"), *((v, "") for v in VARIANTS)], ids=str)
def test_what_went_in_and_came_out_is_recorded(
    variant: Variant, kind: str, tmp_path: Path, npu: machine.Machine
) -> None:
    alone = fused(variant, kind)
    plain = [run(variant, alone, s) for s in (1.0, 0.5)]
    npu.log.clear()
    watched = fused(variant, kind)
    with fr.record(tmp_path / "a.h5", watched, whole_calls=True, on_error="raise"):
        seen = [run(variant, watched, s) for s in (1.0, 0.5)]
    assert seen == plain
    with fr.open(tmp_path / "a.h5") as snap:
        assert [s.address for s in snap.steps()] == ["0:0", "1:0"]
        for step, dispatch in zip(snap.steps(), npu.log, strict=True):
            assert step.op.type == "OperatorSequence"
            assert {k: v for k, v in step.op.params.items() if k != "layout"} == {
                "steps": 2,
                "operators": {"ElementwiseAdd": 1, "SiLU": 1},
            }
            assert step.op.params["layout"]["x"] == ["input", 0, 128]
            scratch = hasattr(watched.get_buffer("w"), "_coherence")  # else a read could change what is there
            assert list(step.inputs) == (["x", "w"] if scratch else ["x"])
            assert list(step.outputs) == (["y", "h"] if scratch else ["y"])
            if scratch:
                at = step.op.params["layout"]["h"][1]
                assert step.outputs["h"].numpy().tobytes() == dispatch.after[2].tobytes()[at : at + 128]
            assert step.inputs["x"].numpy().tobytes() == dispatch.before[0].tobytes()
            assert step.outputs["y"].numpy().tobytes() == dispatch.after[1].tobytes()
            assert step.elapsed_ns is not None
        (sequence,) = snap.sequences
        assert sequence.origin["dispatch"] == "whole call"
        assert scratch or "beside the inputs (w)" in sequence.origin["caution"], "the weights lie in scratch"
    with pytest.raises(NothingComparedError, match=r"a whole call: no step inside was seen; record with separate"):
        fr.replay(tmp_path / "a.h5")


@every
def test_without_the_request_it_is_refused_and_left_alone(variant: Variant, tmp_path: Path) -> None:
    callable_ = fused(variant)
    before = vars(type(callable_)).copy()
    with pytest.raises(NotAttachableError, match="no step can be seen"):
        fr.record(tmp_path / "a.h5", callable_)
    assert vars(type(callable_)) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.label in ("V3", "V6")], ids=str)
def test_repeated_calls_begin_alike_and_leave_what_the_first_gave(
    variant: Variant, tmp_path: Path, npu: machine.Machine
) -> None:
    add = variant.ops.ElementwiseAdd(64)
    runlist = [(add, "x", "w", "x"), (add, "x", "kept", "kept"), (variant.ops.SiLU(64), "x", "y")]

    def drifts(entry: Any, calls: int, memory: list[np.ndarray], old: list[np.ndarray]) -> None:
        memory[-1][0] += calls  # no two dispatches give the same

    npu.broken = drifts
    plain = variant.build(runlist, ["x"], ["y"], dispatch="fused")
    expected = run(variant, plain)
    kept = plain.get_buffer("kept").numpy().tobytes()
    npu.broken = None
    watched = variant.build(runlist, ["x"], ["y"], dispatch="fused")
    npu.broken = drifts
    with fr.record(tmp_path / "a.h5", watched, whole_calls=True, repeat_calls=4, on_error="raise"):
        assert run(variant, watched) == expected
    assert watched.get_buffer("kept").numpy().tobytes() == kept
    with fr.open(tmp_path / "a.h5") as snap:
        steps = list(snap.steps())
        assert len(steps) == 4
        assert len({tuple(t.digest for t in s.inputs.in_order()) for s in steps}) == 1
        assert len({s.outputs["x"].digest for s in steps}) == 4
        assert steps[0].outputs["y"].numpy().tobytes() == expected


def test_another_object_of_the_class_is_not_recorded_and_the_class_is_as_it_was(tmp_path: Path) -> None:
    variant = VARIANTS[-1]
    mine, other = fused(variant), fused(variant)
    call = type(mine).__call__
    with fr.record(tmp_path / "a.h5", mine, whole_calls=True) as rec:
        run(variant, other)
        run(variant, mine)
    assert type(mine).__call__ is call
    assert rec.report is not None
    assert (rec.report.steps, rec.report.invocations) == (1, 1)


def test_a_call_that_raises_is_a_failed_step_with_its_inputs(tmp_path: Path, npu: machine.Machine) -> None:
    variant = VARIANTS[-1]
    callable_ = fused(variant)
    npu.fail_at = 0
    with (
        pytest.raises(RuntimeError, match="ERT_CMD_STATE_TIMEOUT"),
        fr.record(tmp_path / "a.h5", callable_, whole_calls=True),
    ):
        run(variant, callable_)
    with fr.open(tmp_path / "a.h5") as snap:
        (step,) = snap.steps()
        assert step.status == "failed"
        assert step.inputs["x"].numpy().tobytes() == X.tobytes()


class Host:
    """Keeps what it was told to watch."""

    def __init__(self) -> None:
        self.watched: list[Any] = []

    def watch(self, source: Any) -> None:
        self.watched.append(weakref.ref(source))

    def observer(self) -> Any:
        raise AssertionError("no operator runs by itself here")

    def unseen(self, kind: str, detail: str) -> None:
        raise AssertionError(detail)

    def contain(self, what: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def test_a_callable_that_the_program_drops_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    variant, dispatches, host = VARIANTS[-1], AllDispatches(whole_calls=True), Host()
    callable_ = fused(variant)
    home = types.ModuleType("iron.common.sequence")
    home.Callable = next(c for c in type(callable_).__mro__ if "__call__" in vars(c))  # type: ignore[attr-defined]
    monkeypatch.setattr(home.Callable, "__module__", home.__name__)
    monkeypatch.setitem(sys.modules, home.__name__, home)
    dispatches.attach(host)
    try:
        run(variant, callable_)
        run(variant, callable_)
    finally:
        dispatches.detach()
    assert len(host.watched) == 1
    dropped = weakref.ref(callable_)
    del callable_
    gc.collect()
    assert dropped() is None
    assert host.watched[0]() is None
