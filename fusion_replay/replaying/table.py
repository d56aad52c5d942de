# SPDX-License-Identifier: Apache-2.0
"""A replay condensed to one row per operator type."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_replay.model import serialise
from fusion_replay.model.text import MARK, table

if TYPE_CHECKING:
    from fusion_replay.replaying.outcome import OutputReport, StepReport

HEADER = ("operator", "steps", "mismatch", "max_abs", "max ulp", "rel_l2", "limit", "IRON's rule")


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """The worst of all steps of one operator type.

    Attributes:
        steps, mismatches: compared steps, and those that the rule in force calls mismatches.
        max_abs: IRON's figure, NaN if it is NaN anywhere; ``ulp_max`` in bf16 ULPs; ``rel_l2`` of one output.
        iron_ok, iron_mismatch, iron_raises, iron_blind: steps by IRON's own verdict; blind are those among the ok ones
            where NaN or Inf hid the figures from its rule.
        by_bound: steps that the bound decided; ``accepts``: bf16 values that it accepts, the median of their medians.
        outside: steps that match by their tolerance and are outside their bound.
    """

    op: str
    steps: int
    mismatches: int
    max_abs: float
    ulp_max: int
    rel_l2: float
    iron_ok: int
    iron_mismatch: int
    iron_raises: int
    iron_blind: int
    by_bound: int
    accepts: int
    outside: int

    @property
    def limit(self) -> str:
        """Which limit decided, and how many bf16 values the bound accepts."""
        words = [f"bound of {self.accepts:,}"] if self.by_bound else []
        words += ["tolerance"] if self.by_bound < self.steps else []
        words += [f"{self.outside:,} outside bound"] if self.outside else []
        return ", ".join(words)

    @property
    def iron(self) -> str:
        """IRON's verdicts in a few words."""
        words = [(self.iron_mismatch, "fail"), (self.iron_raises, "would raise"), (self.iron_blind, "NaN passes")]
        said = ", ".join(f"{n:,} {word}" for n, word in words if n)
        return said or "ok"

    def cells(self) -> tuple[str, ...]:
        figures = (f"{self.max_abs:.3g}", f"{self.ulp_max:,}", f"{self.rel_l2:.2e}" if self.rel_l2 else "0")
        return (self.op, f"{self.steps:,}", f"{self.mismatches:,}", *figures, self.limit, self.iron)

    to_dict = serialise.to_dict


def by_operator(steps: Iterable[StepReport]) -> tuple[OperatorRow, ...]:
    """One row per operator type: those with mismatches first, then in the order of their first step."""
    groups: dict[str, list[StepReport]] = {}
    for step in steps:
        groups.setdefault(step.op.type, []).append(step)
    rows = [_row(op, members) for op, members in groups.items()]
    return tuple(sorted(rows, key=lambda row: row.mismatches == 0))


def text(rows: Sequence[Sequence[str]], wrong: Iterable[bool] = ()) -> list[str]:
    """Aligned columns, the first and the last to the left, numbers to the right; ``wrong`` rows, of those below the
    head, begin with a mark."""
    head, *lines = table(rows, right=range(1, len(rows[0]) - 1)).split("\n")
    bad = [*wrong] or [False] * len(lines)
    return [head, *(MARK + line[len(MARK) :] if b else line for line, b in zip(lines, bad, strict=True))]


def _row(op: str, steps: list[StepReport]) -> OperatorRow:
    outputs: list[OutputReport] = [o for s in steps for o in s.outputs]
    verdicts = [s.iron for s in steps]
    accepts = sorted(o.verdict.within.accepts for o in outputs if o.verdict.within and o.verdict.within.decides)
    return OperatorRow(
        op=op,
        steps=len(steps),
        mismatches=sum(not s for s in steps),
        max_abs=_largest(o.verdict.stats.max_abs for o in outputs),
        ulp_max=max(o.verdict.stats.ulp_max for o in outputs),
        rel_l2=_largest(o.verdict.stats.rel_l2 for o in outputs),
        iron_ok=sum(v.ok is True for v in verdicts),
        iron_mismatch=sum(v.ok is False for v in verdicts),
        iron_raises=sum(v.ok is None for v in verdicts),
        iron_blind=sum(v.ok is True and bool(v.note) for v in verdicts),
        by_bound=sum(s.verdict.decided_by == "bound" for s in steps),
        accepts=accepts[len(accepts) // 2] if accepts else 0,
        outside=sum(s.outside is not None for s in steps),
    )


def _largest(values: Iterable[float]) -> float:
    found = list(values)
    return math.nan if any(v != v for v in found) else max(found)
