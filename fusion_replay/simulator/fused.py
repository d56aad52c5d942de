# SPDX-License-Identifier: Apache-2.0
"""A runlist that the software NPU runs in one dispatch, shaped like ``FullELFCallable`` (amd/IRON
iron/common/image/callable.py).

The same kernels as in separate dispatch, on three consolidated buffers in which every buffer is a view. No step can be
seen from outside, and what lies in a pooled place when the call ends is whatever was written there last.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import ml_dtypes

from fusion_replay.model.runlist import parse_buffer
from fusion_replay.simulator.arena import aligned
from fusion_replay.simulator.callable import SimulatedCallable, element_count
from fusion_replay.simulator.core import Unrounded
from fusion_replay.simulator.tensor import NpuTensor

if TYPE_CHECKING:
    from fusion_replay.simulator.sequence import PlannedStep, SimulatedSequence


class FusedCallable(SimulatedCallable):
    """Run a :class:`SimulatedSequence` of dispatch "fused"; made by its ``get_callable()``.

    Attributes:
        input_buffer, output_buffer, scratch_buffer: the consolidated buffers.
        folds: pairs of steps that run as one, without a rounding in between.
    """

    def __init__(self, op: SimulatedSequence) -> None:
        totals = dict(zip(("input", "output", "scratch"), op.buffer_sizes, strict=True))
        arenas = {k: NpuTensor((element_count(aligned(n)),), ml_dtypes.bfloat16) for k, n in totals.items()}
        self.input_buffer, self.output_buffer, self.scratch_buffer = arenas.values()
        self._arenas = arenas
        self.folds = folded_pairs(op.steps) if op.folds else ()
        super().__init__(op)
        self.origin = {**self.origin, "dispatch": "fused"}

    def _place(self) -> None:
        for name, (kind, offset, nbytes) in self.op.subbuffer_layout.items():
            # To the end of its last cache line, which no other buffer has.
            self._buffers[name] = self._arenas[kind].subview(offset, (aligned(nbytes) // 2,))
        self._image = [
            (self._op_callable_map[id(step.op)], [self._resolve_buffer(name) for name in step.names])
            for step in self.op.steps
        ]

    def _run(self) -> None:
        into, unrounded = {second: first for first, second in self.folds}, None
        for index, ((kernel, args), step) in enumerate(zip(self._image, self._iter_steps(), strict=True)):
            self.npu.position.step = index
            if index in into and unrounded is not None:
                at = self.op.steps[index].names.index(self.op.steps[into[index]].names[-1])
                self.npu.unrounded = {at: unrounded.view(Unrounded)}
            self._run_step(index, kernel, args, step)
            unrounded = self.npu.core.stored
            self.npu.unrounded = {}

    def _sync_inputs(self) -> None:
        for arena in self._arenas.values():
            arena.to("npu")

    def _sync_outputs(self) -> None:
        """Nothing: the device wrote, and a read fetches."""


def folded_pairs(steps: tuple[PlannedStep, ...]) -> tuple[tuple[int, int], ...]:
    """Steps whose result goes straight into the elementwise step behind them, which alone reads it before it is
    written again: what a graph folds into one design."""
    found: list[tuple[int, int]] = []
    for first, second in pairwise(steps):
        result = first.names[-1]
        folds = second.spec.elementwise and first.spec.type in _PRODUCERS and result in second.names[:-1]
        later = [_reads(s, result) for s in steps[second.index + 1 :] if _touches(s, result)]
        alone = second.names[-1] == result or not (later and later[0])
        if folds and alone and (not found or found[-1][1] < first.index):  # a step is folded once
            found.append((first.index, second.index))
    return tuple(found)


_PRODUCERS = ("GEMV", "SiLU", "ElementwiseMul", "ElementwiseAdd")


def _touches(step: PlannedStep, name: str) -> bool:
    base = parse_buffer(name)[0]
    return any(parse_buffer(n)[0] == base for n in step.names)


def _reads(step: PlannedStep, name: str) -> bool:
    base = parse_buffer(name)[0]
    pairs: Any = zip(step.names, step.args, strict=True)
    return any(parse_buffer(n)[0] == base and a.reads for n, a in pairs)


__all__ = ["FusedCallable", "folded_pairs"]
