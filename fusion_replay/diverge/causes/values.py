# SPDX-License-Identifier: Apache-2.0
"""Right places, wrong numbers: NaN or Inf, flipped bits and signs, saturation, a factor or an offset that is fitted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion_replay.compare.sums import dot
from fusion_replay.diverge.causes.case import DESCRIBES, Case, Hypothesis
from fusion_replay.diverge.causes.spans import CUT, F64, FLOOR, NEAREST, Mask, Span, before, stored
from fusion_replay.model.bf16 import BFLOAT16
from fusion_replay.system.messages import count

_FEW = 4
_ROW, _ROWS = 32, 4096  # elements of a row, and rows, of which a factor each is fitted
_FITS = 1 << 18  # elements
FITTED = 24.0
"""Bits of evidence that a fitted number costs."""
HONEST_GAIN = {"GEMM": 2e-3}
"""How far the factor fitted to an honest tensor may be from 1, per operator: the largest of 219 honest bfp16 products
was 1.2e-3 off. Elsewhere one rounding each: what reproduces the recorded bits is no honest factor."""


def hypotheses(case: Case) -> Iterator[Hypothesis]:
    if case.expected.dtype.kind not in "iub":
        yield from _born(case)
    yield from _flipped(case)
    yield from _signs(case)
    yield from _clipped(case)
    yield from _constant(case)
    if np.count_nonzero(case.wrong) >= 3:
        yield from _fitted(case)


def _born(case: Case) -> Iterator[Hypothesis]:
    """Non-finite values that the reference has not."""
    for name, found in (("nan", np.isnan(case.a)), ("inf", np.isinf(case.a))):
        here = found & np.isfinite(case.e) & case.wrong
        if here.any():
            some = ", ".join(map(str, np.flatnonzero(here)[:3]))
            more = ", ..." if here.sum() > 3 else ""
            detail = f"{count(int(here.sum()), 'element')} ({some}{more}) where none is expected"
            yield Hypothesis(name, detail, Span.of(case.actual), known=here, rank=3, fact=True)


def _flipped(case: Case) -> Iterator[Hypothesis]:
    """One bit of a few elements. Against a reference: the bit that, flipped back, gives what is expected."""
    at = np.flatnonzero(case.wrong)
    if at.size > _FEW:
        return
    width = 8 * case.actual.dtype.itemsize
    words = case.actual.view(f"u{case.actual.dtype.itemsize}")
    expected = case.expected.view(words.dtype)
    narrow = case.bases[0]
    bits = []
    for i in at.tolist():
        if case.tolerance is None:
            changed = int(words[i]) ^ int(expected[i])
            if changed.bit_count() != 1:
                return
            bits.append(changed.bit_length() - 1)
            continue
        # The highest bit first: it is the one that moves a value far.
        back = [(b, words[i : i + 1] ^ words.dtype.type(1 << b)) for b in reversed(range(width))]
        near = [b for b, w in back if _in(case, narrow, i, w)] or [b for b, w in back if _in(case, case.honest, i, w)]
        near = near or [b for b, w in back if _in(case, case.tolerated, i, w)]
        if not near:
            return
        bits.append(near[0])
    places = ", ".join(f"bit {b} of element {i}" for b, i in zip(bits, at.tolist(), strict=True))
    if len(bits) > 1 and min(bits) < 2:  # the last bits move a value by a rounding: several are arithmetic
        return
    yield Hypothesis("bit-flip", places, Span.of(case.actual), known=case.wrong, rank=2 if min(bits) > 1 else 7)


def _in(case: Case, span: Span, i: int, word: np.ndarray[tuple[int], np.dtype[np.generic]]) -> bool:
    with np.errstate(invalid="ignore"):  # a signalling NaN turning quiet is no event here
        value = np.asarray(word.view(case.actual.dtype), np.float64)
    return bool(span[i : i + 1].holds(value)[0])


def _signs(case: Case) -> Iterator[Hypothesis]:
    for base in case.bases:
        yield Hypothesis("sign-flipped", "the wrong elements have the other sign", Span(-base.hi, -base.lo), rank=2,
                         known=case.wrong)  # fmt: skip
        lo, hi = np.abs(base.lo), np.abs(base.hi)
        size = Span(np.minimum(lo, hi), np.maximum(lo, hi))
        yield Hypothesis("signs-lost", "every element without its sign", size, rank=2)


def _clipped(case: Case) -> Iterator[Hypothesis]:
    """All that exceed a bound stand at it, and some do not."""
    held = case.a[case.wrong]
    if held.size < 3 or not np.isfinite(held).all():
        return
    high, low = float(held.max()), float(held.min())
    if not np.isin(held, (high, low)).all() or high == low == 0:
        return
    finite = case.a[np.isfinite(case.a)]
    top = high if float(finite.max()) <= high and (case.e[case.wrong & (case.a == high)] > high).all() else np.inf
    floor = low if float(finite.min()) >= low and (case.e[case.wrong & (case.a == low)] < low).all() else -np.inf
    if (top, floor) == (np.inf, -np.inf) or not (~case.wrong & (case.a != high) & (case.a != low)).any():
        return
    limits = " to ".join(f"{v:.6g}" for v in (floor, top) if np.isfinite(v))
    for base in case.bases:
        span = Span(np.clip(base.lo, floor, top), np.clip(base.hi, floor, top))
        yield Hypothesis("saturated", f"values beyond {limits} stand at the bound", span, rank=4)


def _constant(case: Case) -> Iterator[Hypothesis]:
    held = case.a[case.wrong]
    if held.size > 8 and held[0] != 0 and (held == held[0]).all():
        span = Span(np.full_like(case.a, held[0]), np.full_like(case.a, held[0]))
        yield Hypothesis("constant", f"every wrong element is {held[0]:.6g}", span, known=case.wrong, rank=7, fact=True)


# --- a factor, an offset --------------------------------------------------------------------------------------------


def _fitted(case: Case) -> Iterator[Hypothesis]:
    """A number for which executing the exact result times (plus) it gives the recorded elements."""
    exact = None if case.kernel is None else case.kernel.exact()
    dtype, some = case.actual.dtype, case.actual[_some(case)]
    if exact is not None and dtype == BFLOAT16:
        values, slack = exact
        at = values[_some(case)]
        reach = slack[_some(case)] if isinstance(slack, np.ndarray) else slack
        near = Span(at - reach, at + reach)
        for how in (NEAREST, FLOOR, CUT):
            behind = before(some, how)
            yield from _factor(case, near, behind, how, values, slack)
            yield from _offset(case, near, behind, how, values, slack)
    if dtype == BFLOAT16:
        behind = before(some, NEAREST)
        known = case.kernel is not None and not case.kernel.large and case.tolerance is not None
        for _, stood in case.kernel.honest(dtype) if known and case.kernel is not None else ():
            values, slack = (stood.lo + stood.hi) / 2, (stood.hi - stood.lo) / 2  # stored, and changed afterwards
            yield from _factor(case, stood[_some(case)], behind, NEAREST, values, slack)
            yield from _offset(case, stood[_some(case)], behind, NEAREST, values, slack)
        base = before(case.expected, NEAREST)
        yield from _factor(case, base, behind, "", None, 0.0)
        yield from _offset(case, base, behind, "", None, 0.0)
    else:
        half = 0.5 if dtype.kind in "iub" else 0.0
        held = case.a[_some(case)]
        reach = np.abs(held) * 2.0**-20 + half
        behind = Span(held - reach, held + reach)
        yield from _factor(case, Span.of(case.expected), behind, "", None, 0.0)
        yield from _offset(case, Span.of(case.expected), behind, "", None, 0.0)
    yield from _gain(case)
    if exact is not None and dtype == BFLOAT16 and case.a.size <= _FITS:
        yield from _row_factors(case, *exact)


def _some(case: Case) -> slice:
    """Elements to which a number is fitted; it is executed on all."""
    return slice(None, None, max(1, case.a.size // _FITS) | 1)


def _factor(
    case: Case, base: Span, behind: Span, how: str, values: F64 | None, slack: F64 | float
) -> Iterator[Hypothesis]:
    some, at = _some(case), base if base.lo.size == behind.lo.size else base[_some(case)]
    with np.errstate(all="ignore"):
        corners = np.stack([behind.lo / at.lo, behind.lo / at.hi, behind.hi / at.lo, behind.hi / at.hi])
    lo, hi = corners.min(0), corners.max(0)
    usable = np.isfinite(lo) & np.isfinite(hi) & (np.sign(at.lo) == np.sign(at.hi)) & (at.lo != 0)
    found = stabbed(lo, hi, usable & (case.e[some] != 0)) or stabbed(lo, hi, usable & case.wrong[some])
    if found is None or found[0] <= 1 <= found[1]:
        return
    factor = _plain(*found)
    least = HONEST_GAIN.get("" if case.kernel is None else case.kernel.spec.type, 0.0)
    if abs(factor - 1) <= (least if case.tolerance is not None else 0.0) or factor in (0.0, 1.0, -1.0):
        return
    detail = f"every element is multiplied by {factor:.6g}"
    if values is not None:
        span = stored(values * factor, np.abs(slack * factor), case.actual.dtype, how)
        yield Hypothesis("scaled", f"{detail}, rounded {how}", span, rank=5, cost=FITTED)
    else:
        yield Hypothesis("scaled", detail, _widened(case, base.lo * factor, base.hi * factor), rank=5, cost=FITTED)


def _row_factors(case: Case, values: F64, slack: F64 | float) -> Iterator[Hypothesis]:
    """Each row by a factor of its own: what a norm or a softmax does that got its sum wrong."""
    width = case.shape[-1] if len(case.shape) > 1 else 0
    if width < _ROW or case.a.size % width or not 1 < case.a.size // width <= _ROWS:
        return
    for how in (NEAREST, FLOOR, CUT):
        behind = before(case.actual, how)
        with np.errstate(all="ignore"):
            ends = np.stack([behind.lo / values, behind.hi / values])
        lo, hi = ends.min(0).reshape(-1, width), ends.max(0).reshape(-1, width)
        usable = np.isfinite(lo) & np.isfinite(hi) & (case.e != 0).reshape(-1, width)
        found = [stabbed(*row) for row in zip(lo, hi, usable, strict=True)]
        if None in found:
            continue
        factors = np.array([(f[0] + f[1]) / 2 for f in found if f is not None])
        if (factors <= 0).any() or factors.max() / factors.min() < 1 + 2.0**-8:
            continue  # one for all is said otherwise
        each = np.repeat(factors, width)
        detail = f"each row is multiplied by a factor of its own, {factors.min():.4g} to {factors.max():.4g}"
        cost = FITTED * len(factors)
        yield Hypothesis("row-scaled", f"{detail}, rounded {how}", stored(values * each, np.abs(slack * each),
                         case.actual.dtype, how), rank=DESCRIBES, cost=cost)  # fmt: skip


def _offset(
    case: Case, base: Span, behind: Span, how: str, values: F64 | None, slack: F64 | float
) -> Iterator[Hypothesis]:
    some, at = _some(case), base if base.lo.size == behind.lo.size else base[_some(case)]
    with np.errstate(all="ignore"):
        lo, hi = behind.lo - at.hi, behind.hi - at.lo
    finite = np.isfinite(lo) & np.isfinite(hi)
    found = stabbed(lo, hi, finite) or stabbed(lo, hi, finite & case.wrong[some])
    if found is None or found[0] <= 0 <= found[1]:
        return
    offset = _plain(*found)
    detail = f"every element is off by {offset:.6g}"
    if values is not None:
        span = stored(values + offset, slack, case.actual.dtype, how)
        yield Hypothesis("offset", f"{detail}, rounded {how}", span, rank=5, cost=FITTED)
    else:
        yield Hypothesis("offset", detail, _widened(case, base.lo + offset, base.hi + offset), rank=5, cost=FITTED)


def _gain(case: Case) -> Iterator[Hypothesis]:
    """The factor of least squares, where the arithmetic is not known well enough to reproduce bits."""
    finite = np.isfinite(case.a) & np.isfinite(case.e) & case.wrong
    square = dot(case.e[finite], case.e[finite])
    factor = dot(case.a[finite], case.e[finite]) / square if square else 0.0
    if not factor or not np.isfinite(factor) or abs(factor - 1) < 2.0**-7:
        return
    # A power of two is what shifts and exponents go wrong by, and it is exact.
    nearest = 2.0 ** round(np.log2(abs(factor))) * np.sign(factor)
    exact = nearest if abs(factor / nearest - 1) < 2.0**-9 else factor
    if exact == -1:  # its sign is all
        return
    for base in (*case.bases, case.tolerated) if case.tolerance is not None else case.bases:
        span = _widened(case, base.lo * exact, base.hi * exact)
        yield Hypothesis("scaled", f"every element is multiplied by {exact:.4g}", span, rank=5, cost=FITTED)


def _widened(case: Case, one: F64, other: F64) -> Span:
    lo, hi = np.minimum(one, other), np.maximum(one, other)
    if case.actual.dtype == BFLOAT16:
        low, high = stored(lo, 0.0, case.actual.dtype, FLOOR), stored(hi, np.abs(hi) * 2.0**-9, BFLOAT16, NEAREST)
        return Span(low.lo, high.hi)
    return Span(lo, hi)


def stabbed(lo: F64, hi: F64, chosen: Mask, least: float = 0.9) -> tuple[float, float] | None:
    """The interval of numbers that lie in the most of [lo, hi]; None where that is under the share ``least``."""
    starts, stops = np.sort(lo[chosen]), np.sort(hi[chosen])
    if starts.size < 3:
        return None
    depth = np.arange(1, starts.size + 1) - np.searchsorted(stops, starts, "left")
    best = int(depth.argmax())
    if depth[best] < least * starts.size:
        return None
    stop = stops[np.searchsorted(stops, starts[best], "left")]
    return float(starts[best]), float(stop)


def _plain(lo: float, hi: float) -> float:
    """The number of fewest digits between the two."""
    middle = (lo + hi) / 2
    for digits in range(1, 16):
        short = float(f"{middle:.{digits}g}")
        if lo <= short <= hi:
            return short
    return middle
