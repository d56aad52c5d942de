# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from doubles import FakeSequence, FakeV3, Spec, operator_class
from fusion_replay.errors import (
    NotAttachableError,
    RecordingError,
    SnapshotNotFoundError,
    TargetExistsError,
    UsageError,
)
from fusion_replay.recording.options import Options
from fusion_replay.simulator import operators as sim
from fusion_replay.snapshot.fsck import recover
from fusion_replay.snapshot.write.writer import SnapshotWriter

BF16 = np.dtype(ml_dtypes.bfloat16)
BOTH = pytest.mark.parametrize("device", ["npu1", "npu2"])


def bf16(*values: float) -> np.ndarray:
    return np.array(values, dtype=BF16)


def decode(device: str) -> Any:
    """A little of everything that makes recording hard: weights, in-place steps, slices, a partial write, values."""
    size = 2048
    add = sim.ElementwiseAdd(size=size, tile_size=256, num_aie_columns=4)
    silu = sim.SiLU(size=size, tile_size=256, num_aie_columns=4)
    norm = sim.RMSNorm(size=size, tile_size=512, num_aie_columns=1, num_channels=1, weighted=True)
    half = sim.ElementwiseMul(size=size // 2, tile_size=128, num_aie_columns=4)
    cache = sim.StridedCopy(
        input_sizes=(4, 64),
        input_strides=(64, 1),
        input_offset=0,
        output_sizes=(1, 4, 64),
        output_strides=(0, 512, 1),
        output_offset=0,
        input_buffer_size=256,
        output_buffer_size=2048,
        num_aie_channels=1,
        output_offset_parameter="cache_offset",
    )
    runlist = [
        (norm, "x", "W_norm", "h"),
        (add, "x", "h", "x"),
        (silu, "h", "h"),
        (half, "h[0:2048]", "h[2048:4096]", "h[0:2048]"),
        (cache, "h[0:512]", "kv"),
        (add, "kv", "x", "y"),
    ]
    sizes = {"h": 2 * size, "kv": 2 * size}
    call = fr.simulate(runlist, device, name="decode", input_args=["x"], output_args=["y"], buffer_sizes=sizes)
    rng = np.random.default_rng(7)
    for name in ("W_norm", "kv"):
        fill(call, name, rng.standard_normal(call.op.subbuffer_layout[name][2] // 2))
    return call


def fill(call: Any, name: str, values: Any) -> None:
    buffer = call.get_buffer(name)
    with buffer.overwrite() as array:
        array[:] = np.asarray(values, np.float32).astype(BF16).reshape(array.shape)
    buffer.to("npu")


def run(call: Any, invocations: int = 3) -> None:
    rng = np.random.default_rng(1)
    for i in range(invocations):
        fill(call, "x", rng.standard_normal(2048))
        call.write_values({"cache_offset": 64 * i})
        call()


def contents(call: Any) -> dict[str, bytes]:
    return {name: call.get_buffer(name).numpy().tobytes() for name in call.op.subbuffer_layout}


# --- recording changes nothing ----------------------------------------------------------------------------------


@BOTH
def test_every_buffer_is_as_without_recording(device: str, tmp_path: Path) -> None:
    plain, recorded = decode(device), decode(device)
    run(plain)
    with fr.record(tmp_path / "a.h5", recorded) as rec:
        run(recorded)
    assert rec.report is not None
    assert rec.report.steps == 18
    assert contents(recorded) == contents(plain)
    run(plain, 1)
    run(recorded, 1)  # and the run goes on as if nothing had been
    assert contents(recorded) == contents(plain)


@BOTH
def test_a_careless_recorder_would_corrupt(device: str) -> None:
    """The test above can fail: the same watcher with raw views instead of ``numpy()`` leaves other buffers."""
    plain, careless = decode(device), decode(device)
    run(plain)
    for i, (kernel, tensors) in enumerate(careless._execution_plan):

        def spy(*args: Any, kernel: Any = kernel, **scalars: Any) -> Any:
            [bytes(t.numpy_view().view(np.uint8)) for t in args]
            return kernel(*args, **scalars)

        spy.dispatch_params = kernel.dispatch_params  # type: ignore[attr-defined]
        careless._execution_plan[i] = (spy, tensors)
    run(careless)
    assert contents(careless) != contents(plain)


@BOTH
def test_the_snapshot_holds_what_the_buffers_held(device: str, tmp_path: Path) -> None:
    call = decode(device)
    rng = np.random.default_rng(1)
    x = rng.standard_normal(2048).astype(np.float32).astype(BF16)
    kv_before = call.get_buffer("kv").numpy().copy()
    with fr.record(tmp_path / "a.h5", call):
        run(call, 2)
    with fr.open(tmp_path / "a.h5") as snap:
        assert len(snap) == 12
        assert [i.status for i in snap.invocations] == ["complete", "complete"]
        assert snap.sequences[0].origin["device"] == device
        assert snap["0:0"].inputs[0].numpy().tobytes() == x.tobytes()
        assert {b.name for b in snap.sequences[0].buffers if b.external} == {"x", "W_norm", "kv"}
        last = snap["1:5"]
        assert last.outputs[0].numpy().tobytes() == call.get_buffer("y").numpy().tobytes()
        inplace = snap["0:1"]
        assert inplace.inputs[0].numpy().tobytes() == x.tobytes()
        assert inplace.outputs[0].numpy().tobytes() != x.tobytes()
        cache = snap["0:4"]
        assert cache.values == {"cache_offset": 0}
        assert snap["1:4"].values == {"cache_offset": 64}
        assert cache.outputs[0].previous is not None
        assert cache.outputs[0].previous.numpy().tobytes() == kv_before.tobytes()
        assert cache.inputs[0].buffer == "h[0:512]"
        chained = [
            snap["1:4"].outputs[0].previous.digest == cache.outputs[0].digest,
            snap["0:5"].inputs[0].digest == cache.outputs[0].digest,
            snap["0:5"].inputs[1].digest == inplace.outputs[0].digest,
        ]
        assert chained == [True] * 3
        assert inplace.state == "ERT_CMD_STATE_COMPLETED"
        assert (inplace.elapsed_ns or 0) > 0
        assert snap.provenance["packages"]["numpy"] == np.__version__


def test_an_output_that_was_never_written_shows(tmp_path: Path) -> None:
    op = sim.ElementwiseAdd(size=1024, tile_size=256, num_aie_columns=4)
    call = fr.simulate([(op, "a", "b", "c")], "npu2", faults=["0:0:unwritten"], input_args=["a", "b"])
    fill(call, "a", np.ones(1024))
    fill(call, "b", np.ones(1024))
    with fr.record(tmp_path / "a.h5", call):
        call()
        call()
    with fr.open(tmp_path / "a.h5") as snap:
        assert [s.outputs[0].unchanged for s in snap.steps()] == [True, False]


# --- the run's own errors ---------------------------------------------------------------------------------------


def test_a_kernel_that_fails_is_recorded_and_its_error_passes(tmp_path: Path) -> None:
    op = sim.ElementwiseAdd(size=1024, tile_size=256, num_aie_columns=4)
    call = fr.simulate([(op, "a", "b", "c"), (op, "a", "c", "d")], "npu2", faults=["1:1:timeout"])
    with fr.record(tmp_path / "a.h5", call) as rec:
        call()
        with pytest.raises(Exception, match="TIMEOUT") as caught:
            call()
    assert type(caught.value).__name__ == "HostRuntimeError"
    assert rec.report is not None
    with fr.open(tmp_path / "a.h5") as snap:
        assert [i.status for i in snap.invocations] == ["complete", "failed"]
        failed = snap["1:1"]
        assert failed.status == "failed"
        assert "ERT_CMD_STATE_TIMEOUT" in (failed.error or "")
        assert len(failed.inputs) == 2
        assert failed.inputs[1].numpy().tobytes() == snap["1:0"].outputs[0].numpy().tobytes()


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3), Stop()])
def test_what_the_block_raises_passes_unchanged_and_the_file_is_sealed(error: BaseException, tmp_path: Path) -> None:
    call = decode("npu2")

    def recorded() -> None:
        with fr.record(tmp_path / "a.h5", call):
            run(call, 1)
            raise error

    with pytest.raises(type(error)) as caught:
        recorded()
    assert caught.value is error
    assert list(tmp_path.iterdir()) == [tmp_path / "a.h5"]
    with fr.open(tmp_path / "a.h5") as snap:
        assert len(snap) == 6
    assert not any(type(entry[0]).__name__ == "KernelProxy" for entry in call._execution_plan)


