# SPDX-License-Identifier: Apache-2.0
"""The order in which steps are judged, and how it is shared out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fusion_replay.replaying.series import BAND, near_reuse, pieces

SEQUENCES = (object(), object())


def step(invocation: int, index: int, sequence: int = 0, nbytes: int = 1) -> Any:
    use = SimpleNamespace(spec=SimpleNamespace(nbytes=nbytes))
    description = SimpleNamespace(operands=(use,))
    return SimpleNamespace(invocation=invocation, index=index, sequence=SEQUENCES[sequence], description=description)


def test_a_band_of_invocations_goes_through_the_runlist_together() -> None:
    steps = [step(i, s) for i in range(BAND + 2) for s in range(3)]
    seen = [(steps[i].invocation, steps[i].index) for i in near_reuse(steps)]
    first = [(i, s) for s in range(3) for i in range(BAND)]
    assert seen == first + [(i, s) for s in range(3) for i in (BAND, BAND + 1)]


def test_sequences_that_take_turns_are_told_apart() -> None:
    steps = [step(0, 0, 0), step(1, 0, 1), step(2, 0, 0), step(3, 0, 1)]
    assert near_reuse(steps) == [0, 2, 1, 3]


def test_one_invocation_stays_as_it_is() -> None:
    assert near_reuse([step(7, s) for s in range(5)]) == [0, 1, 2, 3, 4]


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 20))
def test_pieces_are_the_order_cut_up(sizes: list[int], n: int) -> None:
    steps = [step(0, i, nbytes=size) for i, size in enumerate(sizes)]
    order = list(range(len(steps)))[::-1]
    cut = pieces(steps, order, n)
    assert [i for piece in cut for i in piece] == order
    assert len(cut) <= n
    assert all(cut) or not steps
    total = sum(size + 1 for size in sizes)
    largest = max(sizes, default=0) + 1
    assert all(sum(sizes[i] + 1 for i in piece) <= total / n + largest for piece in cut)
