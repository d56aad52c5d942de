# SPDX-License-Identifier: Apache-2.0
"""The output holds something that was there before, or nothing at all: zeros, never written, stale, a dropped tile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.causes.case import Case, Guess, NDArray, same_bits


def guesses(case: Case) -> Iterator[Guess]:
    zero = np.zeros_like(case.actual)
    yield Guess("zeros", "every element is zero", zero, exact=True, rank=1)
    if case.previous is not None:
        kept = "the output kept what was in its buffer before the step"
        yield Guess("never-written", kept, case.previous, exact=True, rank=1)
        yield from _part(case, "dropped-tile", case.previous, "keeps what was there before the step")
    for version in case.versions:
        yield Guess("stale-output", f"the output equals {version.what}", version.read(), exact=True, rank=2)
    # Where nobody knows what was there before, a part that is zero is taken for one that was never written.
    yield from _part(case, "zeros" if case.previous is not None else "dropped-tile", zero, "is zero")


def _part(case: Case, name: str, old: NDArray, how: str) -> Iterator[Guess]:
    """Every wrong element lies in parts of one size that hold nothing but ``old``: whole parts that nobody wrote."""
    same = same_bits(case.actual, old)
    if not same[case.wrong].all() or same.all():
        return
    for parts, what in _cuts(case):
        hit = np.unique(parts[case.wrong])
        inside = np.isin(parts, hit)
        if not inside.all() and same[inside].all():
            which = ", ".join(map(str, hit[:4])) + (", ..." if hit.size > 4 else "")
            yield Guess(name, f"{what.format(which)} {how}", np.where(inside, old, case.expected), rank=3)
            return
    span = np.flatnonzero(case.wrong)
    run = slice(int(span[0]), int(span[-1]) + 1)
    if same[run].all():
        predicted = case.expected.copy()
        predicted[run] = old[run]
        yield Guess(name, f"elements {run.start} to {run.stop - 1}: {how}", predicted, rank=4)


def _cuts(case: Case) -> Iterator[tuple[npt.NDArray[np.int64], str]]:
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
