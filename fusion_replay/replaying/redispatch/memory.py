# SPDX-License-Identifier: Apache-2.0
"""A recorded step's operands as memory for a device: what it reads as recorded, what it writes as it was, or poison.

Operands that shared bytes in the recording (an in-place step, slices of one buffer that overlap) share them here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.arrays import flat_bytes, numpy_dtype
from fusion_replay.sources.protocol import MemoryUse

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step

Bytes = npt.NDArray[np.uint8]

POISONS = (0x55, 0xAA, 0x33, 0xCC)
"""What an output holds that nobody recorded the old contents of; 0x55 is also mlir-aie's (``aie.utils.verify``)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Initial contents, and for each argument its part of them.

    ``windows``: for each argument where its contents lie: memory number, first and last byte (exclusive).
    """

    contents: tuple[Bytes, ...]
    uses: tuple[MemoryUse, ...]
    windows: tuple[tuple[int, int, int], ...]

    def before(self, tensor: RecordedTensor) -> Bytes:
        """What the device found where it had to write ``tensor``."""
        memory, start, stop = self.windows[tensor.position]
        return self.contents[memory][start:stop]

    def after(self, memory: Sequence[Bytes], tensor: RecordedTensor) -> npt.NDArray[Any]:
        """``tensor`` as the device left it, in its dtype and shape."""
        number, start, stop = self.windows[tensor.position]
        return memory[number][start:stop].copy().view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)


def lay_out(step: Step, places: Sequence[int] = ()) -> Memory:
    """Memory for one dispatch of ``step``; every operand's contents must be in the recording.

    Args:
        places: bytes from the start of the tensor that each argument was given to its contents; empty: none anywhere.
    """
    operands = step.description.operands
    spans = [
        (use.buffer, use.start - (places[i] if places else 0), use.start + use.spec.nbytes)
        for i, use in enumerate(operands)
    ]
    regions = _regions(spans)
    poison = _poison(step)
    contents = tuple(np.full(stop - start, poison, np.uint8) for _, start, stop in regions)
    uses, windows = [], []
    for (name, start, stop), use in zip(spans, operands, strict=True):
        number = next(i for i, (n, lo, hi) in enumerate(regions) if n == name and lo <= start and stop <= hi)
        base = regions[number][1]
        uses.append(MemoryUse(number, start - base, stop - start))
        windows.append((number, use.start - base, use.start + use.spec.nbytes - base))
    memory = Memory(contents, tuple(uses), tuple(windows))
    for output in step.outputs.values():
        if output.previous is not None and output.previous.kept:
            memory.before(output)[:] = flat_bytes(output.previous.numpy())
    for given in step.inputs.values():
        memory.before(given)[:] = flat_bytes(given.numpy())
    return memory


def _regions(spans: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The spans, those that share bytes joined."""
    regions: list[tuple[str, int, int]] = []
    for name, start, stop in sorted(spans):
        if regions and regions[-1][0] == name and start < regions[-1][2]:
            regions[-1] = (name, regions[-1][1], max(stop, regions[-1][2]))
        elif not regions or regions[-1] != (name, start, stop):
            regions.append((name, start, stop))
    return regions


def _poison(step: Step) -> int:
    """A byte of which no recorded output wholly consists, so that an output left alone shows."""
    outputs = [flat_bytes(t.numpy()) for t in step.outputs.values()]
    return next((p for p in POISONS if not any(o.size and (o == p).all() for o in outputs)), POISONS[0])


__all__ = ["Memory", "lay_out"]
