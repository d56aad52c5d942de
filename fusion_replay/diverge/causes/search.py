# SPDX-License-Identifier: Apache-2.0
"""The causes of one wrong output: hypotheses are executed, and graded by what they reproduce.

A hypothesis is scored only on elements that are wrong or for which it and an honest kernel have no value in common:
elsewhere any hypothesis looks right. It must get them all (999 of 1,000), everywhere or in whole parts of the output.
Each such element is worth as many bits of evidence as there are values between what is honest and what is predicted,
counted once where they repeat; the chance that a wrong hypothesis agrees so far is what those bits leave, times the
number of hypotheses tried. What it explains is taken away, and what is left is searched again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fusion_replay.compare.sums import dot
from fusion_replay.diverge.causes import arithmetic, contents, places, values, variants
from fusion_replay.diverge.causes.case import CONSISTENT, DESCRIBES, LOCATED, PROVED, Case, Cause, Hypothesis, same_bits
from fusion_replay.diverge.causes.kernel import Kernel, Variant
from fusion_replay.diverge.causes.parts import Cut, cuts, numbers, place
from fusion_replay.diverge.causes.spans import F64, FLOOR, NEAREST, Index, Mask, Span, ordinal, stored
from fusion_replay.model.bf16 import BFLOAT16

MISSES = 1e-3
"""Share of the elements that a hypothesis may miss: float32 sums in another order round differently now and then."""
CHANCE = 1e-9
"""The largest chance of a proof; ten million times as much for what is consistent."""
_LIKELY = 1e-2
_ROUNDS = 4
_KEPT = 10  # variants that are executed in every arithmetic, at most three of a name
_CONFIRMED = 12  # of these, with their arithmetic, that are executed on everything
_SAMPLE = 1 << 14
_TINY = 2.0**-16  # of the largest expected
_NARROW = 2.0  # values per element, in the mean, that still are the recorded bits
_MOVES = ("shifted", "tiles-permuted", "columns-swapped", "batches-swapped", "halves-swapped", "batch-repeated",
          "neighbour-data", "transposed")  # fmt: skip
_SURE = ("bit-flip",)
_DESCRIBED = ("nan", "inf", "constant", "bit-flip", "row-scaled")
"""Names that say how the elements look, and not what made them: never proved."""


@dataclass(frozen=True)
class Scored:
    """A hypothesis, judged: what it covers of the wrong elements, and the evidence."""

    hypothesis: Hypothesis
    covered: Mask
    reproduced: int
    bits: float
    width: float
    """Values that it allows per element, in the mean."""
    where: str
    partial: bool

    @cached_property
    def count(self) -> int:
        return int(np.count_nonzero(self.covered))

    def chance(self, tried: int) -> float:
        return float(min(1.0, tried * 2.0 ** -min(self.bits, 1000.0)))

    def proves(self, tried: int) -> bool:
        return self.chance(tried) < CHANCE and self.width <= _NARROW


def find(case: Case) -> tuple[Cause, ...]:
    """The causes, the one that explains most first; none where nothing is wrong beyond what an honest device gives."""
    if not case.count:
        return ()
    search = _Search(case)
    causes = list(_nondeterministic(case))
    left = case.wrong.copy()
    for _ in range(_ROUNDS):
        found = search.best(left)
        if found is None:
            break
        cause, covered = found
        causes.append(cause)
        left &= ~covered
        if np.count_nonzero(left) <= MISSES * case.count:
            break
    if left.any() and (not causes or int(np.count_nonzero(left)) > MISSES * case.count):
        causes.append(_located(case, left))
    return tuple(causes)


class _Search:
    def __init__(self, case: Case) -> None:
        self.case, self.tried = case, 0
        self.cuts: Sequence[Cut] = tuple(cuts(case.tiling, case.shape))
        self.scored = [s for h in self._all() if (s := self._score(h)) is not None]

    def _all(self) -> Iterator[Hypothesis]:
        case = self.case
        for family in (contents, values, places, arithmetic):
            for hypothesis in family.hypotheses(case):
                self.tried += 1
                yield hypothesis
        if case.kernel is not None:
            yield from self._executed(case.kernel)

    def best(self, left: Mask) -> tuple[Cause, Mask] | None:
        """The cause that covers most of what is left, with its rivals."""
        count = int(np.count_nonzero(left))
        least = count * (1 - MISSES)
        usable = []
        for s in self.scored:
            mine = int(np.count_nonzero(s.covered & left))
            whole = mine >= least
            enough = s.chance(self.tried) <= _LIKELY or s.hypothesis.fact or s.hypothesis.name in _SURE
            if mine and enough and (whole or s.proves(self.tried) or (s.hypothesis.fact and mine > 3)):
                usable.append((mine, whole, s))
        if not usable:
            return None
        most = max(mine for mine, _, _ in usable)
        first = [s for mine, _, s in usable if mine >= most * (1 - MISSES)]
        best = min(first, key=self._order)
        # As many elsewhere are another fault, no other explanation of this one.
        rivals = [s for s in first if np.count_nonzero(s.covered & best.covered & left) >= most * (1 - 2 * MISSES)]
        return self._cause(best, rivals), best.covered

    def _order(self, s: Scored) -> tuple[bool, int, float]:
        strong = s.proves(self.tried) or s.hypothesis.fact or s.hypothesis.name in _SURE
        return not strong, s.hypothesis.rank + 2 * s.partial, -s.bits

    def _cause(self, best: Scored, first: Sequence[Scored]) -> Cause:
        h = best.hypothesis
        proved = best.proves(self.tried) or (h.fact and h.name == "zeros" and best.reproduced > 1)
        told: dict[str, None] = {}
        equal = False
        for other in sorted(first, key=self._order):
            o = other.hypothesis
            same = o.name == h.name and (o.detail == h.detail or h.name not in _DETAILED)
            same |= {o.name, h.name} <= _SPEC and _alike(o.predicted, h.predicted)
            same |= other.partial and not best.partial
            same |= proved and o.rank >= DESCRIBES
            if other is best or same or (o.name in _MOVES and h.name in _MOVES):
                continue
            strong = other.proves(self.tried) or o.fact
            if strong or not proved:
                told.setdefault(f"{o.name} ({o.detail})" if o.name == h.name else o.name)
                equal |= strong
        if h.name == "zeros" and self._stood(best.covered):
            told.setdefault("never-written" if best.count == self.case.a.size else "dropped-tile")
        grade = PROVED if proved and (h.fact or not equal) else CONSISTENT
        if h.name in _DESCRIBED:
            grade = CONSISTENT
        where = best.where or place(best.covered, self.case.tiling, self.case.shape)
        chance = best.chance(self.tried)
        if h.name == "bit-flip":
            bits = 8 * self.case.actual.dtype.itemsize
            chance = min(1.0, float(best.width * bits * 2.0**-bits) ** best.count)
        elements = best.count
        name = "dropped-tile" if h.name == "never-written" and best.partial else h.name
        return Cause(name, grade, where, h.detail, tuple(told)[:6], elements, best.reproduced, chance)

    def _stood(self, covered: Mask) -> bool:
        """Whether what was there before is what stands there now."""
        old = self.case.previous
        return old is not None and bool(same_bits(self.case.actual, old)[covered].all())

    # --- scoring ----------------------------------------------------------------------------------------------------

    def _score(self, h: Hypothesis) -> Scored | None:
        case = self.case
        inside = h.predicted.holds(case.a)
        known = np.ones(inside.shape, np.bool_) if h.known is None else h.known
        got = inside & case.wrong & known
        reproduced = int(np.count_nonzero(got))
        if not reproduced:
            return None
        concerned = (case.wrong | h.predicted.apart(case.honest)) & known
        bad = concerned & ~inside
        where, chosen = h.where, 0.0
        if np.count_nonzero(bad) <= MISSES * np.count_nonzero(concerned):
            covered = case.wrong & known
        else:
            if reproduced < 0.02 * case.count:
                return None
            parts = self._parts(concerned, bad, got)
            if parts is None:
                return None
            covered, where, chosen = parts
            # What is nearly right is right here and there: a number that was fitted, another arithmetic.
            if (h.cost or h.apart <= 1) and np.count_nonzero(covered) < (1 - MISSES) * case.count:
                return None
        reproduced = int(np.count_nonzero(covered & inside))
        bits, width = self._evidence(h, covered & inside)
        return Scored(h, covered, reproduced, bits - h.cost - chosen, width, where, chosen > 0)

    def _parts(self, concerned: Mask, bad: Mask, got: Mask) -> tuple[Mask, str, float] | None:
        """The parts in which it gets every element that it speaks of, cut so that they hold the most, and the bits that
        choosing them takes. Elsewhere it must be wrong: what is nearly right everywhere is the cause nowhere."""
        best: tuple[int, int, Mask, str, float] | None = None
        for cut in self._likely(concerned, bad, got):
            spoken, missed, gained, wrong = (
                np.bincount(cut.of, weights=x, minlength=cut.count) for x in (concerned, bad, got, self.case.wrong)
            )
            good = (gained > 0) & (missed <= MISSES * spoken)
            hit = int(np.count_nonzero(good))
            mixed = np.count_nonzero((wrong > 0) & ~good & (gained > 0.5 * wrong))
            if not hit or mixed > 0.1 * hit:
                continue
            total, inside = int(gained[good].sum()), int(np.count_nonzero(good[cut.of]))
            if best is None or total > best[0] * (1 + MISSES) or (total >= best[0] and inside < best[1]):
                struck = self.case.wrong & good[cut.of]
                best = total, inside, struck, f"in {numbers(cut, np.flatnonzero(good))}", _choices(cut.count, hit)
        return self._run(bad, got) if best is None else best[2:]

    def _likely(self, concerned: Mask, bad: Mask, got: Mask) -> Iterator[Cut]:
        """Of a large output those cuts that have a good part on a sample."""
        if bad.size <= 16 * _SAMPLE:
            yield from self.cuts
            return
        some = np.flatnonzero(concerned)
        some = some[:: max(1, some.size // (4 * _SAMPLE)) | 1]
        for cut in self.cuts:
            if cut.count > _SAMPLE // 2:  # parts too small to be seen on it
                continue
            of = cut.at(some)
            missed, gained, spoken = (
                np.bincount(of, weights=x, minlength=cut.count) for x in (bad[some], got[some], np.ones(some.size))
            )
            if ((gained > 0) & (missed <= 1 + 10 * MISSES * spoken)).any():
                yield cut

    def _run(self, bad: Mask, got: Mask) -> tuple[Mask, str, float] | None:
        """From the first to the last wrong element, where all between are as it says."""
        at = np.flatnonzero(self.case.wrong)
        run = slice(int(at[0]), int(at[-1]) + 1)
        if bad[run].any() or not got.any():
            return None
        return self.case.wrong, f"in elements {run.start} to {run.stop - 1}", 2 * float(np.log2(bad.size))

    def _evidence(self, h: Hypothesis, at: Mask) -> tuple[float, float]:
        """(bits, values per element) of the elements that it gives."""
        index = np.flatnonzero(at)
        index = index[:: max(1, index.size // _SAMPLE)]
        predicted, honest = h.predicted[index], self.case.honest[index]
        if self.case.actual.dtype != BFLOAT16:
            pairs = np.unique(np.stack([predicted.lo, honest.lo]), axis=1).shape[1]
            return pairs * h.apart, 1.0
        with np.errstate(all="ignore"):
            least = self.case.largest * _TINY
            plo, phi, hlo, hhi = (_place(x, least) for x in (predicted.lo, predicted.hi, honest.lo, honest.hi))
        width = (phi - plo + 1).astype(np.float64)
        gap = np.maximum(plo - hhi, hlo - phi)
        bits = np.clip(np.log2(np.maximum(gap + 1, 1) / width), 0.0, h.apart)
        if not index.size:
            return 0.0, 1.0
        # Of a move each value counts once: zeros that stand where others are due may have come from anywhere.
        pairs = np.stack([plo, plo if h.name in _MOVES else hlo])
        _, first = np.unique(pairs, axis=1, return_index=True)
        return float(bits[first].sum()), float(np.median(width))

    # --- the operator, executed -------------------------------------------------------------------------------------

    def _executed(self, kernel: Kernel) -> Iterator[Hypothesis]:
        """Variants that fare well on a sample, in the arithmetics that fare well there, on everything."""
        case = self.case
        small, index = kernel.some(case.wrong) or (kernel, np.arange(case.a.size))
        actual, wrong = case.a[index], case.wrong[index]
        if not wrong.any():
            return
        listed = [*variants.variants(small, actual), *arithmetic.variants(small)]
        honest = small.exact()
        screened: list[tuple[float, int, Variant]] = []
        for number, variant in enumerate(listed):
            self.tried += 1
            score = 2.0 if variant.model is not None else _fit(small, variant, actual, wrong, case.e[index], honest)
            if score > 0:
                screened.append((-score, number, variant))
        pairs: list[tuple[float, int, str, Variant, Span]] = []
        kept = _first_of_each(sorted((s for s in screened if s[2].model is None), key=lambda s: s[:2]))
        kept += [s for s in screened if s[2].model is not None]
        for _, number, variant in kept:
            for label, span in small.spans(variant, case.actual.dtype):
                self.tried += 1
                share = float(np.mean(span.holds(actual)[wrong]))
                if share > 0.02:
                    pairs.append((-share, number, label, variant, span))
        # The same in every arithmetic, as far as the bound goes: what bits do not prove may be consistent.
        best: dict[int, tuple[float, int, str, Variant, Span]] = {}
        for pair in sorted(pairs, key=lambda p: p[:2]):
            best.setdefault(pair[1], pair)
        chosen = sorted(pairs, key=lambda p: (best[p[1]] is not p, *p[:2]))  # each in its best arithmetic first
        confirmed: set[int] = set()
        for _, number, label, variant, span in chosen[:_CONFIRMED]:
            if small is not kernel:
                wholly = not kernel.large or (label.startswith("rounded") and not confirmed - {number})
                span_all = kernel.span(variant, label, case.actual.dtype) if wholly else None
                confirmed |= {number} if wholly else set()
                if span_all is None:
                    full, known = _scattered(span, index, case)
                    yield Hypothesis(variant.name, f"{variant.detail} (seen on a sample)", full, known=known,
                                     rank=variant.rank, cost=variant.cost, apart=variant.apart)  # fmt: skip
                    continue
                span = span_all
            yield Hypothesis(variant.name, variant.detail, span, rank=variant.rank, cost=variant.cost,
                             apart=variant.apart)  # fmt: skip
        for _, _, variant in [s for s in kept if s[2].model is None][:3]:
            wide = _around(None if kernel.large else kernel, variant, case)
            if wide is not None:
                yield Hypothesis(variant.name, variant.detail, wide, rank=variant.rank + 1, cost=variant.cost)


def _place(x: F64, least: float) -> Index:
    """On the line of bf16 values, what is below ``least`` as evenly as a power of two above it: a sum that cancels is
    not nearer to its neighbours for being small."""
    if not least:
        return ordinal(x)
    place, base = ordinal(x), int(ordinal(np.array([least]))[0]) - 128
    inner = np.rint(np.nan_to_num(x / least) * 128).astype(np.int64)
    return np.where(np.abs(x) < least, inner, place - np.sign(place) * base)


def _first_of_each(ranked: Sequence[tuple[float, int, Variant]]) -> list[tuple[float, int, Variant]]:
    seen: dict[str, int] = {}
    found = []
    for entry in ranked:
        name = entry[2].name
        seen[name] = seen.get(name, 0) + 1
        if seen[name] <= 3:
            found.append(entry)
    return found[:_KEPT]


def _fit(
    kernel: Kernel, variant: Variant, actual: F64, wrong: Mask, expected: F64, honest: tuple[F64, F64 | float] | None
) -> float:
    """How well the exact result under the variant does where the output is wrong; 0: no better than what is expected,
    or the same."""
    exact = kernel.about(variant)
    if exact is None or exact[0].size != actual.size:
        return 0.0
    value, slack = exact
    if honest is not None and variant.apart > 1 and np.array_equal(value, honest[0], equal_nan=True):
        return 0.0
    with np.errstate(all="ignore"):
        near = np.abs(actual - value) <= np.abs(value) * 2.0**-7 + slack
        near |= np.isnan(actual) & np.isnan(value)
        share = float(np.mean(near[wrong]))
        off, was = (np.nan_to_num(x[wrong], posinf=1e30, neginf=-1e30) for x in (actual - value, actual - expected))
        before, left = dot(was, was), dot(off, off)
    energy = 1 - left / before if before else 0.0
    # Of two that explain the wrong elements, the one that leaves the right ones right.
    return share + max(energy, 0.0) + 1e-3 * float(near.mean()) if share >= 0.3 or energy >= 0.5 else 0.0


def _scattered(span: Span, index: Index, case: Case) -> tuple[Span, Mask]:
    lo, hi, known = case.honest.lo.copy(), case.honest.hi.copy(), np.zeros(case.a.size, np.bool_)
    lo[index], hi[index], known[index] = span.lo, span.hi, True
    return Span(lo, hi), known


def _around(kernel: Kernel | None, variant: Variant, case: Case) -> Span | None:
    """The variant's exact result, with the room that an honest one has around what is expected."""
    exact = None if kernel is None or case.tolerance is None else kernel.exact(variant)
    if exact is None or exact[0].size != case.a.size or case.actual.dtype != BFLOAT16:
        return None
    value = stored(exact[0], 0.0, BFLOAT16, NEAREST).lo
    tolerance = case.tolerance
    assert tolerance is not None
    with np.errstate(all="ignore"):
        reach = np.maximum(tolerance.atol, np.abs(value) * (2 * tolerance.rtol + 2.0**-7 * (tolerance.ulps or 0)))
        if tolerance.range_frac is not None:
            finite = np.abs(value[np.isfinite(value)])
            reach = np.maximum(reach, tolerance.range_frac * (float(finite.max()) if finite.size else 0.0))
        return Span(stored(value - reach, 0.0, BFLOAT16, FLOOR).lo, stored(value + reach, 0.0, BFLOAT16, NEAREST).hi)