# --- the recorder's own failures --------------------------------------------------------------------------------


def break_writer(monkeypatch: pytest.MonkeyPatch, method: str, when: Callable[[int], bool]) -> None:
    """The writer's ``method`` raises at the calls (counted from 0) for which ``when`` is true."""
    real, calls = getattr(SnapshotWriter, method), iter(range(10**9))

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        if when(next(calls)):
            raise RuntimeError("the recorder is broken")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(SnapshotWriter, method, broken)


@pytest.mark.parametrize("method", ["add_sequence", "begin_invocation", "begin_step", "end_step", "end_invocation"])
def test_a_broken_recorder_leaves_the_run_alone_and_says_so_once(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain, recorded = decode("npu2"), decode("npu2")
    run(plain)
    break_writer(monkeypatch, method, lambda n: True)
    with fr.record(tmp_path / "a.h5", recorded) as rec:
        run(recorded)
    assert contents(recorded) == contents(plain)
    told = [line for line in capfd.readouterr().err.splitlines() if "the recorder is broken" in line]
    assert len(told) == 1
    assert "the run goes on" in told[0]
    assert "the recorder is broken" in (rec.error or "")
    with fr.open(tmp_path / "a.h5") as snap:
        assert sum(loss.count for loss in snap.losses) == {"end_invocation": 3}.get(method, 18) + {
            "add_sequence": 3,
            "begin_invocation": 3,
        }.get(method, 0)


def test_the_rest_is_recorded_when_one_step_could_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = decode("npu2")
    break_writer(monkeypatch, "begin_step", lambda n: n == 2)
    with fr.record(tmp_path / "a.h5", call):
        run(call, 2)
    with fr.open(tmp_path / "a.h5") as snap:
        assert [s.address for s in snap.steps()] == [f"{i}:{s}" for i in (0, 1) for s in range(6) if (i, s) != (0, 2)]
        assert [(x.kind, x.count) for x in snap.losses] == [("step", 1)]
        assert "step 0:2 SiLU" in snap.losses[0].detail


def test_on_error_raise_is_a_hard_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = decode("npu2")
    break_writer(monkeypatch, "begin_step", lambda n: n == 1)
    with (
        pytest.raises(RecordingError, match=r"step 0:1 ElementwiseAdd.*the recorder is broken"),
        fr.record(tmp_path / "a.h5", call, on_error="raise"),
    ):
        run(call)
    with fr.open(tmp_path / "a.h5") as snap:
        assert len(snap) == 1


def test_on_error_raise_never_hides_the_error_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    op = sim.ElementwiseAdd(size=1024, tile_size=256, num_aie_columns=4)
    call = fr.simulate([(op, "a", "b", "c")], "npu2", faults=["0:0:timeout"])
    break_writer(monkeypatch, "fail_step", lambda n: True)
    with pytest.raises(Exception, match="TIMEOUT"), fr.record(tmp_path / "a.h5", call, on_error="raise"):
        call()


def test_a_full_disk_is_told_once_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain, call = decode("npu2"), decode("npu2")
    run(plain)
    real, count = os.pwritev, iter(range(10**9))

    def full(*args: Any) -> int:
        if 8 <= next(count) < 20:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, "pwritev", full)
    with fr.record(tmp_path / "a.h5", call) as rec:
        run(call)
    assert contents(call) == contents(plain)
    assert capfd.readouterr().err.count("No space left") == 1
    assert rec.report is not None
    assert rec.report.losses
    with fr.open(tmp_path / "a.h5") as snap:
        assert 0 < len(snap) < 18
        for step in snap.steps():
            for tensor in (*step.inputs.values(), *step.outputs.values()):
                assert not tensor.kept or tensor.numpy().nbytes == tensor.nbytes


