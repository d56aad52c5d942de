# SPDX-License-Identifier: Apache-2.0
"""What became of one step that was dispatched again, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fusion_replay.model import serialise

UNCHANGED = "unchanged bits"
INSIDE = "changed, inside tolerance"
NEWLY_WRONG = "newly wrong"
NEWLY_RIGHT = "newly right"
STILL_WRONG = "changed, still wrong"
UNJUDGED = "changed, not judged"
WROTE_NOTHING = "wrote nothing"
HUNG = "hung"
FAILED = "failed"
LOST = "device lost"
NOT_RUN = "not run"

VERDICTS = (
    LOST,
    HUNG,
    FAILED,
    WROTE_NOTHING,
    NEWLY_WRONG,
    STILL_WRONG,
    UNJUDGED,
    INSIDE,
    NEWLY_RIGHT,
    UNCHANGED,
    NOT_RUN,
)
"""Worst first; of several outputs of one step the worst is its verdict."""

_FAILURES = frozenset({LOST, HUNG, FAILED, WROTE_NOTHING, NEWLY_WRONG, STILL_WRONG})


@dataclass(frozen=True, slots=True)
class Varying:
    """Elements of one output that were not the same in every repetition.

    ``first`` and ``last``: flat indices, C order. ``box``: per axis the first and last index among them.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    first: int
    last: int
    box: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """How alike the repetitions were.

    Attributes:
        runs: repetitions that completed.
        distinct: ``(digest, how often)`` of every distinct output, in order of appearance.
        pattern: for each repetition which of them it gave.
        varying: where they differ, an entry for each output that does.
    """

    runs: int
    distinct: tuple[tuple[str, int], ...]
    pattern: tuple[int, ...]
    varying: tuple[Varying, ...] = ()

    @property
    def deterministic(self) -> bool:
        return len(self.distinct) <= 1

    def to_dict(self) -> dict[str, Any]:
        return {**serialise.to_dict(self), "deterministic": self.deterministic}

    def __str__(self) -> str:
        if self.deterministic:
            return f"{self.runs} runs, one output"
        counts = " ".join(f"{digest[:8]} x{n}" for digest, n in self.distinct[:6])
        more = f" and {len(self.distinct) - 6} more" if len(self.distinct) > 6 else ""
        shown = "".join(_letter(p) for p in self.pattern[:40]) + ("..." if len(self.pattern) > 40 else "")
        where = "; ".join(
            f"{v.name}: {v.count:,} elements differ, {v.first} to {v.last}, box "
            + " x ".join(f"{lo}..{hi}" for lo, hi in v.box)
            for v in self.varying
        )
        return f"{self.runs} runs, {len(self.distinct)} outputs ({counts}{more}), pattern {shown}; {where}"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One step, dispatched again, or the reason why not.

    Attributes:
        verdict: one of :data:`VERDICTS`.
        detail: in words; "" where the verdict says all.
        right, was_right: whether the new and the recorded output match the reference; None where nobody could say.
        binaries: "recorded" or "new", "" on the software NPU and where nothing ran.
        certificate: of repeated runs; None for a single one.
        missing: the step was not run, or not judged, because something needed is not here.
        continued: taken over from the journal of an earlier run.
    """

    address: str
    invocation: int
    index: int
    op: str
    label: str
    verdict: str
    detail: str = ""
    right: bool | None = None
    was_right: bool | None = None
    binaries: str = ""
    certificate: Certificate | None = None
    missing: bool = False
    continued: bool = False

    @property
    def failed(self) -> bool:
        """Wrong now, whatever it was before, or not the same every time."""
        varies = self.certificate is not None and not self.certificate.deterministic
        return self.verdict in _FAILURES or self.right is False or varies

    @property
    def ran(self) -> bool:
        return self.verdict != NOT_RUN

    def to_dict(self) -> dict[str, Any]:
        """JSON data; ``continued`` is left out, which says how it was found and not what."""
        data = serialise.to_dict(self)
        del data["continued"], data["index"]
        return {**data, "step": self.index, "failed": self.failed}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StepOutcome:
        """Undo :meth:`to_dict`, as a continued outcome.

        Raises:
            KeyError, ValueError: it is none.
        """
        outcome = serialise.from_dict(cls, {**data, "index": data["step"], "continued": True}, "outcome")
        if outcome.verdict not in VERDICTS:
            raise ValueError(outcome.verdict)
        return outcome

    def __str__(self) -> str:
        lines = [f"{self.label}: {self.verdict}{f': {self.detail}' if self.detail else ''}"]
        if self.certificate is not None:
            lines.append(f"  {self.certificate}")
        return "\n".join(lines)


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else "?"
