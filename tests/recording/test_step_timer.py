# SPDX-License-Identifier: Apache-2.0
"""The monitor speaks of steps that run far longer than their like, once, and of no others."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from fusion_replay.recording import step_timer
from fusion_replay.recording.monitor_process import LABEL, SLOT, SLOTS, Monitor, duration
from fusion_replay.recording.step_timer import StepTimer

HELD = """
import ctypes
lib, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
lib.pthread_mutex_lock(mutex), lib.pthread_mutex_lock(mutex)
"""
"""Keeps Python's lock for ever, as pyxrt's ``run.wait`` may; no signal handler of Python's gets a turn."""


def wait_for(capfd: pytest.CaptureFixture[str], text: str) -> str:
    """What has come on stderr, once ``text`` is in it."""
    seen, deadline = "", time.monotonic() + 30
    while text not in seen:
        assert time.monotonic() < deadline, seen
        time.sleep(0.01)
        seen += capfd.readouterr().err
    return seen


class Seen:
    """A monitor with its memory, its lines and its signals, on a clock of the test's own."""

    def __init__(self, slow_after: float = 10, step_timeout: float = 0, grace: float = 5) -> None:
        self.memory = bytearray(SLOTS * SLOT.size)
        self.lines: list[str] = []
        self.signals: list[signal.Signals] = []
        self.monitor = Monitor(
            self.memory, self.signals.append, self.lines.append, slow_after, step_timeout, grace, "x.h5.journal"
        )

    def step(self, label: str, median: float, started: float, slot: int = 0) -> None:
        entry = label.encode()[:112].ljust(112, b"\0") + struct.pack("=dd", median, started)
        self.memory[slot * 128 : slot * 128 + 128] = entry


# --- what the monitor says, on a clock of the test's own --------------------------------------------------------------


def test_the_layout_is_what_the_tests_write() -> None:
    assert (SLOT.size, LABEL) == (128, 112)


def test_a_slow_step_is_told_once_with_its_likes_median() -> None:
    seen = Seen()
    seen.step("3:412 GEMV", 0.0004, 100.0, slot=63)
    for now in (109.9, 110.0, 111.0, 500.0):
        seen.monitor.look(now)
    assert seen.lines == [
        "3:412 GEMV has run 10 s (median 0.4 ms); its inputs are safe in x.h5.journal; Ctrl-C is safe"
    ]
    seen.step("3:413 GEMV", 0.0004, 600.0, slot=63)
    seen.monitor.look(612.0)
    assert len(seen.lines) == 2, "the next step of that slot is told anew"
    assert seen.signals == []


def test_a_step_that_is_slow_as_its_like_is_not_told() -> None:
    seen = Seen(slow_after=0.02)
    seen.step("0:1 MHA", 1.0, 5.0)
    seen.monitor.look(104.9)
    assert seen.lines == []
    seen.monitor.look(105.0)
    assert "0:1 MHA has run 100 s (median 1 s)" in seen.lines[0]


def test_the_first_of_its_kind_is_told() -> None:
    seen = Seen()
    seen.step("0:1 Größe", float("nan"), 5.0)
    seen.monitor.look(15.0)
    assert "0:1 Größe has run 10 s (the first of its kind)" in seen.lines[0]