def test_a_seal_that_fails_is_told_and_keeps_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    call = decode("npu2")
    real = SnapshotWriter.close

    def close(self: SnapshotWriter) -> Any:
        self.abandon()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SnapshotWriter, "close", close)
    with fr.record(tmp_path / "a.h5", call) as rec:
        run(call, 1)
    assert rec.report is None
    assert "fsck --recover" in capfd.readouterr().err
    with fr.open(tmp_path / "a.h5") as snap:
        assert len(snap) == 6
    with pytest.raises(RecordingError, match="could not be sealed"), fr.record(tmp_path / "b.h5", on_error="raise"):
        pass
    with pytest.raises(ZeroDivisionError), fr.record(tmp_path / "c.h5", on_error="raise"):
        1 / 0  # noqa: B018
    monkeypatch.setattr(SnapshotWriter, "close", real)


def test_an_interrupt_while_sealing_is_told_and_leaves_what_can_be_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the same process too, as in a notebook."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    call = decode("npu2")
    with monkeypatch.context() as patch:
        patch.setattr("fusion_replay.snapshot.journal.spill.Spill.drain", interrupted)
        with pytest.raises(KeyboardInterrupt), fr.record(tmp_path / "a.h5", call):
            run(call, 1)
    assert f"fsck --recover {tmp_path / 'a.h5'}" in capfd.readouterr().err
    recover(tmp_path / "a.h5")
    with fr.open(tmp_path / "a.h5") as snap:
        assert [s.status for s in snap] == ["complete"] * 6


