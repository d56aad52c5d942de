# SPDX-License-Identifier: Apache-2.0
"""Locks across a fork: what another thread holds then is free in the child, and stays held in the parent."""

from __future__ import annotations

import os
import threading

from fusion_replay.system.locks import Locked


class Counter(Locked):
    def take(self, timeout: float = 10) -> bool:
        return self._lock.acquire(timeout=timeout)

    def give(self) -> None:
        self._lock.release()


def held_elsewhere(counter: Counter) -> tuple[threading.Thread, threading.Event]:
    """A thread that holds the counter's lock until the event is set."""
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        counter.take()
        held.set()
        end.wait()
        counter.give()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    return thread, end


def test_a_lock_that_another_thread_held_is_free_in_the_child() -> None:
    counter = Counter()
    thread, end = held_elsewhere(counter)
    pid = os.fork()
    if not pid:
        os._exit(0 if counter.take(timeout=5) else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        assert not counter.take(timeout=0.01), "the parent's is still the other thread's"
    finally:
        end.set()
        thread.join()
    assert status == 0
    assert counter.take()


def test_the_same_thread_may_take_it_twice() -> None:
    counter = Counter()
    assert counter.take()
    assert counter.take(timeout=0.01)
