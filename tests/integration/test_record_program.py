# SPDX-License-Identifier: Apache-2.0
"""``record python app.py``: an unmodified program on doubles of IRON, whose every dispatch ends in a snapshot."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.recording.option_declaration import PREFIX

FAKE = Path(__file__).parent.parent / "fake_iron"
VARIANTS = ("v3", "v6")
SINGLES = """
    op = operators.ElementwiseAdd(size=N)
    call = callable_of(op)
    single(call, draw(10), draw(11))
    single(call, draw(12), draw(13))
    single(callable_of(operators.ReLU(size=N)), draw(14))
"""


def app(folder: Path, variant: str, body: str, name: str = "app.py") -> Path:
    """A program that knows nothing of us and finds IRON on a path of its own."""
    head = f"""
    import os, sys
    sys.path[:0] = [{str(FAKE / variant)!r}, {str(FAKE / "common")!r}, {str(FAKE / "apps")!r}]
    """
    path = folder / name
    path.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    return path


def environment(**more: str) -> dict[str, str]:
    """The package comes from the environment's site-packages, so PYTHONPATH need not say anything."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith((PREFIX, "FAKE_")) and k != "PYTHONPATH"}
    return {**clean, **more}


def run(*words: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=100, check=False
    )


def record(*words: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "fusion_replay", "record", *words, cwd=cwd, **more)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