# --- using it -----------------------------------------------------------------------------------------------------


def test_nothing_recorded_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with fr.record(tmp_path / "a.h5", decode("npu2")) as rec:
        pass
    assert "nothing was recorded" in capfd.readouterr().err
    assert rec.report is not None
    assert rec.report.steps == 0


def test_a_clean_recording_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = decode("npu2")
    with fr.record(tmp_path / "a.h5", call) as rec:
        run(call, 1)
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")
    assert rec.error is None


def test_several_callables_take_turns(tmp_path: Path) -> None:
    first, second = decode("npu1"), decode("npu2")
    with fr.record(tmp_path / "a.h5", first) as rec:
        rec.attach(second)
        run(first, 1)
        run(second, 2)
        run(first, 1)
    with fr.open(tmp_path / "a.h5") as snap:
        assert [i.sequence for i in snap.invocations] == [0, 1, 1, 0]
        assert [s.origin["device"] for s in snap.sequences] == ["npu1", "npu2"]


def test_targets_are_never_half_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    target.write_bytes(b"precious")
    with pytest.raises(TargetExistsError, match=r"a\.h5"), fr.record(target):
        pass
    assert target.read_bytes() == b"precious"
    call = decode("npu2")
    with fr.record(target, call, if_exists="number") as rec:
        run(call, 1)
    assert rec.path == tmp_path / "a-001.h5"
    assert target.read_bytes() == b"precious"
    with fr.record(target, call, if_exists="replace"):
        run(call, 1)
    with fr.open(target) as snap:
        assert len(snap) == 6


