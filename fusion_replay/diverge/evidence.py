# SPDX-License-Identifier: Apache-2.0
"""What a recording knows that may explain a wrong output: earlier contents of its buffers, and its operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.diverge.causes.case import Version
from fusion_replay.diverge.causes.kernel import Kernel
from fusion_replay.errors import FusionReplayError
from fusion_replay.model.arrays import flat_bytes, numpy_dtype
from fusion_replay.model.byte_spans import ByteSpans
from fusion_replay.snapshot.schema import digest_of

if TYPE_CHECKING:
    from fusion_replay.model.runlist import ArgSpec
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import Snapshot

NDArray = npt.NDArray[Any]
_Use = tuple[int, int, int, int]  # place in the recording's order, position in the runlist entry, first byte, end

_VERSIONS = 4
"""Earlier contents that are tried per buffer."""


class Evidence:
    """Earlier contents of buffers in one recording. The index is built when it is first asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def previous(self, step: Step, output: RecordedTensor) -> NDArray | None:
        """What lay in the output's bytes when the step began, flat; None where the recording cannot tell.

        Where only a digest of it was kept, the contents are put together from earlier steps and must have that digest.
        """
        if output.previous is not None and output.previous.kept:
            return output.previous.numpy().reshape(-1)
        if output.unchanged and output.kept:
            return output.numpy().reshape(-1)
        raw, seen = self._contents(step, output)
        digest = output.previous_digest
        if raw is None or (digest is None and not seen) or (digest is not None and digest_of(raw).hex() != digest):
            raw = np.zeros(output.nbytes, np.uint8)
            if digest is None or digest_of(raw).hex() != digest:
                return None
        return raw.view(numpy_dtype(output.dtype))

    def versions(self, step: Step, tensor: RecordedTensor) -> tuple[Version, ...]:
        """Earlier contents of the same bytes, the newest first, none twice: what this step saw there in the invocation
        before, and what steps wrote there."""
        found: dict[str, Version] = {}
        skip = {tensor.digest, tensor.previous_digest}
        for what, earlier in self._earlier(step, tensor):
            if earlier.kept and earlier.digest is not None and earlier.digest not in {*skip, *found}:
                found[earlier.digest] = Version(what, earlier.numpy)
                if len(found) == _VERSIONS:
                    break
        return tuple(found.values())

    def kernel(self, step: Step, number: int) -> Kernel | None:
        """The operator of output ``number``, to be executed under hypotheses; None where the catalogue does not know it
        or contents were not kept."""
        spec, inputs, outputs = refs.lookup(step.op.type), step.inputs.in_order(), step.outputs.in_order()
        if spec is None or not all(t.kept for t in inputs):
            return None
        try:
            declared = [a for a in spec.arg_specs(step.op.params) if a.reads]
        except FusionReplayError:
            return None
        by_place = _in_order(inputs, declared)
        if [a.size for a in declared] != [t.use.spec.size for t in by_place]:
            return None
        old = tuple(t.previous.numpy() for t in outputs if t.previous is not None and t.previous.kept)
        if spec.partial and len(old) < len(outputs):
            return None
        return Kernel(
            spec,
            step.op.params,
            tuple(t.numpy().reshape(a.shape) for t, a in zip(by_place, declared, strict=True)),
            step.values,
            tuple(t.buffer for t in by_place),
            {i: found for i, t in enumerate(by_place) if (found := self.versions(step, t))},
            number,
            old if spec.partial else (),
            step.sequence.origin.get("device"),
        )

    def before(self, step: Step) -> list[Step]:
        """The steps that ran before it, the latest first."""
        return self._steps[: self._place[step.invocation, step.index]][::-1]

    # --- parts ------------------------------------------------------------------------------------------------------

    @cached_property
    def _steps(self) -> list[Step]:
        return list(self.snapshot.steps())

    @cached_property
    def _place(self) -> dict[tuple[int, int], int]:
        return {(s.invocation, s.index): place for place, s in enumerate(self._steps)}

    @cached_property
    def _uses(self) -> dict[tuple[int, str], list[_Use]]:
        found: dict[tuple[int, str], list[_Use]] = {}
        for place, step in enumerate(self._steps):
            # A step reads before it writes, wherever the operands stand.
            for position, use in sorted(
                enumerate(step.description.operands), key=lambda operand: operand[1].spec.writes
            ):
                span = (place, position, use.start, use.end)
                found.setdefault((id(step.sequence), use.buffer), []).append(span)
        return found

    def _before(self, step: Step, buffer: str) -> Iterator[_Use]:
        """Uses of the buffer in earlier steps, the latest first."""
        here = self._place[step.invocation, step.index]
        for use in reversed(self._uses.get((id(step.sequence), buffer), [])):
            if use[0] < here:
                yield use

    def _earlier(self, step: Step, tensor: RecordedTensor) -> Iterator[tuple[str, RecordedTensor]]:
        for back in range(1, 3):
            place = self._place.get((step.invocation - back, step.index))
            if place is not None and self._steps[place].sequence is step.sequence:
                before = self._steps[place]
                side = before.inputs if tensor.use.spec.reads else before.outputs
                yield from ((f"that of {before.address}", t) for t in side.in_order() if t.position == tensor.position)
        lo, hi = tensor.use.start, tensor.use.end
        for place, position, start, stop in self._before(step, tensor.use.buffer):
            writer = self._steps[place]
            if (start, stop) == (lo, hi) and writer.description.operands[position].spec.writes:
                what = f"what {writer.address} {writer.op.type} wrote"
                yield from ((what, t) for t in writer.outputs.in_order() if t.position == position)

    def _contents(self, step: Step, output: RecordedTensor) -> tuple[npt.NDArray[np.uint8] | None, bool]:
        """The bytes as the latest earlier steps saw or left them, and whether they saw all."""
        lo, hi, buffer = output.use.start, output.use.end, output.use.buffer
        seen: ByteSpans[_Use] = ByteSpans()  # the latest use first, each for the bytes that no later one has
        for use in self._before(step, buffer):
            for span in seen.read(buffer, max(lo, use[2]), min(hi, use[3])):
                if span.writer is None:
                    seen.write(buffer, span.start, span.stop, use)
            if all(span.writer is not None for span in seen.read(buffer, lo, hi)):
                break
        raw, whole = np.zeros(output.nbytes, np.uint8), True  # what no step touched is zero, which a digest will tell
        for start, stop, found in seen.read(buffer, lo, hi):
            if found is None:
                whole = False
                continue
            place, position, first, _ = found
            earlier = self._steps[place]
            sides = [*earlier.outputs.in_order(), *earlier.inputs.in_order()]
            kept = next((t for t in sides if t.position == position and t.kept), None)
            if kept is None:
                return None, False
            raw[start - lo : stop - lo] = flat_bytes(kept.numpy())[start - first : stop - first]
        return raw, whole


def _in_order(inputs: Sequence[RecordedTensor], declared: Sequence[ArgSpec]) -> Sequence[RecordedTensor]:
    """By name where the names are the operator's own, else as they come."""
    by_name = {t.name: t for t in inputs}
    return [by_name[a.name] for a in declared] if set(by_name) == {a.name for a in declared} else inputs
