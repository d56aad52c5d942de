# SPDX-License-Identifier: Apache-2.0
"""Stand-ins with the shapes of IRON's callables, for tests of what the software NPU does not have.

Tensors keep a host and a device copy with mlir-aie's rules (Xilinx/mlir-aie python/utils/hostruntime/tensor_class.py)
and count every access that a recorder must not make.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)


class Allocation:
    def __init__(self, nbytes: int) -> None:
        self.host = np.zeros(nbytes, np.uint8)
        self.device = np.zeros(nbytes, np.uint8)
        self.side = "npu"


class FakeTensor:
    """``forbidden`` counts raw views and moves, by name; kernels use ``on_device``, tests ``put``."""

    def __init__(self, allocation: Allocation, start: int, stop: int, dtype: Any = BF16) -> None:
        self.allocation, self.start, self.stop, self.dtype = allocation, start, stop, np.dtype(dtype)
        self.forbidden: list[str] = []
        self.reads = 0

    def numpy(self) -> np.ndarray:
        self.reads += 1
        if self.allocation.side == "npu":  # pulls, does not claim
            self.allocation.host[:] = self.allocation.device
        return self.allocation.host[self.start : self.stop].view(self.dtype)

    def to(self, side: str) -> FakeTensor:
        self.forbidden.append(f"to {side}")
        return self._to(side)

    def _to(self, side: str) -> FakeTensor:
        a = self.allocation
        if side == "npu" and a.side == "cpu":
            a.device[:] = a.host
        if side == "cpu" and a.side == "npu":
            a.host[:] = a.device
        a.side = side
        return self

    def torch_view(self) -> np.ndarray:
        self.forbidden.append("torch_view")
        self.allocation.side = "cpu"
        return self.allocation.host[self.start : self.stop].view(self.dtype)

    numpy_view = torch_view

    @property
    def data(self) -> np.ndarray:
        self.forbidden.append("data")
        return self.allocation.host[self.start : self.stop].view(self.dtype)

    def put(self, values: Any) -> None:
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._to("cpu")
        self.allocation.host[self.start : self.start + raw.size] = raw

    def on_device(self) -> np.ndarray:
        self._to("npu")
        return self.allocation.device[self.start : self.stop].view(self.dtype)

    def got(self) -> np.ndarray:
        source = self.allocation.device if self.allocation.side == "npu" else self.allocation.host
        return source[self.start : self.stop].view(self.dtype).copy()


@dataclass
class Result:
    npu_time: int = 1234
    ret: Any = "ert_cmd_state.ERT_CMD_STATE_COMPLETED"


class FakeKernel:
    """``fn(*device arrays, **scalars)`` writes in place."""

    def __init__(self, fn: Callable[..., Any], dispatch_params: tuple[str, ...] = ()) -> None:
        self.fn, self.dispatch_params, self.calls = fn, dispatch_params, 0
        self.trace_config = None

    def __call__(self, *tensors: FakeTensor, **scalars: Any) -> tuple[str, Result]:
        self.calls += 1
        self.fn(*(t.on_device() for t in tensors), **scalars)
        return "handle", Result()


@dataclass
class Spec:
    direction: Any
    shape: Any
    dtype: Any = ml_dtypes.bfloat16


@dataclass
class BareSpec:
    """Before directions existed."""

    shape: Any


@dataclass
class Direction:
    """Of declared operators: what the kernel reads fills it, what it writes drains it."""

    fills: bool
    drains: bool


@dataclass
class DeclaredBuffer:
    name: str
    direction: Direction
    shape: tuple[int, ...]
    dtype: Any = ml_dtypes.bfloat16
    placement: tuple[str, int] = ("", 0)

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))


class FakeOperator:
    """A plain-attribute operator; ``specs`` is what ``get_arg_spec`` answers, ``fn`` what its kernel does."""

    def __init__(self, specs: list[Any], fn: Callable[..., Any], **params: Any) -> None:
        self._specs, self._fn = specs, fn
        self.context = object()
        for name, value in params.items():
            setattr(self, name, value)

    def get_arg_spec(self) -> list[Any]:
        return self._specs


def operator_class(name: str) -> type[FakeOperator]:
    """Under the module that IRON has it in, where it is one of IRON's."""
    home = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removeprefix("AIE")).lower()
    return type(name, (FakeOperator,), {"__module__": f"iron.operators.{home}.op"})