def test_a_bad_callable_leaves_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(NotAttachableError):
        fr.record(tmp_path / "a.h5", print)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_offered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="level 'some': expected 'full' or 'digest'"):
        fr.record(tmp_path / "a.h5", level="some")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="if_exists='maybe'"):
        fr.record(tmp_path / "a.h5", if_exists="maybe")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="on_error='ignore'"):
        fr.record(tmp_path / "a.h5", on_error="ignore")  # type: ignore[arg-type]
    rec = fr.record(tmp_path / "a.h5")
    with pytest.raises(UsageError, match=r"inside 'with record"):
        rec.step("X", inputs={})
    with rec:
        pass
    with pytest.raises(UsageError, match="used already"), rec:
        pass
    with pytest.raises(UsageError, match=r"inside 'with record"):
        rec.step("X", inputs={})


def test_a_stranger_is_recorded_with_its_old_contents(tmp_path: Path) -> None:
    """Nobody knows whether an unknown operator writes all of its output, so what was there is kept."""
    op = operator_class("Mystery")([Spec("in", (2,)), Spec("out", (4,))], lambda x, y: y.__setitem__(slice(0, 2), x))
    call = FakeV3(FakeSequence([(op, "x", "y")]).compile({"x": 4, "y": 8}))
    call.get_buffer("x").put(bf16(1, 2))
    call.get_buffer("y").put(bf16(5, 6, 7, 8))
    with fr.record(tmp_path / "a.h5", call):
        call()
    with fr.open(tmp_path / "a.h5") as snap:
        out = snap["0:0"].outputs["out0"]
        assert out.previous is not None
        assert out.previous.numpy().tolist() == [5, 6, 7, 8]
        assert out.numpy().tolist() == [1, 2, 7, 8]


def test_a_forked_child_leaves_the_recording_to_its_parent(tmp_path: Path) -> None:
    code = f"""
import os, numpy as np, fusion_replay as fr
with fr.record({str(tmp_path / "a.h5")!r}) as rec:
    with rec.step("One", inputs={{"A": np.ones(4)}}) as s: s.outputs["C"] = np.ones(4)
    if (child := os.fork()) == 0:
        raise SystemExit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with rec.step("One", inputs={{"A": np.ones(4)}}) as s: s.outputs["C"] = np.ones(4)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
    with fr.open(tmp_path / "a.h5") as snap:
        assert len(snap) == 2


@pytest.mark.parametrize("held_by", ["guard", "writer"])
def test_a_child_forked_while_another_thread_records_goes_on(held_by: str, tmp_path: Path) -> None:
    """What that thread holds nobody lets go in the child, which must not wait for it."""
    code = f"""
import os, signal, threading, numpy as np, fusion_replay as fr
def step():
    with rec.step("One", inputs={{"A": np.ones(4)}}) as s: s.outputs["C"] = np.ones(4)
with fr.record({str(tmp_path / "a.h5")!r}) as rec:
    has, done = threading.Event(), threading.Event()
    def hold():
        with rec.recording.{held_by}._lock:
            has.set()
            done.wait()
    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    has.wait()
    if (child := os.fork()) == 0:
        signal.alarm(20)
        step()
        raise SystemExit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    done.set()
    thread.join()
    step()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
    with fr.open(tmp_path / "a.h5") as snap:
        assert len(snap) == 1


