# SPDX-License-Identifier: Apache-2.0
"""Several threads, one content: every piece once, the digest of the whole, errors for all who wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_replay.snapshot.read.decoding import Decoding

WAIT = 60


def cut(lengths: list[int]) -> list[tuple[int, int]]:
    ends = np.cumsum(lengths).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True)) if lengths else []


def decoding(lengths: list[int], data: np.ndarray, before: Callable[[int], None] = lambda number: None) -> Decoding:
    spans = cut(lengths)

    def fill(number: int, out: np.ndarray) -> None:
        before(number)
        start, stop = spans[number]
        out[:] = data[start:stop]

    return Decoding(spans, lambda: np.empty(data.size, np.uint8), fill)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5000), max_size=60), st.integers(1, 5), st.integers(0, 2**32))
def test_the_bytes_and_their_digest_for_any_number_of_threads(lengths: list[int], threads: int, seed: int) -> None:
    data = np.random.default_rng(seed).integers(0, 256, sum(lengths), dtype=np.uint8)
    filled: list[int] = []
    shared = decoding(lengths, data, filled.append)
    with ThreadPoolExecutor(threads) as pool:
        found = [future.result(WAIT) for future in [pool.submit(shared.result) for _ in range(threads)]]
    assert sorted(filled) == list(range(len(lengths)))
    for out, digest in found:
        assert out is found[0][0]
        assert out.tobytes() == data.tobytes()
        assert digest == xxhash.xxh3_128_digest(data.tobytes())


@pytest.mark.parametrize("late", [0, 3, 6])
def test_a_piece_that_comes_last_is_digested_in_its_place(late: int) -> None:
    lengths, others = [1000] * 7, threading.Event()
    data = np.random.default_rng(late).integers(0, 256, 7000, dtype=np.uint8)
    left = set(range(7)) - {late}

    def before(number: int) -> None:
        if number == late:
            assert others.wait(WAIT)
        left.discard(number)
        if not left:
            others.set()

    shared = decoding(lengths, data, before)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(shared.result) for _ in range(2)]:
            assert future.result(WAIT)[1] == xxhash.xxh3_128_digest(data.tobytes())


def test_who_only_helps_does_not_wait() -> None:
    inside, go = threading.Event(), threading.Event()

    def before(number: int) -> None:
        if number == 0:
            inside.set()
            assert go.wait(WAIT)

    shared = decoding([10, 10], np.arange(20, dtype=np.uint8), before)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shared.result)
        assert inside.wait(WAIT)
        shared.work()  # the second piece; the first is the other thread's
        assert not first.done()
        go.set()
        assert first.result(WAIT)[0].tolist() == list(range(20))


def test_an_error_reaches_everyone_and_ends_the_work() -> None:
    both, tried = threading.Barrier(2, timeout=WAIT), []

    def before(number: int) -> None:
        tried.append(number)
        if number < 2:
            both.wait()
        if number == 1:
            raise ValueError("piece 1")

    shared = decoding([10] * 1000, np.zeros(10_000, np.uint8), before)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(shared.result) for _ in range(2)]:
            with pytest.raises(ValueError, match="piece 1"):
                future.result(WAIT)
    after = len(tried)
    with pytest.raises(ValueError, match="piece 1"):
        shared.result()
    assert len(tried) == after


def test_an_interrupt_goes_on_in_its_thread_and_nobody_waits_for_the_piece() -> None:
    both = threading.Barrier(2, timeout=WAIT)

    def before(number: int) -> None:
        both.wait()
        if number == 0:
            raise KeyboardInterrupt

    shared = decoding([10, 10], np.zeros(20, np.uint8), before)

    def run() -> str:
        try:
            shared.result()
        except BaseException as error:
            return type(error).__name__
        return "no error"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(future.result(WAIT) for future in [pool.submit(run) for _ in range(2)]) == [
            "KeyboardInterrupt",
            "RuntimeError",
        ]


def test_nothing_is_allocated_before_there_is_work() -> None:
    def refuse() -> np.ndarray:
        raise MemoryError("no room")

    shared = Decoding([(0, 10)], refuse, lambda number, out: None)
    with pytest.raises(MemoryError, match="no room"):
        shared.result()
