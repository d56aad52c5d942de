# SPDX-License-Identifier: Apache-2.0
"""What a workload is: its options as data, and a run that can be recorded invocation by invocation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fusion_replay.errors import UsageError

COLUMNS = {"npu1": 4, "npu2": 8}
"""Columns of AI engine cores per device: the most that an operator's design may use (mlir-aie, device models)."""
DEVICES = tuple(COLUMNS)


@dataclass(frozen=True, slots=True)
class WorkloadOption:
    """One option of a workload, from which the command line makes ``--name``.

    Attributes:
        name: spelled as in Python (``num_layers`` becomes ``--num-layers``).
        type: ``int``, ``float``, ``str`` or ``bool``.
        default: None where the workload decides.
        choices: the accepted values, where only some are.
        minimum: smallest accepted number.
        repeat: may be given several times; its value is then a tuple.
    """

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    repeat: bool = False

    def check(self, workload: str, value: Any) -> Any:
        """``value`` as this option's type.

        Raises:
            UsageError: wrong type, not among the choices, or below the minimum.
        """
        if self.repeat:
            return tuple(self._check_one(workload, v) for v in value or ())
        return None if value is None else self._check_one(workload, value)

    def _check_one(self, workload: str, value: Any) -> Any:
        where = f"workload {workload}: option {self.name}={value!r}"
        if self.type is bool or isinstance(value, bool):
            if self.type is not bool or not isinstance(value, bool):
                raise UsageError(f"{where}: expected {self.type.__name__}, found {type(value).__name__}")
            return value
        try:
            converted = self.type(value)
        except (TypeError, ValueError):
            raise UsageError(f"{where}: expected {self.type.__name__}, found {type(value).__name__}") from None
        if self.choices and converted not in self.choices:
            raise UsageError(f"{where}: expected one of {', '.join(self.choices)}")
        if self.minimum is not None and converted < self.minimum:
            raise UsageError(f"{where}: expected at least {self.minimum}")
        return converted


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """A runlist and what IRON's ``OperatorSequence`` wants to know beside it.

    ``buffer_sizes`` holds the explicit sizes in bytes, of buffers that steps use in slices or write in part.
    """

    name: str
    runlist: list[tuple[Any, ...]]
    input_args: tuple[str, ...]
    output_args: tuple[str, ...]
    buffer_sizes: Mapping[str, int]

    def simulate(self, device: str, faults: Sequence[Any] = (), seed: int = 0, **dispatch: Any) -> Any:
        """The software NPU's callable for this runlist; ``dispatch`` as :class:`SimulatedSequence` takes it."""
        from fusion_replay.simulator.sequence import SimulatedSequence

        return SimulatedSequence(
            self.name,
            self.runlist,
            list(self.input_args),
            list(self.output_args),
            dict(self.buffer_sizes),
            device=device,
            faults=faults,
            seed=seed,
            **dispatch,
        ).get_callable()


def write_buffer(callable_: Any, name: str, values: Any) -> None:
    """Write the leading elements of buffer ``name`` and move them to the device: IRON's host idiom, torch-free."""
    buffer = callable_.get_buffer(name)
    flat = values.reshape(-1)
    buffer.numpy_view().reshape(-1)[: flat.size] = flat
    buffer.to("npu")


class Run(ABC):
    """A workload that was built: a callable that was not called yet, and the host's part around each call.

    One invocation ``i`` is ``prepare(i)``, ``callable()``, ``finish(i)``, in order from 0. A recorder attaches to
    every one of ``callables``, which are IRON-shaped (the software NPU's).
    """

    callable: Any
    invocations: int

    @property
    def callables(self) -> tuple[Any, ...]:
        """What dispatches kernels: ``callable`` itself, or what it calls in turn."""
        return (self.callable,)

    @property
    def dispatches(self) -> int:
        """Kernel calls of all invocations together."""
        return self.invocations * len(self.callable.op.runlist)

    @abstractmethod
    def prepare(self, i: int) -> None:
        """Write the inputs and per-call values of invocation ``i`` into the callable's buffers."""

    @abstractmethod
    def finish(self, i: int) -> None:
        """Read what invocation ``i`` left in the output buffers."""

    @abstractmethod
    def describe(self) -> str:
        """One line: what runs, how big it is, on which device."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """What the model said (tokens, an embedding), as JSON data."""

    def execute(self) -> dict[str, Any]:
        """Run every invocation; for callers with nothing to do in between."""
        for i in range(self.invocations):
            self.prepare(i)
            self.callable()
            self.finish(i)
        return self.result()


@dataclass(frozen=True, slots=True)
class Workload:
    """A named sequence with its options; :meth:`build` makes it ready to run on the software NPU.

    ``builder`` receives the device ("npu1" or "npu2"), the faults to inject, and every option as an attribute.
    """

    name: str
    summary: str
    options: tuple[WorkloadOption, ...]
    builder: Callable[[str, Sequence[Any], SimpleNamespace], Run]

    def build(self, device: str = "npu2", faults: Sequence[Any] = (), options: Mapping[str, Any] | None = None) -> Run:
        """A :class:`Run` on a fresh software NPU.

        Raises:
            UsageError: an unknown device or option, a value that the workload cannot honour, or a fault in an
                invocation that it does not come to.
        """
        if device not in DEVICES:
            raise UsageError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
        given = dict(options or {})
        known = {o.name for o in self.options}
        if unknown := [name for name in given if name not in known]:
            raise UsageError(
                f"workload {self.name}: unknown option {', '.join(unknown)}; known: {', '.join(sorted(known)) or '-'}"
            )
        values = {o.name: o.check(self.name, given.get(o.name, o.default)) for o in self.options}
        run = self.builder(device, faults, SimpleNamespace(**values))
        if faults:
            self._refuse_what_never_strikes(run)
        return run

    def _refuse_what_never_strikes(self, run: Run) -> None:
        for fault in (f for c in run.callables for f in getattr(c, "faults", ())):
            if fault.invocation is not None and fault.invocation >= run.invocations:
                found = f"0 to {run.invocations - 1}" if run.invocations > 1 else "0 alone"
                raise UsageError(f"workload {self.name}: fault {fault} never strikes: its invocations are {found}")


__all__ = ["COLUMNS", "DEVICES", "Run", "SequenceSpec", "Workload", "WorkloadOption", "write_buffer"]
