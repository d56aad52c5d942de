# SPDX-License-Identifier: Apache-2.0
"""The right elements in the wrong places: shifted, permuted, swapped, transposed, or one part's data in another's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.causes.case import Case, Guess, NDArray, same_bits
from fusion_replay.operators.tiling import Tiling

_MOST_PARTS = 4096
_LAGS = 6
_SAMPLE = 512  # wrong elements looked at before a guess is worth judging
_CORRELATED = 1 << 23  # elements; beyond, distances are only those listed


def guesses(case: Case) -> Iterator[Guess]:
    at = np.flatnonzero(case.wrong)
    some = at[:: max(1, at.size // _SAMPLE)]
    for guess in _all(case):
        seen = some if guess.known is None else some[guess.known[some]]
        told = guess.predicted[seen]
        # A constant is no evidence of a move: it would look the same at any distance.
        constant = told.size > 1 and bool(same_bits(told, np.full_like(told, told[0])).all())
        if told.size and not constant and np.mean(case.near_at(seen, told)) >= 0.5:
            yield guess


def _all(case: Case) -> Iterator[Guess]:
    for tiling, role, what, rank in _cuts(case):
        yield from _moved(case, tiling, role, what, rank)
    yield from _shifted(case)
    yield from _transposed(case)


# --- parts in other parts' places -----------------------------------------------------------------------------------


def _cuts(case: Case) -> Iterator[tuple[Tiling, str, str, int]]:
    """Ways to cut the output into parts that may change places: (tiling, role, what a part is called, rank)."""
    own, size = case.tiling, case.tiling.size
    if own.source:
        for role, rank in (("column", 3), ("batch", 5), ("row", 5), ("tile", 5)):
            if own.count(role) > 1:
                yield own, role, role, rank
    inner = own.axes[-1][1] if own.axes[-1][0] == "" else 1
    for part, what, rank in ((size // 2, "half", 4), (inner, "tile", 5), (size // 8, "eighth", 5)):
        if 1 < part < size and size % part == 0 and size // part <= _MOST_PARTS:
            yield Tiling((("tile", size // part), ("", part))), "tile", what, rank


def _moved(case: Case, tiling: Tiling, role: str, what: str, rank: int) -> Iterator[Guess]:
    source = _sources(case, tiling, role)
    if source is None:
        return
    here = np.arange(source.size)
    changed = here[source != here]
    if not changed.size:
        return
    blocks = tiling.blocks(case.expected, role)
    predicted = tiling.unblock(blocks[source], role)
    if np.unique(source).size == source.size:
        several = {"half": "halves", "batch": "batches"}.get(what, f"{what}s")
        if changed.size == 2:
            detail = f"{several} {changed[0]} and {changed[1]} have changed places"
        else:
            detail = f"{changed.size} of {source.size} {several} stand in another's place"
        name = "tiles-permuted" if what in ("tile", "eighth", "row") else f"{several}-swapped"
        yield Guess(name, detail, predicted, rank=rank)
    elif role == "batch" and (source == 0).all():
        yield Guess("batch-repeated", "every batch beyond the first repeats the first", predicted, rank=2)
    else:
        i = int(changed[0])
        more = "" if changed.size == 1 else f", and {changed.size - 1} more such"
        yield Guess("neighbour-data", f"{what} {i} holds the data of {what} {source[i]}{more}", predicted, rank=rank)


def _sources(case: Case, tiling: Tiling, role: str) -> npt.NDArray[np.int64] | None:
    """For every part of the actual output the part of the expected one that it holds; None where one holds none."""
    actual, expected = tiling.blocks(case.actual, role), tiling.blocks(case.expected, role)
    wrong = tiling.blocks(case.wrong, role)
    source = np.arange(len(actual))
    bad = np.flatnonzero(wrong.any(axis=1))
    if case.tolerance is None:
        held: dict[bytes, list[int]] = {}
        for number, block in enumerate(expected):
            held.setdefault(block.tobytes(), []).append(number)
        for number in bad.tolist():
            found = held.get(actual[number].tobytes())
            if found is None:
                return None
            # Where parts are alike, neighbours and the first are what faults are made of.
            source[number] = min(found, key=lambda j, i=number: (j != 0, abs(j - i)))  # type: ignore[misc]
    else:
        a, e = (np.nan_to_num(tiling.blocks(x, role), posinf=0, neginf=0) for x in (case.a, case.e))
        if len(bad) * e.size > 1 << 28:
            return None
        weight = (e * e).sum(axis=1)
        for number in bad.tolist():
            source[number] = int(np.argmin(weight - 2.0 * (e @ a[number])))
            if source[number] == number:
                return None
    return source


# --- the whole output moved -----------------------------------------------------------------------------------------


def _shifted(case: Case) -> Iterator[Guess]:
    size = case.actual.size
    for by in _lags(case):
        predicted, known = case.expected.copy(), np.ones(size, np.bool_)
        if by > 0:
            predicted[by:] = case.expected[:-by]
            known[:by] = False
            detail = f"every element stands {by} further on"
        else:
            predicted[:by] = case.expected[-by:]
            known[by:] = False
            detail = f"every element stands {-by} too early"
        if case.previous is None:
            whole, said = predicted, known
        else:
            whole, said = np.where(known, predicted, case.previous), np.ones(size, np.bool_)
        if np.count_nonzero(known) * 8 >= size:
            yield Guess("shifted", detail, whole, known=said, rank=4)
        if not case.wrong.all():
            part = f"the wrong elements are expected[i {'+' if by < 0 else '-'} {abs(by)}]"
            yield Guess("shifted", part, predicted, known=case.wrong, rank=6)


def _lags(case: Case) -> list[int]:
    """Distances worth trying: where the outputs correlate most, powers of two, sizes of tiles and parts."""
    size = case.actual.size
    if size < 2:
        return []
    found = _correlated(case) if size <= _CORRELATED else []
    tiling = case.tiling
    parts = {tiling.axes[-1][1], tiling.size // max(tiling.count("column"), 1), tiling.size // 8}
    powers = {1 << i for i in range(size.bit_length())}
    listed = [s * k for k in sorted(parts | powers) for s in (1, -1)]
    return [k for k in dict.fromkeys([*found, *listed]) if 0 < abs(k) < size]


def _correlated(case: Case) -> list[int]:
    """Distances at which the wrong elements resemble the expected output most."""
    a, e = (np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0) for x in (case.a, case.e))
    a, e = a * case.wrong - (a * case.wrong).mean(), e - e.mean()
    n = 1 << (2 * a.size - 1).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(a, n) * np.conj(np.fft.rfft(e, n)), n)
    return [int(k) if k < n // 2 else int(k) - n for k in np.argsort(-correlation)[:_LAGS]]


def _transposed(case: Case) -> Iterator[Guess]:
    size = case.actual.size
    shapes = {s for n in case.tiling.shape for s in (n, size // n) if 1 < s < size}
    shapes |= {1 << i for i in range(1, size.bit_length()) if size % (1 << i) == 0 and 1 << i < size}
    for rows in sorted(shapes):
        if size % rows == 0:
            predicted: NDArray = case.expected.reshape(rows, -1).T.reshape(-1)
            yield Guess("transposed", f"as a matrix of {rows} x {size // rows}", predicted, rank=5)
