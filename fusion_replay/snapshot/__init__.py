# SPDX-License-Identifier: Apache-2.0
"""The snapshot: write one while a sequence runs, open one, check one. docs/format.md describes the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusion_replay.model.step import OperandMap, RecordedTensor
from fusion_replay.snapshot.binaries import DeviceFile, KernelBinaries
from fusion_replay.snapshot.read.reader import Invocation, Snapshot, open_snapshot, opened
from fusion_replay.snapshot.read.step import RecordedStep
from fusion_replay.snapshot.schema import Loss

if TYPE_CHECKING:
    from fusion_replay.snapshot.write.write_report import WriteReport
    from fusion_replay.snapshot.write.writer import SnapshotWriter

__all__ = [
    "DeviceFile",
    "Invocation",
    "KernelBinaries",
    "Loss",
    "OperandMap",
    "RecordedStep",
    "RecordedTensor",
    "Snapshot",
    "SnapshotWriter",
    "WriteReport",
    "open_snapshot",
    "opened",
]


def __getattr__(name: str) -> Any:
    """Reading does not load what writing needs (a third of the time that ``show`` takes to start)."""
    if name in ("SnapshotWriter", "WriteReport"):
        from fusion_replay.snapshot.write import writer

        return getattr(writer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
