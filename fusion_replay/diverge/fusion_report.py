# SPDX-License-Identifier: Apache-2.0
"""What recorded whole calls are against the recording of their steps, as data and in sentences.

Tested in tests/diverge/test_fusion_diff.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fusion_replay.diverge.environment import Change, in_one_line
from fusion_replay.diverge.fusion_suspects import Suspect
from fusion_replay.model import serialise
from fusion_replay.system.messages import count

FORMAT = "fusion-replay.diff-fused/1"

CallState = Literal["equal", "inside", "wrong", "inputs differ", "not compared"]
FusionOutcome = Literal["equal", "inside", "wrong", "varies", "first call only", "inputs differ"]

_WORDS: dict[FusionOutcome, str] = {
    "equal": "equal bits",
    "inside": "not equal, inside the chained bound",
    "wrong": "wrong",
    "varies": "different between identical calls",
    "first call only": "right in call 0 only",
    "inputs differ": "the inputs differ, nothing was compared",
}


@dataclass(frozen=True, slots=True)
class FusedCall:
    """One whole call against the steps.

    Attributes:
        invocation: its number in the fused recording; ``against``: in the separate one, None where it has none.
        repeat: 0, or its number among calls on identical contents.
        state: what its results are.
        inputs: buffers that did not begin alike.
        step: the first step, in the runlist's order, whose result is not as it should be; ``buffer``: where.
        wrong: how many buffers are not equal; compared: how many were compared.
        why: where it was not compared.
    """

    invocation: int
    against: int | None
    repeat: int
    state: CallState
    inputs: tuple[str, ...] = ()
    step: int | None = None
    buffer: str = ""
    wrong: int = 0
    compared: int = 0
    why: str = ""

    to_dict = serialise.to_dict


@dataclass(frozen=True)
class FusionReport:
    """What fused dispatch made of a runlist, against its steps; falsy where the fusion is to blame.

    Attributes:
        sequence: its name; steps: of its runlist.
        kind: of the first calls that are not as they should be, else of all.
        calls: every whole call.
        varying: results of identical calls differ, by the number of the first of them.
        repeated: some call was made more than once.
        right: every step of the invocation that is not as it should be agrees with its reference in the separate
            recording; None where none was judged.
        mismatches: labels of steps that do not.
        suspects: the likeliest first; of the steps between the last result that is right and the first that is not.
        between: those steps, first and last.
        overlaid: buffers that share bytes in the plan, whose contents when a call ends are another's.
        environment: what else differs between the two runs.
        recorded_on: what each ran on.
    """

    sequence: str
    steps: int
    kind: FusionOutcome
    calls: tuple[FusedCall, ...]
    varying: tuple[int, ...] = ()
    repeated: bool = False
    right: bool | None = None
    mismatches: tuple[str, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    between: tuple[int, int] | None = None
    label: str = ""
    overlaid: tuple[str, ...] = ()
    environment: tuple[Change, ...] = ()
    recorded_on: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.kind in ("equal", "inside")

    @property
    def compared(self) -> int:
        return sum(c.state in ("equal", "inside", "wrong") for c in self.calls)

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        if self.kind == "inputs differ":
            first = next(c for c in self.calls if c.state == "inputs differ")
            names = ", ".join(first.inputs[:4]) + (", ..." if len(first.inputs) > 4 else "")
            return f"{self.sequence}: the two runs did not begin alike ({names}), so nothing was compared"
        if self:
            return f"{self.sequence}, fused against separate: {_WORDS[self.kind]} in {self.compared} calls"
        who = "the steps are right, the fusion is not"
        if self.right is not True:
            others = f", and {count(len(self.mismatches), 'step')} wrong by themselves, first {self.mismatches[0]}"
            who = f"fused, the steps do not give what they give separately{others if self.mismatches else ''}"
        return f"{who}: {self.sequence} is {_WORDS[self.kind]} when it is fused{self._where}"

    @property
    def _where(self) -> str:
        bad = next((c for c in self.calls if c.state == "wrong"), None)
        if bad is None:
            return ""
        return f"; call {bad.invocation} first leaves {bad.buffer} wrong, which {self.label} writes last"

    @property
    def besides(self) -> list[str]:
        """What else there is, a sentence each; inputs that differ come first."""
        told = []
        off = [c for c in self.calls if c.state == "inputs differ"]
        if off and self.kind != "inputs differ":
            names = ", ".join(off[0].inputs[:3])
            told.append(f"calls {_spans(c.invocation for c in off)} began with other contents ({names}), not compared")
        if not self.repeated:
            told.append("no call was repeated, so whether identical calls differ is not known: --repeat-calls 10")
        if self.overlaid:
            told.append(
                f"{len(self.overlaid)} buffers share bytes in the plan, so what they held is overwritten when a call "
                f"ends: {', '.join(self.overlaid[:3])}{', ...' if len(self.overlaid) > 3 else ''}"
            )
        if not self and self.between is not None and self.kind != "inputs differ":
            told.append(f"it begins between steps {self.between[0]} and {self.between[1]}")
        told += [f"suspect: {s}" for s in self.suspects[:4]]
        if self.environment:
            told.append(f"the two runs differ in: {in_one_line(self.environment)}")
        return told

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "sentence": self.sentence, **serialise.to_dict(self)}

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines: a ``call`` each, then one ``fusion``."""
        yield from ({"type": "call", **c.to_dict()} for c in self.calls)
        found = self.to_dict()
        del found["calls"]
        yield {"type": "fusion", **found}

    def __str__(self) -> str:
        return "\n".join([self.sentence, *(f"  {line}" for line in self.besides)])


def _spans(numbers: Iterable[int]) -> str:
    listed = [str(n) for n in numbers]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")


__all__ = ["CallState", "FusedCall", "FusionOutcome", "FusionReport"]
