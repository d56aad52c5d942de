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
from fusion_replay.model.byte_spans import ByteSpans, Span
from fusion_replay.model.replaced_step import ReplacedStep
from fusion_replay.replaying.judge import NotComparedError, evaluate_step

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.replaying.judge import Evaluation, Plan

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Result:
    """What a reference gave for an output, from byte ``start`` of its buffer on.

    ``recorded`` is the same output as the device left it; ``known`` the last invocation in which this was written, or
    was found untouched by the host.
    """

    start: int
    data: Bytes
    recorded: RecordedTensor
    known: int


class Chain:
    """Contents of one sequence's buffers."""

    def __init__(self) -> None:
        self._buffers: ByteSpans[_Result] = ByteSpans()

    def read(self, invocation: int, tensor: RecordedTensor) -> npt.NDArray[Any]:
        """The chain's contents of this use, in its shape and dtype."""
        use = tensor.use
        inside = self._inside(tensor)
        old = [span for span in inside if span.writer.known < invocation]
        if old:
            touched = any(_differs(span, tensor) for span in old)
            for start, stop, result in old:
                if touched:
                    self._buffers.erase(use.buffer, start, stop)
                else:
                    self._buffers.write(use.buffer, start, stop, replace(result, known=invocation))
            inside = self._inside(tensor)
        if not inside:
            return tensor.numpy()
        if len(inside) == 1 and inside[0][:2] == (use.start, use.end):
            content = _bytes_of(inside[0], inside[0].writer.data)
        else:
            content = _raw(tensor).copy()
            for span in inside:
                content[span.start - use.start : span.stop - use.start] = _bytes_of(span, span.writer.data)
        return content.view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)

    def write(self, invocation: int, tensor: RecordedTensor, result: npt.NDArray[Any]) -> None:
        """A reference's result for the use whose recorded contents are ``tensor``."""
        use = tensor.use
        made = _Result(use.start, flat_bytes(result), tensor, invocation)
        self._buffers.write(use.buffer, use.start, use.end, made)

    def forget(self, tensor: RecordedTensor) -> None:
        """From here on the recording is the truth about these bytes (a step that no reference can follow)."""
        self._buffers.erase(tensor.use.buffer, tensor.use.start, tensor.use.end)

    def _inside(self, tensor: RecordedTensor) -> list[Span[_Result]]:
        """What references wrote of the bytes of this use."""
        spans = self._buffers.read(tensor.use.buffer, tensor.use.start, tensor.use.end)
        return [Span(start, stop, result) for start, stop, result in spans if result is not None]


def follow(step: Step, plan: Plan, chain: Chain) -> Evaluation:
    """Evaluate a step's reference on the chain's contents and let the chain go on from its results.

    Raises:
        NotComparedError: no reference can follow it; from here on the recording is the truth about its outputs.
    """
    outputs = step.outputs.in_order()
    try:
        evaluation = evaluate_step(ReplacedStep(step, read=lambda tensor: chain.read(step.invocation, tensor)), plan)
        if evaluation.flavour == "stored" and plan.reference == "auto":
            raise NotComparedError(
                "reference", "its reference is IRON's own, on the recorded inputs and not the chain's"
            )
    except NotComparedError:
        for output in outputs:
            chain.forget(output)
        raise
    evaluation = replace(evaluation, given=None)  # the outputs were made of the recorded inputs, not of the chain's
    for output, result in zip(outputs, evaluation.results, strict=True):
        same_size = result.nbytes == output.nbytes  # else wider than the buffer (float32 for a bf16 output)
        chain.write(step.invocation, output, result if same_size else as_dtype(result, output.dtype))
    return evaluation


def _differs(span: Span[_Result], tensor: RecordedTensor) -> bool:
    """Do the recorded contents at this read differ from those that the recording last saw written there?"""
    recorded, bytes_of_both = span.writer.recorded, (span.start, span.stop)
    whole = bytes_of_both == (recorded.use.start, recorded.use.end) == (tensor.use.start, tensor.use.end)
    if whole and recorded.digest is not None and tensor.digest is not None:
        return recorded.digest != tensor.digest
    start = tensor.use.start
    now = _raw(tensor)[span.start - start : span.stop - start]
    return not np.array_equal(_bytes_of(span, _raw(recorded)), now)


def _bytes_of(span: Span[_Result], data: Bytes) -> Bytes:
    """Those of the span, out of ``data`` that begin where its writer's do."""
    return data[span.start - span.writer.start : span.stop - span.writer.start]


def _raw(tensor: RecordedTensor) -> Bytes:
    return flat_bytes(tensor.numpy())
