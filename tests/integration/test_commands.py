# SPDX-License-Identifier: Apache-2.0
"""Whole commands as processes of their own: a wrong decode from record to verdict, kills, pipes, import hygiene."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import Command
from core_types import core_types, environment, oldest

HEAVY = ("torch", "pyxrt", "iron", "aie", "rich.progress")


def program(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "fusion_replay", *map(str, words)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def record(path: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return program("record", "-o", path.name, "--workload", "llama-decode", "--sim", "npu2", *more, cwd=path.parent)


@pytest.fixture(scope="module")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decode") / "decode.h5"
    done = record(path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return path


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Step 1:69 delivers its output shifted by one block."""
    path = tmp_path_factory.mktemp("wrong") / "wrong.h5"
    done = record(path, "--fault", "1:69:shift")
    assert done.returncode == 0, "a wrong number is no failed run: nobody has noticed yet"
    return path


def test_a_clean_decode_passes(decode: Path) -> None:
    done = program("replay", decode, cwd=decode.parent)
    assert done.returncode == 0, done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("PASSED in ")
    assert "160 of 160 steps match" in done.stdout
    assert "software NPU" in done.stdout


def test_the_wrong_step_is_named(wrong: Path) -> None:
    done = program("replay", wrong, cwd=wrong.parent)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) <= 28, "at most 27 lines and the last one"
    assert "1 of 160" in done.stdout
    assert "1:69 GEMV W_attn_output_decode_1, attn_context -> attn_output" in done.stdout
    assert lines[-1].startswith("FAILED in ")
    assert lines[-1].endswith(f"next: fusion-replay show {wrong} 1:69")


def test_filters_choose_what_is_judged(wrong: Path, run: Command) -> None:
    cases = {
        ("--op", "rms_norm"): 0,
        ("--mode", "cumulative"): 1,  # sees what the fault did further on
        ("--invocation", "0", "--op", "gemv"): 0,
        ("--step", "1:68"): 0,
    }
    assert {words: run("replay", wrong, *words).status for words in cases} == cases


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_json_is_the_same_on_any_thread_count_and_instruction_set(wrong: Path, every: bool) -> None:
    """In short the set that this host takes, with threads, against the oldest one that it can run, without; and
    verdicts without the cause of the one that is wrong, which takes longer than all of them.
    """
    threads = {"OPENBLAS_NUM_THREADS": "2"}  # one thread in the others
    settings = [{}, threads, *map(environment, core_types())] if every else [threads, environment(oldest())]
    shares = ["replay", str(wrong), "--json", "--attribute"]
    commands = [shares, shares[:-1] if every else [*shares[:-1], "--invocation", "0"]]
    script = f"from fusion_replay.__main__ import main\nfor words in {commands}: main(words)"
    outputs = set()
    for chosen in settings:
        env = {**os.environ, **chosen}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        outputs.add(done.stdout)
    assert len(outputs) == 1
    told = outputs.pop()
    assert told.count("\n") > 160 + 80
    assert '"type":"attribution"' in told
    if every:
        for n in (1, 2):
            assert told.endswith(program("replay", wrong, "--json", "--workers", n, cwd=wrong.parent).stdout)


def test_a_timeout_is_passed_on_and_the_step_is_kept(tmp_path: Path, run: Command) -> None:
    path = tmp_path / "t.h5"
    done = record(path, "--fault", "1:20:timeout")
    assert done.returncode == 1
    assert "ERT_CMD_STATE_TIMEOUT" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("FAILED in ")
    assert run("fsck", path).status == 0
    assert "failed: 1:20 Transpose" in run("show", path).out
    assert "input   A" in run("show", path, "1:20").out
    replayed = run("replay", path)
    assert replayed.status == 1
    assert "100 of 100 steps match; 1 step failed: 1:20 Transpose" in replayed.out
    assert re.match(r"FAILED in .*; 1 step failed: 1:20 Transpose .*; next: .*1:20$", replayed.out.splitlines()[-1])


@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGINT])
def test_a_hang_that_is_killed_shows_the_step_in_flight(tmp_path: Path, killer: signal.Signals, run: Command) -> None:
    path = tmp_path / "hang.h5"
    words = ["record", "-o", path, "--workload", "llama-decode", "--sim", "npu2", "--fault", "1:20:hang"]
    running = subprocess.Popen(
        [sys.executable, "-m", "fusion_replay", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: "1:20 Transpose" in run("show", path).out)
        running.send_signal(killer)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert b"Traceback" not in err
    if killer is signal.SIGKILL:
        shown = run("show", path)
        assert "in_flight: 1:20 Transpose" in shown.out
        assert shown.err.count("note: ") == 1
        replayed = run("replay", path)
        assert replayed.status == 1, "the journal can be replayed as it lies"
        assert "; 1 step had not come back: 1:20 Transpose" in replayed.out.splitlines()[-1]
        assert run("replay", path, "--invocation", "0").status == 0
        assert run("fsck", path).status == 3
        assert run("fsck", "--recover", path).status == 0
    else:
        assert running.returncode == 130
        assert err.count(b"error: interrupted") == 1
        last = out.decode().splitlines()[-1]
        assert re.match(rf"FAILED in .*; sealed {path}; next: fusion-replay show {path}$", last), last
    assert run("fsck", path).status == 0
    assert "input   A" in run("show", path, "1:20").out


def wait_for(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.2)
    raise AssertionError("it never came true")


def test_output_goes_to_a_closed_pipe(decode: Path) -> None:
    """``replay --json | head -1`` ends quietly, with the status of a program that SIGPIPE ended."""
    script = f'"{sys.executable}" -m fusion_replay replay --json "{decode}" | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "141"
    assert done.stderr == ""


def test_a_full_disk_under_the_report(decode: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fusion_replay", "show", decode], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: ")
    assert b"Traceback" not in done.stderr


def test_what_the_verbs_load(decode: Path, tmp_path: Path) -> None:
    """Neither torch nor pyxrt nor IRON, in any verb; --version loads not even click."""
    verbs = {
        "--version": ["--version"],
        "record": ["record", "-o", "r.h5", "--workload", "llama-decode", "--sim", "npu1", "--tokens", "1"],
        "show": ["show", str(decode), "0:3"],
        "fsck": ["fsck", str(decode)],
        "replay": ["replay", str(decode), "--invocation", "0"],
        "operators": ["operators"],
    }
    for verb, words in verbs.items():
        loaded = modules_after(f"from fusion_replay.__main__ import main; main({words!r})", tmp_path)
        assert not loaded & set(HEAVY), verb
        assert ("click" in loaded) == (verb != "--version")
        assert "numpy" not in loaded or verb != "--version"


def test_importing_the_package_loads_nothing_else(tmp_path: Path) -> None:
    loaded = modules_after("import fusion_replay", tmp_path)
    assert {m for m in loaded if m.startswith("fusion_replay")} == {"fusion_replay"}
    assert not loaded & {"numpy", "h5py", "click", *HEAVY}


def modules_after(code: str, cwd: Path) -> set[str]:
    script = f"{code}\nimport sys\nprint()\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])
