# SPDX-License-Identifier: Apache-2.0
"""Which steps an export takes: by address, operator, buffer, invocation; or those whose results feed one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fusion_replay.diverge.dataflow import dataflow
from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import parse_address, parse_buffer
from fusion_replay.snapshot.read.reader import extent

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot


def select(
    snapshot: Snapshot,
    steps: Sequence[str] = (),
    op: str | None = None,
    buffer: str | None = None,
    invocation: int | None = None,
) -> list[RecordedStep]:
    """The steps that pass every filter, in the order they ran.

    Raises:
        UsageError: an address that names no step, or filters that no step passes.
    """
    wanted = {snapshot[parse_address(address)].row for address in steps}
    found = list(snapshot.steps(invocation=invocation, op=op, buffer=buffer))
    found = [step for step in found if step.row in wanted] if steps else found
    if not found:
        if buffer is not None and len(snapshot):
            snapshot.buffer(parse_buffer(buffer)[0])
        filters = {"step": " ".join(steps) or None, "op": op, "buffer": buffer, "invocation": invocation}
        asked = ", ".join(f"{name} {value}" for name, value in filters.items() if value is not None)
        types = sorted({operator.type for sequence in snapshot.sequences for operator in sequence.operators})
        raise UsageError(
            f"{snapshot.path}: no recorded step matches {asked or 'any filter'}; it has "
            f"{extent(len(snapshot), len(snapshot.invocations))} and the operators {', '.join(types) or 'none'}"
        )
    return found


def feeding(snapshot: Snapshot, step: RecordedStep) -> list[RecordedStep]:
    """The steps of the same invocation whose results ``step`` depends on, and ``step`` itself, in the order they ran.

    What comes from outside the invocation, inputs, weights and caches, is there as contents of these steps' inputs.
    """
    flow = dataflow(snapshot)
    producers = flow.edges["producer"]
    inside = (producers >= 0) & (flow.addresses[np.maximum(producers, 0), 0] == step.invocation)
    needed = flow.backward([step.row], inside)
    return [s for s in snapshot.steps(invocation=step.invocation) if needed[s.row]]
