# SPDX-License-Identifier: Apache-2.0
"""What a kind of fault is: an entry in the catalogue with up to two actions, and a fault armed on one device.

A kind may refuse a step statically (:meth:`Kind.refuses`), act before the kernel runs, and change the outputs after.
Random choices come from the seed and the place alone, so the same faults give the same recording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from zlib import crc32

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.simulator.device import Injection, SimulatedDevice
from fusion_replay.simulator.dispatch import Array, StepDispatch
from fusion_replay.simulator.faults.fault import Fault

if TYPE_CHECKING:
    from fusion_replay.simulator.sequence import PlannedStep


class Kind:
    """Base of the kinds: takes as many counts as ``usage`` names, strikes every dispatch it is addressed to.

    Attributes:
        name: how the fault is spelled.
        summary: one line for people.
        report: the public report it is modelled on.
        usage: its arguments, as they are spelled after the name, a colon before each.
        endless: the kernel never comes back.
        fusion: only a fused dispatch has it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    report: ClassVar[str]
    usage: ClassVar[str] = ""
    endless: ClassVar[bool] = False
    fusion: ClassVar[bool] = False

    def parse(self, text: str, args: list[str]) -> tuple[int | str, ...]:
        if len(args) > self.usage.count(":") or not all(a.isascii() and a.isdigit() for a in args):
            takes = f"{self.name}{self.usage}" if self.usage else f"{self.name}, without arguments"
            raise UsageError(f"fault {text!r}: expected {takes}")
        return tuple(int(a) for a in args)

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        """Why this fault cannot apply to that step, or None."""
        return None

    def built_in(self, fault: Fault, steps: Sequence[PlannedStep]) -> bool:
        """Whether a sequence of these steps has what makes the fault."""
        return True

    def addressed(self, fault: Fault, dispatch: StepDispatch) -> bool:
        """Whether the fault is addressed to this dispatch."""
        return fault.matches(dispatch)

    def due(self, fault: Fault, dispatch: StepDispatch) -> bool:
        """Whether a dispatch that the fault is addressed to is struck now."""
        return True

    def notice(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        """See the inputs of every dispatch of a step that the fault is addressed to in some invocation."""

    def before(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        """Spoil what the kernel is told: inputs, parameters, values, the state of the core."""

    def after(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        """Spoil what it computed: replace entries of ``dispatch.outputs``."""


class Spoiler(Kind):
    """Base of the kinds that change what stands in the first output."""

    def after(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        dispatch.outputs[0] = self.spoil(armed, dispatch, np.array(dispatch.outputs[0]).reshape(-1))

    def spoil(self, armed: ArmedFault, dispatch: StepDispatch, output: Array) -> Array:
        """The output in its place; ``output`` is a flat copy of the right one."""
        raise NotImplementedError


class ArmedFault:
    """A fault on one device: its kind's actions, written down in ``device.injected``.

    Attributes:
        memory: what the kind keeps between dispatches.
    """

    def __init__(self, fault: Fault, kind: Kind, device: SimulatedDevice) -> None:
        self.fault = fault
        self.kind = kind
        self.device = device
        self.memory: dict[Any, Any] = {}
        self._spared: set[int] = set()

    def spare(self, step: int) -> None:
        """Never strike this step: the kind cannot apply there."""
        self._spared.add(step)

    def strikes(self, dispatch: StepDispatch) -> bool:
        fault, kind = self.fault, self.kind
        return dispatch.step not in self._spared and kind.addressed(fault, dispatch) and kind.due(fault, dispatch)

    def notice(self, dispatch: StepDispatch) -> None:
        fault = self.fault
        here = fault.op == dispatch.spec.type if fault.op is not None else fault.step == dispatch.step
        if here and dispatch.step not in self._spared:
            self.kind.notice(self, dispatch)

    def before(self, dispatch: StepDispatch) -> None:
        self.kind.before(self, dispatch)

    def after(self, dispatch: StepDispatch) -> None:
        honest = list(dispatch.outputs)
        self.kind.after(self, dispatch)
        acted = type(self.kind).after is not Kind.after
        changed = sum(_differing(a, b) for a, b in zip(honest, dispatch.outputs, strict=True)) if acted else None
        self.write_down(dispatch, changed)

    def write_down(self, dispatch: StepDispatch, changed: int | None = None) -> None:
        self.device.injected.append(Injection(str(self.fault), dispatch.address, changed))

    def arg(self, index: int, default: int) -> int:
        """The fault's argument at this position, a count."""
        return int(self.fault.args[index]) if index < len(self.fault.args) else default

    def rng(self, dispatch: StepDispatch) -> np.random.Generator:
        """Random choices of this dispatch."""
        return self.device.rng(crc32(str(self.fault).encode()), dispatch.invocation + 1, dispatch.step + 1)


def first_output(of: PlannedStep | StepDispatch) -> ArgSpec:
    """The output that faults of contents spoil: the first in arg-spec order."""
    return next(a for a in of.args if a.writes)


def tile_of(params: Any, size: int) -> int:
    """Elements of one output tile: the design's own size where it cuts the output up, else an eighth of it."""
    for name in ("tile_size_output", "tile_size"):
        tile = getattr(params, name, None)
        if tile and tile < size:
            return int(tile)
    return max(size // 8, 1)


def tiles_of(params: Any, size: int) -> int:
    """How many tiles an output of ``size`` elements has, the last perhaps short."""
    return math.ceil(size / tile_of(params, size))


def _differing(a: Array, b: Array) -> int:
    """Elements whose bits differ."""
    width = f"u{a.dtype.itemsize}"
    left, right = (np.ascontiguousarray(x).reshape(-1).view(width) for x in (a, b))
    return int(np.count_nonzero(left != right))
