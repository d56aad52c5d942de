# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise, product

from hypothesis import example, given
from hypothesis import strategies as st

from fusion_replay.diverge.matching import match

words = st.text("abcd", max_size=30)


@given(words, words)
def test_pairs_are_equal_and_in_order_and_no_gap_hides_an_end(a: str, b: str) -> None:
    pairs = match([(a, b)])
    assert all(a[i] == b[j] for i, j, _ in pairs)
    assert all(i < k and j < m for (i, j, _), (k, m, _) in pairwise(pairs))
    ends = [(-1, -1), *((i, j) for i, j, _ in pairs), (len(a), len(b))]
    for (i, j), (k, m) in pairwise(ends):
        assert not set(a[i + 1 : k]) & set(b[j + 1 : m]), "something equal was left between two pairs"


@given(words, st.sets(st.integers(0, 40), max_size=8))
@example("aaa", {0, 1, 3})  # the longest block that is common is not where the first entry is
def test_what_is_put_in_shifts_nothing(a: str, places: set[int]) -> None:
    """Entries that the other side does not have: every old one finds itself again."""
    b = list(a)
    for place in sorted(places, reverse=True):
        b.insert(min(place, len(b)), f"new{place}")
    kept = [j for j, word in enumerate(b) if not word.startswith("new")]
    assert [(i, j) for i, j, _ in match([(a, b)])] == list(enumerate(kept))


@given(words, words)
def test_equal_lists_are_the_identity(a: str, b: str) -> None:
    assert match([(a, a)]) == [(i, i, 0) for i in range(len(a))]
    doubled = a + b
    assert [i for i, _, _ in match([(doubled, a)])][: len(a)] == list(range(len(a)))


def test_of_one_repeated_entry_all_are_paired_whatever_stands_between() -> None:
    for a in product("x-", repeat=4):
        for b in product("x+", repeat=6):
            assert len(match([(a, b)])) == min(a.count("x"), b.count("x")), (a, b)


def test_a_looser_level_fills_what_a_strict_one_leaves() -> None:
    strict = ["W0", "x", "W1", "x", "W2"], ["W0", "x", "V1", "x", "W2"]
    loose = [w[0] for w in strict[0]], ["W", "x", "W", "x", "W"]
    assert match([strict, loose]) == [(0, 0, 0), (1, 1, 0), (2, 2, 1), (3, 3, 0), (4, 4, 0)]


def test_repeated_steps_are_tied_to_their_layer() -> None:
    """Without anchors the first layer's repeated steps would pair with the second layer's."""
    a = ["W0", "add", "norm", "W1", "add", "norm", "W2", "add", "norm"]
    b = ["W0", "add", "W1", "add", "norm", "W2", "add", "norm"]
    assert match([(a, b)]) == [(i, j, 0) for i, j in [(0, 0), (1, 1), (3, 2), (4, 3), (5, 4), (6, 5), (7, 6), (8, 7)]]


def test_a_long_gap_of_repeats_is_no_quadratic_wait() -> None:
    a, b = ["x", "y"] * 20_000, ["z", *(["y", "x"] * 20_000)]
    pairs = match([(a, b), ([len(w) for w in a], [len(w) for w in b])])
    assert len(pairs) == 40_000
