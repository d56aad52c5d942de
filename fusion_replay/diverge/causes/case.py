# SPDX-License-Identifier: Apache-2.0
"""One output that is wrong, with everything that may explain it; and what an explanation is.

A hypothesis is a *guess*: the output as it would be if the hypothesis held. Guesses are judged alike: of the elements
that are wrong, or that the guess says should be wrong, what share does it get right?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.model.bf16 import BFLOAT16, wide
from fusion_replay.operators.tiling import Tiling

NDArray = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Version:
    """Contents that a buffer had: ``what`` they were ("the input of 0:412"), and how to get them."""

    what: str
    read: Callable[[], NDArray]


@dataclass(frozen=True)
class Again:
    """The operator's reference, asked under another hypothesis.

    Attributes:
        evaluate: (inputs by position, parameters, runtime values; what is left out is as recorded) -> the output.
        inputs: position -> the recorded input.
        versions: position -> earlier contents of that input; only of buffers that the runlist itself fills.
        names: position -> buffer name.
        params, values: as recorded.
        op: operator type.
    """

    evaluate: Callable[[Mapping[int, NDArray], Mapping[str, Any], Mapping[str, Any]], NDArray]
    inputs: Mapping[int, NDArray] = field(default_factory=dict)
    versions: Mapping[int, tuple[Version, ...]] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    op: str = ""


@dataclass(frozen=True)
class Case:
    """One output, flat.

    Attributes:
        actual, expected: of one dtype.
        tolerance: how far an honest device may be from ``expected``; None where that is another device's own output,
            which must be the same bits.
        tiling: of the output.
        previous: what the output's buffer held before the step, where that is known.
        versions: earlier contents of the same bytes, the newest first, ``previous`` left out.
        again: the reference, where the step can be evaluated.
        repeats: the same output of other runs on the same inputs.
    """

    actual: NDArray
    expected: NDArray
    tiling: Tiling
    tolerance: Tolerance | None = None
    previous: NDArray | None = None
    versions: tuple[Version, ...] = ()
    again: Again | None = None
    repeats: tuple[NDArray, ...] = ()

    @cached_property
    def a(self) -> F64:
        """Actual values."""
        return np.asarray(wide(self.actual), np.float64)

    @cached_property
    def e(self) -> F64:
        """Expected values."""
        return np.asarray(wide(self.expected), np.float64)

    @cached_property
    def wrong(self) -> Mask:
        """Elements that no honest device gives."""
        return ~self.near(self.expected)

    @cached_property
    def count(self) -> int:
        return int(np.count_nonzero(self.wrong))

    @cached_property
    def energy(self) -> float:
        """Sum of squared deviations of finite pairs."""
        return _energy(self.a, self.e)

    def near(self, other: NDArray) -> Mask:
        """Elements where ``actual`` is what an honest device gives for ``other``."""
        if self.tolerance is None and other.dtype == self.actual.dtype:
            return same_bits(self.actual, other)
        return within(self.a, np.asarray(wide(other), np.float64), self.tolerance or _REFERENCE, self.largest)

    def near_at(self, at: npt.NDArray[np.int64], other: NDArray) -> Mask:
        """As :meth:`near`, of some elements."""
        if self.tolerance is None and other.dtype == self.actual.dtype:
            return same_bits(self.actual[at], other)
        limits = self.tolerance or _REFERENCE
        return within(self.a[at], np.asarray(wide(other), np.float64), limits, self.largest)

    @cached_property
    def largest(self) -> float:
        """Of the finite expected magnitudes."""
        finite = np.abs(self.e[np.isfinite(self.e)])
        return float(finite.max()) if finite.size else 0.0


_REFERENCE = Tolerance(rtol=0.04, atol=0.0, ulps=2, range_frac=0.02)
"""A device's output against a reference where the operator's own limits are not known."""


@dataclass(frozen=True)
class Guess:
    """The output under one hypothesis.

    Attributes:
        name: of the pattern.
        detail: the rest of the sentence.
        predicted: flat, in the output's dtype (then compared as bits, or within limits) or float64.
        known: where the guess says anything; None: everywhere.
        exact: the prediction is contents that were really there, so bits must agree whatever the limits.
        evaluated: it comes from a reference: agreement within limits is not enough, the deviation must shrink.
        rank: of explanations that fit alike, the lowest is the simplest.
        limits: of an evaluated guess, the operator's own.
    """

    name: str
    detail: str
    predicted: NDArray
    known: Mask | None = None
    exact: bool = False
    evaluated: bool = False
    rank: int = 5
    limits: Tolerance | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A named explanation.

    Attributes:
        name: "zeros", "never-written", ...; :data:`..patterns.NAMES` lists them.
        confidence: 0 to 1; 0.9 and more means that it explains (nearly) all and hardly by chance.
        count: wrong elements that it explains; ``of`` how many.
        detail: the rest of the sentence.
        aliases: other names that explain the same elements just as well: the output alone cannot tell them apart.
    """

    name: str
    confidence: float
    count: int
    of: int
    detail: str
    aliases: tuple[str, ...] = ()

    @property
    def confident(self) -> bool:
        return self.confidence >= 0.9

    def to_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = {n: getattr(self, n) for n in ("name", "confidence", "count", "of", "detail")}
        return {**data, "confidence": round(self.confidence, 3), "aliases": list(self.aliases)}

    def __str__(self) -> str:
        also = f"; {' or '.join(self.aliases)} would look the same" if self.aliases else ""
        sure = f"confidence {self.confidence:.2f}"
        return f"{self.name}: {self.detail} ({self.count:,} of {self.of:,} wrong elements, {sure}){also}"


