# SPDX-License-Identifier: Apache-2.0
"""Two lists in their common order: which entry of one is which of the other, where some were put in, lost or changed.

Patience first (entries that occur once on each side are anchors; https://bramcohen.livejournal.com/73318.html), since
runlists repeat the same few steps and a longest common subsequence would tie them together across layers; the longest
common subsequence in the small gaps that are left.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import pairwise

Pairs = list[tuple[int, int]]

_SMALL = 1 << 16  # entries of one gap times entries of the other: beyond, the quadratic search would take seconds


def match(levels: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> list[tuple[int, int, int]]:
    """Pairs (i, j, level) in ascending order of both.

    Args:
        levels: the same two lists, described ever more loosely; what one level leaves open the next one fills.
    """
    found: list[tuple[int, int, int]] = []
    for level, (a, b) in enumerate(levels):
        gaps = _gaps([(i, j) for i, j, _ in found], len(a), len(b))
        found += [(i, j, level) for gap in gaps for i, j in _match_gap(a, b, *gap)]
        found.sort()
    return found


def _gaps(pairs: Pairs, n: int, m: int) -> list[tuple[int, int, int, int]]:
    """(first and behind-the-last of a, of b) between consecutive pairs, where both sides have something."""
    ends = [(-1, -1), *pairs, (n, m)]
    gaps = [(i + 1, k, j + 1, k2) for (i, j), (k, k2) in pairwise(ends)]
    return [g for g in gaps if g[0] < g[1] and g[2] < g[3]]


def _match_gap(a: Sequence[Hashable], b: Sequence[Hashable], alo: int, ahi: int, blo: int, bhi: int) -> Pairs:
    found: Pairs = []
    waiting = [(alo, ahi, blo, bhi)]
    while waiting:
        alo, ahi, blo, bhi = waiting.pop()
        while alo < ahi and blo < bhi and a[alo] == b[blo]:
            found.append((alo, blo))
            alo, blo = alo + 1, blo + 1
        while alo < ahi and blo < bhi and a[ahi - 1] == b[bhi - 1]:
            ahi, bhi = ahi - 1, bhi - 1
            found.append((ahi, bhi))
        if alo == ahi or blo == bhi:
            continue
        anchors = _anchors(a, b, alo, ahi, blo, bhi)
        if anchors:
            found += anchors
            ends = [(alo - 1, blo - 1), *anchors, (ahi, bhi)]
            waiting += [(i + 1, k, j + 1, m) for (i, j), (k, m) in pairwise(ends)]
        elif (ahi - alo) * (bhi - blo) <= _SMALL:
            found += [(alo + i, blo + j) for i, j in _longest_common(a[alo:ahi], b[blo:bhi])]
    return found


def _anchors(a: Sequence[Hashable], b: Sequence[Hashable], alo: int, ahi: int, blo: int, bhi: int) -> Pairs:
    """Entries that occur once on each side, as many as stand in the same order."""
    in_a, in_b = Counter(a[alo:ahi]), Counter(b[blo:bhi])
    place = {b[j]: j for j in range(blo, bhi)}
    once = [(i, place[a[i]]) for i in range(alo, ahi) if in_a[a[i]] == 1 == in_b.get(a[i], 0)]
    return _longest_rise(once)


def _longest_common(a: Sequence[Hashable], b: Sequence[Hashable]) -> Pairs:
    """A longest common subsequence, its pairs as early as they can be. Not difflib: it takes the longest block first,
    and of ``aaa`` in ``-a-aa-`` pairs the first two with the block and nothing with the third."""
    longest = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]  # of a[i:] and b[j:]
    for i in reversed(range(len(a))):
        row, below = longest[i], longest[i + 1]
        for j in reversed(range(len(b))):
            row[j] = below[j + 1] + 1 if a[i] == b[j] else max(below[j], row[j + 1])
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return found


def _longest_rise(pairs: Pairs) -> Pairs:
    """The longest run of pairs whose second numbers rise (first ones do), by patience sorting."""
    tops: list[int] = []  # smallest end of a rise of each length
    ends: list[int] = []  # ... as a number of a pair
    before: list[int] = []
    for n, (_, j) in enumerate(pairs):
        pile = bisect_left(tops, j)
        before.append(ends[pile - 1] if pile else -1)
        tops[pile : pile + 1] = [j]
        ends[pile : pile + 1] = [n]
    found, at = [], ends[-1] if ends else -1
    while at >= 0:
        found.append(pairs[at])
        at = before[at]
    return found[::-1]


__all__ = ["match"]
