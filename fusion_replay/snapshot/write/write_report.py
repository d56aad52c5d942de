# SPDX-License-Identifier: Apache-2.0
"""What a sealed recording has to report: steps, sizes, losses, notes; as frozen data.

Tested in tests/snapshot/test_roundtrip.py and tests/replaying/test_deviating.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_replay.model import serialise
from fusion_replay.snapshot.schema import Loss


@dataclass(frozen=True, slots=True)
class Deviating:
    """What a recording that keeps deviating steps alone has found: of how many, how many deviate, and where first.

    Attributes:
        than: what they were compared with: the name of an earlier snapshot, or "the reference".
        alone: steps that have no counterpart there; kept.
        unjudged: steps that could not be judged; kept.
    """

    than: str
    looked_at: int
    deviating: int
    first: str | None
    alone: int = 0
    first_alone: str | None = None
    unjudged: int = 0
    first_unjudged: str | None = None

    @property
    def kept(self) -> int:
        """How many of them have their contents kept, as far as limits let them."""
        return self.deviating + self.alone + self.unjudged

    def __str__(self) -> str:
        of = f"of {self.looked_at:,} step{'' if self.looked_at == 1 else 's'}"
        said = [f"none {of} deviates from {self.than}"]
        if self.deviating:
            said = [
                f"{self.deviating:,} {of} deviate{'s' * (self.deviating == 1)} from {self.than}, first {self.first}"
            ]
        if self.alone:
            said.append(f"{self.alone:,} without a counterpart there, kept, first {self.first_alone}")
        if self.unjudged:
            said.append(f"{self.unjudged:,} that could not be judged, kept, first {self.first_unjudged}")
        return "; ".join(said)

    def to_dict(self) -> dict[str, Any]:
        return {**serialise.to_dict(self), "sentence": str(self)}


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What a recording came to. Sizes in bytes; ``bytes_seen`` counts every tensor at every step."""

    path: Path
    steps: int
    invocations: int
    bytes_seen: int
    bytes_unique: int
    file_bytes: int
    seconds_sealing: float
    losses: tuple[Loss, ...]
    notes: tuple[str, ...] = ()
    """What was noticed of the run: steps that deviate, inputs clobbered between steps, weights that changed."""
    deviating: Deviating | None = None
    """With ``keep="mismatch"``: what was found."""
    references: str | None = None
    """What keeping operators' own references came to, where any was kept; the notes have it, too."""

    to_dict = serialise.to_dict


__all__ = ["Deviating", "WriteReport"]
