# SPDX-License-Identifier: Apache-2.0
"""Right places, wrong numbers: NaN or Inf born here, flipped bits and signs, saturation, an offset, a factor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion_replay.diverge.causes.case import Case, Guess, within
from fusion_replay.model.bf16 import BFLOAT16, bits_of

_FEW = 4


def guesses(case: Case) -> Iterator[Guess]:
    if case.expected.dtype.kind not in "iub":
        yield from _born(case)
        yield from _linear(case)
    yield from _flipped(case)
    yield from _saturated(case)


def _born(case: Case) -> Iterator[Guess]:
    """Non-finite values that neither the reference nor (it follows) an input has."""
    for name, found in (("nan", np.isnan(case.a)), ("inf", np.isinf(case.a))):
        here = found & np.isfinite(case.e)
        if here.any() and not (case.wrong & ~here).any():
            predicted = np.where(here, case.actual, case.expected)
            some = ", ".join(map(str, np.flatnonzero(here)[:3]))
            detail = f"{int(here.sum()):,} elements ({some}{', ...' if here.sum() > 3 else ''}) where none is expected"
            yield Guess(name, detail, predicted, rank=1)


def _flipped(case: Case) -> Iterator[Guess]:
    """One bit of a few elements. Against a reference: the bit that, flipped back, gives what is expected."""
    at = np.flatnonzero(case.wrong)
    if at.size > _FEW:
        return
    width = 8 * case.actual.dtype.itemsize
    words = case.actual.view(f"u{case.actual.dtype.itemsize}")
    expected = case.expected.view(words.dtype)
    bits = []
    for i in at.tolist():
        if case.tolerance is None:
            changed = int(words[i]) ^ int(expected[i])
            if changed.bit_count() != 1:
                return
            bits.append(changed.bit_length() - 1)
            continue
        # The highest bit first: it is the one that moves a value far.
        back = (words[i : i + 1] ^ words.dtype.type(1 << b) for b in reversed(range(width)))
        near = [b for b, w in zip(reversed(range(width)), back, strict=True) if _near_at(case, i, w)]
        if not near:
            return
        bits.append(near[0])
    places = ", ".join(f"bit {b} of element {i}" for b, i in zip(bits, at.tolist(), strict=True))
    # The last bits move a value by a rounding: nothing tells such a flip from one.
    rank = 0 if min(bits) > 1 else 7
    yield Guess("bit-flip", places, case.actual.copy(), rank=rank)


def _near_at(case: Case, i: int, word: np.ndarray[tuple[int], np.dtype[np.generic]]) -> bool:
    assert case.tolerance is not None
    with np.errstate(invalid="ignore"):  # a signalling NaN turning quiet is no event here
        value = np.asarray(word.view(case.actual.dtype), np.float64)
    return bool(within(value, case.e[i : i + 1], case.tolerance, case.largest)[0])


def _linear(case: Case) -> Iterator[Guess]:
    """actual = -expected, actual = factor * expected, actual = expected + offset."""
    finite = np.isfinite(case.a) & np.isfinite(case.e)
    a, e = case.a[finite], case.e[finite]
    if np.count_nonzero(case.wrong) < 3 or a.size < 3:
        return
    yield Guess("sign-flipped", "every wrong element has the other sign", _negated(case), rank=2)
    square = float(np.dot(e, e))
    factor = float(np.dot(a, e)) / square if square else 1.0
    if np.isfinite(factor) and abs(factor - 1) > 2.0**-7 and factor:
        # A power of two is what shifts and exponents go wrong by, and it is exact.
        nearest = 2.0 ** round(np.log2(abs(factor))) * np.sign(factor)
        exact = nearest if abs(factor / nearest - 1) < 2.0**-9 else factor
        yield Guess("scaled", f"every element is multiplied by {exact:.6g}", _as(case, case.e * exact), rank=5)
    offset = float(np.median(a - e))
    if offset and np.isfinite(offset):
        yield Guess("offset", f"every element is off by {offset:.6g}", _as(case, case.e + offset), rank=5)


def _negated(case: Case) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
    return np.where(case.wrong, _as(case, -case.e), case.expected)


def _as(
    case: Case, values: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
    if case.expected.dtype == BFLOAT16:
        return bits_of(values).view(BFLOAT16)
    return values.astype(case.expected.dtype)


def _saturated(case: Case) -> Iterator[Guess]:
    """All that exceed a bound stand at it."""
    held = case.a[case.wrong]
    if held.size < 3 or not np.isfinite(held).all():
        return
    high, low = float(held.max()), float(held.min())
    if not np.isin(held, (high, low)).all() or high == low == 0:
        return
    if float(case.a.max()) > max(high, 0.0) or float(case.a.min()) < min(low, 0.0):
        return
    with np.errstate(invalid="ignore"):
        predicted = _as(
            case, np.clip(case.e, low if low < high or low < 0 else -np.inf, high if high > low or high > 0 else np.inf)
        )
    yield Guess("saturated", f"values beyond {low:.6g} to {high:.6g} stand at the bound", predicted, rank=4)
