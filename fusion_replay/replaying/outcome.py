# SPDX-License-Identifier: Apache-2.0
"""What a replay found of one step, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fusion_replay.compare.deviation import Stats
from fusion_replay.compare.verdict import IronVerdict, Verdict
from fusion_replay.model import serialise
from fusion_replay.model.runlist import OperatorDescription
from fusion_replay.model.text import block, one_line

MISSING = ("unknown_operator", "reference", "weights")
"""Kinds of skips that mean something needed is not here; the others are facts of the recording."""

UNFINISHED = ("in_flight", "failed")
"""Kinds of skips that mean the recorded run itself went wrong: the kernel had not come back, or raised."""


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """Distance from the flavour's own meaning, computed in float64 and rounded once: the device's, the flavour's.

    Both in mean bf16 ULPs and in relative L2. Only flavours that round on the way have a floor of their own; where a
    flavour rounds once, it *is* that meaning and its stats say all.
    """

    actual_ulp_mean: float
    actual_rel_l2: float
    reference_ulp_mean: float
    reference_rel_l2: float

    @property
    def further(self) -> bool:
        """Is the device further from the truth than an honest bf16 computation is?"""
        return self.actual_rel_l2 > self.reference_rel_l2

    def to_dict(self) -> dict[str, Any]:
        return {**serialise.to_dict(self), "further": self.further}

    def __str__(self) -> str:
        side = "further from" if self.further else "no further from"
        return (
            f"rel_l2 {self.actual_rel_l2:.2e} against {self.reference_rel_l2:.2e} of the reference's own rounding: "
            f"{side} the true value than that"
        )


@dataclass(frozen=True, slots=True)
class OutputReport:
    """One output of one step."""

    name: str
    position: int
    buffer: str
    verdict: Verdict
    iron: IronVerdict
    noise_floor: NoiseFloor | None = None

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True, repr=False)
class StepReport:
    """One compared step. ``flavour`` is the form that really answered; outputs are in arg-spec order.

    ``verdict``, ``stats`` and ``iron`` are those of the first output that mismatches, else of the first output.
    ``born``: what outputs have and inputs do not (:mod:`.specials`): "NaN", "NaN of Inf" (inputs have Inf), "Inf", "".
    """

    address: str
    invocation: int
    index: int
    op: OperatorDescription
    label: str
    flavour: str
    outputs: tuple[OutputReport, ...]
    born: str = ""

    def __bool__(self) -> bool:
        return self.verdict.ok

    @property
    def deciding(self) -> OutputReport:
        return next((o for o in self.outputs if not o.verdict.ok), self.outputs[0])

    @property
    def verdict(self) -> Verdict:
        return self.deciding.verdict

    @property
    def stats(self) -> Stats:
        return self.deciding.verdict.stats

    @property
    def iron(self) -> IronVerdict:
        return self.deciding.iron

    @property
    def outside(self) -> OutputReport | None:
        """The first output that is outside its bound while the step matches."""
        return next((o for o in self.outputs if self and o.verdict.outside), None)

    @property
    def noise_floor(self) -> NoiseFloor | None:
        return self.deciding.noise_floor

    def to_dict(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "invocation": self.invocation,
            "step": self.index,
            "op": self.op.type,
            "label": self.label,
            "flavour": self.flavour,
            "ok": self.verdict.ok,
            "outside_bound": self.outside is not None,
            "born": self.born,
            "outputs": [o.to_dict() for o in self.outputs],
        }

    def __repr__(self) -> str:
        return f"<StepReport {one_line(f'{self.label}: {self.verdict}')}>"

    def __str__(self) -> str:
        lines = [f"{self.label}: {self.verdict}", f"  iron: {self.iron}"]
        if self.noise_floor is not None:
            lines.append(f"  noise floor: {self.noise_floor}")
        return block(lines)


@dataclass(frozen=True, slots=True)
class Skip:
    """A step that was not compared. ``kind``: not_kept, empty, whole_call, :data:`MISSING` or :data:`UNFINISHED`."""

    address: str
    invocation: int
    index: int
    op: str
    label: str
    kind: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "invocation": self.invocation,
            "step": self.index,
            "op": self.op,
            "label": self.label,
            "kind": self.kind,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class FinalOutput:
    """What the chain of references says of a sequence's output: the last step of an invocation that wrote it."""

    invocation: int
    buffer: str
    address: str
    verdict: Verdict

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        s = self.verdict.stats
        word = "match" if self.verdict.ok else "MISMATCH"
        figures = f"rel_l2 {s.rel_l2:.2e}, cosine {s.cosine:.6f}"
        return f"output {self.buffer} of invocation {self.invocation}: {word} with the whole chain, {figures}"
