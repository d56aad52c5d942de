# SPDX-License-Identifier: Apache-2.0
"""Faults that only a fused dispatch has: the steps are right, what became of them in one image is not.

They lie in the image, so an address means every call from its invocation on, and the runlist entry rather than its
number: another sequence that has the same entry (a window of the runlist) has its fault too, as far as what makes it
is in it. A fault that no entry of a sequence has is not there.
Tested in tests/simulator/test_fused.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import parse_buffer
from fusion_replay.simulator.arena import Life
from fusion_replay.simulator.dispatch import StepDispatch
from fusion_replay.simulator.faults.fault import Fault
from fusion_replay.simulator.faults.kind import ArmedFault, Kind, tile_of

if TYPE_CHECKING:
    from fusion_replay.simulator.sequence import PlannedStep

OVERLAP = "offset-collision"
_MOVERS = ("StridedCopy", "Copy", "MemCopy", "Repeat")


class FusionKind(Kind):
    """Base of these kinds: strikes its step in every call from the fault's invocation on."""

    fusion = True

    def addressed(self, fault: Fault, dispatch: StepDispatch) -> bool:
        if fault.op is not None:
            return fault.op == dispatch.spec.type
        return fault.step == dispatch.step and dispatch.invocation >= (fault.invocation or 0)


class AliasRace(FusionKind):
    """A step with one buffer as input and output, in place: tiles that were not the same in any two of 20 identical
    dispatches hold older data, while separate dispatch of the same step is right:
    https://github.com/Xilinx/mlir-aie/issues/3656 (and https://github.com/amd/xdna-driver/issues/1646, which it was
    first taken for). Up to a quarter of the tiles, drawn anew in each dispatch, keep what the buffer held before."""

    name = "alias-race"
    summary = "tiles of an in-place step, other ones in each dispatch, keep the old contents (fused only)"
    report = "https://github.com/Xilinx/mlir-aie/issues/3656"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        return None if step.names[-1] in step.names[:-1] else "it does not work in place"

    def after(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        output = np.array(dispatch.outputs[0]).reshape(-1)
        old = dispatch.previous[0].reshape(-1)
        tile = min(tile_of(dispatch.params, output.size), max(output.size // 8, 1))
        tiles = output.size // tile
        for t in armed.rng(dispatch).choice(tiles, size=max(1, tiles // 4), replace=False).tolist():
            output[t * tile : (t + 1) * tile] = old[t * tile : (t + 1) * tile]
        dispatch.outputs[0] = output


class ResetSwallowed(FusionKind):
    """From the second dispatch of an image on, the reset before a step's configuration is swallowed, since the firmware
    holds the same empty configuration already; the step runs on the locks and DMA state that the last dispatch left:
    https://github.com/Xilinx/mlir-aie/pull/3622. All of its tiles come out displaced, by another distance each time."""

    name = "reset-swallowed"
    summary = "from the second dispatch on all tiles are displaced, the array was not reset (fused only)"
    report = "https://github.com/Xilinx/mlir-aie/pull/3622"

    def due(self, fault: Fault, dispatch: StepDispatch) -> bool:
        return dispatch.invocation > 0

    def after(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        output = np.array(dispatch.outputs[0]).reshape(-1)
        tile = min(tile_of(dispatch.params, output.size), max(output.size // 8, 1))
        distance = int(armed.rng(dispatch).integers(1, max(output.size // tile, 2)))
        dispatch.outputs[0] = np.roll(output, distance * tile)


class DroppedCopy(FusionKind):
    """A copy that a later step reads is taken for one that can be left out, so its destination keeps what it held.
    Graphs fold and drop copies (amd/IRON ``iron/common/graph``), and a copy whose effects are not declared is nothing
    to a fold: https://github.com/Xilinx/mlir-air/pull/1575."""

    name = "dropped-copy"
    summary = "a copy that a later step reads is left out (fused only)"
    report = "https://github.com/Xilinx/mlir-air/pull/1575"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        return None if step.spec.type in _MOVERS else "it is no copy"

    def built_in(self, fault: Fault, steps: Sequence[PlannedStep]) -> bool:
        if fault.step is None:
            return True
        base = parse_buffer(steps[fault.step].names[-1])[0]
        return any(
            parse_buffer(name)[0] == base and arg.reads
            for step in steps[fault.step + 1 :]
            for name, arg in zip(step.names, step.args, strict=True)
        )

    def after(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        dispatch.outputs[:] = [p.copy() for p in dispatch.previous]


class StaleValue(FusionKind):
    """A step takes the per-call values of the dispatch before: one that is read before the kernel has acquired what
    it works on is the old one, as no order holds between the two: https://github.com/Xilinx/mlir-aie/pull/831. Fused
    images read them from a scratchpad (https://github.com/Xilinx/mlir-aie/pull/3061)."""

    name = "stale-value"
    summary = "the per-call values are those of the dispatch before (fused only)"
    report = "https://github.com/Xilinx/mlir-aie/pull/831"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        symbols = any(getattr(step.op, f"{role}_parameter", None) for role in step.spec.values)
        return None if symbols else "it takes no per-call value"

    def notice(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        seen = armed.memory.get(dispatch.step, dispatch.values)
        armed.memory["old"], armed.memory[dispatch.step] = dict(seen), dict(dispatch.values)

    def before(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        dispatch.values.update(armed.memory["old"])


class OffsetCollision(FusionKind):
    """The plan gives a step's output the bytes of a buffer that is still needed: colliding offsets in the
    consolidated buffer are what https://github.com/Xilinx/mlir-aie/issues/3656 names. The plan of a sequence decides,
    so whoever packs its buffers back to back is rid of it."""

    name = OVERLAP
    summary = "the output lies where a buffer lies that is still needed (fused only)"
    report = "https://github.com/Xilinx/mlir-aie/issues/3656"

    def due(self, fault: Fault, dispatch: StepDispatch) -> bool:
        return False  # it lies in the plan, not in what a step does


def collide(
    fault: Fault, steps: Sequence[PlannedStep], lives: Mapping[str, Life], sizes: Mapping[str, int], rng: Any
) -> tuple[str, str]:
    """The step's output, and the pooled buffer whose place it is given: alive before and after the step.

    Raises:
        UsageError: the plan has no such buffer.
    """
    step = steps[fault.step or 0]
    moved = step.names[-1]
    mine = lives.get(moved)
    if mine is None:
        raise UsageError(f"fault {fault}: {step.label} writes {moved!r}, which no plan places")
    others = [
        n
        for n, (first, last) in lives.items()
        if n not in step.names and first < step.index < last and last >= mine[1] and sizes[n] >= sizes[moved]
        if _read_next(n, steps[step.index + 1 :])
    ]
    if not others or mine[0] != step.index:
        raise UsageError(f"fault {fault}: no planned buffer is still needed where {step.label} writes {moved!r}")
    return moved, others[int(rng.integers(len(others)))]


def _read_next(name: str, steps: Sequence[PlannedStep]) -> bool:
    """Whether a buffer is read before it is written again."""
    for step in steps:
        if name in step.names:
            return any(n == name and a.reads for n, a in zip(step.names, step.args, strict=True))
    return False


__all__ = [
    "OVERLAP",
    "AliasRace",
    "DroppedCopy",
    "FusionKind",
    "OffsetCollision",
    "ResetSwallowed",
    "StaleValue",
    "collide",
]
