# SPDX-License-Identifier: Apache-2.0
"""Faults of the runtime around a kernel: inputs, scalars, core state, completion. Every class cites its report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.simulator.dispatch import StepDispatch
from fusion_replay.simulator.errors import ErtCmdState, HostRuntimeError
from fusion_replay.simulator.faults.fault import Fault
from fusion_replay.simulator.faults.kind import ArmedFault, Kind

if TYPE_CHECKING:
    from fusion_replay.simulator.sequence import PlannedStep


class Unwritten(Kind):
    """The run completes and touches nothing, core state included: https://github.com/1bit-MONSTER/1bit-MONSTER/issues/2002
    (an empty instruction stream), https://github.com/amd/IRON/issues/174."""

    name = "unwritten"
    summary = "the kernel completes without writing its output"
    report = "https://github.com/1bit-MONSTER/1bit-MONSTER/issues/2002"

    def before(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        armed.memory["rounding"] = dispatch.core.rounding

    def after(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        dispatch.core.rounding = armed.memory["rounding"]
        dispatch.outputs[:] = list(dispatch.previous)


class Stale(Kind):
    """The kernel sees what an input held when this step last ran (zeros the first time), because a transfer was
    missed: https://github.com/amd/IRON/issues/138. By default every input that the runlist itself produces."""

    name = "stale"
    summary = "inputs are those of the previous dispatch of the same step"
    report = "https://github.com/amd/IRON/issues/138"
    usage = "[:INPUT], INPUT counted from 0"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        inputs = sum(a.reads for a in step.args)
        if fault.args and int(fault.args[0]) >= inputs:
            return f"it has {inputs} inputs, counted from 0"
        return None

    def notice(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        seen = armed.memory.setdefault(dispatch.step, {})
        armed.memory["old"] = {**seen}
        for i in self._chosen(armed, dispatch):
            seen[i] = dispatch.inputs[i].copy()

    def before(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        old = armed.memory["old"]
        for i in self._chosen(armed, dispatch):
            dispatch.inputs[i] = old.get(i, np.zeros_like(dispatch.inputs[i]))

    @staticmethod
    def _chosen(armed: ArmedFault, dispatch: StepDispatch) -> list[int]:
        made_here = [i for i, external in enumerate(dispatch.external) if not external]
        return [armed.arg(0, 0)] if armed.fault.args else made_here or list(range(len(dispatch.inputs)))


class TruncateScalar(Kind):
    """A scalar argument loses bits on its way to the core: https://github.com/Xilinx/mlir-aie/pull/3599 (``saxpy``
    truncates its float32 scalar to bf16). Floats keep the upper BITS of their float32 pattern (16: bf16, truncated),
    runtime integers their lower BITS (8)."""

    name = "truncate-scalar"
    summary = "float parameters and runtime values lose bits"
    report = "https://github.com/Xilinx/mlir-aie/pull/3599"
    usage = "[:BITS]"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        if fault.args and not 1 <= int(fault.args[0]) <= 31:
            return "a scalar keeps 1 to 31 of its bits"
        floats = any(isinstance(v, float) for v in vars(step.params).values())
        symbols = any(getattr(step.op, f"{role}_parameter", None) for role in step.spec.values)
        return None if floats or symbols else "it takes no float parameter and no runtime value"

    def before(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        for name, value in vars(dispatch.params).items():
            if isinstance(value, float):
                setattr(dispatch.params, name, _upper_bits(value, armed.arg(0, 16)))
        for name, number in dispatch.values.items():
            dispatch.values[name] = int(number) & ((1 << armed.arg(0, 8)) - 1)


class RoundingLeak(Kind):
    """The kernel before this one left the rounding register in another mode: https://github.com/amd/IRON/issues/180,
    https://github.com/Xilinx/mlir-aie/pull/3726. It stays there for the kernels that follow."""

    name = "rounding-leak"
    summary = "the rounding register is in the other mode"
    report = "https://github.com/amd/IRON/issues/180"
    usage = "[:floor|conv_even]"

    def parse(self, text: str, args: list[str]) -> tuple[int | str, ...]:
        if len(args) > 1 or any(a not in ("floor", "conv_even") for a in args):
            raise UsageError(f"fault {text!r}: expected {self.name}{self.usage}")
        return tuple(args)

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        never = step.spec.exact_bits or step.spec.type in ("ReLU", "Clamp")
        return "it selects or moves bits and never rounds" if never else None

    def before(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        other = "floor" if dispatch.core.rounding == "conv_even" else "conv_even"
        dispatch.core.rounding = str(armed.fault.args[0]) if armed.fault.args else other


class Timeout(Kind):
    """The run ends with ERT_CMD_STATE_TIMEOUT: https://github.com/amd/IRON/issues/43."""

    name = "timeout"
    summary = "the run ends in ERT_CMD_STATE_TIMEOUT (at invocation N)"
    report = "https://github.com/amd/IRON/issues/43"
    usage = "[:INVOCATION]"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        return "the address names the invocation already" if fault.args and fault.op is None else None

    def due(self, fault: Fault, dispatch: StepDispatch) -> bool:
        return not fault.args or fault.args[0] == dispatch.invocation

    def before(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        armed.write_down(dispatch)
        state = ErtCmdState.ERT_CMD_STATE_TIMEOUT
        raise HostRuntimeError(f"Kernel returned {state.name} at {dispatch.address} {dispatch.spec.type}", state)


class Hang(Timeout):
    """The run never ends: https://github.com/amd/IRON/pull/158 (a multi-channel copy)."""

    name = "hang"
    summary = "the run never ends (at invocation N)"
    report = "https://github.com/amd/IRON/pull/158"
    endless = True

    def before(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        armed.write_down(dispatch)
        while True:
            time.sleep(3600)  # SIGINT still gets through


def _upper_bits(value: float, bits: int) -> float:
    word = np.float32(value).view(np.uint32) & np.uint32((0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF)
    return float(word.view(np.float32))
