# SPDX-License-Identifier: Apache-2.0
"""Runs one kernel of the software NPU on bytes, without a runlist and without state of earlier steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fusion_replay.model.runlist import ArgSpec
from fusion_replay.simulator.operators import SimulatedOperator, custom, dtype_named, operator_class
from fusion_replay.simulator.sequence import SimulatedSequence
from fusion_replay.simulator.tensor import NpuTensor
from fusion_replay.sources.protocol import DispatchResult, MemoryUse


class LoneKernel:
    """The kernel of one operator on a device of its own, powered up with it.

    Args:
        op_type, params: the operator as a recording describes it; parameters that the catalogue does not know are
            left out.
        args: its arg specs, in runtime order.
        roles: the runtime values that its calls will give, by the operator's own names.
        device: "npu1" or "npu2".

    Raises:
        UnknownOperatorError: no description or no kernel of this operator.
        UsageError: parameters that the device's rules exclude.
    """

    def __init__(
        self, op_type: str, params: Mapping[str, Any], args: Sequence[ArgSpec], roles: Iterable[str], device: str
    ) -> None:
        operator = _operator(op_type, params, args, roles)
        names = [f"argument{i}" for i in range(len(args))]
        callable_ = SimulatedSequence("alone", [(operator, *names)], device=device).get_callable()
        self._kernel = callable_._execution_plan[0][0]
        self._args = tuple(args)

    def run(
        self, memory: Sequence[npt.NDArray[np.uint8]], uses: Sequence[MemoryUse], values: Mapping[str, int | float]
    ) -> DispatchResult:
        """One dispatch on these bytes; ``values`` by role.

        Raises:
            HostRuntimeError: the kernel refused its arguments.
        """
        whole = [NpuTensor(m, np.uint8, device="npu") for m in memory]
        tensors = [
            _part(whole[use.memory], use, memory[use.memory].nbytes, spec)
            for use, spec in zip(uses, self._args, strict=True)
        ]
        result = self._kernel(*tensors, **{role: values[role] for role in self._kernel.dispatch_params})
        after = tuple(tensor.numpy().view(np.uint8).copy() for tensor in whole)
        return DispatchResult(result.ret.name, result.npu_time, after, completed=True)


def _part(tensor: NpuTensor, use: MemoryUse, nbytes: int, spec: ArgSpec) -> NpuTensor:
    if (use.offset, use.nbytes) == (0, nbytes):
        return tensor
    return tensor.subview(use.offset, spec.shape, dtype_named(spec.dtype))


def _operator(
    op_type: str, params: Mapping[str, Any], args: Sequence[ArgSpec], roles: Iterable[str]
) -> SimulatedOperator:
    made = operator_class(op_type)
    known = {f.name for f in dataclasses.fields(cast(Any, made)) if f.name != "context"}
    given = {name: value for name, value in params.items() if name in known}
    # A call names its values by role here, whatever symbols the recorded graph had bound them to.
    given |= {f"{role}_parameter": None for role in made.spec.values if f"{role}_parameter" in known}
    given |= {f"{role}_parameter": role for role in made.spec.values if role in set(roles)}
    if made.spec.shapeless:
        return custom(made.spec.type, args, **given)
    return made(**given)


__all__ = ["LoneKernel"]
