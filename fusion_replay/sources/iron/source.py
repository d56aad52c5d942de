# SPDX-License-Identifier: Apache-2.0
"""The adapter for IRON's callables that dispatch step by step, and for the software NPU, which has their shape.

Every form from before amd/IRON pull request 117 to September 2026 is served by one class: where its steps can be
watched is :mod:`.iron_hook`'s to find, how a buffer is read without changing it is :mod:`.iron_tensor`'s, which form
it is :mod:`.iron_variant`'s. Nothing is subclassed, and :meth:`IronSource.detach` leaves the callable as it was.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import CodeType, FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import RunlistError, UsageError
from fusion_replay.model.arrays import numpy_dtype
from fusion_replay.model.runlist import DTYPE_BYTES, OperandUse, SequenceDescription, StepDescription, static_buffers
from fusion_replay.sources.describe import describe_sequence, keeps_old_contents
from fusion_replay.sources.iron.binaries import kernel_paths
from fusion_replay.sources.iron.compare_mode import CompareListener, Statistics, is_mismatch
from fusion_replay.sources.iron.hook_point import KernelProxy, find_hook
from fusion_replay.sources.iron.tensor import host_bytes
from fusion_replay.sources.iron.variant import origin_of
from fusion_replay.sources.protocol import StepObserver, StepResult
from fusion_replay.system.threads import current_frames


class IronSource:
    """One callable of IRON's shape as a :class:`~fusion_replay.sources.protocol.StepSource`.

    Raises:
        NotAttachableError: nothing here dispatches step by step; the message says what to do.
        RunlistError: the runlist contradicts its operators or buffers.
    """

    def __init__(self, callable_: Any) -> None:
        self._hook = find_hook(callable_)
        self._callable = callable_
        self.sequence: SequenceDescription = describe_sequence(callable_.op, origin_of(callable_))
        self._observer: StepObserver | None = None
        self._compare = CompareListener(callable_, self._judged)
        self._next = _Next()
        self._prepared = False  # whether the observer was told of the kernels' files
        if self._hook.steps != len(self.sequence.steps):
            raise RunlistError(
                f"{self.sequence.name}: the runlist has {len(self.sequence.steps)} steps, the callable prepared "
                f"{self._hook.steps}; it was built from another runlist, call get_callable() again"
            )

    def attach(self, observer: StepObserver) -> None:
        self.detach()
        self._observer = observer
        self._next, self._prepared = _Next(), False
        self._hook.install(self.dispatch)
        self._compare.start()

    def detach(self) -> None:
        self._compare.stop()
        self._observer = None  # a proxy that other code wrapped or kept passes calls straight through from now on
        self._hook.remove()

    def settle(self) -> None:
        """The program ends: tell what is known by now of the step that ran last."""
        self._compare.flush()

    def dispatch(self, index: int, kernel: Any, tensors: Sequence[Any], scalars: Mapping[str, Any]) -> Any:
        """Run step ``index`` on the real kernel, telling the observer; what the kernel raises passes unchanged."""
        observer = self._observer
        if observer is None:
            return kernel(*tensors, **scalars)
        self._compare.flush()
        step = LiveIronStep(self, index, tensors, scalars)
        if index == 0 or index != self._next.step:
            observer.invocation_started(self.sequence)
            if not self._prepared:
                self._prepared = True
                observer.prepared(lambda: kernel_paths(self._callable, self.sequence))
        self._next.step = -1
        observer.before(step)
        self._compare.ran(index)
        try:
            result = kernel(*tensors, **scalars)
        except BaseException as error:
            if is_mismatch(error):  # the step itself came back; here the hook is around IRON's comparison too
                step.ran()
                observer.after(step, StepResult())
            else:
                observer.failed(step, error)
            raise
        step.ran()
        observer.after(step, step_result(result))
        self._next.step = index + 1
        if index + 1 == len(self.sequence.steps):
            observer.invocation_finished()
        return result

    def called_elsewhere(self) -> bool:
        """Whether another thread is inside a call of the callable at this moment.

        Before its first step and after its last a call moves buffers from one side to the other without telling:
        the other threads' stacks show it.
        """
        frames = current_frames()
        code = getattr(type(self._callable).__call__, "__code__", None)
        if len(frames) == 1 or code is None or not code.co_argcount:
            return False
        del frames[threading.get_ident()]
        return any(_is_inside(frame, code, self._callable) for frame in frames.values())

    @cached_property
    def static(self) -> frozenset[str]:
        return static_buffers(self.sequence)

    def operator(self, index: int) -> Any:
        return self._callable.op.runlist[index][0]

    def dispatch_values(self) -> Mapping[str, Any]:
        """Per-call values by device symbol, as ``write_values()`` left them on the callable."""
        values = getattr(self._callable, "dispatch_values", None)
        return values if isinstance(values, Mapping) else {}

    def symbol_of(self, operator: Any, value: Any) -> str | None:
        """The device symbol of an operator's declared value; IRON's own function says it, where there is one."""
        name = getattr(sys.modules.get(type(self._callable).__module__), "device_symbol", None)
        return str(name(operator, value)) if callable(name) else None

    def _judged(self, step: int, statistics: Statistics) -> None:
        if self._observer is not None:
            self._observer.judged(self.sequence.steps[step], statistics)


def _is_inside(frame: FrameType | None, code: CodeType, callable_: Any) -> bool:
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get(code.co_varnames[0]) is callable_:
            return True
        frame = frame.f_back
    return False


class _Next(threading.local):
    """The step that would continue the invocation that runs in this thread."""

    step = 0


class LiveIronStep:
    """One step that is about to run, or has just run."""

    def __init__(self, source: IronSource, index: int, tensors: Sequence[Any], scalars: Mapping[str, Any]) -> None:
        self._index = index
        self._source = source
        self._tensors = tensors
        self._scalars = scalars
        self._contents: dict[tuple[Any, ...], npt.NDArray[Any]] = {}

    @cached_property
    def description(self) -> StepDescription:
        return self._source.sequence.steps[self._index].placed(self.places)

    @cached_property
    def places(self) -> Mapping[int, int]:
        """See the protocol. ``<operand>_offset`` counts elements (amd/IRON iron/common/image/callable.py)."""
        static = self._source.sequence.steps[self._index]
        found = {}
        for position, use in enumerate(static.operands):
            with contextlib.suppress(KeyError):  # a value that the call has not: reading says so
                moved = self._moved_by(position)
                if moved is not None and use.start + moved * DTYPE_BYTES[use.spec.dtype] >= 0:
                    found[position] = use.start + moved * DTYPE_BYTES[use.spec.dtype]
        return found

    @property
    def static(self) -> frozenset[str]:
        """See the protocol. A sequence's weights are loaded once, by name; its inputs come with every call."""
        return self._source.static

    @property
    def shared(self) -> bool:
        """Whether another thread uses the same buffers at this moment."""
        return self._source.called_elsewhere()

    def ran(self) -> None:
        """The kernel has run: what was read before is old."""
        self._contents.clear()

    @cached_property
    def values(self) -> dict[str, int | float]:
        """Per-call values: the call's keyword scalars, else the callable's, by symbol and by the operator's own name.

        Until dispatches took scalars, a symbol stood in an operator's ``..._parameter`` field.
        """
        operator = self._source.operator(self._index)
        params = self._source.sequence.operator_of(self._index).params
        given = self._source.dispatch_values()
        symbols = {v for k, v in params.items() if k.endswith("_parameter") and isinstance(v, str)}
        found = {k: given[k] for k in symbols if k in given} | dict(self._scalars)
        found |= {role: found[symbol] for role, symbol in _bound_roles(operator).items() if symbol in found}
        for value in getattr(operator, "values", None) or ():
            name, symbol = getattr(value, "name", None), self._source.symbol_of(operator, value)
            if isinstance(name, str) and symbol in (everything := {**given, **found}):
                found[name] = everything[symbol]
        return {k: number for k in sorted(found) if (number := _number(found[k])) is not None}

    def reference(
        self, inputs: Sequence[npt.NDArray[Any]], previous: Sequence[npt.NDArray[Any]]
    ) -> tuple[npt.NDArray[Any], ...] | None:
        """What the operator's own ``reference()`` gives for these contents; None where it has none."""
        operator = self._source.operator(self._index)
        if not any(callable(getattr(operator, name, None)) for name in ("reference", "call_reference")):
            return None
        if bounded := getattr(operator, "bound_extents", None):
            words = ", ".join(sorted(bounded))
            raise UsageError(f"{words} is bounded per call, and such a step is not compared by IRON either")
        from fusion_replay.sources.iron.own_reference import call_reference

        declared = isinstance(getattr(operator, "buffers", None), (list, tuple))
        if not (declared or keeps_old_contents(self._source.sequence.operator_of(self._index))):
            previous = ()  # which parameter of its reference would be meant is unknown
        return call_reference(operator, inputs, previous, self.values)

    def read(self, position: int) -> npt.NDArray[Any]:
        """Present contents of operand ``position`` in its use's shape and dtype; see the protocol.

        Buffers are bf16 whatever the spec says until late August 2026, so the bytes are reinterpreted, never
        converted. What several operands name alike (an in-place step) is read once before the kernel and once after.

        Raises:
            RunlistError: the tensor is smaller than its arg spec.
        """
        use = self.description.operands[position]
        spec, tensor = use.spec, self._tensors[position]
        start = self._offset(position) * DTYPE_BYTES[spec.dtype]
        key = (id(tensor), start, spec.shape, spec.dtype)
        if key not in self._contents:
            self._contents[key] = self._read(use, tensor, start)
        return self._contents[key]

    def _read(self, use: OperandUse, tensor: Any, start: int) -> npt.NDArray[Any]:
        spec = use.spec
        raw = host_bytes(tensor)
        if start < 0 or raw.size < start + spec.nbytes:
            raise RunlistError(
                f"step {self.description.index}: argument {spec.name} of buffer {use.label} needs {spec.nbytes} bytes "
                f"from byte {start}, its tensor has {raw.size}"
            )
        part = raw[start : start + spec.nbytes]
        return part.view(numpy_dtype(spec.dtype)).reshape(spec.shape)

    def _offset(self, position: int) -> int:
        """Elements from the tensor's start: the placement of a placed buffer plus its per-call offset, else 0."""
        declared = getattr(self._source.operator(self._index), "buffers", None)
        if not isinstance(declared, (list, tuple)):
            return 0
        placement = getattr(declared[position], "placement", None)
        start = int(placement[1]) if isinstance(placement, (list, tuple)) and len(placement) > 1 else 0
        return start + (self._moved_by(position) or 0)

    def _moved_by(self, position: int) -> int | None:
        """Elements by which this call moves the operand; None where no per-call value does.

        Raises:
            KeyError: the call has no such value.
        """
        operator = self._source.operator(self._index)
        declared = getattr(operator, "buffers", None)
        word = f"{getattr(declared[position], 'name', '')}_offset" if isinstance(declared, (list, tuple)) else ""
        if word not in (getattr(operator, "bound_values", None) or ()):
            return None
        symbol = self._source.symbol_of(operator, operator.value(word))
        return int({**self._source.dispatch_values(), **self._scalars}[symbol]) if symbol else None


def _bound_roles(operator: Any) -> Mapping[str, str]:
    """Role -> symbol where neither a field that the catalogue knows nor a declaration says it (the software NPU)."""
    bound = getattr(operator, "bound_symbols", None)
    return bound if isinstance(bound, Mapping) else {}


def step_result(returned: Any) -> StepResult:
    """What a kernel call returned, ``(handle, result)`` or the result itself, as time and state."""
    result = returned[1] if isinstance(returned, tuple) and len(returned) == 2 else returned
    elapsed = getattr(result, "npu_time", None)
    state = getattr(result, "ret", None)
    name = getattr(state, "name", None) or (None if state is None else str(state).rpartition(".")[2])
    return StepResult(
        elapsed_ns=int(elapsed) if isinstance(elapsed, (int, float, np.number)) else None,
        state=name if isinstance(name, str) else None,
    )


def _number(value: Any) -> int | float | None:
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, (int, float)) else None


__all__ = ["IronSource", "KernelProxy", "LiveIronStep", "origin_of", "step_result"]
