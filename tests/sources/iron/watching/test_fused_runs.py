# SPDX-License-Identifier: Apache-2.0
"""``start()`` and ``wait()`` of fused callables, runs that are started by themselves, graphs, kernels in one chain."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fusion_replay as fr
from fusion_replay.sources.iron.watching.all_dispatches import AllDispatches

FAKE = Path(__file__).parents[3] / "fake_iron"
N = 128


def forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("iron", "aie", "sequences", "common_app"):
            del sys.modules[name]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    forget()
    for folder in ("v6", "common", "apps"):
        monkeypatch.syspath_prepend(str(FAKE / folder))
    import common_app

    yield common_app
    forget()


def fused(app: Any, **arguments: Any) -> Any:
    relu = app.operators.ReLU(size=N)
    sequence = app.OperatorSequence("loop", [(relu, "a", "b")], ["a"], ["b"], **{"dispatch": "fused", **arguments})
    return sequence.compile().get_callable()


def losses(path: Path) -> list[str]:
    with fr.open(path) as snapshot:
        return [loss.detail for loss in snapshot.losses]


def test_start_and_wait_are_one_call(app: Any, tmp_path: Path) -> None:
    callable_ = fused(app)
    with fr.record(tmp_path / "x.h5", whole_calls=True):
        run = callable_.new_run()
        for i in range(3):
            callable_.get_buffer("a").numpy_view()[...] = app.draw(i)
            callable_.start(run)
            callable_.wait(run)
    with fr.open(tmp_path / "x.h5") as snapshot:
        assert snapshot.sequences[0].origin["variant"] == "V6"
        steps = list(snapshot)
        assert [(s.address, s.status) for s in steps] == [(f"{i}:0", "complete") for i in range(3)]
        assert [s.inputs["a"].numpy().tobytes() for s in steps] == [app.draw(i).tobytes() for i in range(3)]
        assert not snapshot.losses


def test_what_is_started_is_not_repeated_and_a_call_is(
    app: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callable_, other = fused(app), fused(app)
    with fr.record(tmp_path / "x.h5", whole_calls=True, repeat_calls=3):
        run = callable_.new_run()
        callable_.start(run)
        callable_.wait(run)
        other.get_buffer("a").numpy_view()[...] = app.draw(1)
        other()
    assert "sequence loop: started by start(), so its calls can't be repeated" in capsys.readouterr().err
    with fr.open(tmp_path / "x.h5") as snapshot:
        started, *called = snapshot
        assert [s.address for s in called] == ["1:0", "2:0", "3:0"]
        assert len({s.inputs["a"].digest for s in called}) == len({s.outputs["b"].digest for s in called}) == 1
        assert started.status == "complete"


def test_a_wait_that_fails_is_a_failed_call(app: Any, tmp_path: Path) -> None:
    callable_ = fused(app)
    run = callable_.new_run()
    run.wait = lambda: (_ for _ in ()).throw(RuntimeError("the run ended in ERT_CMD_STATE_TIMEOUT"))
    with fr.record(tmp_path / "x.h5", whole_calls=True):
        callable_.start(run)
        with pytest.raises(RuntimeError, match="TIMEOUT"):
            callable_.wait(run)
    with fr.open(tmp_path / "x.h5") as snapshot:
        assert [s.status for s in snapshot] == ["failed"]


def test_started_again_before_it_was_waited_for(app: Any, tmp_path: Path) -> None:
    callable_ = fused(app)
    with fr.record(tmp_path / "x.h5", whole_calls=True):
        runs = [callable_.new_run() for _ in range(2)]
        callable_.start(runs[0])
        callable_.start(runs[1])
        callable_.wait(*runs)
    assert losses(tmp_path / "x.h5") == ["sequence loop: started while its last start was under way, seen as one"]


def test_a_start_that_shows_nothing_is_told(app: Any, tmp_path: Path) -> None:
    callable_ = fused(app)
    with fr.record(tmp_path / "x.h5"):
        app.sequence(calls=1)
        callable_.start(callable_.new_run())
    (told,) = losses(tmp_path / "x.h5")
    assert told.startswith("sequence loop: FullELFCallable runs its whole runlist without separate dispatches")


def test_a_run_that_is_started_by_itself_is_told(app: Any, tmp_path: Path) -> None:
    callable_ = fused(app)
    with fr.record(tmp_path / "x.h5", whole_calls=True):
        app.sequence(calls=1)
        callable_.new_run().start()
    assert any("a run of new_run() was started by itself" in loss for loss in losses(tmp_path / "x.h5"))


def test_kernels_in_one_chain_are_named_as_not_supported(app: Any, tmp_path: Path) -> None:
    from aie.utils.hostruntime import hostruntime

    class HRXRuntime:  # Xilinx/mlir-aie python/utils/hostruntime/hrxruntime/
        def run_chain(self, plan: Any) -> int:
            return len(plan)

    HRXRuntime.__module__ = hostruntime.__name__
    hostruntime.HRXRuntime = HRXRuntime
    with fr.record(tmp_path / "x.h5"):
        app.sequence(calls=1)
        assert HRXRuntime().run_chain([1, 2]) == 2
    assert losses(tmp_path / "x.h5") == ["HRXRuntime.run_chain() submits kernels at once, which is not supported"]


# --- graphs ---------------------------------------------------------------------------------------------------------


def graph(app: Any, dispatch: str) -> Any:
    from iron.common.graph.compiled import CompiledGraph

    add, relu = app.operators.ElementwiseAdd(size=N), app.operators.ReLU(size=N)
    return CompiledGraph("prompt", [(add, "a", "b", "h"), (relu, "h", "out")], ["a", "b"], ["out"], dispatch)


def test_a_graph_that_dispatches_step_by_step_is_seen_step_by_step(app: Any, tmp_path: Path) -> None:
    with fr.record(tmp_path / "x.h5"):
        compiled = graph(app, "separate")
        results = [compiled(app.draw(i), app.draw(i + 1))[0].numpy().copy() for i in range(2)]
    with fr.open(tmp_path / "x.h5") as snapshot:
        assert [(s.address, s.op.type) for s in snapshot] == [
            (f"{i}:{k}", kind) for i in range(2) for k, kind in enumerate(("ElementwiseAdd", "ReLU"))
        ]
        assert [snapshot[i, 1].outputs[0].numpy().tobytes() for i in range(2)] == [r.tobytes() for r in results]
        assert not snapshot.losses
    assert fr.replay(tmp_path / "x.h5").passed


def test_a_fused_graph_is_recorded_as_whole_calls_or_named(app: Any, tmp_path: Path) -> None:
    with fr.record(tmp_path / "x.h5", whole_calls=True):
        compiled = graph(app, "fused")
        results = [compiled(app.draw(i), app.draw(i + 1))[0].numpy().copy() for i in range(2)]
    with fr.open(tmp_path / "x.h5") as snapshot:
        assert [s.address for s in snapshot] == ["0:0", "1:0"]
        assert [s.inputs["a"].numpy().tobytes() for s in snapshot] == [app.draw(i).tobytes() for i in range(2)]
        assert [s.outputs["out"].numpy().tobytes() for s in snapshot] == [r.tobytes() for r in results]
    dispatches, host = AllDispatches(separate_dispatch=True), Host()
    dispatches.attach(host)  # type: ignore[arg-type]
    try:
        graph(app, "fused")(app.draw(0), app.draw(1))
    finally:
        dispatches.detach()
    (told,) = host.missed
    assert told.startswith("sequence prompt: it shares an arena, as the versions of a graph do")
    assert told.endswith("--whole-calls records it as it is")


# --- --separate -----------------------------------------------------------------------------------------------------


class Host:
    """Of AllDispatches alone: what it says was not seen."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def unseen(self, kind: str, detail: str) -> None:
        self.missed.append(detail)

    def contain(self, what: str) -> Any:
        import contextlib

        return contextlib.nullcontext()


def test_what_separate_dispatch_refuses_is_dropped_where_no_number_depends_on_it(
    app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    dispatches, host = AllDispatches(separate_dispatch=True), Host()
    dispatches.attach(host)  # type: ignore[arg-type]
    try:
        callable_ = fused(app, coresident=(("x",),))
        assert type(callable_).__name__ == "StepCallable"
        assert "sequence loop: its coresident groups are left out" in capsys.readouterr().err
    finally:
        dispatches.detach()


def test_a_program_that_needs_feedback_is_told_why_it_stays_fused(app: Any) -> None:
    dispatches, host = AllDispatches(separate_dispatch=True), Host()
    dispatches.attach(host)  # type: ignore[arg-type]
    try:
        callable_ = fused(app, feedback_args=("b",))
        assert type(callable_).__name__ == "FullELFCallable"
        callable_()
    finally:
        dispatches.detach()
    (told,) = host.missed
    assert told.startswith("sequence loop: it feeds values that the device computes back into its next run")
