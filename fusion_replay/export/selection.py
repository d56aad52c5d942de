# SPDX-License-Identifier: Apache-2.0
"""The steps whose results feed one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion_replay.diverge.dataflow import dataflow

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot


def feeding(snapshot: Snapshot, step: RecordedStep) -> list[RecordedStep]:
    """The steps of the same invocation whose results ``step`` depends on, and ``step`` itself, in the order they ran.

    What comes from outside the invocation, inputs, weights and caches, is there as contents of these steps' inputs.
    """
    flow = dataflow(snapshot)
    producers = flow.edges["producer"]
    inside = (producers >= 0) & (flow.addresses[np.maximum(producers, 0), 0] == step.invocation)
    needed = flow.backward([step.row], inside)
    return [s for s in snapshot.steps(invocation=step.invocation) if needed[s.row]]
