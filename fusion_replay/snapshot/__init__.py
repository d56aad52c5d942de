# SPDX-License-Identifier: Apache-2.0
"""The snapshot: write one while a sequence runs, open one, check one. docs/format.md describes the file."""

from fusion_replay.snapshot.binaries import DeviceFile, KernelBinaries
from fusion_replay.snapshot.reader import Invocation, Snapshot, open_snapshot
from fusion_replay.snapshot.schema import Loss
from fusion_replay.snapshot.step import OperandMap, RecordedStep, RecordedTensor
from fusion_replay.snapshot.writer import SnapshotWriter, WriteReport

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
]
