# SPDX-License-Identifier: Apache-2.0
"""Recordings to export: arrays of any dtype and shape, handed to the writer as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import SnapshotWriter


def one_step(path: Path, inputs: Mapping[str, np.ndarray], output: np.ndarray, *, kept: bool = True) -> Path:
    """A sealed snapshot of one step ``0:0 Odd``; with ``kept`` false the old output is there as a digest only."""
    specs = [ArgSpec(name, "in", a.shape, a.dtype.name) for name, a in inputs.items()]
    specs.append(ArgSpec("out", "out", output.shape, output.dtype.name))
    sequence = SequenceDescription(
        name="odd",
        operators=(OperatorDescription("Odd"),),
        buffers=tuple(BufferDescription(s.name, s.nbytes, "input", s.reads) for s in specs),
        steps=(StepDescription(0, 0, tuple(OperandUse(s, s.name) for s in specs)),),
        origin={"variant": "arrays"},
    )
    writer = SnapshotWriter(path)
    number = writer.begin_invocation(writer.add_sequence(sequence))
    watched = {} if kept else {len(inputs): np.ones_like(output)}
    writer.begin_step(number, 0, dict(enumerate(inputs.values())), watched=watched)
    writer.end_step(number, 0, {len(inputs): output})
    writer.end_invocation(number)
    return writer.close().path
