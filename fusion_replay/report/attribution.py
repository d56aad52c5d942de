# SPDX-License-Identifier: Apache-2.0
"""An attribution on the terminal: isolated and cumulative error of every step in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion_replay.diverge.attribution import StepShare
from fusion_replay.model.text import clip, wrap
from fusion_replay.report.text import table

if TYPE_CHECKING:
    from fusion_replay.diverge.attribution import Attribution

HEADER = ("step", "share", "own", "x floor", "inherited", "leaves", "x", "", "operator and buffers")
NUMBERS = range(1, 7)


def layout(found: Attribution, *, every: bool = False) -> str:
    """Plain text, on one screen: suspects by share (else by their own error), or with ``every`` all in order."""
    shown = found.steps if every else found.attributed or found.suspects
    lines = [*wrap(found.sentence, ""), *(line for text in found.besides for line in wrap(text, "  "))]
    if shown and found.total:
        lines += clip(_table(shown).splitlines())
    computed = sum(s.share is not None for s in found.steps)
    if found.rest is not None and computed < len(found.steps):
        n = len(found.steps) - computed
        lines += wrap(f"{found.rest:.1%} comes from the other {n:,} steps together; --all computes each", "  ")
    return "\n".join(lines)


def _table(steps: Sequence[StepShare]) -> str:
    return table([HEADER, *(_row(s) for s in steps)], right=NUMBERS)


def _row(s: StepShare) -> tuple[str, ...]:
    return (
        s.address,
        "" if s.share is None else f"{s.share:.1%}",
        "" if s.isolated is None else f"{s.isolated:.1e}",
        "" if s.above_floor is None else f"{s.above_floor:.3g}",
        f"{s.inherited:.1e}",
        f"{s.cumulative:.1e}",
        "" if s.amplification is None else f"{s.amplification:.2g}",
        "MISMATCH" if s.ok is False else s.origin if s.ok else "no reference",
        s.label.removeprefix(f"{s.address} "),
    )


__all__ = ["layout"]
