# SPDX-License-Identifier: Apache-2.0
"""The watchdog speaks of steps that run far longer than their like, once, and of no others."""

from __future__ import annotations

import time

import pytest

from fusion_replay.watchdog import Watchdog


def wait_for(capfd: pytest.CaptureFixture[str], text: str) -> str:
    """What has come on stderr, once ``text`` is in it."""
    seen, deadline = "", time.monotonic() + 20
    while text not in seen:
        assert time.monotonic() < deadline, seen
        time.sleep(0.01)
        seen += capfd.readouterr().err
    return seen


def test_a_slow_step_is_told_once_with_its_likes_median(capfd: pytest.CaptureFixture[str]) -> None:
    dog = Watchdog(0.05, None, "x.h5.journal")
    for _ in range(5):
        dog.began("GEMV", lambda: "0:0 GEMV")
        dog.ended(came_back=True)
    dog.began("GEMV", lambda: "3:412 GEMV")
    text = wait_for(capfd, "3:412 GEMV")
    assert "has run" in text
    assert "median" in text
    assert "its inputs are safe in x.h5.journal; Ctrl-C is safe" in text
    time.sleep(0.1)
    assert capfd.readouterr().err == "", "told once"
    dog.ended(came_back=True)
    dog.close()


def test_a_step_that_is_slow_as_its_like_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    dog = Watchdog(0.02, None, "x.h5.journal")
    dog._durations.setdefault("MHA", __import__("collections").deque([1.0]))
    dog.began("MHA", lambda: "0:1 MHA")
    time.sleep(0.2)  # ten times the threshold, far below a hundred medians
    dog.ended(came_back=True)
    dog.close()
    assert capfd.readouterr().err == ""


def test_the_first_of_its_kind_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    dog = Watchdog(0.02, None, "x.h5.journal")
    dog.began("MHA", lambda: "0:1 MHA")
    assert "the first of its kind" in wait_for(capfd, "0:1 MHA")
    dog.close()


def test_a_timeout_interrupts_the_main_thread(capfd: pytest.CaptureFixture[str]) -> None:
    dog = Watchdog(0, 0.05, "x.h5.journal")
    dog.began("GEMV", lambda: "0:0 GEMV")
    with pytest.raises(KeyboardInterrupt):
        time.sleep(20)
    dog.ended(came_back=False)
    dog.close()
    assert "longer than the step timeout of 50 ms" in capfd.readouterr().err


def test_nothing_wanted_starts_no_thread() -> None:
    dog = Watchdog(0, None, "")
    dog.began("GEMV", lambda: "0:0 GEMV")
    assert dog._thread is None
    dog.ended(came_back=True)