def test_a_timeout_interrupts_then_ends_then_kills() -> None:
    seen = Seen(slow_after=0, step_timeout=20, grace=5)
    seen.step("0:0 GEMV", 0.001, 100.0)
    for now in (119.9, 120.0, 124.9, 125.0, 130.0, 131.0):
        seen.monitor.look(now)
    assert seen.signals == [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
    assert "longer than the step timeout of 20 s; its inputs are safe in x.h5.journal" in seen.lines[0]
    assert seen.lines[1:] == ["0:0 GEMV can't be interrupted; ending the process"] * 2


def test_a_step_that_heeds_the_interrupt_is_not_ended_nor_is_the_next() -> None:
    seen = Seen(slow_after=0, step_timeout=20, grace=5)
    seen.step("0:0 GEMV", 0.001, 100.0)
    seen.monitor.look(120.0)
    seen.step("", 0, 0)
    seen.monitor.look(126.0)
    seen.step("0:1 GEMV", 0.001, 127.0)
    seen.monitor.look(140.0)
    assert seen.signals == [signal.SIGINT]
    seen.monitor.look(147.0)
    assert seen.signals == [signal.SIGINT, signal.SIGINT], "a step of its own: interrupted first"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0004, "0.4 ms"), (0.9994, "999 ms"), (1, "1 s"), (99.94, "99.9 s"), (1234.5, "1234 s")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def _read(path: Path) -> bytes:
    """Empty where the process has gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- the process ------------------------------------------------------------------------------------------------------


def test_the_process_tells_on_this_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    timer = StepTimer(0.05, None, "x.h5.journal")
    for _ in range(5):
        timer.began("GEMV", "0:0 GEMV")
        timer.ended(came_back=True)
    timer.began("GEMV", "3:412 GEMV")
    text = wait_for(capfd, "3:412 GEMV")
    assert text.startswith("fusion-replay: 3:412 GEMV has run")
    assert "median" in text
    assert "its inputs are safe in x.h5.journal; Ctrl-C is safe" in text
    monitors = [p for p in Path("/proc").glob("[0-9]*") if b"monitor_process" in _read(p / "cmdline")]
    assert monitors
    parents = {_read(p / "stat").rpartition(b") ")[2].split()[1:2][0] for p in monitors if _read(p / "stat")}
    assert str(os.getpid()).encode() not in parents, "it is not ours to wait for"
    timer.ended(came_back=True)
    timer.close()


def test_a_timeout_interrupts_the_main_thread(capfd: pytest.CaptureFixture[str]) -> None:
    timer = StepTimer(0, 0.05, "x.h5.journal")
    timer.began("GEMV", "0:0 GEMV")
    with pytest.raises(KeyboardInterrupt):
        time.sleep(30)
    timer.ended(came_back=False)
    timer.close()
    assert "longer than the step timeout of 50 ms" in capfd.readouterr().err


def test_nothing_wanted_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(step_timer.subprocess, "run", lambda *words, **_: started.append(words))
    timer = StepTimer(0, None, "")
    timer.began("GEMV", "0:0 GEMV")
    timer.ended(came_back=True)
    assert started == []


def test_where_it_cannot_be_started_that_is_told_once(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_timer.sys, "executable", "")
    monkeypatch.setattr(step_timer.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(OSError("no shell")))
    before = len(os.listdir("/proc/self/fd"))
    timer = StepTimer(0.01, None, "x")
    for _ in range(3):
        timer.began("GEMV", "0:0 GEMV")
        timer.ended(came_back=True)
    timer.close()
    assert capfd.readouterr().err == "fusion-replay: steps that hang won't be told: OSError: no shell\n"
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_threads_than_slots_and_steps_in_steps_lose_nothing() -> None:
    timer = StepTimer(60, None, "x")
    timer.began("A", "0:0 A")
    timer.began("A", "0:1 A")
    all_began, ended = threading.Barrier(SLOTS + 2, timeout=60), []

    def dispatch() -> None:
        timer.began("A", "0:2 A")
        all_began.wait()
        timer.ended(came_back=True)
        ended.append(1)

    threads = [threading.Thread(target=dispatch) for _ in range(SLOTS + 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == SLOTS + 2
    timer.ended(came_back=True)
    timer.close()


def program(tmp_path: Path, body: str, **keywords: float) -> subprocess.CompletedProcess[str]:
    """A process that watches itself, then runs ``body``."""
    text = f"""
        import os, sys, time
        from fusion_replay.recording import step_timer
        step_timer.GRACE = 0.3
        timer = step_timer.StepTimer({keywords.get("slow_after", 0)}, {keywords.get("step_timeout")}, "x.h5.journal")
        timer.began("GEMV", "3:412 GEMV")
    """
    path = tmp_path / "app.py"
    path.write_text(textwrap.dedent(text) + textwrap.dedent(body))
    return subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def test_a_step_that_keeps_pythons_lock_is_told_and_ended(tmp_path: Path) -> None:
    done = program(tmp_path, HELD, slow_after=0.1, step_timeout=1)
    assert done.returncode == -signal.SIGTERM
    assert [line.split(";")[0].partition(" has run ")[0] for line in done.stderr.splitlines()] == [
        "fusion-replay: 3:412 GEMV",
        "fusion-replay: 3:412 GEMV",
        "fusion-replay: 3:412 GEMV can't be interrupted",
    ]


def test_a_program_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + HELD
    done = program(tmp_path, deaf, step_timeout=0.2)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "body",
    [
        "print('ended')",
        "print('ended', flush=True); os._exit(0)",
        "print('ended', flush=True); os.execv('/bin/true', ['true'])",
        "print('ended'); timer.ended(came_back=True); timer.close()",
        # a forked child lives on, without our stderr; the monitor does not
        "print('ended', flush=True)\nif not os.fork(): os.close(1); os.close(2); time.sleep(20)",
    ],
)
def test_it_dies_with_the_program(tmp_path: Path, body: str) -> None:
    """The pipe of stderr is at its end once nobody holds it: a monitor that lived on would hold it for an hour."""
    began = time.monotonic()
    done = program(tmp_path, body, slow_after=3600)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ended", "")
    assert time.monotonic() - began < 18


def test_a_forked_child_does_not_speak_for_its_parent(tmp_path: Path) -> None:
    body = """
        child = os.fork()
        if not child:
            timer.ended(came_back=True)
            timer.began("MHA", "9:9 MHA")
            time.sleep(1)
            os._exit(0)
        os.waitpid(child, 0)
    """
    done = program(tmp_path, body, slow_after=0.3)
    assert "3:412 GEMV has run" in done.stderr
    assert "9:9" not in done.stderr
