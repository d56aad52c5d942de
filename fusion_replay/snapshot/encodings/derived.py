# SPDX-License-Identifier: Apache-2.0
"""What an exact movement operator wrote, computed from what it read: such outputs need no bytes of their own.

Only the built-in operators that move bits and do nothing else (Repeat, Transpose, MemCopy, Copy, StridedCopy) take
part: a user's operator may change, or be missing where the snapshot is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay import operators, refs
from fusion_replay.errors import HostileFileError
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.runlist import OperatorDescription, StepDescription

Bytes = npt.NDArray[np.uint8]

MOVERS = ("Repeat", "Transpose", "MemCopy", "Copy", "StridedCopy")
MAX_OUTPUT = 64 << 20
"""Bytes of outputs of one step; beyond, computing them would take more memory than a recording may."""


def mover(op: OperatorDescription) -> operators.OperatorSpec | None:
    """The built-in movement operator that this is, or None."""
    spec = refs.builtin(op.type)
    return spec if spec is not None and spec.type in MOVERS else None


def moved(
    op: OperatorDescription,
    step: StepDescription,
    inputs: Sequence[npt.NDArray[Any]],
    previous: Sequence[npt.NDArray[Any] | None],
    values: Mapping[str, int | float],
) -> dict[int, Bytes]:
    """By operand position the bytes that the step must have written; arguments in the order of the operands.

    Raises:
        HostileFileError: no movement operator, or parameters that disagree with the runlist.
        FusionReplayError: whatever else the operator says of its arguments.
    """
    spec = mover(op)
    if spec is None:
        raise HostileFileError(f"{op.type} is no operator that only moves data")
    uses = step.operands
    declared = [(s.direction, s.size, s.dtype) for s in spec.arg_specs(op.params)]
    if declared != [(u.spec.direction, u.spec.size, u.spec.dtype) for u in uses]:
        raise HostileFileError(f"step {step.index} {op.type}: its parameters and its runlist entry disagree")
    elements = max(u.spec.size for u in uses)
    if any(math.prod(sizes) > elements for sizes in _sizes(op.params)):
        raise HostileFileError(f"step {step.index} {op.type}: a walk longer than the buffers it walks over")
    results, _ = operators.evaluate(spec, op.params, inputs, "exact", previous=list(previous), values=values)
    positions = [i for i, u in enumerate(uses) if u.spec.writes]
    return {i: flat_bytes(r) for i, r in zip(positions, results, strict=True)}


def _sizes(params: Mapping[str, Any]) -> Iterator[list[int]]:
    """Every list of sizes in the parameters of a copy."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _sizes(value)
        elif name.endswith("sizes") and isinstance(value, (list, tuple)):
            yield [abs(int(n)) for n in value]


__all__ = ["MAX_OUTPUT", "MOVERS", "moved", "mover"]
