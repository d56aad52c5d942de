# SPDX-License-Identifier: Apache-2.0
"""Asking what threads do while others start and end, and the collector runs as often as it can."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from fusion_replay.system.threads import current_frames

PROGRAM = """
import gc, sys, threading, time
from fusion_replay.system.threads import current_frames
ask = sys._current_frames if {plain} else current_frames
sys.setswitchinterval(1e-6)
gc.set_threshold(1, 1, 1)
class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        sum(range(200))
def work(deep):
    Cycle()
    if deep:
        work(deep - 1)
def come_and_go():
    for _ in range(100):
        thread = threading.Thread(target=work, args=(5,))
        thread.start()
        thread.join()
threads = [threading.Thread(target=come_and_go) for _ in range(4)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    Cycle()
    ask()
"""


def run(plain: bool, seconds: float) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM.format(plain=plain)], timeout=seconds, check=True)


def test_nobody_stands_still() -> None:
    run(plain=False, seconds=120)


@pytest.mark.long
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="later versions collect at safe points only")
def test_what_it_stands_for_does() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(plain=True, seconds=30)


def test_every_thread_is_there() -> None:
    ready, go = threading.Event(), threading.Event()

    def wait_here() -> None:
        ready.set()
        go.wait()

    thread = threading.Thread(target=wait_here)
    thread.start()
    ready.wait()
    frames = current_frames()
    names = []
    frame = frames[thread.ident or 0]
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    go.set()
    thread.join()
    assert "wait_here" in names
    assert threading.get_ident() in frames