# --- what needs no hypothesis ---------------------------------------------------------------------------------------


def _nondeterministic(case: Case) -> Iterator[Cause]:
    others = [np.ascontiguousarray(r).reshape(-1) for r in case.repeats]
    differ = [~same_bits(case.actual, r) for r in others]
    varying = np.logical_or.reduce(differ) if differ else np.zeros(1, np.bool_)
    if varying.any():
        distinct = len({case.actual.tobytes(), *(r.tobytes() for r in others)})
        detail = f"{distinct} different outputs in {len(others) + 1} runs, {int(varying.sum()):,} elements vary"
        where = place(varying, case.tiling, case.shape)
        seen = int(np.count_nonzero(varying & case.wrong))
        yield Cause("nondeterministic", PROVED, where, detail, (), case.count, seen, 0.0)


def _located(case: Case, left: Mask) -> Cause:
    role = _confined(case, left)
    told = "nothing that was tried explains these elements"
    return Cause(role, LOCATED, place(left, case.tiling, case.shape), told, (), int(np.count_nonzero(left)), 0, 1.0)


def _confined(case: Case, left: Mask) -> str:
    """ "one-column", "one-batch", "block-edges", or just "place"."""
    flat = np.flatnonzero(left)
    for role in ("column", "batch"):
        several = case.tiling.count(role) > 1 and flat.size > 1
        if several and np.unique(case.tiling.coordinate(role, flat)).size == 1:
            return f"one-{role}"
    role, inner = case.tiling.axes[-1]
    if role == "" and inner >= 16 and flat.size > 4 and len(np.unique(flat // inner)) > 1:
        edge = np.minimum(flat % inner, inner - 1 - flat % inner)
        if int(edge.max()) < inner // 8:
            return "block-edges"
    return "place"


def _choices(count: int, hit: int) -> float:
    """Bits that say which ``hit`` of ``count`` parts."""
    share = hit / count
    return 0.0 if share >= 1 else float(-count * (share * np.log2(share) + (1 - share) * np.log2(1 - share)))


_DETAILED = ("stale-input", "part-of-k", "k-tile-reused", "formula", "activation", "parameter", "mask", "head-mapping",
             "int4-order", "operand-order", "accumulation", "signs-lost", "transposed-operand")  # fmt: skip
"""Names under which another detail is another cause."""
_SPEC = {"parameter", "truncated-scalar", "formula", "activation", "mask", "zero-point", "operand-order"}
"""Names of what the spec says in more than one way."""


def _alike(one: Span, other: Span) -> bool:
    return bool(np.array_equal(one.lo, other.lo, equal_nan=True) and np.array_equal(one.hi, other.hi, equal_nan=True))
