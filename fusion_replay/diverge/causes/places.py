# SPDX-License-Identifier: Apache-2.0
"""The right numbers in the wrong place: parts of the output in other parts' places, shifted, transposed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion_replay.diverge.causes.case import Case, Hypothesis
from fusion_replay.diverge.causes.spans import Index, Mask, Span
from fusion_replay.operators.tiling import Tiling

_ALIKE = 0.25
"""How much of its energy a part may differ by from the one that it is said to hold."""
_MOST_PARTS = 4096
_LAGS = 6
_RUNS = (64, 256, 32, 1024)  # elements
_SAMPLE = 512  # wrong elements looked at before a hypothesis is worth judging
_CORRELATED = 1 << 20  # elements; beyond, distances are only those listed

Move = tuple[str, str, Index, "Mask | None", int]
"""Name, detail, the element that stands at each place, where that says anything, rank."""


def hypotheses(case: Case) -> Iterator[Hypothesis]:
    at = np.flatnonzero(case.wrong)
    some = at[:: max(1, at.size // _SAMPLE)]
    for name, detail, source, known, rank in _all(case):
        seen = some if known is None else some[known[some]]
        told = case.tolerated if case.tolerance is not None else case.honest
        held = told[source[seen]]
        # A constant is no evidence of a move: it would look the same at any distance.
        if seen.size < 2 or (held.lo == held.lo[0]).all() or np.mean(held.holds(case.a[seen])) < 0.3:
            continue
        for base in case.bases:
            predicted = base[source]
            if known is not None and case.previous is not None and name == "shifted" and not known[case.wrong].all():
                predicted = predicted.where(known, Span.of(case.previous))
                yield Hypothesis(name, detail, predicted, rank=rank)
            else:
                yield Hypothesis(name, detail, predicted, known=known, rank=rank)


def _all(case: Case) -> Iterator[Move]:
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
    rows = case.shape[-1] if len(case.shape) > 1 else 1
    blocks = size // case.shape[0] if len(case.shape) > 2 else 1
    sizes = [
        (size // 2, "half", 4),
        (blocks, "batch", 4),
        (rows, "row", 4),
        (inner, "tile", 5),
        (size // 8, "eighth", 5),
    ]
    known = {part for part, _, _ in sizes}
    for part, what, rank in (*sizes, *((n, f"run of {n}", 6) for n in _RUNS if n not in known)):
        if 1 < part < size and size % part == 0 and size // part <= _MOST_PARTS:
            role = "batch" if what == "batch" else "tile"
            yield Tiling(((role, size // part), ("", part))), role, what, rank
    if rows > 1 and size // rows > 1 and rows <= _MOST_PARTS:
        yield Tiling((("", size // rows), ("tile", rows))), "tile", "matrix column", 6


def _moved(case: Case, tiling: Tiling, role: str, what: str, rank: int) -> Iterator[Move]:
    source = _sources(case, tiling, role)
    if source is None:
        return
    here = np.arange(source.size)
    changed = here[source != here]
    if not changed.size:
        return
    index = tiling.unblock(tiling.blocks(np.arange(tiling.size), role)[source], role)
    if np.unique(source).size == source.size:
        several = {"half": "halves", "batch": "batches"}.get(
            what, what.replace("run", "runs") if " " in what else f"{what}s"
        )
        if changed.size == 2:
            detail = f"{several} {changed[0]} and {changed[1]} have changed places"
        else:
            detail = f"{changed.size} of {source.size} {several} stand in another's place"
        name = "tiles-permuted" if what not in ("half", "batch", "column") else f"{several}-swapped"
        yield name, detail, index, None, rank
    elif role == "batch" and (source == 0).all():
        yield "batch-repeated", "every batch beyond the first repeats the first", index, None, 2
    else:
        i = int(changed[0])
        more = "" if changed.size == 1 else f", and {changed.size - 1} more such"
        yield "neighbour-data", f"{what} {i} holds the data of {what} {source[i]}{more}", index, None, rank


def _sources(case: Case, tiling: Tiling, role: str) -> Index | None:
    """For every part of the actual output the part of the expected one that it holds, itself where it resembles none;
    None where one is nearest to its own."""
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
            apart = weight - 2.0 * (e @ a[number])
            nearest, energy = int(np.argmin(apart)), float(a[number] @ a[number])
            if nearest == number:
                return None
            if apart[nearest] + energy <= _ALIKE * energy:
                source[number] = nearest
    return source


# --- the whole output moved -----------------------------------------------------------------------------------------


def _shifted(case: Case) -> Iterator[Move]:
    size = case.actual.size
    for by in _lags(case):
        index, known = np.arange(size), np.ones(size, np.bool_)
        if by > 0:
            index[by:] = np.arange(size - by)
            known[:by] = False
            detail = f"every element stands {by} further on"
        else:
            index[:by] = np.arange(-by, size)
            known[by:] = False
            detail = f"every element stands {-by} too early"
        if np.count_nonzero(known) * 8 >= size:
            yield "shifted", detail, index, known, 4 if 2 * np.count_nonzero(known) >= size else 6
        if not case.wrong.all():
            part = f"the wrong elements are expected[i {'+' if by < 0 else '-'} {abs(by)}]"
            yield "shifted", part, index, case.wrong, 6


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


def _transposed(case: Case) -> Iterator[Move]:
    size = case.actual.size
    shapes = {s for n in (*case.tiling.shape, *case.shape) for s in (n, size // max(n, 1)) if 1 < s < size}
    shapes |= {1 << i for i in range(1, size.bit_length()) if size % (1 << i) == 0 and 1 << i < size}
    for rows in sorted(shapes):
        if size % rows == 0:
            index = np.arange(size).reshape(rows, -1).T.reshape(-1)
            yield "transposed", f"as a matrix of {rows} x {size // rows}", index, None, 5
