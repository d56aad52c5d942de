# SPDX-License-Identifier: Apache-2.0
"""The kernel of an operator with others folded in, on the software NPU: one after the other on the same contents.

On the array a link runs on the tiles of its neighbour, in the same core; here each has a kernel of its own that runs on
the whole operand, rounded in between as a tile in a core is.
Tested in tests/replaying/redispatch/test_folds.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.runlist import ArgSpec
from fusion_replay.refs import Fold
from fusion_replay.simulator.alone import LoneKernel
from fusion_replay.sources.protocol import DispatchResult, MemoryUse

Bytes = npt.NDArray[np.uint8]


class FoldedKernel:
    """As :class:`LoneKernel`, for an operator with ``prepare`` and ``finish`` links.

    Args:
        args: the arg specs of the call: the operator's own, then the other inputs of its links.
        own: how many of them are the operator's own.
        prepared: which of those the prologue is applied to.

    Raises:
        UnknownOperatorError, UsageError: as :class:`LoneKernel`, of the operator or of a link.
    """

    def __init__(
        self,
        op_type: str,
        params: Mapping[str, Any],
        args: Sequence[ArgSpec],
        roles: Iterable[str],
        device: str,
        *,
        folds: tuple[Sequence[Fold], Sequence[Fold]],
        own: int,
        prepared: int,
    ) -> None:
        prepare, finish = folds
        self._own = list(args[:own])
        self._prepared, self._out = prepared, next(i for i, s in enumerate(self._own) if s.writes)
        self._base = LoneKernel(op_type, params, self._own, roles, device)
        self._prepare = [_Link(f, self._own[prepared], device) for f in prepare]
        self._finish = [_Link(f, self._own[self._out], device) for f in finish]

    def run(
        self, memory: Sequence[Bytes], uses: Sequence[MemoryUse], values: Mapping[str, int | float]
    ) -> DispatchResult:
        """One dispatch on these bytes; ``values`` by role, the operator's own.

        Raises:
            HostRuntimeError: a kernel refused its arguments.
        """
        held = [memory[u.memory][u.offset : u.offset + u.nbytes].copy() for u in uses]
        others = iter(held[len(self._own) :])
        for link in self._prepare:
            held[self._prepared] = link.run(held[self._prepared], others)
        own = held[: len(self._own)]
        ran = self._base.run(own, [MemoryUse(i, 0, m.nbytes) for i, m in enumerate(own)], values)
        result = ran.memory[self._out]
        for link in self._finish:
            result = link.run(result, others)
        after = [m.copy() for m in memory]
        use = uses[self._out]
        after[use.memory][use.offset : use.offset + use.nbytes] = result
        return DispatchResult(ran.state, ran.elapsed_ns, tuple(after), completed=ran.completed)


class _Link:
    """One fold on a whole operand of shape and type ``into``."""

    def __init__(self, fold: Fold, into: ArgSpec, device: str) -> None:
        reads = fold.operands(into.shape)
        row, rows = reads[fold.at].size, into.size // max(reads[fold.at].size, 1)
        params = {**fold.params, "size": row * rows, "rows": None, "num_aie_columns": 1, "num_channels": 1}
        if fold.spec.elementwise:
            params["tile_size"] = None
        specs = [ArgSpec(s.name, "in", s.shape if s.size != row else (row * rows,)) for s in reads]
        specs[fold.at] = ArgSpec(reads[fold.at].name, "in", (row * rows,))
        self._at, self._nbytes = fold.at, math.prod(into.shape) * 2
        self._count = len(reads)
        self._kernel = LoneKernel(fold.spec.type, params, [*specs, ArgSpec("out", "out", (into.size,))], (), device)

    def run(self, tile: Bytes, others: Iterator[Bytes]) -> Bytes:
        memory = [tile if k == self._at else next(others) for k in range(self._count)]
        memory.append(np.zeros(self._nbytes, np.uint8))
        ran = self._kernel.run(memory, [MemoryUse(i, 0, m.nbytes) for i, m in enumerate(memory)], {})
        return ran.memory[-1]


__all__ = ["FoldedKernel"]
