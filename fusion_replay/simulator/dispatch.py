# SPDX-License-Identifier: Apache-2.0
"""One dispatch of a kernel: what the kernel is told, and where in the runlist it is.

Tested in tests/simulator/test_callable.py and test_faults.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay.model.runlist import ArgSpec, format_address
from fusion_replay.simulator.core import Core

if TYPE_CHECKING:
    from fusion_replay.operators import OperatorSpec

Array = npt.NDArray[Any]
Params = SimpleNamespace
Values = Mapping[str, "int | float"]


@dataclass(frozen=True)
class Dispatch:
    """One kernel run, as the kernel is told of it.

    Attributes:
        core: numeric state of the cores; a kernel may set ``core.rounding``, as the device's does.
        params: the operator's parameters.
        inputs, previous: what it reads, and old contents of what it writes, each in the shape of its use; read-only.
        values: runtime values by role, not by symbol.
    """

    core: Core
    params: Params
    inputs: Sequence[Array]
    previous: Sequence[Array] = ()
    values: Values = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepDispatch(Dispatch):
    """A dispatch as the faults see it: they replace entries of its inputs, parameters, values and outputs.

    Attributes:
        external: per input, whether no step of the runlist writes that buffer.
        invocation, step: where in the runlist it is; -1 for a kernel called by hand.
        outputs: what the kernel computed, empty until it has run.
    """

    inputs: list[Array]
    previous: list[Array]
    values: dict[str, int | float]
    spec: OperatorSpec
    args: tuple[ArgSpec, ...]
    external: tuple[bool, ...]
    invocation: int = -1
    step: int = -1
    outputs: list[Array] = field(default_factory=list)

    @property
    def address(self) -> str:
        return format_address(self.invocation, self.step) if self.step >= 0 else self.spec.type


__all__ = ["Array", "Dispatch", "Params", "StepDispatch", "Values"]