# --- sequences and single operators -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_sequences_and_single_operators_of_one_program(tmp_path: Path, variant: str) -> None:
    body = "from common_app import *\nsequence()\n" + textwrap.dedent(SINGLES) + "sequence(calls=1, name='second')\n"
    path = app(tmp_path, variant, body)
    plain = run(sys.executable, path, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    done = record(sys.executable, path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    assert "Recorded 6 invocations (12 steps) in app-001.h5." in last_line(done)
    assert "Not recorded" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app-001.h5", "app.py"]
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert snap.sealed
        assert [i.status for i in snap.invocations] == ["complete"] * 6
        assert [s.op.type for s in snap.steps()] == [
            *["ElementwiseAdd", "ElementwiseMul", "ReLU"] * 2,
            *["ElementwiseAdd", "ElementwiseAdd", "ReLU"],
            *["ElementwiseAdd", "ElementwiseMul", "ReLU"],
        ]
        assert [s.name for s in snap.sequences] == ["block", "ElementwiseAdd", "ReLU", "second"]
        assert snap.sequences[1].origin["dispatch"] == "operator"
        assert snap.sequences[1].origin["flavour"] == {"v3": "iron-2026-08", "v6": "iron-2026-09"}[variant]
        a, b = (draw(n) for n in (10, 11))
        single = snap["2:0"]
        assert single.inputs[0].numpy().tobytes() == a.tobytes()
        assert single.inputs[1].numpy().tobytes() == b.tobytes()
        expected = (a.astype(np.float32) + b.astype(np.float32)).astype(ml_dtypes.bfloat16)
        assert single.outputs[0].numpy().tobytes() == expected.tobytes()
        assert single.elapsed_ns == 1500
        assert single.state == "ERT_CMD_STATE_COMPLETED"
        inplace = snap["1:1"]
        assert inplace.inputs[0].buffer == inplace.outputs[0].buffer == "h"
        h = (draw(2).astype(np.float32) + draw(3).astype(np.float32)).astype(ml_dtypes.bfloat16)
        assert inplace.inputs[0].numpy().tobytes() == h.tobytes()
    assert fr.replay(tmp_path / "app-001.h5").passed


def draw(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(128, np.float32) - 0.5).astype(ml_dtypes.bfloat16)


def test_run_test_and_composites(tmp_path: Path) -> None:
    body = """
    from common_app import *
    from iron.common.test_utils import run_test
    import numpy as np
    a, b = draw(0), draw(1)
    wide = a.astype(np.float32) + b.astype(np.float32)
    op = operators.ElementwiseAdd(size=N)
    print(run_test(op, {"a": a, "b": b}, {"c": wide.astype(a.dtype)})[0])
    call = operators.AddRelu(N).get_callable()
    single(call, a, b)
    """
    path = app(tmp_path, "v3", body)
    done = record("-o", "tests.h5", sys.executable, path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "{}"
    with fr.open(tmp_path / "tests.h5") as snap:
        assert [s.op.type for s in snap.steps()] == ["ElementwiseAdd"] * 3 + ["ReLU"]
        relu = snap["3:0"]
        assert relu.inputs[0].buffer == relu.outputs[0].buffer, "the composite runs it in place"
        assert relu.inputs[0].numpy().tobytes() == snap["2:0"].outputs[0].numpy().tobytes()
    assert fr.replay(tmp_path / "tests.h5").passed


# --- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["options", "environment"])
def test_filters_and_limits_reach_the_program(tmp_path: Path, by: str) -> None:
    path = app(tmp_path, "v6", "from common_app import *\nsequence(calls=2)\n")
    options = ["--op", "relu", "--max-steps", "1"] if by == "options" else []
    more = {} if options else {"FUSION_REPLAY_OP": "relu", "FUSION_REPLAY_MAX_STEPS": "1"}
    done = record(*options, sys.executable, path, cwd=tmp_path, **more)
    assert done.returncode == 0, done.stderr
    assert "4 x steps outside the filter" in last_line(done)
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert [s.address for s in snap if s.withheld is None] == ["0:2"]
        assert snap["1:2"].withheld == "beyond max_steps 1"


@pytest.mark.parametrize("only", [False, True])
def test_a_filter_that_matches_nothing_in_the_program(tmp_path: Path, only: bool) -> None:
    path = app(tmp_path, "v6", "from common_app import *\nsequence(calls=1)\nprint('ran')\n")
    flags = ["--only-matching"] if only else []
    done = record("--op", "Typo", *flags, sys.executable, path, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.endswith("ran\n")
    assert "no step matched op Typo" in done.stderr
    assert "ReLU; buffers" in done.stderr
    assert last_line(done).startswith("FAILED")
    assert (tmp_path / "app-001.h5").exists() is not only


def test_a_limit_in_the_environment_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = app(tmp_path, "v6", "print('ran')\n")
    done = record(sys.executable, path, cwd=tmp_path, FUSION_REPLAY_MAX_STEPS="0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "max_steps 0: expected a count above 0" in done.stderr


# --- the program stays what it was ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [1, 4, 130])
def test_exit_status_is_passed_on(tmp_path: Path, status: int) -> None:
    path = app(tmp_path, "v3", f"from common_app import *\nsequence(calls=1)\nsys.exit({status})\n")
    done = record(sys.executable, path, cwd=tmp_path)
    assert done.returncode == status
    assert f"exit status {status}" in last_line(done)
    assert fr.open(tmp_path / "app-001.h5").sealed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_is_passed_on_and_the_recording_sealed(tmp_path: Path, number: signal.Signals) -> None:
    body = f"from common_app import *\nsequence(calls=2)\nos.kill(os.getpid(), {int(number)})\n"
    done = record(sys.executable, app(tmp_path, "v6", body), cwd=tmp_path)
    assert done.returncode == -number
    assert number.name in last_line(done)
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert snap.sealed
        assert len(snap) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app-001.h5", "app.py"]


def test_arguments_folder_main_and_streams(tmp_path: Path) -> None:
    body = """
    print(sys.argv[1:], __name__, os.getcwd(), sys.stdin.read())
    print("to stderr", file=sys.stderr)
    print([m for m in ("numpy", "h5py", "click") if m in sys.modules], [p for p in sys.path if "fusion_replay" in p])
    """
    path = tmp_path / "app.py"
    path.write_text("import os, sys\n" + textwrap.dedent(body))
    words = [sys.executable, "app.py", "--workload", "-o", "x y"]
    plain = subprocess.run(words, input="in", cwd=tmp_path, env=environment(), capture_output=True, text=True)
    done = subprocess.run(
        [sys.executable, "-m", "fusion_replay", "record", *words],
        input="in",
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout == plain.stdout
    assert done.stderr.startswith("to stderr\n")
    assert done.returncode == 4
    assert "imported no IRON" in last_line(done)
    assert [p.name for p in tmp_path.iterdir()] == ["app.py"]


def test_an_exception_of_a_kernel_comes_through_and_the_step_is_failed(tmp_path: Path) -> None:
    body = """
    from common_app import *
    try:
        single(callable_of(operators.Fail(size=N)), draw(0))
    except Exception as error:
        print(type(error).__name__, error)
    """
    done = record(sys.executable, app(tmp_path, "v3", body), cwd=tmp_path)
    assert done.stdout == "HostRuntimeError Kernel returned ert_cmd_state.ERT_CMD_STATE_TIMEOUT\n"
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert snap["0:0"].status == "failed"
        assert snap["0:0"].inputs[0].numpy().tobytes() == draw(0).tobytes()


def test_the_users_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import builtins\nbuiltins.mine = 'here'\n")
    path = tmp_path / "app.py"
    path.write_text("import sitecustomize\nprint(mine, sitecustomize.__file__)\n")
    done = record(sys.executable, path, cwd=tmp_path, PYTHONPATH=str(own))
    assert done.stdout == f"here {own / 'sitecustomize.py'}\n"


def test_the_device_is_not_opened_by_looking(tmp_path: Path) -> None:
    log = tmp_path / "device.log"
    body = "import aie.utils\nfrom common_app import *\n"
    done = record(sys.executable, app(tmp_path, "v3", body), cwd=tmp_path, FAKE_DEVICE_LOG=str(log))
    assert done.returncode == 4
    assert "imported IRON and dispatched nothing" in last_line(done)
    assert not log.exists()


# --- what was not seen ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_is_refused_and_separate_helps(tmp_path: Path, variant: str) -> None:
    path = app(tmp_path, variant, "from common_app import *\nsequence('auto')\n")
    done = record(sys.executable, path, cwd=tmp_path)
    assert done.returncode == 4
    assert "Recorded 0 invocations (0 steps)." in last_line(done)
    assert "Not recorded: 2 x sequence block" in last_line(done)
    assert "--separate" in last_line(done)
    assert [p.name for p in tmp_path.iterdir()] == ["app.py"], "no empty snapshot"
    done = record("--separate", sys.executable, path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Recorded 2 invocations (6 steps)" in last_line(done)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_on_request_as_whole_calls(tmp_path: Path, variant: str) -> None:
    path = app(tmp_path, variant, "from common_app import *\nsequence('auto')\n")
    plain = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False, cwd=tmp_path)
    done = record("--whole-calls", sys.executable, path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Recorded 2 invocations (2 steps)" in last_line(done)
    assert done.stdout == plain.stdout
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert {s.op.type for s in snap.steps()} == {"OperatorSequence"}
        assert all(t.kept for s in snap.steps() for t in (*s.inputs.values(), *s.outputs.values()))


def test_what_was_missed_beside_what_was_recorded(tmp_path: Path) -> None:
    body = """
    from common_app import *
    sequence()
    sequence("fused", name="whole")
    import aie.utils
    from aie.utils.hostruntime.tensor_class import Tensor
    from aie.utils.npukernel import NPUKernel
    open("stray.xclbin", "w").write("ReLU")
    def stray():
        NPUKernel("stray.xclbin")(Tensor.from_numpy(draw(0)), Tensor((N,)))
    stray()
    """
    done = record(sys.executable, app(tmp_path, "v6", body), cwd=tmp_path)
    assert done.returncode == 0
    line = last_line(done)
    assert "Recorded 2 invocations (6 steps)" in line
    assert "2 x sequence whole" in line
    assert "MLIR_AIE of stray.xclbin: no operator is known for it" in line
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert {loss.kind for loss in snap.losses} == {"sequence", "dispatch"}


def test_children_take_the_next_number_and_are_listed(tmp_path: Path) -> None:
    worker = app(tmp_path, "v6", "from common_app import *\nsequence(calls=1)\n", "worker.py")
    body = f"""
    import subprocess
    from common_app import *
    sequence(calls=2)
    subprocess.run([sys.executable, {str(worker)!r}], check=True)
    """
    done = record("-o", "run.h5", sys.executable, app(tmp_path, "v3", body), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Recorded 3 invocations (9 steps) in run.h5." in last_line(done)
    assert "run-001.h5: 1 invocation (3 steps) of the child process" in done.stderr
    assert "worker.py" in done.stderr
    assert [len(fr.open(tmp_path / name)) for name in ("run.h5", "run-001.h5")] == [6, 3]


def test_a_forked_child_records_for_itself(tmp_path: Path) -> None:
    body = """
    import multiprocessing
    from common_app import *
    sequence(calls=1)
    child = multiprocessing.get_context("fork").Process(target=sequence, kwargs={"calls": 2})
    child.start(); child.join()
    """
    done = record(sys.executable, app(tmp_path, "v3", body), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Recorded 3 invocations (9 steps)" in last_line(done)
    assert [len(fr.open(tmp_path / f"app-00{n}.h5")) for n in (1, 2)] == [3, 6]


def test_a_child_without_our_environment_is_told(tmp_path: Path) -> None:
    worker = app(tmp_path, "v6", "from common_app import *\nsequence(calls=1)\n", "worker.py")
    body = f"import subprocess\nsubprocess.run([sys.executable, {str(worker)!r}], env={{}}, check=True)\n"
    done = record(sys.executable, app(tmp_path, "v6", body), cwd=tmp_path)
    assert done.returncode == 4
    assert "started without our environment" in last_line(done)
    assert "worker.py" in last_line(done)


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_an_interpreter_that_ignores_pythonpath_is_told(tmp_path: Path, flag: str) -> None:
    done = record(sys.executable, flag, "-c", "print('ran')", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "ran\n")
    assert "never loaded" in last_line(done)


def test_an_interpreter_without_this_package_runs_the_program_all_the_same(tmp_path: Path) -> None:
    own = tmp_path / "own" / "fusion_replay"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("raise ImportError('made for another Python')\n")
    path = os.pathsep.join([str(Path(fr.__file__).parent / "recording" / "site"), str(own.parent)])
    done = record("env", f"PYTHONPATH={path}", sys.executable, "-c", "print('ran')", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "ran\n")
    assert "can't be imported by" in done.stderr
    assert "made for another Python" in done.stderr


# --- refusals ---------------------------------------------------------------------------------------------------


def test_malformed_settings_are_refused_before_anything_runs(tmp_path: Path) -> None:
    path = app(tmp_path, "v3", "open('ran', 'w')\n")
    for name, value in [("STEP_TIMEOUT", "soon"), ("SEPARATE", "maybe"), ("IF_EXISTS", "ask"), ("SLOW_AFTER", "nan")]:
        done = record(sys.executable, path, cwd=tmp_path, **{PREFIX + name: value})
        assert done.returncode == 2
        assert f"{PREFIX}{name}={value!r}: expected" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-o", "there.h5", sys.executable, "app.py"], "exists already"),
        (["-o", "nowhere/x.h5", sys.executable, "app.py"], "does not exist"),
        (["nosuch-program"], "no such program"),
        (["app.py"], "record python app.py"),
        (["--sim", "npu2", sys.executable, "app.py"], "--workload"),
    ],
)
def test_refused_before_anything_runs(tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "app.py").write_text("open('ran', 'w')\n")
    (tmp_path / "there.h5").write_bytes(b"mine")
    done = record(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app.py", "there.h5"]


# --- hanging ----------------------------------------------------------------------------------------------------

HANGING = """
    from common_app import *
    sequence(calls=1)
    print("hanging", flush=True)
    single(callable_of(operators.Hang(size=N)), draw(7))
"""


def test_ctrl_c_in_a_hung_kernel(tmp_path: Path) -> None:
    path = app(tmp_path, "v3", HANGING)
    words = [sys.executable, "-m", "fusion_replay", "record", "--slow-after", "0.2", sys.executable, str(path)]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        told = child.stderr.readline()  # the monitor's, once the kernel hangs
        child.send_signal(signal.SIGINT)
        stderr = told + child.communicate(timeout=60)[1]
    assert child.returncode == -signal.SIGINT
    assert "1:0 Hang has run" in stderr
    assert "its inputs are safe in" in stderr
    assert "app-001.h5.journal; Ctrl-C is safe" in stderr
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert snap.sealed
        assert snap["1:0"].status == "failed"
        assert snap["1:0"].inputs[0].numpy().tobytes() == draw(7).tobytes()


def test_killed_in_a_hung_kernel_leaves_the_step_in_flight(tmp_path: Path) -> None:
    body = (
        """
    from aie.utils.hostruntime.xrtruntime.hostruntime import KERNELS
    KERNELS["Hang"] = lambda *_: os.kill(os.getpid(), 9)
    """
        + HANGING
    )
    done = record(sys.executable, app(tmp_path, "v6", body), cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert snap["1:0"].status == "in_flight"
        assert snap["1:0"].inputs[0].numpy().tobytes() == draw(7).tobytes()


def test_a_hang_that_keeps_pythons_lock_is_told_and_ended(tmp_path: Path) -> None:
    """As in pyxrt's ``run.wait``: nothing in the process can speak or act, what watches beside it does."""
    body = (
        """
    import ctypes
    from fusion_replay.recording import step_timer
    step_timer.GRACE = 0.5
    from aie.utils.hostruntime.xrtruntime.hostruntime import KERNELS
    lib, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    KERNELS["Hang"] = lambda *_: (lib.pthread_mutex_lock(mutex), lib.pthread_mutex_lock(mutex))
    """
        + HANGING
    )
    words = ["--slow-after", "0.3", "--step-timeout", "1.5"]
    done = record(*words, sys.executable, app(tmp_path, "v6", body), cwd=tmp_path)
    assert done.returncode == -signal.SIGTERM
    assert "1:0 Hang has run" in done.stderr
    assert "longer than the step timeout of 1.5 s" in done.stderr
    assert "1:0 Hang can't be interrupted; ending the process" in done.stderr
    assert "child process" not in done.stderr, "the monitor is none of the program's"
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert snap["1:0"].status == "in_flight"
        assert snap["1:0"].inputs[0].numpy().tobytes() == draw(7).tobytes()


def test_step_timeout_stops_the_program(tmp_path: Path) -> None:
    done = record("--step-timeout", "0.5", sys.executable, app(tmp_path, "v3", HANGING), cwd=tmp_path)
    assert done.returncode == -signal.SIGINT
    assert "longer than the step timeout of 500 ms" in done.stderr
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert snap["1:0"].status == "failed"
        assert len(snap) == 4


# --- deviating steps alone --------------------------------------------------------------------------------------

NEARLY = """
    from common_app import *
    import os, common_app
    if os.environ.get("OTHER"):
        draws = common_app.draw
        common_app.draw = lambda seed: draws(seed + 100 if seed == 3 else seed)
    sequence()
"""


@pytest.mark.parametrize(
    ("variant", "by_environment"),
    [
        ("v3", False),
        ("v6", True),
        pytest.param("v3", True, marks=pytest.mark.long),
        pytest.param("v6", False, marks=pytest.mark.long),
    ],
)
def test_steps_that_deviate_from_an_earlier_run(tmp_path: Path, variant: str, by_environment: bool) -> None:
    path = app(tmp_path, variant, NEARLY)
    assert record("-o", "good.h5", sys.executable, path, cwd=tmp_path).returncode == 0
    if by_environment:
        more = {f"{PREFIX}KEEP": "mismatch", f"{PREFIX}AGAINST": "good.h5", f"{PREFIX}OUT": "other.h5"}
        done = record(sys.executable, path, cwd=tmp_path, OTHER="1", **more)
    else:
        options = ("-o", "other.h5", "--keep", "mismatch", "--against", "good.h5")
        done = record(*options, sys.executable, path, cwd=tmp_path, OTHER="1")
    assert done.returncode == 0, done.stderr
    # The second call gets another b: h = a + b, h * a and relu(h) all follow from it.
    assert "3 of 6 steps deviate from good.h5, first 1:0 ElementwiseAdd." in last_line(done)
    assert "next: fusion-replay replay other.h5" in last_line(done)
    with fr.open(tmp_path / "other.h5") as snap:
        assert [s.address for s in snap if s.withheld is None] == ["1:0", "1:1", "1:2"]
        assert all(t.kept for s in snap.steps(invocation=1) for _, t in s.tensors())
        assert snap["0:0"].withheld == "as in good.h5"
    same = record("-o", "same.h5", "--keep", "mismatch", "--against", "good.h5", sys.executable, path, cwd=tmp_path)
    assert same.returncode == 0
    assert "None of 6 steps deviates from good.h5." in last_line(same)
    assert "next: fusion-replay show same.h5" in last_line(same)


def test_steps_that_deviate_from_their_references(tmp_path: Path) -> None:
    """The doubles compute as the references do: every step is looked at, and none is kept."""
    body = """
        from common_app import *
        single(callable_of(operators.ReLU(size=N)), draw(14))
        sequence()
    """
    path = app(tmp_path, "v3", body)
    done = record("-o", "a.h5", "--keep", "mismatch", sys.executable, path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "None of 7 steps deviates from the reference." in last_line(done)
    with fr.open(tmp_path / "a.h5") as snap:
        assert {s.withheld for s in snap} == {"as the reference"}


# --- where the program's environment has no fusion_replay ---------------------------------------------------------


def bare_python(folder: Path) -> tuple[str, str]:
    """An interpreter without us, and a folder with what a program of IRON's has of its own."""
    own = folder / "its"
    own.mkdir()
    for name in ("numpy", "ml_dtypes"):
        home = Path(str(importlib.import_module(name).__file__)).parent
        for part in (home, home.parent / f"{name}.libs"):
            if part.exists():
                (own / part.name).symlink_to(part)
    python = os.path.realpath(sys.executable)
    probe = "import importlib.util as u; print([u.find_spec(n) is None for n in ('fusion_replay', 'h5py', 'xxhash')])"
    done = run(python, "-c", probe, cwd=folder, PYTHONPATH=str(own))
    if done.stdout.strip() != "[True, True, True]":
        pytest.skip(f"{python} has packages of its own: {done.stdout}{done.stderr}")
    return python, str(own)


def test_a_program_whose_environment_has_none_of_us_is_recorded(tmp_path: Path) -> None:
    python, own = bare_python(tmp_path)
    body = """
    from common_app import *
    sequence()
    import numpy
    print(numpy.__file__.startswith(sys.argv[1]))
    for name in ("h5py_not_there", "click", "rich"):
        try:
            __import__(name)
        except ImportError:
            print("no", name)
    """
    path = app(tmp_path, "v3", body)
    plain = run(python, path, own, cwd=tmp_path, PYTHONPATH=own)
    assert plain.returncode == 0, plain.stderr
    done = record(python, path, own, cwd=tmp_path, PYTHONPATH=own)
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    assert "True\n" in done.stdout
    assert "Recorded 2 invocations (6 steps)" in last_line(done)
    assert fr.replay(tmp_path / "app-001.h5").passed


def test_another_kind_of_interpreter_is_told_the_command_that_helps(tmp_path: Path) -> None:
    python, own = bare_python(tmp_path)
    words = ("env", "FUSION_REPLAY_BEHIND=cpython-399:/nowhere", python, "-c", "print('ran')")
    done = record(*words, cwd=tmp_path, PYTHONPATH=own)
    assert (done.returncode, done.stdout) == (4, "ran\n")
    assert f"install it there: {python} -m pip install fusion-replay" in done.stderr


# --- IRON's own comparison ----------------------------------------------------------------------------------------


def test_the_figures_of_the_last_step_are_kept_too(tmp_path: Path) -> None:
    path = app(tmp_path, "v3", "from common_app import *\nsequence(dispatch='compare', calls=2)\n")
    done = record(sys.executable, path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with fr.open(tmp_path / "app-001.h5") as snap:
        assert [(step.iron or {}).get("max_abs") for step in snap] == [0, 0.25, 0.5] * 2