class FakeSequence:
    def __init__(
        self,
        runlist: list[tuple[Any, ...]],
        input_args: list[str] | None = None,
        output_args: list[str] | None = None,
        buffer_sizes: dict[str, int] | None = None,
        name: str = "fake",
    ) -> None:
        self.name, self.runlist = name, runlist
        self.input_args, self.output_args = input_args or [], output_args or []
        self.explicit_buffer_sizes = buffer_sizes or {}

    def get_callable(self) -> Any:
        raise NotImplementedError

    def compile(self, sizes: dict[str, int]) -> FakeSequence:
        kinds = dict.fromkeys(self.input_args, "input") | dict.fromkeys(self.output_args, "output")
        self.subbuffer_layout = {n: (kinds.get(n, "scratch"), 0, size) for n, size in sizes.items()}
        self.slice_info = {}
        for _, *names in self.runlist:
            for text in names:
                if found := re.fullmatch(r"(.+)\[(\d+):(\d+)\]", text):
                    self.slice_info[text] = (found[1], int(found[2]), int(found[3]))
        return self


class FakeV3:
    """``_execution_plan`` of ``(kernel, tensors)``, walked beside the runlist."""

    def __init__(self, op: FakeSequence) -> None:
        self.op = op
        self._dispatch = object()
        self._buffers = {n: self._allocate(size) for n, (_, _, size) in op.subbuffer_layout.items()}
        kernels: dict[int, FakeKernel] = {}
        self._execution_plan = [
            (kernels.setdefault(id(o), FakeKernel(o._fn)), [self.get_buffer(n) for n in names])
            for o, *names in op.runlist
        ]

    @staticmethod
    def _allocate(size: int) -> FakeTensor:
        return FakeTensor(Allocation(size), 0, size)

    def get_buffer(self, name: str) -> FakeTensor:
        if name not in self._buffers:
            base, start, stop = self.op.slice_info[name]
            self._buffers[name] = FakeTensor(self._buffers[base].allocation, start, stop)
        return self._buffers[name]

    def __call__(self) -> None:
        for (kernel, args), _ in zip(self._execution_plan, self.op.runlist, strict=True):
            kernel(*args)

    def touched(self) -> list[str]:
        return [what for tensor in self._buffers.values() for what in tensor.forbidden]


class FakeV6(FakeV3):
    """``_steps`` of ``(operator, kernel, names, tensors)``, rebuilt when the arena grows; scalars at dispatch."""

    def __init__(self, op: FakeSequence, dispatch_params: dict[str, tuple[str, ...]] | None = None) -> None:
        super().__init__(op)
        del self._execution_plan, self._dispatch
        params = dispatch_params or {}
        kernels: dict[int, FakeKernel] = {}
        self._steps = [
            (
                o,
                kernels.setdefault(id(o), FakeKernel(o._fn, params.get(type(o).__name__, ()))),
                names,
                [self.get_buffer(n) for n in names],
            )
            for o, *names in op.runlist
        ]
        self.dispatch_values: dict[str, Any] = {}

    def follow_arena(self) -> None:
        self._steps = [(o, kernel, names, [self.get_buffer(n) for n in names]) for o, kernel, names, _ in self._steps]

    def __call__(self) -> None:
        for _, kernel, _, args in self._steps:
            kernel(*args, **{n: self.dispatch_values[n] for n in kernel.dispatch_params})


@dataclass
class Observer:
    """Writes down what it is told, and reads what a recorder would."""

    log: list[Any] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    inputs: list[dict[int, np.ndarray]] = field(default_factory=list)
    outputs: list[dict[int, np.ndarray]] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)

    def invocation_started(self, sequence: Any) -> None:
        self.log.append("start")

    def prepared(self, kernels: Any) -> None: ...

    def before(self, step: Any) -> None:
        self.log.append(step.description.index)
        self.values.append(dict(step.values))
        self.inputs.append(
            {i: step.read(i).copy() for i, use in enumerate(step.description.operands) if use.spec.reads}
        )

    def after(self, step: Any, result: Any) -> None:
        self.results.append(result)
        self.outputs.append(
            {i: step.read(i).copy() for i, use in enumerate(step.description.operands) if use.spec.writes}
        )

    def failed(self, step: Any, error: BaseException) -> None:
        self.log.append(error)

    def invocation_finished(self) -> None:
        self.log.append("end")
