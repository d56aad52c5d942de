# SPDX-License-Identifier: Apache-2.0
"""What differs in one step, one input from outside, one output of two recordings, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fusion_replay.compare.verdict import Verdict
from fusion_replay.model import serialise

Kind = Literal["introduced", "inherited", "masked", "missing", "removed", "added"]
"""introduced: the difference began here. inherited: its inputs differ, its outputs do, and its reference explains
both sides. masked: its inputs differ, its outputs are equal again. missing: one side has no record of it. removed,
added: only the one runlist has it."""

KINDS: tuple[Kind, ...] = ("introduced", "inherited", "masked", "missing", "removed", "added")
ALIGNED = KINDS[:3]
"""Of steps that both recordings have."""


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """One output whose contents differ: b judged against a, or why there are no numbers."""

    name: str
    buffer: str
    verdict: Verdict | None
    why: str = ""

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True)
class Judged:
    """One side of a step against its own reference on its own inputs; ``ok`` None where it could not be judged."""

    ok: bool | None
    detail: str
    rel_l2: float = 0.0
    ulp_max: int = 0

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True)
class StepDifference:
    """One step that is not the same in both recordings.

    Attributes:
        kind: see :data:`Kind`.
        address: in b, or in a where b has no such step. ``a_address``: in a, None where a has none.
        row: of b's steps (of a's where b has none).
        label: address, operator and data flow.
        why: one line: what makes it this kind.
        changed: what of the runlist entry changed ("parameters", "buffers", ...), "" where it is the same.
        status: in a and in b: "complete", "in_flight", "failed", or "" where there is no record.
        inputs: names of the inputs that differ; runtime values as "value NAME".
        outputs: those that differ.
        judged: a and b, each against its reference; None where that was not asked for.
        suspect: inherited, inside the tolerance of the reference, and yet further from it than a ever was: rounding
            does not explain it, a fault may hide there.
        vanishes: introduced, and no output of the sequence and nothing that stays in a buffer is touched by it.
        breaks: this step alone breaks the rule.
    """

    kind: Kind
    address: str
    a_address: str | None
    row: int
    op: str
    label: str
    why: str
    changed: str = ""
    status: tuple[str, str] = ("complete", "complete")
    inputs: tuple[str, ...] = ()
    outputs: tuple[OutputDifference, ...] = ()
    judged: tuple[Judged, Judged] | None = None
    suspect: bool = False
    vanishes: bool = False
    breaks: bool = False

    @property
    def verdict(self) -> Verdict | None:
        """b against a, of the first output that breaks the rule, else of the first with numbers."""
        known = [o.verdict for o in self.outputs if o.verdict is not None]
        return next((v for v in known if not v), known[0] if known else None)

    @property
    def invocation(self) -> int:
        return int(self.address.partition(":")[0])

    @property
    def index(self) -> int:
        return int(self.address.partition(":")[2])

    def to_dict(self) -> dict[str, Any]:
        return serialise.pick(
            self,
            "kind",
            "address",
            "a_address",
            "op",
            "label",
            "why",
            "changed",
            "status",
            "inputs",
            "outputs",
            "judged",
            "suspect",
            "vanishes",
            "breaks",
        )

    def __str__(self) -> str:
        return f"{self.kind}: {self.label}: {self.why}"


@dataclass(frozen=True, slots=True)
class OutsideDifference:
    """An input that no step of the recording made different: a weight, a prompt, what the host wrote in between.

    ``address`` is of the first step that reads it so, ``reads`` how many do. ``after``: an output of the sequence
    differed before that, so the host may have handed the difference on.
    """

    name: str
    address: str
    reads: int
    why: str
    after: bool = False

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True)
class FinalDifference:
    """An output of a sequence that differs when an invocation ends; ``address`` of the step that wrote it last."""

    invocation: int
    buffer: str
    address: str
    verdict: Verdict | None
    why: str = ""

    to_dict = serialise.to_dict


__all__ = [
    "ALIGNED",
    "KINDS",
    "FinalDifference",
    "Judged",
    "Kind",
    "OutputDifference",
    "OutsideDifference",
    "StepDifference",
]
