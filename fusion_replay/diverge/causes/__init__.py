# SPDX-License-Identifier: Apache-2.0
"""Which pattern the wrong elements of an output follow: hypotheses compete, the simplest that explains them all wins.

Each family of patterns is a module that makes guesses (:class:`.case.Guess`). A guess explains the output *wholly*
where it agrees with it on every element that is wrong or that the guess says should be. Of whole explanations the
simplest is named; others that are as whole become its aliases, since the output alone cannot tell them apart (zeros,
where the buffer held zeros before). Where none is whole, the best partial one is named with the share it explains, and
what is left are facts of place: only one column, only one batch, only the edges of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion_replay.diverge.causes import again, contents, places, rounding, values
from fusion_replay.diverge.causes.case import Case, Guess, Pattern, Scored, judge, same_bits

NAMES = {
    "zeros": "every element is zero",
    "never-written": "the output still holds what its buffer held before the step",
    "stale-output": "the output equals an earlier version of its buffer",
    "dropped-tile": "part of the output still holds what was there before",
    "shifted": "elements stand a constant distance from their place",
    "tiles-permuted": "tiles stand in each other's place",
    "columns-swapped": "the parts of two AIE columns stand in each other's place",
    "batches-swapped": "batches stand in each other's place",
    "halves-swapped": "the halves have changed places",
    "batch-repeated": "every batch beyond the first repeats the first",
    "neighbour-data": "a part holds another part's data (by repetition: nondeterministic)",
    "transposed": "rows and columns have changed roles",
    "nan": "NaN where none is expected",
    "inf": "Inf where none is expected",
    "bit-flip": "one bit of a few elements is flipped",
    "sign-flipped": "the wrong elements have the other sign",
    "scaled": "a constant factor",
    "offset": "a constant offset",
    "saturated": "values beyond a bound stand at it",
    "stale-input": "the right result for older contents of an input",
    "truncated-scalar": "the right result for a scalar that lost bits",
    "bfp16": "the precision of block floating point",
    "rounding": "rounded the other way, floor or to nearest",
    "nondeterministic": "other runs on the same inputs gave other outputs",
    "one-column": "nothing but the place: one column",
    "one-batch": "nothing but the place: one batch",
    "block-edges": "nothing but the place: the edges of tiles",
}
"""Every name with its meaning."""

_MOVES = ("shifted", "tiles-permuted", "columns-swapped", "batches-swapped", "halves-swapped", "batch-repeated",
          "neighbour-data", "transposed")  # fmt: skip
_ASK_ON = ("zeros", "never-written", "stale-output", "dropped-tile", "shifted", "tiles-permuted", "neighbour-data")
_PLACE = 0.5  # confidence of a mere fact of place
_BARE = 0.75  # least share that is worth a name


def name(case: Case) -> tuple[Pattern, ...]:
    """The patterns, best first; none where nothing is wrong beyond what an honest device may do."""
    if not case.count:
        return ()
    found = list(_nondeterministic(case))
    scored = [judge(case, g) for g in _cheap(case)]
    whole = [s for s in scored if s.whole]
    # What was there before may also be what older inputs would have given, and what stands elsewhere may have got there
    # by a wrong offset: then the reference is asked as well.
    if not whole or min(whole, key=_simplicity).guess.name in _ASK_ON:
        rounded = [] if whole else list(rounding.patterns(case))
        asked = [judge(case, g) for g in again.guesses(case)]
        scored += asked
        whole += [s for s in asked if s.whole]
        if rounded and not [s for s in whole if s.fit > 0.99]:
            found += _with_aliases(rounded, whole)
            whole = []
    if whole:
        found.append(_whole(case, whole))
    elif not found:
        found += _partial(case, scored)
    return (*found, *_place(case, found))


def _cheap(case: Case) -> Iterator[Guess]:
    yield from contents.guesses(case)
    yield from values.guesses(case)
    yield from places.guesses(case)


def _simplicity(s: Scored) -> tuple[int, float]:
    return (s.guess.rank, -s.fit)


def _whole(case: Case, whole: list[Scored]) -> Pattern:
    best = min(whole, key=_simplicity)
    aliases = dict.fromkeys(s.guess.name for s in sorted(whole, key=_simplicity))
    for same in _MOVES if best.guess.name in _MOVES else (best.guess.name,):
        aliases.pop(same, None)  # swapped columns *are* permuted tiles: the larger parts say more
    sure = _sure(case, best)
    return Pattern(best.guess.name, sure, best.explained, case.count, best.guess.detail, tuple(aliases))


def _sure(case: Case, best: Scored) -> float:
    """Chance: that so many elements agree with a guess that is wrong. One bf16 value in some 2**7 agrees by chance."""
    if best.guess.name == "bit-flip":
        # Against a reference one of 16 bits may well lead near the expected value by chance.
        sure = 0.99 if case.tolerance is None else 1.0 - 0.15**case.count
        return 0.6 if best.guess.rank > 0 else min(0.99, sure)
    if best.guess.evaluated:
        return min(0.99, best.fit)
    by_chance = 2.0 ** (-4 * max(best.explained, 1))
    return min(0.99, best.score * (1.0 - by_chance))


def _partial(case: Case, scored: list[Scored]) -> list[Pattern]:
    usable = [s for s in scored if s.score >= _BARE and s.explained > 8 and (s.fit > 0.5 or s.guess.exact)]
    if not usable:
        return []
    best = max(usable, key=lambda s: (round(s.score, 2), -s.guess.rank))
    share = best.explained / case.count
    return [
        Pattern(best.guess.name, 0.8 * best.score, best.explained, case.count, f"{best.guess.detail}, for {share:.0%}")
    ]


def _with_aliases(rounded: list[Pattern], whole: list[Scored]) -> list[Pattern]:
    names = tuple(dict.fromkeys(s.guess.name for s in whole))
    return [Pattern(p.name, p.confidence, p.count, p.of, p.detail, names) for p in rounded]


def _nondeterministic(case: Case) -> Iterator[Pattern]:
    others = [np.ascontiguousarray(r).reshape(-1) for r in case.repeats]
    differ = [~same_bits(case.actual, r) for r in others]
    varying = int(np.count_nonzero(np.logical_or.reduce(differ))) if differ else 0
    if varying:
        distinct = len({case.actual.tobytes(), *(r.tobytes() for r in others)})
        explained = int(np.count_nonzero(np.logical_or.reduce(differ) & case.wrong))
        detail = f"{distinct} different outputs in {len(others) + 1} runs, {varying:,} elements vary"
        yield Pattern("nondeterministic", 0.99, explained, case.count, detail)


def _place(case: Case, found: list[Pattern]) -> Iterator[Pattern]:
    """Facts of place, where no explanation is better."""
    if any(p.confident for p in found):
        return
    flat = np.flatnonzero(case.wrong)
    for role in ("column", "batch"):
        if case.tiling.count(role) > 1 and flat.size > 1:
            hit = np.unique(case.tiling.coordinate(role, flat))
            if hit.size == 1:
                yield Pattern(f"one-{role}", _PLACE, case.count, case.count, f"only {role} {hit[0]} is wrong")
    role, inner = case.tiling.axes[-1]
    if role == "" and inner >= 16 and flat.size > 4 and len(np.unique(flat // inner)) > 1:
        edge = np.minimum(flat % inner, inner - 1 - flat % inner)
        if int(edge.max()) < inner // 8:
            detail = f"all within {int(edge.max()) + 1} elements of a tile's edge"
            yield Pattern("block-edges", _PLACE, case.count, case.count, detail)


__all__ = ["NAMES", "Case", "Pattern", "name"]
