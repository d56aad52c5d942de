# SPDX-License-Identifier: Apache-2.0
"""The adapter for IRON's callables that dispatch step by step, and for the software NPU, which has their shape.

Every form since amd/IRON pull request 117 keeps its prepared steps in a list: ``_execution_plan`` of
``(kernel, tensors)`` (``iron/common/sequence.py``), later ``_steps`` of ``(operator, kernel, names, tensors)``
(``iron/common/image/callable.py``). Each entry's kernel is replaced by a proxy that reports to the observer and calls
the real one; nothing is subclassed, and :meth:`IronSource.detach` puts the entries back.

Tensors are read by ``numpy()`` alone: it pulls what the device wrote without claiming the host side. A raw view
(``torch_view()``, ``numpy_view()``) would mark the buffer host-dirty and make the next dispatch overwrite device data
with stale bytes (Xilinx/mlir-aie ``python/utils/hostruntime/tensor_class.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fusion_replay.errors import NotAttachableError, RunlistError
from fusion_replay.model import DTYPE_BYTES, OperandUse, SequenceDescription, StepDescription
from fusion_replay.sources.describe import describe_sequence
from fusion_replay.sources.protocol import StepObserver, StepResult

_PLANS = {"_steps": 1, "_execution_plan": 0}
"""Where a callable keeps its prepared steps, newest form first, and the kernel's place in an entry."""


class IronSource:
    """One callable of IRON's shape as a :class:`~fusion_replay.sources.protocol.StepSource`.

    Raises:
        NotAttachableError: nothing here dispatches step by step; the message says what to do.
        RunlistError: the runlist contradicts its operators or buffers.
    """

    def __init__(self, callable_: Any) -> None:
        self._plan_name = _plan_of(callable_)
        self._callable = callable_
        self.sequence: SequenceDescription = describe_sequence(callable_.op, origin_of(callable_))
        self._observer: StepObserver | None = None
        self._next = 0  # the step that would continue the running invocation
        self._originals: dict[int, tuple[Any, Any]] = {}  # id of our entry -> (our entry, the entry it replaced)
        found = len(getattr(callable_, self._plan_name))
        if found != len(self.sequence.steps):
            raise RunlistError(
                f"{self.sequence.name}: the runlist has {len(self.sequence.steps)} steps, the callable prepared "
                f"{found}; it was built from another runlist, call get_callable() again"
            )

    @property
    def plan(self) -> list[Any]:
        """The callable's own list of prepared steps; a later form rebuilds it when its arena grows."""
        plan: list[Any] = getattr(self._callable, self._plan_name)
        return plan

    def attach(self, observer: StepObserver) -> None:
        self.detach()
        self._observer = observer
        self._next = 0
        place, plan = _PLANS[self._plan_name], self.plan
        for index, entry in enumerate(plan):
            proxy = KernelProxy(entry[place], self, index)
            ours = (*entry[:place], proxy, *entry[place + 1 :])
            self._originals[id(ours)] = (ours, entry)
            plan[index] = ours

    def detach(self) -> None:
        """Restore the prepared steps. A rebuilt list keeps our proxies in new entries; they are unwrapped too."""
        self._observer = None  # a proxy that somebody else wrapped or kept passes straight through from now on
        place, plan = _PLANS[self._plan_name], self.plan
        for index, entry in enumerate(plan):
            if id(entry) in self._originals:
                plan[index] = self._originals[id(entry)][1]
            elif type(entry[place]) is KernelProxy and _source_of(entry[place]) is self:
                plan[index] = (*entry[:place], _kernel_of(entry[place]), *entry[place + 1 :])
        self._originals.clear()

    def dispatch(self, index: int, kernel: Any, tensors: Sequence[Any], scalars: Mapping[str, Any]) -> Any:
        """Run step ``index`` on the real kernel, telling the observer; what the kernel raises passes unchanged."""
        observer = self._observer
        if observer is None:
            return kernel(*tensors, **scalars)
        step = LiveIronStep(self, index, tensors, scalars)
        if index == 0 or index != self._next:
            observer.invocation_started(self.sequence)
        self._next = -1
        observer.before(step)
        try:
            result = kernel(*tensors, **scalars)
        except BaseException as error:
            observer.failed(step, error)
            raise
        step.ran()
        observer.after(step, step_result(result))
        self._next = index + 1
        if self._next == len(self.sequence.steps):
            observer.invocation_finished()
        return result

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


class KernelProxy:
    """Stands for a kernel object in a prepared step: same class to ``isinstance``, same attributes, both ways."""

    __slots__ = ("_kernel", "_source", "_step")

    def __init__(self, kernel: Any, source: IronSource, step: int) -> None:
        object.__setattr__(self, "_kernel", kernel)
        object.__setattr__(self, "_source", source)
        object.__setattr__(self, "_step", step)

    def __call__(self, *tensors: Any, **scalars: Any) -> Any:
        step: int = object.__getattribute__(self, "_step")
        return _source_of(self).dispatch(step, _kernel_of(self), tensors, scalars)

    def __getattribute__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_kernel"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_kernel"), name, value)

    def __repr__(self) -> str:
        return repr(_kernel_of(self))


def _kernel_of(proxy: KernelProxy) -> Any:
    return object.__getattribute__(proxy, "_kernel")


def _source_of(proxy: KernelProxy) -> IronSource:
    source: IronSource = object.__getattribute__(proxy, "_source")
    return source


