# SPDX-License-Identifier: Apache-2.0
"""What the recorder does at each step of a source: read operands, hand them to the snapshot's writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay import operators
from fusion_replay.errors import UsageError
from fusion_replay.model import SequenceDescription, StepDescription, format_address
from fusion_replay.sources.protocol import LiveStep, StepResult

if TYPE_CHECKING:
    from fusion_replay.record import Recorder


class Watch:
    """Observes one source on behalf of a :class:`Recorder`; several sources may take turns."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._sequence: int | None = None
        self._description: SequenceDescription | None = None
        self._invocation: int | None = None
        self._begun = False

    def invocation_started(self, sequence: SequenceDescription) -> None:
        self._invocation, self._description = None, sequence
        with self._recorder.guard(f"starting {sequence.name}", "invocation"):
            writer = self._recorder.writer
            if self._sequence is None:
                self._sequence = writer.add_sequence(sequence)
            self._invocation = writer.begin_invocation(self._sequence)

    def before(self, step: LiveStep) -> None:
        self._begun = False
        with self._recorder.guard(self._words(step), "step"):
            if self._invocation is None:
                raise UsageError("its invocation could not be opened")
            inputs: dict[int, npt.NDArray[Any]] = {}
            previous: dict[int, npt.NDArray[Any]] = {}
            watched: dict[int, npt.NDArray[Any]] = {}
            keep = self._keeps_old_contents(step.description)
            for position, use in enumerate(step.description.operands):
                if use.spec.reads:
                    inputs[position] = step.read(position)
                if use.spec.writes:
                    kept = previous if keep or use.spec.reads else watched
                    kept[position] = step.read(position)
            self._recorder.writer.begin_step(
                self._invocation,
                step.description.index,
                inputs,
                previous=previous,
                watched=watched,
                values=step.values,
            )
            self._begun = True

    def after(self, step: LiveStep, result: StepResult) -> None:
        if not self._begun or self._invocation is None:
            return  # its loss was counted when it began
        with self._recorder.guard(f"outputs of {self._words(step)}", "outputs"):
            operands = enumerate(step.description.operands)
            outputs = {position: step.read(position) for position, use in operands if use.spec.writes}
            self._recorder.writer.end_step(
                self._invocation,
                step.description.index,
                outputs,
                elapsed_ns=result.elapsed_ns,
                state=result.state,
            )

    def failed(self, step: LiveStep, error: BaseException) -> None:
        if not self._begun or self._invocation is None:
            return
        with self._recorder.guard(f"the failure of {self._words(step)}", "step", may_raise=False):
            self._recorder.writer.fail_step(self._invocation, step.description.index, in_words(error))

    def invocation_finished(self) -> None:
        if self._invocation is not None:
            with self._recorder.guard("the end of an invocation", "invocation"):
                self._recorder.writer.end_invocation(self._invocation)

    def _words(self, step: LiveStep) -> str:
        if self._description is None or self._invocation is None:
            return f"step {step.description.index}"
        address = format_address(self._invocation, step.description.index)
        return f"step {address} {self._description.operator_of(step.description.index).type}"

    def _keeps_old_contents(self, step: StepDescription) -> bool:
        """Whether outputs' old contents are stored: partial writers need them, and of a stranger nobody knows."""
        if self._description is None:
            return True
        spec = operators.lookup(self._description.operator_of(step.index).type)
        return spec is None or spec.partial


def in_words(error: BaseException) -> str:
    """An exception on one line, bounded: it goes into a message and into the snapshot."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:2000]


__all__ = ["Watch", "in_words"]