def test_recording_loads_neither_torch_nor_pyxrt(tmp_path: Path) -> None:
    code = f"""
import sys, numpy as np, fusion_replay as fr
with fr.record({str(tmp_path / "a.h5")!r}) as rec:
    with rec.step("One", inputs={{"A": np.ones(4)}}) as s: s.outputs["C"] = np.ones(4)
print([m for m in ("torch", "pyxrt", "iron", "aie", "rich", "click") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


# --- steps given as arrays ----------------------------------------------------------------------------------------


def test_arrays_in_arrays_out(tmp_path: Path) -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    with fr.record(tmp_path / "a.h5") as rec:
        for i in range(3):
            with rec.step("MyOp", inputs={"A": a, "mask": [True, False]}, params={"eps": 1e-5, "n": (1, 2)}) as s:
                s.outputs["C"] = a * i
    with fr.open(tmp_path / "a.h5") as snap:
        assert [i.status for i in snap.invocations] == ["complete"] * 3
        assert len({i.sequence for i in snap.invocations}) == 1
        step = snap["2:0"]
        assert (step.op.type, dict(step.op.params)) == ("MyOp", {"eps": 1e-5, "n": [1, 2]})
        assert list(step.inputs) == ["A", "mask"]
        np.testing.assert_array_equal(step.inputs["A"].numpy(), a)
        np.testing.assert_array_equal(step.inputs["mask"].numpy(), [True, False])
        np.testing.assert_array_equal(step.outputs["C"].numpy(), a * 2)
        assert step.outputs["C"].shape == (3, 4)
        assert not snap.losses


def test_a_known_operator_needs_no_second_sequence(tmp_path: Path) -> None:
    a, b = np.ones(16, BF16), np.full(16, 2, BF16)
    with fr.record(tmp_path / "a.h5") as rec:
        with rec.step("ElementwiseAdd", inputs={"B": b, "A": a}, params={"size": 16}) as s:
            s.outputs["C"] = a + b
        with rec.step("ElementwiseAdd", inputs={"x": a, "y": b}, params={"size": 16}) as s:
            s.outputs["z"] = a + b
    with fr.open(tmp_path / "a.h5") as snap:
        assert snap.invocations[0].sequence == 0
        assert list(snap["0:0"].inputs) == ["A", "B"]  # the catalogue's order where the names are its own
        assert list(snap["1:0"].inputs) == ["x", "y"]
        assert snap["1:0"].outputs["z"].numpy().tolist() == [3.0] * 16


def test_outputs_of_other_shapes_are_another_sequence(tmp_path: Path) -> None:
    with fr.record(tmp_path / "a.h5") as rec:
        for n in (2, 3, 2):
            with rec.step("Unique", inputs={"A": np.arange(5)}) as s:
                s.outputs["C"] = np.arange(n)
    with fr.open(tmp_path / "a.h5") as snap:
        assert [s.outputs["C"].numpy().tolist() for s in snap.steps()] == [[0, 1], [0, 1, 2], [0, 1]]
        first, second, third = (i.sequence for i in snap.invocations)
        assert first == third != second
        assert not snap.losses


def test_inputs_are_on_disk_before_the_body_runs(tmp_path: Path) -> None:
    a = np.arange(8.0)
    with fr.record(tmp_path / "a.h5") as rec, rec.step("Slow", inputs={"A": a}, values={"n": np.int32(5)}) as s:
        a[:] = -1  # the body may do what it likes with its array
        with fr.open(tmp_path / "a.h5") as snap:
            step = snap["0:0"]
            assert step.status == "in_flight"
            assert step.inputs["A"].numpy().tolist() == list(range(8))
            assert step.values == {"n": 5}
        s.outputs["C"] = a


def test_an_exception_in_the_body_marks_the_step_and_passes(tmp_path: Path) -> None:
    error = KeyError("gone")
    with fr.record(tmp_path / "a.h5") as r, pytest.raises(KeyError) as caught, r.step("Boom", inputs={"A": np.ones(2)}):
        raise error
    assert caught.value is error
    with fr.open(tmp_path / "a.h5") as snap:
        assert snap["0:0"].status == "failed"
        assert snap["0:0"].error == "KeyError: 'gone'"
        assert snap["0:0"].inputs["A"].numpy().tolist() == [1, 1]


def test_old_contents_of_outputs(tmp_path: Path) -> None:
    cache, block, kept = np.arange(6.0), np.array([9.0, 9.0]), np.zeros(3)
    with fr.record(tmp_path / "a.h5") as rec:
        with rec.step("Scatter", inputs={"x": block}, previous={"cache": cache}) as s:
            cache[2:4] = block
            s.outputs["cache"] = cache
        with rec.step("Fill", inputs={"x": block}, outputs={"y": kept}):
            pass  # the kernel never ran
        with rec.step("Bump", inputs={"state": block}, outputs={"state": block}):
            block += 1
        with rec.step("Late", inputs={"state": block}) as s:
            s.outputs["state"] = block * 2
    with fr.open(tmp_path / "a.h5") as snap:
        scatter, fill_, bump, late = snap.steps()
        assert scatter.outputs["cache"].previous is not None
        assert scatter.outputs["cache"].previous.numpy().tolist() == [0, 1, 2, 3, 4, 5]
        assert scatter.outputs["cache"].numpy().tolist() == [0, 1, 9, 9, 4, 5]
        assert fill_.outputs["y"].unchanged is True
        assert bump.inputs["state"].direction == "inout"
        assert (bump.inputs["state"].numpy().tolist(), bump.outputs["state"].numpy().tolist()) == ([9, 9], [10, 10])
        assert late.inputs["state"].direction == "inout"
        assert (late.inputs["state"].numpy().tolist(), late.outputs["state"].numpy().tolist()) == ([10, 10], [20, 20])
        assert not snap.losses


def test_what_cannot_be_kept_is_a_loss_and_not_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with fr.record(tmp_path / "a.h5") as rec:
        with rec.step("Odd", inputs={"A": [1j, 2j]}) as s:  # what has no dtype is read inside, where nothing raises
            s.outputs["C"] = np.ones(2)
        with rec.step("Odd", inputs={"A": np.ones(2)}) as s:
            s.outputs["C"] = ["words"]
        with rec.step("Quiet", inputs={"A": np.ones(2)}):
            pass
    assert capfd.readouterr().err.count("complex128") == 1
    with fr.open(tmp_path / "a.h5") as snap:
        assert [(x.kind, x.count) for x in snap.losses] == [("step", 1), ("outputs", 1), ("outputs", 1)]
        assert [s.op.type for s in snap.steps()] == ["Odd", "Quiet"]


def test_a_step_that_was_given_in_part_is_told_as_what_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with fr.record(tmp_path / "a.h5") as rec:
        rec.step("Odd", {"A": np.ones(2)}, outputs={"C": np.ones(2)})  # no with
    told = capfd.readouterr().err
    assert "nothing was recorded in" in told
    assert "rec.step('Odd') was never entered; it records as a with block" in told
    with fr.record(tmp_path / "b.h5") as rec:
        with rec.step("Quiet", {"A": np.ones(2)}):
            pass
        for _ in range(2):
            rec.step("Odd", {"A": np.ones(2)})
    assert "step 0:0 Quiet was given no outputs: s.outputs[NAME] = array" in capfd.readouterr().err
    assert rec.report is not None
    assert [(x.kind, x.count) for x in rec.report.losses] == [("outputs", 1), ("step", 2)]


@pytest.mark.parametrize("inputs", [[1, 2], {1: np.ones(2)}, "A"])
def test_inputs_go_by_name(inputs: Any, tmp_path: Path) -> None:
    with fr.record(tmp_path / "a.h5") as rec, pytest.raises(UsageError, match="names"):
        rec.step("X", inputs=inputs)


@pytest.mark.torch
def test_torch_tensors_keep_their_bits(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    bits = torch.tensor([0x7FC1, -0x0041, 0x0001, 0x3F80], dtype=torch.int16)  # NaN payloads, a subnormal
    weights = torch.arange(6, dtype=torch.float32, requires_grad=True).reshape(2, 3)
    inputs = {"A": bits.view(torch.bfloat16), "W": weights.T}
    with fr.record(tmp_path / "a.h5") as rec, rec.step("T", inputs=inputs) as s:
        s.outputs["C"] = bits.view(torch.bfloat16)[::2]
    with fr.open(tmp_path / "a.h5") as snap:
        step = snap["0:0"]
        assert step.inputs["A"].dtype == "bfloat16"
        assert step.inputs["A"].numpy().view(np.int16).tolist() == [0x7FC1, -0x0041, 0x0001, 0x3F80]
        assert step.outputs["C"].numpy().view(np.int16).tolist() == [0x7FC1, 0x0001]
        assert step.inputs["W"].numpy().tolist() == [[0, 3], [1, 4], [2, 5]]


def test_odd_arrays_are_brought_into_order(tmp_path: Path) -> None:
    swapped, strided = np.arange(3, dtype=">f4"), np.arange(8)[::2]
    with fr.record(tmp_path / "a.h5") as rec, rec.step("O", inputs={"A": swapped, "B": strided, "c": 2.5}) as s:
        s.outputs["C"] = np.empty((0, 4), np.int8)
    with fr.open(tmp_path / "a.h5") as snap:
        step = snap["0:0"]
        assert step.inputs["A"].numpy().tolist() == [0, 1, 2]
        assert step.inputs["B"].numpy().tolist() == [0, 2, 4, 6]
        assert step.inputs["c"].numpy().item() == 2.5
        assert step.outputs["C"].numpy().shape == (0, 4)


def test_steps_from_several_threads(tmp_path: Path) -> None:
    with fr.record(tmp_path / "a.h5") as rec:

        def work(k: int) -> None:
            for i in range(20):
                with rec.step("T", inputs={"A": np.array([k, i])}) as s:
                    s.outputs["C"] = np.array([k + i])

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    with fr.open(tmp_path / "a.h5") as snap:
        pairs = {tuple(s.inputs["A"].numpy().tolist()) for s in snap.steps()}
        assert pairs == {(k, i) for k in range(4) for i in range(20)}
        assert all(s.outputs["C"].numpy()[0] == s.inputs["A"].numpy().sum() for s in snap.steps())
        assert not snap.losses


def test_no_recording_no_snapshot(tmp_path: Path) -> None:
    fr.record(tmp_path / "a.h5")
    with pytest.raises(SnapshotNotFoundError):
        fr.open(tmp_path / "a.h5")


@BOTH
def test_a_recorded_llama_decode_is_as_an_unrecorded_one(device: str, tmp_path: Path) -> None:
    """160 steps in two invocations: in-place steps, cache writes, slices of the transposes, values per token."""
    from fusion_replay.simulator.workloads import find

    plain, recorded = (find("llama-decode").build(device) for _ in range(2))
    said = plain.execute()
    with fr.record(tmp_path / "a.h5", recorded.callable) as rec:
        assert recorded.execute() == said
    assert contents(recorded.callable) == contents(plain.callable)
    assert rec.report is not None
    assert (rec.report.steps, rec.report.invocations, rec.report.losses) == (160, 2, ())


def test_arguments_arrive_in_the_options(tmp_path: Path) -> None:
    given = {"level": "digest", "op": ["GEMV", "SiLU"], "only_matching": True, "slow_after": 3.0, "no_weights": True}
    with contextlib.suppress(UsageError), fr.record(tmp_path / "r.h5", **given) as rec:
        expected = Options(
            if_exists="error", level="digest", op="GEMV,SiLU", only_matching=True, slow_after=3.0, no_weights=True
        )
        assert rec.recording.options == expected


def test_a_reference_that_writes_into_its_inputs_changes_no_verdict(tmp_path: Path) -> None:
    """``with_reference`` asks the operator itself, before the step is judged on what it had read."""

    class ElementwiseAdd(sim.ElementwiseAdd):
        def reference(self, *arrays: np.ndarray) -> np.ndarray:
            made = super().reference(*arrays)
            arrays[0][:] = 0
            return made

    call = fr.simulate([(ElementwiseAdd(size=256), "a", "b", "c")], device="npu2")
    for name in "ab":
        fill(call, name, np.arange(1, 257))
    with fr.record(tmp_path / "r.h5", call, with_reference=True, keep="mismatch") as recorder:
        call()
    assert recorder.report is not None
    assert recorder.report.deviating is not None
    assert (recorder.report.deviating.looked_at, recorder.report.deviating.deviating) == (1, 0)