@dataclass(frozen=True)
class Scored:
    """A guess, judged."""

    guess: Guess
    score: float
    """Share of the elements that either side calls wrong on which guess and output agree."""
    explained: int
    fit: float
    """Share of the deviation's energy that is gone."""

    @property
    def whole(self) -> bool:
        """It leaves nothing to explain."""
        return self.score >= 0.999 and (not self.guess.evaluated or self.fit >= 0.9)


def judge(case: Case, guess: Guess) -> Scored:
    """How well the guess explains the case."""
    known = np.ones(case.wrong.shape, np.bool_) if guess.known is None else guess.known
    predicted = np.ascontiguousarray(guess.predicted).reshape(-1)
    limits = guess.limits or case.tolerance or _REFERENCE
    with np.errstate(all="ignore"):
        p = np.asarray(wide(predicted), np.float64)
        if guess.evaluated:
            match = within(case.a, p, limits, case.largest)
        else:
            match = same_bits(case.actual, predicted) if guess.exact else case.near(predicted)
        if case.tolerance is None and not guess.evaluated:
            says = ~same_bits(case.expected, predicted)
        else:
            says = ~within(p, case.e, limits, case.largest)
        concerned = (case.wrong | says) & known
        total = int(np.count_nonzero(concerned))
        agreed = int(np.count_nonzero(match & concerned))
        explained = int(np.count_nonzero(match & case.wrong & known))
        at = known if guess.known is not None else slice(None)
        left = _energy(case.a[at], p[at])
        before = _energy(case.a[at], case.e[at]) if guess.known is not None else case.energy
        fit = max(0.0, 1.0 - left / before) if before > 0 else float(left == 0.0)
    return Scored(guess, agreed / total if total else 0.0, explained, fit)


def same_bits(x: NDArray, y: NDArray) -> Mask:
    """Elementwise; arrays of one dtype."""
    if x.dtype != y.dtype:
        return np.asarray(wide(x) == wide(y), np.bool_)
    width = f"u{x.dtype.itemsize}"
    return np.asarray(np.ascontiguousarray(x).view(width) == np.ascontiguousarray(y).view(width), np.bool_)


def within(a: F64, e: F64, t: Tolerance, largest: float) -> Mask:
    """Rule ``auto``'s elements (:mod:`fusion_replay.compare.rules`): the element rule, ULPs, a share of the range."""
    with np.errstate(all="ignore"):
        difference = np.abs(a - e)
        near = (difference < np.maximum(t.atol, t.rtol * (np.abs(a) + np.abs(e)))) | (a == e)
        if t.ulps is not None:
            near |= np.abs(ordinal(a) - ordinal(e)) <= t.ulps
        if t.range_frac is not None:
            near |= difference <= t.range_frac * largest
    finite = np.isfinite(a) & np.isfinite(e)
    return np.asarray(np.where(finite, near, (a == e) | (np.isnan(a) & np.isnan(e))), np.bool_)


def ordinal(x: NDArray) -> npt.NDArray[np.int64]:
    """Place on the ordered line of bf16 values; both zeros at 0."""
    from fusion_replay.model.bf16 import bits_of

    bits = x.view(np.uint16) if x.dtype == BFLOAT16 else bits_of(np.asarray(x, np.float64))
    magnitude = (bits & np.uint16(0x7FFF)).astype(np.int64)
    return np.where(bits >> np.uint16(15), -magnitude, magnitude)


def _energy(x: F64, y: F64) -> float:
    with np.errstate(all="ignore"):
        d = x - y
    d = d[np.isfinite(d)]
    return float(np.dot(d, d)) if d.size else 0.0
