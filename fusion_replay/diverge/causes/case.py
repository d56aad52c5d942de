# SPDX-License-Identifier: Apache-2.0
"""One output that is wrong, with everything that may explain it; what a hypothesis is, and what a cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.diverge.causes.spans import F64, Mask, Span, ordinal
from fusion_replay.model.bf16 import BFLOAT16, wide
from fusion_replay.operators.tiling import Tiling

if TYPE_CHECKING:
    from fusion_replay.diverge.causes.kernel import Kernel

NDArray = npt.NDArray[Any]

Grade = Literal["proved", "consistent", "located"]
PROVED: Grade = "proved"
CONSISTENT: Grade = "consistent"
LOCATED: Grade = "located"

DESCRIBES = 8
"""Rank from which on a hypothesis says what elements look like and not why: no rival of one that is proved."""

LIMITS = Tolerance(rtol=0.04, atol=0.0, ulps=2, range_frac=0.02)
"""A device's output against a reference where the operator's own limits are not known."""


@dataclass(frozen=True)
class Version:
    """Contents that a buffer had: ``what`` they were ("the input of 0:412"), and how to get them."""

    what: str
    read: Callable[[], NDArray]


@dataclass(frozen=True, slots=True)
class Cause:
    """What made the wrong elements, as far as that is known.

    Attributes:
        name: one of :data:`fusion_replay.diverge.causes.NAMES`.
        grade: "proved" (executing it gives the recorded bits, of enough elements that chance is excluded, and an honest
            kernel does not), "consistent" (it explains every wrong element that it speaks of within the bound) or
            "located" (only a place).
        where: the place, in words.
        detail: the rest of the sentence.
        rivals: other causes that explain the same elements just as well, in words.
        elements: wrong elements that it speaks of.
        reproduced: those of them that it gives.
        chance: that a wrong hypothesis of all that were tried gives so many; at most 1.
    """

    name: str
    grade: Grade
    where: str
    detail: str
    rivals: tuple[str, ...] = ()
    elements: int = 0
    reproduced: int = 0
    chance: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        evidence = {"elements": self.elements, "reproduced": self.reproduced, "chance": float(f"{self.chance:.3g}")}
        told = {n: getattr(self, n) for n in ("name", "grade", "where", "detail")}
        return {**told, "rivals": list(self.rivals), "evidence": evidence}

    def __str__(self) -> str:
        also = f"; or: {'; '.join(self.rivals)}" if self.rivals else ""
        told = f"{self.name}, {self.grade}{also}: {self.detail}, {self.where}"
        return told if self.grade == LOCATED else f"{told} ({self.reproduced:,} of {self.elements:,} reproduced)"


@dataclass(frozen=True)
class Case:
    """One output, flat.

    Attributes:
        actual, expected: of one dtype.
        tiling: of the output.
        tolerance: how far an honest device may be from ``expected``; None where that is another device's own output,
            which must be the same bits.
        bound: what an honest device may give, where that can be computed; ``decides``: it alone says what is wrong.
        shape: of the output.
        previous: what the output's buffer held before the step, where that was recorded.
        versions: earlier contents of the same bytes, the newest first, ``previous`` left out.
        kernel: the operator, to be executed under hypotheses.
        repeats: the same output of other runs on the same inputs.
        unread: nothing is known of the buffer's earlier contents.
    """

    actual: NDArray
    expected: NDArray
    tiling: Tiling
    tolerance: Tolerance | None = None
    bound: Span | None = None
    decides: bool = False
    shape: tuple[int, ...] = ()
    previous: NDArray | None = None
    versions: tuple[Version, ...] = ()
    kernel: Kernel | None = None
    repeats: Sequence[NDArray] = field(default=())

    @cached_property
    def a(self) -> F64:
        """Actual values."""
        return np.ascontiguousarray(wide(self.actual), np.float64)

    @cached_property
    def e(self) -> F64:
        """Expected values."""
        return np.ascontiguousarray(wide(self.expected), np.float64)

    @cached_property
    def wrong(self) -> Mask:
        """Elements that no honest device gives."""
        if self.tolerance is None:
            return ~same_bits(self.actual, self.expected)
        beyond = ~within(self.a, self.e, self.tolerance, self.largest)
        if self.bound is None:
            return beyond
        outside: Mask = ~(self.bound.holds(self.a) | (self.a == self.e) | (np.isnan(self.a) & np.isnan(self.e)))
        return outside if self.decides else outside | beyond

    @cached_property
    def count(self) -> int:
        return int(np.count_nonzero(self.wrong))

    @cached_property
    def honest(self) -> Span:
        """What an honest device gives."""
        if self.tolerance is None:
            return Span(self.e, self.e)
        return self.bound if self.bound is not None else self.tolerated

    @cached_property
    def tolerated(self) -> Span:
        """What the hand-set limits accept."""
        t, size = self.tolerance or LIMITS, np.abs(self.e)
        with np.errstate(all="ignore"):
            reach = np.maximum(t.atol, 2 * t.rtol * size / (1 - min(t.rtol, 0.5)))
            if t.range_frac is not None:
                reach = np.maximum(reach, t.range_frac * self.largest)
            if t.ulps is not None:
                reach = np.maximum(reach, t.ulps * 2.0**-7 * size)
            return Span(self.e - reach, self.e + reach)

    @cached_property
    def largest(self) -> float:
        """Of the finite expected magnitudes."""
        finite = np.abs(self.e[np.isfinite(self.e)])
        return float(finite.max()) if finite.size else 0.0

    @cached_property
    def bases(self) -> tuple[Span, ...]:
        """What an honest kernel gave here, as narrow as it is known, the likeliest first."""
        if self.tolerance is None:
            return (self.honest,)
        if self.kernel is None or self.kernel.large:
            return (self.honest,)
        named = self.kernel.honest(self.actual.dtype)
        if self.kernel.device is not None:  # a device's own arithmetic is likelier than one rounding
            named = sorted(named, key=lambda n: n[0].startswith("rounded"))
        found = [s for _, s in named]
        first, right = found[:1], ~self.wrong
        if right.any():
            found.sort(key=lambda s: -int(np.count_nonzero(s.holds(self.a) & right)))
        return (*found[:3], *(s for s in first if not any(s is f for f in found[:3])), self.honest)


@dataclass(frozen=True)
class Hypothesis:
    """The output under one hypothesis.

    Attributes:
        name: of the cause.
        detail: the rest of the sentence.
        predicted: what each element would be.
        known: where the hypothesis says anything; None: everywhere.
        rank: of explanations that are as good, the lowest is the simplest.
        cost: bits of evidence that fitting its numbers took.
        fact: what it says is seen, not inferred (zeros are zeros): rivals take nothing from it.
        apart: bits that one reproduced element is worth where honest and predicted are far apart.
        where: the place, where the hypothesis is of one.
    """

    name: str
    detail: str
    predicted: Span
    known: Mask | None = None
    rank: int = 5
    cost: float = 0.0
    fact: bool = False
    apart: float = 4.0
    where: str = ""


def same_bits(x: NDArray, y: NDArray) -> Mask:
    """Elementwise; arrays of one dtype."""
    if x.dtype != y.dtype:
        return np.asarray(wide(x) == wide(y), np.bool_)
    width = f"u{x.dtype.itemsize}"
    return np.asarray(np.ascontiguousarray(x).view(width) == np.ascontiguousarray(y).view(width), np.bool_)


def within(a: F64, e: F64, t: Tolerance, largest: float) -> Mask:
    """The elements of rule ``tolerance`` (:mod:`fusion_replay.compare.rules`): element rule, ULPs, share of the
    range."""
    with np.errstate(all="ignore"):
        difference = np.abs(a - e)
        near = (difference < np.maximum(t.atol, t.rtol * (np.abs(a) + np.abs(e)))) | (a == e)
        if t.ulps is not None:
            near |= np.abs(ordinal(a) - ordinal(e)) <= t.ulps
        if t.range_frac is not None:
            near |= difference <= t.range_frac * largest
    finite = np.isfinite(a) & np.isfinite(e)
    return np.asarray(np.where(finite, near, (a == e) | (np.isnan(a) & np.isnan(e))), np.bool_)


__all__ = ["BFLOAT16", "CONSISTENT", "LOCATED", "PROVED", "Case", "Cause", "Hypothesis", "Version"]
