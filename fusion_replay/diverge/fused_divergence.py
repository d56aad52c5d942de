# SPDX-License-Identifier: Apache-2.0
"""What the bisection of a fusion found, as data and in sentences.

Tested in tests/diverge/test_bisect_fused.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fusion_replay.diverge.fusion_suspects import OVERLAP, Suspect
from fusion_replay.model import serialise

FORMAT = "fusion-replay.bisect-fused/1"


@dataclass(frozen=True, slots=True)
class WindowResult:
    """One window: its ends, what was changed in it, and what it gave."""

    first: int
    last: int
    changed: str
    wrong: bool
    dispatches: int
    seconds: float

    to_dict = serialise.to_dict


@dataclass(frozen=True)
class FusedDivergence:
    """What a bisection of a fusion found; truthy where something is wrong only when it is fused.

    Attributes:
        sequence, invocation: whose.
        steps: of the runlist.
        windows: every window that was built, in order.
        step: the step that is to blame: the likeliest suspect's, or the one whose result is wrong; None: none is.
        label: that step in words.
        first, last: the smallest window that is wrong.
        buffer: where the first wrong bytes lie.
        varies: identical dispatches of that window gave different bits.
        inside: windows that are right differ in last bits from the separate run.
        suspects: the likeliest first.
        removed: the suspect without which the window is right; None: none was found, or it is no change of names.
        hangs: the window did not come back.
    """

    sequence: str
    invocation: int
    steps: int
    windows: tuple[WindowResult, ...]
    step: int | None = None
    label: str = ""
    first: int | None = None
    last: int | None = None
    buffer: str = ""
    varies: bool = False
    inside: bool = False
    suspects: tuple[Suspect, ...] = ()
    removed: Suspect | None = None
    hangs: bool = False

    def __bool__(self) -> bool:
        return self.step is not None

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        of = f"invocation {self.invocation} of {self.sequence}"
        if self.step is None:
            near = "; some results differ in the last bits, inside the chained bound" if self.inside else ""
            return f"{of}: the whole runlist is right when it is fused, in every dispatch{near}"
        window = f"step {self.first} alone" if self.first == self.last else f"steps {self.first} to {self.last}"
        what = "hangs" if self.hangs else f"leaves {self.buffer} wrong"
        return f"the steps are right, the fusion is not: {self.label}; {window}, fused, is the smallest that {what}"

    @property
    def besides(self) -> list[str]:
        """What else there is, a sentence each."""
        told = []
        if self.varies:
            told.append("identical dispatches of it give different results")
        if self.removed is not None:
            told.append(f"without it the window is right: {_without(self.removed)}")
        told += [f"{'suspect' if i else 'first suspect'}: {s}" for i, s in enumerate(self.suspects[:4])]
        return told

    @property
    def figures(self) -> str:
        dispatches = sum(w.dispatches for w in self.windows)
        seconds = sum(w.seconds for w in self.windows)
        built = f"{len(self.windows)} windows of {self.steps:,} steps built in {seconds:.1f} s"
        return f"{built}, {dispatches} dispatches judged"

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **serialise.to_dict(self), "sentence": self.sentence}

    def __str__(self) -> str:
        return "\n".join([self.sentence, *(f"  {line}" for line in (*self.besides, self.figures))])


def _without(suspect: Suspect) -> str:
    if suspect.kind == OVERLAP:
        return "every buffer at a place of its own (plan_scratch=False)"
    return f"step {suspect.step} writes a buffer of its own, not {suspect.buffers[0]}"


__all__ = ["FusedDivergence", "WindowResult"]
