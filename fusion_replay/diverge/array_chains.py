# SPDX-License-Identifier: Apache-2.0
"""Steps that were given as arrays, as one chain: what one wrote is, bit for bit, what a later one read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.arrays import flat_bytes, numpy_dtype
from fusion_replay.replaying.chain import Chain
from fusion_replay.snapshot.read.groups import GROUPED

if TYPE_CHECKING:
    from fusion_replay.diverge.dataflow import Dataflow
    from fusion_replay.model.step import RecordedTensor, Step

_Spot = tuple[int, int]  # invocation, position: a step given as arrays is an invocation of its own

ARRAYS = "arrays"
"""The variant of sequences whose steps were given as arrays."""


class Chains:
    """What references wrote, for each sequence and for all steps that were given as arrays together."""

    def __init__(self, graph: Dataflow) -> None:
        self._links = graph.handed
        self._chains: dict[int, Chain] = {}

    def of(self, step: Step) -> Chain:
        if step.sequence.origin.get("variant") == ARRAYS and step.sequence.origin.get("dispatch") != GROUPED:
            return self._chains.setdefault(-1, _Handed(self._links))
        return self._chains.setdefault(id(step.sequence), Chain())


class _Handed(Chain):
    def __init__(self, links: Mapping[_Spot, _Spot]) -> None:
        super().__init__()
        self._links, self._results = links, dict[_Spot, npt.NDArray[np.uint8]]()

    def read(self, invocation: int, tensor: RecordedTensor) -> npt.NDArray[Any]:
        spot = invocation, tensor.position
        made = self._results.get(self._links.get(spot, spot))
        if made is None or made.size != tensor.nbytes:
            return tensor.numpy()
        return made.view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)

    def write(self, invocation: int, tensor: RecordedTensor, result: npt.NDArray[Any]) -> None:
        self._results[invocation, tensor.position] = flat_bytes(result)

    def forget(self, tensor: RecordedTensor) -> None:
        """Nothing was written that it could go on from: a step given as arrays runs once."""


__all__ = ["ARRAYS", "Chains"]
