# SPDX-License-Identifier: Apache-2.0
"""``fr.record(path)`` around code that dispatches through IRON, in this process; ``fr.record(path, one_operator)``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import MismatchError, NotAttachableError, UsageError
from fusion_replay.record import record  # the tests count what importing it must not bring

FAKE = Path(__file__).parents[3] / "fake_iron"
N = 128


def forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("iron", "aie", "sequences", "common_app"):
            del sys.modules[name]


@pytest.fixture(params=["v3", "v6"])
def iron(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The doubles can be imported; nothing of them has been."""
    forget()
    for folder in (request.param, "common", "apps"):
        monkeypatch.syspath_prepend(str(FAKE / folder))
    yield request.param
    forget()


@pytest.fixture
def app(iron: str) -> Any:
    """The doubles, imported before anybody watches."""
    import common_app

    return common_app


def patched(app: Any) -> dict[str, Any]:
    """Every method that the hooks may replace, as it is now."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(("iron.common", "aie.utils.hostruntime")):
            for cls in [c for c in vars(module).values() if isinstance(c, type)]:
                for method in ("__call__", "__init__", "load", "run", "load_and_run"):
                    if method in vars(cls):
                        found[f"{name}.{cls.__name__}.{method}"] = vars(cls)[method]
    return found


def types(path: Path) -> list[str]:
    with fr.open(path) as snap:
        return [s.op.type for s in snap.steps()]


@pytest.mark.parametrize("iron", ["v6"], indirect=True)
def test_run_test_of_an_operator_image(app: Any, tmp_path: Path) -> None:
    from iron.common.harness import run_test

    op, a, b = app.operators.ElementwiseAdd(size=N), app.draw(0), app.draw(1)
    want = (a.astype(np.float32) + b.astype(np.float32)).astype(a.dtype)
    with record(tmp_path / "x.h5"):
        assert run_test(op, {"x": a, "y": b}, {"z": want}) == {}
    with fr.open(tmp_path / "x.h5") as snap:
        assert [s.op.type for s in snap.steps()] == ["ElementwiseAdd"] * 2  # warm-up and timed
        for step in snap.steps():
            held = [x.numpy().tobytes() for x in (*step.inputs.values(), *step.outputs.values())]
            assert held == [x.tobytes() for x in (a, b, want)]
        assert not snap.losses
    assert fr.replay(tmp_path / "x.h5").passed


def test_the_files_behind_a_single_operator_are_kept(app: Any, iron: str, tmp_path: Path) -> None:
    op = app.operators.ReLU(size=N)
    with record(tmp_path / "x.h5"):
        app.single(app.callable_of(op), app.draw(0))
    with fr.open(tmp_path / "x.h5") as snap:
        (kernel,) = snap.binaries
        assert kernel.kernel == "MLIR_AIE"
        assert kernel.xclbin is not None
        assert kernel.xclbin.read() == b"ReLU"
        if iron == "v6":  # its kernel names no instruction file there
            assert kernel.absent == "nothing here names its instruction file"
        else:
            assert kernel.instructions is not None
            assert kernel.instructions.read() == N.to_bytes(4, "little")


def test_a_callable_made_before_the_block_is_found_when_it_is_called(app: Any, tmp_path: Path) -> None:
    op = app.operators.ReLU(size=N)
    call = app.callable_of(op)
    runlist = [(op, "a", "b")]
    sequence = app.OperatorSequence("s", runlist, ["a"], ["b"], dispatch="separate").compile().get_callable()
    before = patched(app)
    with record(tmp_path / "x.h5"):
        assert patched(app) != before, "or the next assertion shows nothing"
        sequence()
        app.single(call, app.draw(0))
        sequence()
    assert types(tmp_path / "x.h5") == ["ReLU"] * 3
    assert patched(app) == before, "the block leaves nothing behind"
    sequence()
    with fr.open(tmp_path / "x.h5") as snap:
        assert [s.name for s in snap.sequences] == ["s", "ReLU"]
        assert not snap.losses


def test_iron_imported_inside_the_block(iron: str, tmp_path: Path) -> None:
    finders = list(sys.meta_path)
    with record(tmp_path / "x.h5"):
        import common_app

        common_app.sequence(calls=1)
    assert types(tmp_path / "x.h5") == ["ElementwiseAdd", "ElementwiseMul", "ReLU"]
    assert sys.meta_path == finders
    from aie.utils.hostruntime import hostruntime

    assert type(hostruntime.__loader__).__module__.startswith("_frozen_importlib")
    assert hostruntime.__spec__ is not None
    assert hostruntime.__spec__.loader is hostruntime.__loader__


def test_one_operator_is_recorded_and_the_others_are_not(app: Any, tmp_path: Path) -> None:
    op, other = app.operators.ReLU(size=N), app.operators.ElementwiseAdd(size=N)
    call, second = app.callable_of(op), app.callable_of(other)
    for number, wanted in enumerate((op, call)):
        path = tmp_path / f"{number}.h5"
        with record(path, wanted):
            app.single(second, app.draw(0), app.draw(1))
            app.single(call, app.draw(2))
            app.sequence(calls=1)
        assert types(path) == ["ReLU"]
        with fr.open(path) as snap:
            assert not snap.losses, "what was not asked for is not missing"
            assert snap["0:0"].inputs[0].numpy().tobytes() == app.draw(2).tobytes()


def test_a_callable_whose_operator_nobody_else_holds(app: Any, iron: str, tmp_path: Path) -> None:
    call = app.callable_of(app.operators.ReLU(size=N))
    if iron == "v6":  # an image holds its operator
        with record(tmp_path / "x.h5", call):
            app.single(call, app.draw(0))
        assert types(tmp_path / "x.h5") == ["ReLU"]
        return
    with pytest.raises(NotAttachableError, match="record the operator itself"):
        record(tmp_path / "x.h5", call)
    assert list(tmp_path.iterdir()) == []


def test_check_of_an_operator_and_of_its_callable(app: Any) -> None:
    op = app.operators.ElementwiseAdd(size=N)
    a, b = app.draw(0), app.draw(1)
    for target in (op, app.callable_of(op)):
        report = fr.check(target, [a, b])
        assert (report.passed, report.compared) == (1, 1)
        assert report.steps[0].op.type == "ElementwiseAdd"
    with pytest.raises(UsageError, match=r"expects 2 inputs .*, found 1"):
        fr.check(op, [a])
    with pytest.raises(UsageError, match="has 512 bytes"):
        fr.check(op, [a.astype(np.float32), b])
    with pytest.raises(RuntimeError, match="TIMEOUT"):
        fr.check(app.operators.Fail(size=N), [a])


def test_check_of_a_wrong_operator(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from aie.utils.hostruntime.xrtruntime import hostruntime

    monkeypatch.setitem(hostruntime.KERNELS, "ReLU", lambda x, y: None)  # comes back and writes nothing
    with pytest.raises(MismatchError):
        fr.check(app.operators.ReLU(size=N), [app.draw(0)])


def test_a_dispatch_without_a_known_operator_is_counted(app: Any, tmp_path: Path, capfd: Any) -> None:
    import aie.utils
    from aie.utils.hostruntime.tensor_class import Tensor
    from aie.utils.npukernel import NPUKernel

    (tmp_path / "stray.xclbin").write_text("ReLU")
    out = Tensor((N,))

    def stray() -> None:
        handle = aie.utils.DefaultNPURuntime.load(NPUKernel(str(tmp_path / "stray.xclbin")))
        aie.utils.DefaultNPURuntime.run(handle, [Tensor.from_numpy(app.draw(0)), out])

    with record(tmp_path / "x.h5") as rec:
        stray()
        stray()
    assert "nothing was recorded" in (told := capfd.readouterr().err)
    assert "stray.xclbin: no operator is known for it" in told
    assert out.numpy().any(), "it ran all the same"
    (loss,) = rec.report.losses
    assert (loss.kind, loss.count) == ("dispatch", 2)
    assert "stray.xclbin" in loss.detail


def test_rec_step_around_a_dispatch_is_one_step(app: Any, tmp_path: Path) -> None:
    call = app.callable_of(app.operators.ReLU(size=N))
    from aie.utils.hostruntime.tensor_class import Tensor

    with record(tmp_path / "x.h5") as rec, rec.step("ReLU", inputs={"A": app.draw(0)}) as step:
        out = Tensor((N,))
        call(Tensor.from_numpy(app.draw(0)), out)
        step.outputs["C"] = out.numpy()
    assert types(tmp_path / "x.h5") == ["ReLU"]


@pytest.mark.parametrize("first", ["attach", "call"])
def test_attaching_by_hand_as_well_records_once(app: Any, tmp_path: Path, first: str) -> None:
    op = app.operators.ReLU(size=N)
    sequence = app.OperatorSequence("s", [(op, "a", "b")], ["a"], ["b"], dispatch="separate").compile().get_callable()
    with record(tmp_path / "x.h5") as rec:
        if first == "call":
            sequence()
        rec.attach(sequence)
        sequence()
    assert types(tmp_path / "x.h5") == ["ReLU"] * (2 if first == "call" else 1)


def test_in_place_is_one_buffer(app: Any, tmp_path: Path) -> None:
    from aie.utils.hostruntime.tensor_class import Tensor

    op = app.operators.ReLU(size=N)
    call = app.callable_of(op)
    with record(tmp_path / "x.h5"):
        same = Tensor.from_numpy(app.draw(3))
        call(same, same)
        apart = Tensor((N,))
        call(Tensor.from_numpy(app.draw(4)), apart)
    with fr.open(tmp_path / "x.h5") as snap:
        inplace, plain = snap["0:0"], snap["1:0"]
        assert inplace.inputs[0].buffer == inplace.outputs[0].buffer
        assert plain.inputs[0].buffer != plain.outputs[0].buffer
        assert inplace.inputs[0].numpy().tobytes() == app.draw(3).tobytes()
        expected = np.maximum(app.draw(3).astype(np.float32), 0).astype(ml_dtypes.bfloat16)
        assert inplace.outputs[0].numpy().tobytes() == expected.tobytes()
        assert len(snap.sequences) == 2


def test_too_few_tensors_change_nothing_for_the_program(app: Any, tmp_path: Path, capfd: Any) -> None:
    from aie.utils.hostruntime.tensor_class import Tensor

    call = app.callable_of(app.operators.ReLU(size=N))
    with record(tmp_path / "x.h5"), pytest.raises(ValueError, match="unpack"):
        call()  # the double's own error, and no other
    assert "1 invocation" not in capfd.readouterr().err
    with fr.open(tmp_path / "x.h5") as snap:
        assert [loss.kind for loss in snap.losses] == ["dispatch"]
    assert Tensor is not None


def test_what_runs_in_other_threads_is_recorded_too(app: Any, tmp_path: Path) -> None:
    with record(tmp_path / "x.h5"):
        calls = [app.callable_of(app.operators.ReLU(size=N)) for _ in range(3)]
        threads = [threading.Thread(target=app.single, args=(c, app.draw(i))) for i, c in enumerate(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with fr.open(tmp_path / "x.h5") as snap:
        got = sorted(step.inputs[0].numpy().tobytes() for step in snap.steps())
    assert got == sorted(app.draw(i).tobytes() for i in range(3))


def test_callables_are_not_kept_alive(app: Any, tmp_path: Path) -> None:
    import gc
    import weakref

    op = app.operators.ReLU(size=N)
    sequence = app.OperatorSequence("s", [(op, "a", "b")], ["a"], ["b"], dispatch="separate").compile().get_callable()
    with record(tmp_path / "x.h5"):
        sequence()
        there = weakref.ref(sequence)
        del sequence
        gc.collect()
        assert there() is None, "its buffers are device memory"


def test_objects_that_only_look_like_it() -> None:
    from fusion_replay.sources.iron.watching.owner import is_operator_call

    def get_callable() -> Any:
        handle = object()

        def call() -> object:
            return handle

        return call

    assert is_operator_call(get_callable())
    assert not is_operator_call(lambda: None)
    assert not is_operator_call(SimpleNamespace(op=SimpleNamespace(runlist=[])))
    assert not is_operator_call(None)


def test_looking_for_an_operator_touches_no_stranger() -> None:
    """Any object may be alive in a program; torch's ``reduce_op`` warns of every attribute, ``__class__`` included."""
    from fusion_replay.sources.iron.watching.owner import Handles

    class Deprecated:
        def __getattribute__(self, name: str) -> Any:
            touched.append(name)
            return object.__getattribute__(self, name)

    class Meta(type):
        def __getattr__(cls, name: str) -> Any:
            touched.append(name)
            raise AttributeError(name)

    class Lazy(metaclass=Meta):
        pass

    touched: list[str] = []
    strangers = [Deprecated(), Lazy()]
    handle = object()
    runtime = SimpleNamespace(_context_cache={("nobody.xclbin", 0): {"handles": [lambda: handle]}})
    assert Handles().operator_of(handle, runtime) is None  # it was looked for among all live objects
    assert touched == []
    assert len(strangers) == 2
