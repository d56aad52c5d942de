# SPDX-License-Identifier: Apache-2.0
"""Mode cumulative: the buffers of a sequence as the references alone would have filled them.

Only bytes that a reference wrote are held; everything else (weights, inputs, what an unjudged step left) is read from
the recording. Between two invocations the host may write too. Nothing records that, but it shows: where a buffer's
recorded contents at its first read differ from what the recording last saw written there, the host wrote, and the
recorded bytes are the truth; where they are the same, the chain's own bytes go on (a cache, a carried state).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.arrays import as_dtype, flat_bytes, numpy_dtype
from fusion_replay.replaying.judge import NotComparedError, evaluate_step, tensors

if TYPE_CHECKING:
    from fusion_replay.replaying.judge import Evaluation, Plan
    from fusion_replay.snapshot import RecordedStep, RecordedTensor

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Segment:
    """Bytes ``lo`` to ``hi`` of a buffer as a reference wrote them.

    ``recorded`` holds what the device wrote there, from its byte ``skip`` on; ``known`` is the last invocation in
    which this segment was written, or was found untouched by the host.
    """

    lo: int
    hi: int
    data: Bytes
    recorded: RecordedTensor
    skip: int
    known: int

    def cut(self, lo: int, hi: int) -> _Segment:
        off = lo - self.lo
        return replace(self, lo=lo, hi=hi, data=self.data[off : off + hi - lo], skip=self.skip + off)


class Chain:
    """Contents of one sequence's buffers."""

    def __init__(self) -> None:
        self._buffers: dict[str, list[_Segment]] = {}

    def read(self, invocation: int, tensor: RecordedTensor) -> npt.NDArray[Any]:
        """The chain's contents of this use, in its shape and dtype."""
        lo, hi = tensor.use.start, tensor.use.start + tensor.nbytes
        inside = self._isolate(tensor.use.buffer, lo, hi)
        old = [s for s in inside if s.known < invocation]
        if old:
            touched = any(_differs(s, tensor) for s in old)
            inside = self._settle(tensor.use.buffer, lo, hi, old, invocation, keep=not touched)
        if not inside:
            return tensor.numpy()
        if len(inside) == 1 and (inside[0].lo, inside[0].hi) == (lo, hi):
            content = inside[0].data
        else:
            content = _raw(tensor).copy()
            for s in inside:
                content[s.lo - lo : s.hi - lo] = s.data
        return content.view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)

    def write(self, invocation: int, tensor: RecordedTensor, result: npt.NDArray[Any]) -> None:
        """A reference's result for the use whose recorded contents are ``tensor``."""
        lo, hi = tensor.use.start, tensor.use.start + tensor.nbytes
        data = flat_bytes(result)
        self.forget(tensor)
        self._buffers.setdefault(tensor.use.buffer, []).append(_Segment(lo, hi, data, tensor, 0, invocation))

    def forget(self, tensor: RecordedTensor) -> None:
        """From here on the recording is the truth about these bytes (a step that no reference can follow)."""
        name, lo, hi = tensor.use.buffer, tensor.use.start, tensor.use.start + tensor.nbytes
        inside = set(map(id, self._isolate(name, lo, hi)))
        self._buffers[name] = [s for s in self._buffers.get(name, []) if id(s) not in inside]

    def _isolate(self, name: str, lo: int, hi: int) -> list[_Segment]:
        """Cut the buffer's segments at both ends of the range; those inside it."""
        parts: list[_Segment] = []
        inside: list[_Segment] = []
        for s in self._buffers.get(name, []):
            if s.hi <= lo or hi <= s.lo:
                parts.append(s)
                continue
            middle = s if lo <= s.lo and s.hi <= hi else s.cut(max(s.lo, lo), min(s.hi, hi))
            parts += [s.cut(s.lo, lo)] if s.lo < lo else []
            parts += [s.cut(hi, s.hi)] if hi < s.hi else []
            parts.append(middle)
            inside.append(middle)
        if parts:
            self._buffers[name] = parts
        return inside

    def _settle(
        self, name: str, lo: int, hi: int, old: list[_Segment], invocation: int, *, keep: bool
    ) -> list[_Segment]:
        """Mark segments from earlier invocations as still good, or drop them."""
        stale = set(map(id, old))
        good = [replace(s, known=invocation) for s in old] if keep else []
        self._buffers[name] = [s for s in self._buffers[name] if id(s) not in stale] + good
        return [s for s in self._buffers[name] if lo <= s.lo and s.hi <= hi]


def follow(step: RecordedStep, plan: Plan, chain: Chain) -> Evaluation:
    """Evaluate a step's reference on the chain's contents and let the chain go on from its results.

    Raises:
        NotComparedError: no reference can follow it; from here on the recording is the truth about its outputs.
    """
    outputs = tensors(step.outputs)
    try:
        evaluation = evaluate_step(step, plan, lambda tensor: chain.read(step.invocation, tensor))
    except NotComparedError:
        for output in outputs:
            chain.forget(output)
        raise
    for output, result in zip(outputs, evaluation.results, strict=True):
        same_size = result.nbytes == output.nbytes  # else wider than the buffer (float32 for a bf16 output)
        chain.write(step.invocation, output, result if same_size else as_dtype(result, output.dtype))
    return evaluation


def _differs(segment: _Segment, tensor: RecordedTensor) -> bool:
    """Do the recorded contents at this read differ from those that the recording last saw written there?"""
    start = tensor.use.start
    whole = segment.skip == 0 and segment.hi - segment.lo == segment.recorded.nbytes == tensor.nbytes
    if whole and segment.recorded.digest is not None and tensor.digest is not None:
        return segment.recorded.digest != tensor.digest
    written = _raw(segment.recorded)[segment.skip : segment.skip + segment.hi - segment.lo]
    return not np.array_equal(written, _raw(tensor)[segment.lo - start : segment.hi - start])


def _raw(tensor: RecordedTensor) -> Bytes:
    return flat_bytes(tensor.numpy())
