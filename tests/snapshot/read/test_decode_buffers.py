# SPDX-License-Identifier: Apache-2.0
"""Memory that is used again: never while anybody can still see it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_replay.snapshot.read.decode_buffers import Buffers

SIZES = (1 << 16, (1 << 16) + 4096, 1 << 17, 300_000)

WAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "itself": lambda x: x,
    "a slice": lambda x: x[100:200],
    "another dtype and shape": lambda x: x[: 1 << 16].view(ml_dtypes.bfloat16).reshape(2, -1).T,
    "a view of views": lambda x: x[50:].view()[::2].reshape(-1)[10:20],
    "an asarray": lambda x: np.asarray(x),
    "a memoryview": memoryview,
    "a numpy of a memoryview": lambda x: np.frombuffer(memoryview(x)[1:], np.uint8),
    "strides": lambda x: np.lib.stride_tricks.as_strided(x, (4, 4), (8, 1)),
    "what it stands on": lambda x: x.base,
    "read-only": lambda x: np.broadcast_to(x[:64], (3, 64)),
}


def address(x: np.ndarray) -> int:
    return int(x.__array_interface__["data"][0])


@pytest.mark.parametrize("way", WAYS)
def test_any_view_keeps_the_memory_and_its_end_gives_it_back(way: str) -> None:
    buffers = Buffers(1 << 30)
    first = buffers.empty(1 << 17)
    first[:] = 7
    where, seen = address(first), WAYS[way](first)
    first.flags.writeable = False
    del first
    assert buffers.unused == 0
    other = buffers.empty(1 << 17)
    other[:] = 9
    assert address(other) != where
    assert set(np.asarray(seen).reshape(-1).view(np.uint8).tolist()) == {7}
    del seen
    assert buffers.unused == 1 << 17
    assert address(buffers.empty((1 << 17) - 4000)) == where  # sizes are rounded up to 4096


@settings(max_examples=2 * settings().max_examples, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("empty"), st.sampled_from(SIZES), st.sampled_from(sorted(WAYS))),
            st.tuples(st.just("drop"), st.integers(0, 30), st.just("")),
            st.tuples(st.just("keep"), st.sampled_from([0, 1 << 16, 1 << 18, 1 << 20]), st.just("")),
            st.tuples(st.just("take"), st.sampled_from(SIZES), st.sampled_from(sorted(WAYS))),
        ),
        max_size=60,
    )
)
def test_no_sequence_of_uses_overwrites_what_is_alive(steps: list[tuple[str, int, str]]) -> None:
    buffers, limit = Buffers(1 << 18), 1 << 18
    alive: list[tuple[Any, int]] = []
    for number, (what, n, way) in enumerate(steps):
        if what == "take":
            buffers.keep(limit, wanted=n)
        if what in ("empty", "take"):
            array = buffers.empty(n)
            assert array.shape == (n,)
            array[:] = number
            alive.append((WAYS[way](array), number))
            del array
        elif what == "drop" and alive:
            alive.pop(n % len(alive))
        elif what == "keep":
            limit = n
            buffers.keep(limit)
        assert 0 <= buffers.unused <= limit
        for view, tag in alive:
            found = np.asarray(view).reshape(-1).view(np.uint8)
            assert (found == tag).all()
    alive.clear()
    buffers.keep(0)
    assert buffers.unused == 0


def test_sizes_that_nobody_asks_for_any_more_make_room() -> None:
    buffers = Buffers(1 << 18)
    old, new = [buffers.empty(1 << 16) for _ in range(4)], [buffers.empty(1 << 17) for _ in range(2)]
    del old
    assert buffers.unused == 1 << 18
    del new
    assert buffers.unused == 1 << 18
    again = [buffers.empty(1 << 17) for _ in range(2)]
    assert buffers.unused == 0
    del again


def test_one_larger_than_all_that_is_unused_has_their_pages() -> None:
    buffers = Buffers(1 << 18)
    arrays = [buffers.empty(1 << 16) for _ in range(3)]
    del arrays
    small = buffers.empty(1 << 17)
    assert buffers.unused == 3 << 16
    large = buffers.empty(1 << 19)
    assert buffers.unused == 0
    del large  # more than the limit: not kept
    assert buffers.unused == 0
    del small
    assert buffers.unused == 1 << 17


def test_a_block_that_is_wanted_stays_when_others_go() -> None:
    buffers = Buffers(1 << 20)
    arrays = [buffers.empty(size) for size in SIZES]
    while arrays:
        arrays.pop(0)  # the first is the one that came longest ago
    buffers.keep(0, wanted=SIZES[0])
    assert buffers.unused == SIZES[0]
    buffers.keep(0, wanted=SIZES[1])  # there is none any more
    assert buffers.unused == 0


def test_small_ones_are_numpys_own() -> None:
    buffers = Buffers(1 << 20)
    small = buffers.empty(100)
    assert small.base is None
    del small
    assert buffers.unused == 0


def test_an_array_that_dies_while_the_pool_is_busy_is_freed_and_nobody_waits() -> None:
    """The collector may run anywhere, in this thread and inside this lock too."""
    buffers = Buffers(1 << 20)
    arrays = [buffers.empty(1 << 17)]

    class Limit(int):
        def __lt__(self, other: int) -> bool:  # asked inside the lock
            arrays.clear()
            return super().__lt__(other)

    buffers.keep(Limit(1 << 20))
    assert not arrays
    assert buffers.unused == 0


def test_threads_never_share_a_block() -> None:
    buffers = Buffers(1 << 18)
    wrong: list[int] = []

    def use(tag: int) -> None:
        rng = np.random.default_rng(tag)
        mine: list[np.ndarray] = []
        for _ in range(400):
            array = buffers.empty(int(rng.choice(SIZES)))
            array[::512] = tag
            mine.append(array[::512])
            if len(mine) > rng.integers(4):
                mine.pop(int(rng.integers(len(mine))))
            if any((x != tag).any() for x in mine):
                wrong.append(tag)

    threads = [threading.Thread(target=use, args=(tag,)) for tag in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 <= buffers.unused <= 1 << 18
