# SPDX-License-Identifier: Apache-2.0
"""A compiled kernel of the software NPU: called with tensors, as ``NPUKernel`` is (Xilinx/mlir-aie python/utils)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.simulator.device import SimulatedDevice
from fusion_replay.simulator.dispatch import Array, StepDispatch
from fusion_replay.simulator.errors import ErtCmdState, HostRuntimeError
from fusion_replay.simulator.operators import dtype_named
from fusion_replay.simulator.tensor import NpuTensor

if TYPE_CHECKING:
    from fusion_replay.simulator.faults.kind import ArmedFault
    from fusion_replay.simulator.kernels import Kernel
    from fusion_replay.simulator.sequence import PlannedStep


@dataclass(frozen=True)
class KernelResult:
    """What a finished kernel run says of itself: host time around the run in nanoseconds, and its final state.

    The time is that of numpy on this machine, not of an NPU.
    """

    npu_time: int
    ret: ErtCmdState = ErtCmdState.ERT_CMD_STATE_COMPLETED

    def is_success(self) -> bool:
        return self.ret == ErtCmdState.ERT_CMD_STATE_COMPLETED


class SimulatedKernel:
    """One operator object's kernel; steps with the same operator share it.

    Attributes:
        kernel_name: unique within the sequence, spelled as IRON does.
        dispatch_params: symbols that every call must give a value for, as keyword arguments.
        operator: the operator object it was made of.
    """

    def __init__(
        self,
        step: PlannedStep,
        kernel: Kernel,
        device: SimulatedDevice,
        kernel_name: str,
        faults: Sequence[ArmedFault] = (),
        external: Mapping[int, tuple[bool, ...]] | None = None,
    ) -> None:
        self.operator = step.op
        self.kernel_name = kernel_name
        self._spec = step.spec
        self._params = step.params
        self._args = step.args
        self._kernel = kernel
        self._device = device
        self._faults = tuple(faults)
        self._external = external or {}
        self._roles = {
            symbol: role for role in step.spec.values if (symbol := getattr(step.op, f"{role}_parameter", None))
        }
        kernel.check(step.params, device.core)

    @property
    def dispatch_params(self) -> tuple[str, ...]:
        return tuple(self._roles)

    def __repr__(self) -> str:
        return f"<{self._spec.type} kernel {self.kernel_name} on the software NPU>"

    def __call__(self, *tensors: NpuTensor, **scalars: int | float) -> KernelResult:
        """Move every argument to the device, run, leave every argument on the device.

        Raises:
            HostRuntimeError: wrong arguments, or the run did not complete.
            UsageError: a runtime value without a number.
        """
        self._check(tensors, scalars)
        for tensor in tensors:
            tensor.to("npu")
        begin = time.perf_counter_ns()
        dispatch = self._dispatch(tensors, scalars)
        for fault in self._faults:
            fault.notice(dispatch)
        striking = [f for f in self._faults if f.strikes(dispatch)]
        reason = self._kernel.rounding_note(dispatch.params, dispatch.core)
        self._device.exact.setdefault(self._spec.type, Counter())[reason] += 1
        for fault in striking:
            fault.before(dispatch)
        dispatch.outputs.extend(self._kernel.run(dispatch))
        for fault in striking:
            fault.after(dispatch)
        self._write(tensors, dispatch.outputs)
        return KernelResult(time.perf_counter_ns() - begin)

    def _check(self, tensors: Sequence[NpuTensor], scalars: Mapping[str, int | float]) -> None:
        if len(tensors) != len(self._args):
            raise HostRuntimeError(
                f"kernel {self.kernel_name} ({self._spec.type}) has {len(self._args)} buffer arguments "
                f"({', '.join(a.name for a in self._args)}), called with {len(tensors)}"
            )
        for tensor, arg in zip(tensors, self._args, strict=True):
            if not isinstance(tensor, NpuTensor):
                raise HostRuntimeError(
                    f"kernel {self.kernel_name}: argument {arg.name} must be an NpuTensor, "
                    f"found {type(tensor).__name__}"
                )
            if tensor.nbytes < arg.nbytes:
                raise HostRuntimeError(
                    f"kernel {self.kernel_name}: argument {arg.name} needs {arg.nbytes} bytes {arg.shape}, "
                    f"the tensor has {tensor.nbytes}"
                )
        missing = [s for s in self._roles if s not in scalars]
        unknown = [s for s in scalars if s not in self._roles]
        if missing or unknown:
            expected = ", ".join(self._roles) or "none"
            raise UsageError(
                f"kernel {self.kernel_name} ({self._spec.type}): expected runtime values for {expected}; "
                + (f"missing {', '.join(missing)}: give them with write_values({{...}})" if missing else "")
                + (f"unknown {', '.join(unknown)}" if unknown else "")
            )

    def _dispatch(self, tensors: Sequence[NpuTensor], scalars: Mapping[str, int | float]) -> StepDispatch:
        views = []
        for tensor, arg in zip(tensors, self._args, strict=True):
            view = tensor.device_view(arg.shape, dtype_named(arg.dtype))
            view.flags.writeable = False
            views.append(view)
        here = self._device.position
        inputs = [v for v, a in zip(views, self._args, strict=True) if a.reads]
        for i, wide in self._device.unrounded.items():
            inputs[i] = wide.reshape(inputs[i].shape)
        return StepDispatch(
            spec=self._spec,
            args=self._args,
            params=SimpleNamespace(**vars(self._params)),
            values={self._roles[s]: v for s, v in scalars.items()},
            inputs=inputs,
            previous=[v for v, a in zip(views, self._args, strict=True) if a.writes],
            external=self._external.get(here.step, (True,) * len(inputs)),
            core=self._device.core,
            invocation=here.invocation,
            step=here.step,
        )

    def _write(self, tensors: Sequence[NpuTensor], outputs: Sequence[Array]) -> None:
        written = [(t, a) for t, a in zip(tensors, self._args, strict=True) if a.writes]
        for (tensor, arg), output in zip(written, outputs, strict=True):
            target = tensor.device_view(arg.shape, dtype_named(arg.dtype))
            if output.dtype != target.dtype or output.size != target.size:
                raise HostRuntimeError(
                    f"kernel {self.kernel_name} gave {output.dtype} {output.shape} for {arg.name}, "
                    f"expected {arg.dtype} {arg.shape}"
                )
            _copy(target, output.reshape(target.shape))
            tensor.device_wrote(arg.nbytes)


def _copy(target: Array, source: Array) -> None:
    """Overlap-safe; 16-bit elements move as integers, since numpy copies ml_dtypes' one by one."""
    if target.dtype.itemsize == 2:
        target, source = target.view(np.uint16), source.view(np.uint16)
    np.copyto(target, source)
