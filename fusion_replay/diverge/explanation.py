# SPDX-License-Identifier: Apache-2.0
"""Why one output is wrong, as data: its causes, and where in the array the wrong elements were made."""

from __future__ import annotations

from dataclasses import dataclass

from fusion_replay.diverge.causes import Cause
from fusion_replay.diverge.rounding import Leak
from fusion_replay.diverge.where import Where
from fusion_replay.model import serialise
from fusion_replay.model.text import block

UNCUT = ("cause", "mode", "where")
"""Facts that no screen cuts: who is to blame, how far that is proved, what explains it as well."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an output is wrong.

    Attributes:
        address, output: the step and the name of its output.
        against: "the reference", or the recording that it is compared with.
        causes: the one that explains most first; the last one may be a mere place.
        where: the wrong elements mapped through the tiling.
        leak: for a rounding mode, which kernel left it.
    """

    address: str
    output: str
    against: str
    causes: tuple[Cause, ...]
    where: Where
    leak: Leak | None = None

    @property
    def cause(self) -> Cause:
        """The first of them."""
        return self.causes[0]

    to_dict = serialise.to_dict

    @property
    def facts(self) -> list[tuple[str, str]]:
        """(label, sentence) for a report: causes, and where."""
        told = [("cause", str(c)) for c in self.causes]
        if self.leak is not None:
            told.append(("mode", str(self.leak)))
        return [*told, ("where", str(self.where))]

    def __str__(self) -> str:
        what = f"output {self.output} of {self.address}" if self.address else self.output
        return block([f"{what}, against {self.against}", *self.lines()])

    def lines(self) -> list[str]:
        """Plain text, one fact a line, the heat map below them."""
        return [f"{label:<8} {text}" for label, text in self.facts] + [f"         {m}" for m in self.where.lines()[1:]]


__all__ = ["UNCUT", "Explanation"]
