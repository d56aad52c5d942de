# SPDX-License-Identifier: Apache-2.0
"""Every kind of fault by name: the catalogue."""

from __future__ import annotations

from fusion_replay.simulator.faults.fusion import AliasRace, DroppedCopy, OffsetCollision, ResetSwallowed, StaleValue
from fusion_replay.simulator.faults.kind import Kind
from fusion_replay.simulator.faults.outputs import (
    Batch,
    BitFlip,
    DropTile,
    Nondeterministic,
    NotANumber,
    Shift,
    SwapColumns,
    Zeros,
)
from fusion_replay.simulator.faults.runtime import Hang, RoundingLeak, Stale, Timeout, TruncateScalar, Unwritten

_KINDS: tuple[type[Kind], ...] = (
    Zeros,
    Unwritten,
    Stale,
    Shift,
    SwapColumns,
    Batch,
    DropTile,
    TruncateScalar,
    RoundingLeak,
    BitFlip,
    NotANumber,
    Nondeterministic,
    Timeout,
    Hang,
    AliasRace,
    ResetSwallowed,
    OffsetCollision,
    DroppedCopy,
    StaleValue,
)

KINDS: dict[str, Kind] = {kind.name: kind() for kind in _KINDS}

STEP_KINDS: dict[str, Kind] = {name: kind for name, kind in KINDS.items() if not kind.fusion}
"""Those that one step has by itself, however it is dispatched."""
