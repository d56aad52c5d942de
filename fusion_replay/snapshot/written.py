# SPDX-License-Identifier: Apache-2.0
"""What a recording came to, once it is sealed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_replay.snapshot.schema import Loss


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
    """What the recording noticed of the run: inputs clobbered between steps, weights that changed."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "steps": self.steps,
            "invocations": self.invocations,
            "bytes_seen": self.bytes_seen,
            "bytes_unique": self.bytes_unique,
            "file_bytes": self.file_bytes,
            "seconds_sealing": self.seconds_sealing,
            "losses": [loss.to_dict() for loss in self.losses],
            "notes": list(self.notes),
        }


__all__ = ["WriteReport"]
