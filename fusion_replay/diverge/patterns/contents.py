# SPDX-License-Identifier: Apache-2.0
"""The output holds something that was there before, or nothing at all: zeros, never written, stale, a dropped tile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion_replay.diverge.patterns.case import Case, Guess, Mask, same_bits


def guesses(case: Case) -> Iterator[Guess]:
    zero = np.zeros_like(case.actual)
    yield Guess("zeros", "every element is zero", zero, exact=True, rank=1)
    if case.previous is not None:
        kept = "the output kept what was in its buffer before the step"
        yield Guess("never-written", kept, case.previous, exact=True, rank=1)
        yield from _dropped(case, case.previous, "keeps what was there before the step")
    for version in case.versions:
        yield Guess("stale-output", f"the output equals {version.what}", version.read(), exact=True, rank=2)
    if case.previous is None:
        yield from _dropped(case, zero, "is zero")


def _dropped(case: Case, old: np.ndarray[tuple[int], np.dtype[np.generic]], how: str) -> Iterator[Guess]:
    """Whole parts that nobody wrote: every wrong element lies in parts of one size that hold nothing but ``old``."""
    untouched = same_bits(case.actual, old)
    if not untouched[case.wrong].all() or untouched.all():
        return
    for parts, what in _cuts(case):
        if _grown(untouched, parts) is None:
            continue
        hit = np.unique(parts[case.wrong])
        if hit.size == len(np.unique(parts)) or not untouched[np.isin(parts, hit)].all():
            continue
        which = ", ".join(map(str, hit[:4])) + (", ..." if hit.size > 4 else "")
        predicted = np.where(np.isin(parts, hit), old, case.expected)
        yield Guess("dropped-tile", f"{what.format(which)} {how}", predicted, rank=3)
        return
    span = np.flatnonzero(case.wrong)
    run = slice(int(span[0]), int(span[-1]) + 1)
    if untouched[run].all():
        predicted = case.expected.copy()
        predicted[run] = old[run]
        yield Guess("dropped-tile", f"elements {run.start} to {run.stop - 1}: {how}", predicted, rank=4)


def _cuts(case: Case) -> Iterator[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], str]]:
    """Number of the part that each element lies in, for the sizes in which a design writes back; small parts first."""
    flat = np.arange(case.tiling.size)
    inner = case.tiling.axes[-1][1] if case.tiling.axes[-1][0] == "" else 1
    sizes = [inner] if inner > 1 else []
    if case.tiling.size % 8 == 0:
        sizes.append(case.tiling.size // 8)
    for size in sorted(set(sizes)):
        if 1 < size < case.tiling.size:
            yield flat // size, f"tile {{}} (of {size} elements)"
    for role in ("tile", "column", "batch"):
        if case.tiling.count(role) > 1:
            yield case.tiling.coordinate(role, flat), f"{role} {{}}"


def _grown(untouched: Mask, parts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Mask | None:
    """Parts that are untouched as a whole, None if there are none."""
    count = np.bincount(parts)
    whole = np.bincount(parts, untouched) == count
    return whole if whole.any() else None