class LiveIronStep:
    """One step that is about to run, or has just run."""

    def __init__(self, source: IronSource, index: int, tensors: Sequence[Any], scalars: Mapping[str, Any]) -> None:
        self.description: StepDescription = source.sequence.steps[index]
        self._source = source
        self._tensors = tensors
        self._scalars = scalars
        self._contents: dict[tuple[Any, ...], npt.NDArray[Any]] = {}

    def ran(self) -> None:
        """The kernel has run: what was read before is old."""
        self._contents.clear()

    @cached_property
    def values(self) -> dict[str, int | float]:
        """Per-call values: the call's keyword scalars, else the callable's, by symbol and by the operator's own name.

        Until dispatches took scalars, a symbol stood in an operator's ``..._parameter`` field.
        """
        operator = self._source.operator(self.description.index)
        params = self._source.sequence.operator_of(self.description.index).params
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
        operator = self._source.operator(self.description.index)
        if not callable(getattr(operator, "reference", None)):
            return None
        from fusion_replay.sources.iron_reference import call_reference

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
        raw = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
        if start < 0 or raw.size < start + spec.nbytes:
            raise RunlistError(
                f"step {self.description.index}: argument {spec.name} of buffer {use.label} needs {spec.nbytes} bytes "
                f"from byte {start}, its tensor has {raw.size}"
            )
        part = raw[start : start + spec.nbytes]
        return part.view(_numpy_dtype(spec.dtype)).reshape(spec.shape)

    def _offset(self, position: int) -> int:
        """Elements from the tensor's start: the placement of a placed buffer plus its per-call offset, else 0."""
        operator = self._source.operator(self.description.index)
        declared = getattr(operator, "buffers", None)
        if not isinstance(declared, (list, tuple)):
            return 0
        spec = declared[position]
        placement = getattr(spec, "placement", None)
        start = int(placement[1]) if isinstance(placement, (list, tuple)) and len(placement) > 1 else 0
        word = f"{getattr(spec, 'name', '')}_offset"
        if word in (getattr(operator, "bound_values", None) or ()):
            symbol = self._source.symbol_of(operator, operator.value(word))
            start += int({**self._source.dispatch_values(), **self._scalars}[symbol]) if symbol else 0
        return start


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


def origin_of(callable_: Any) -> dict[str, str]:
    """Which form of IRON the callable has, the device, and the flavour that its own references follow.

    A callable that knows better says so in a mapping named ``origin`` (the software NPU does).
    """
    own = getattr(callable_, "origin", None)
    if isinstance(own, Mapping):
        return {str(k): str(v) for k, v in own.items()}
    variant = _variant(callable_)
    flavour = {"V6": "iron-2026-09", "V5": "iron-2026-09", "V4": "iron-2026-08", "V3": "iron-2026-08"}
    origin = {"variant": variant, "flavour": flavour.get(variant, "pr117"), "dispatch": "separate"}
    if device := _current_device():
        origin["device"] = device
    return origin


def _variant(callable_: Any) -> str:
    """V1 and V2: pull request 117; V3 and V4: August 2026; V5: numpy and declared operators; V6: ``_steps``."""
    sequence = callable_.op
    if hasattr(callable_, "_steps"):
        return "V6"
    if hasattr(callable_, "dispatch_values") or any(hasattr(entry[0], "buffers") for entry in sequence.runlist):
        return "V5"
    policy = hasattr(callable_, "_dispatch") or hasattr(sequence, "_dispatch")
    if hasattr(sequence, "plan_scratch"):
        return "V3" if policy else "V4"
    return "V2" if policy else "V1"


def _current_device() -> str | None:
    """The generation that mlir-aie is bound to; it is asked only where the program itself has loaded it."""
    ask = getattr(sys.modules.get("aie.utils"), "get_current_device", None)
    if not callable(ask):
        return None
    try:
        device = ask()
        words = f"{type(device).__name__} {getattr(device, 'name', '')}".lower()
    except Exception:
        return None
    return next((name for name in ("npu1", "npu2") if name in words), None)


def _plan_of(callable_: Any) -> str:
    """The name of the list of prepared steps.

    Raises:
        NotAttachableError: there is none; the message says what the object is and what to do.
    """
    kind = type(callable_).__name__
    if hasattr(callable_, "runlist") and hasattr(callable_, "get_callable"):
        raise NotAttachableError(
            f"{kind} {getattr(callable_, 'name', '')!r} is a sequence, not its callable; "
            "record what its get_callable() returns"
        )
    if hasattr(callable_, "get_arg_spec") or not hasattr(getattr(callable_, "op", None), "runlist"):
        raise NotAttachableError(
            f"{kind} cannot be recorded step by step; expected the callable of an IRON OperatorSequence "
            "(get_callable(), dispatch='separate'), found no runlist; for anything else use rec.step(...)"
        )
    if not hasattr(callable_.op, "subbuffer_layout"):
        raise NotAttachableError(
            f"{kind}: sequence {getattr(callable_.op, 'name', '')!r} was never compiled; "
            "call compile() on it and record what get_callable() returns"
        )
    found = next((name for name in _PLANS if isinstance(getattr(callable_, name, None), list)), None)
    if found is None:
        raise NotAttachableError(
            f"{kind} runs its whole runlist without separate dispatches (fused or reference mode), so no step can be "
            "seen; build the sequence with dispatch='separate'"
        )
    entries = getattr(callable_, found)
    if any(not callable(entry[_PLANS[found]]) for entry in entries):
        raise NotAttachableError(
            f"{kind} evaluates references and dispatches nothing; build the sequence with dispatch='separate'"
        )
    blind = next((t for entry in entries for t in entry[-1] if not hasattr(t, "numpy")), None)
    if blind is not None:
        raise NotAttachableError(
            f"{kind}: its {type(blind).__name__} has no numpy(), the only read that leaves a buffer as it is; "
            "use IRON from pull request 117 on"
        )
    return found


def _numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _number(value: Any) -> int | float | None:
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, (int, float)) else None


__all__ = ["IronSource", "KernelProxy", "LiveIronStep", "origin_of", "step_result"]
