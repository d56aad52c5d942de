# SPDX-License-Identifier: Apache-2.0
"""A step with some of its contents, parameters or runtime values replaced by the caller's.

Tested in tests/model/test_step.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusion_replay.model.runlist import OperatorDescription, SequenceDescription, StepDescription
from fusion_replay.model.step import OperandMap, RecordedTensor, Step

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Read = Callable[[RecordedTensor], "npt.NDArray[Any]"]
"""What an operand held, in its shape and dtype."""


class ReplacedStep(Step):
    """A step with some contents, parameters or runtime values replaced by the caller's; all the rest is as it ran.

    Args:
        read: what its inputs held, and its outputs before the kernel, instead of what was seen of them.
        params, values: in place of the operator's and the step's own of the same names.
    """

    __slots__ = ("_given", "_params", "_read", "_step")

    def __init__(
        self,
        step: Step,
        *,
        read: Read | None = None,
        params: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        self._step = step
        self._read = read
        self._params = params or {}
        self._given = values or {}

    @property
    def invocation(self) -> int:
        return self._step.invocation

    @property
    def sequence(self) -> SequenceDescription:
        return self._step.sequence

    @property
    def description(self) -> StepDescription:
        return self._step.description

    @property
    def status(self) -> str:
        return self._step.status

    @property
    def error(self) -> str | None:
        return self._step.error

    @property
    def withheld(self) -> str | None:
        return self._step.withheld

    @property
    def state(self) -> str | None:
        return self._step.state

    @property
    def elapsed_ns(self) -> int | None:
        return self._step.elapsed_ns

    @property
    def op(self) -> OperatorDescription:
        op = self._step.op
        return replace(op, params={**op.params, **self._params}) if self._params else op

    @property
    def values(self) -> dict[str, Any]:
        return {**self._step.values, **self._given}

    @property
    def inputs(self) -> OperandMap:
        return self._step.inputs if self._read is None else self._step.inputs.replaced(self._of_other)

    @property
    def outputs(self) -> OperandMap:
        return self._step.outputs if self._read is None else self._step.outputs.replaced(self._after_other)

    def _of_other(self, tensor: RecordedTensor) -> RecordedTensor:
        assert self._read is not None
        return replace(tensor, source=_Other(tensor, self._read))

    def _after_other(self, tensor: RecordedTensor) -> RecordedTensor:
        old = tensor.previous
        return tensor if old is None else replace(tensor, previous=self._of_other(old))


class _Other:
    """Contents of one tensor, given by the caller; available where the tensor's own are."""

    def __init__(self, tensor: RecordedTensor, read: Read) -> None:
        self._tensor = tensor
        self._read = read

    def kept(self, number: int) -> bool:
        return self._tensor.kept

    def absent(self, number: int) -> str:
        return self._tensor.absent

    def read(self, number: int, what: str) -> npt.NDArray[np.uint8]:
        from fusion_replay.model.arrays import flat_bytes

        return flat_bytes(self._read(self._tensor))


__all__ = ["Read", "ReplacedStep"]
