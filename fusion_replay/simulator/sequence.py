# SPDX-License-Identifier: Apache-2.0
"""A runlist on the software NPU: checked, laid out and compiled into a callable, shaped like ``OperatorSequence``.

Follows amd/IRON iron/common/sequence.py (August 2026): same attributes, same layout rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay import refs as catalogue
from fusion_replay.errors import RunlistError, UsageError
from fusion_replay.model.runlist import ArgSpec, parse_buffer
from fusion_replay.operators import OperatorSpec
from fusion_replay.simulator.arena import back_to_back, lives, places
from fusion_replay.simulator.callable import SimulatedCallable
from fusion_replay.simulator.faults import bound, check_faults
from fusion_replay.simulator.faults.fusion import OVERLAP, collide
from fusion_replay.simulator.memory import GRANULE
from fusion_replay.simulator.operators import SimulatedOperator, parameters_of

if TYPE_CHECKING:
    from fusion_replay.simulator.faults import Fault

_DISPATCH = ("auto", "separate", "fused")


@dataclass(frozen=True, eq=False)
class PlannedStep:
    """One checked runlist entry: the operator, what the catalogue knows of it, and a buffer name per argument."""

    index: int
    op: Any
    spec: OperatorSpec
    params: SimpleNamespace
    args: tuple[ArgSpec, ...]
    names: tuple[str, ...]
    entry: tuple[Any, ...] = ()

    @property
    def label(self) -> str:
        return f"step {self.index} ({self.spec.type})"


class SimulatedSequence:
    """A runlist, checked on construction; :meth:`compile` lays its buffers out, :meth:`get_callable` makes it run.

    Args:
        name: any text; names the recording's sequence.
        runlist: entries ``(operator, buffer name, ...)``, one name per argument in arg-spec order; a name may be a
            slice ``"cache[start:end]"`` in bytes of a buffer whose size is known. Kept as given, not copied.
        input_args, output_args: buffers that the host fills before, and reads after, each call.
        buffer_sizes: sizes in bytes of buffers that a slice refers to.
        buffer_offsets: of a fused dispatch, planned byte offsets by name; None: :meth:`infer_buffer_offsets`.
        plan_scratch: whether scratch is planned at all; else all buffers are packed back to back.
        dispatch: "separate" (or "auto", which means the same here), or "fused": one dispatch for all, npu2 only.
        device: "npu1" or "npu2".
        faults: what to break; see :mod:`.faults`.
        seed: of the faults' random choices.
        folds: of a fused dispatch, whether elementwise steps go on from the step before without a rounding.

    Attributes:
        mode: "separate" or "fused".
        subbuffer_layout: name -> (kind, offset, length) in bytes, kinds "input", "output", "scratch"; set by compile.
        buffer_sizes: total bytes of (inputs, outputs, scratch); set by compile.
        slice_info: "b[s:e]" -> (b, s, e) in bytes; set by compile.

    Raises:
        RunlistError: a runlist that no device could run; the message names the step and the argument.
        UnknownOperatorError: an operator without a description.
        UsageError: an unknown device or dispatch.
    """

    subbuffer_layout: dict[str, tuple[str, int, int]]
    buffer_sizes: tuple[int, int, int]
    slice_info: dict[str, tuple[str, int, int]]

    def __init__(
        self,
        name: str,
        runlist: Sequence[tuple[Any, ...]],
        input_args: Sequence[str] = (),
        output_args: Sequence[str] = (),
        buffer_sizes: Mapping[str, int] | None = None,
        *,
        buffer_offsets: Mapping[str, int] | None = None,
        plan_scratch: bool = True,
        dispatch: str = "separate",
        device: str = "npu1",
        faults: Sequence[Fault | str] = (),
        seed: int = 0,
        folds: bool = False,
    ) -> None:
        if dispatch not in _DISPATCH:
            raise UsageError(f"dispatch {dispatch!r}: expected {', '.join(_DISPATCH)}")
        if dispatch == "fused" and device == "npu1":
            raise UsageError("dispatch 'fused': npu1 runs no full ELF; expected device npu2, or separate dispatch")
        self.name = name
        self.runlist = runlist
        self.input_args = list(input_args)
        self.output_args = list(output_args)
        self.explicit_buffer_sizes = dict(buffer_sizes or {})
        self.buffer_offsets = buffer_offsets
        self.plan_scratch = plan_scratch
        self.mode = "fused" if dispatch == "fused" else "separate"
        self.device = device
        self.faults = bound(faults, runlist)
        self.seed = seed
        self.folds = folds
        self.steps = _planned(runlist)
        self._sizes = _base_sizes(self.steps, self.explicit_buffer_sizes)
        _check_edges(self)

    def unique_operators(self) -> list[Any]:
        """Operators in first-use order, de-duplicated by identity: index i is kernel ``op<i>``."""
        seen: dict[int, Any] = {}
        for step in self.steps:
            seen.setdefault(id(step.op), step.op)
        return list(seen.values())

    def calculate_buffer_layout(
        self,
    ) -> tuple[dict[str, tuple[str, int, int]], tuple[int, int, int], dict[str, tuple[str, int, int]]]:
        """``(subbuffer_layout, buffer_sizes, slice_info)``, all in bytes, buffers back to back within their kind."""
        layout: dict[str, tuple[str, int, int]] = {}  # a buffer named as input and output ends up as output, as in IRON
        edges = {*self.input_args, *self.output_args}
        groups = {
            "input": [n for n in self.input_args if n in self._sizes],
            "output": [n for n in self.output_args if n in self._sizes],
            "scratch": [n for n in self._sizes if n not in edges],
        }
        totals = []
        planned = self._plan() if self.mode == "fused" else {}
        for kind, names in groups.items():
            if self.mode == "fused":
                placed = back_to_back(names, self._sizes, planned)
            else:
                ends = [0, *accumulate(self._sizes[name] for name in names)]
                placed = dict(zip(names, ends, strict=False))
            layout.update((name, (kind, placed[name], self._sizes[name])) for name in names)
            totals.append(max((placed[name] + self._sizes[name] for name in names), default=0))
        slices = {}
        for step in self.steps:
            for label in step.names:
                base, start, stop = parse_buffer(label)
                if stop is not None:
                    slices[label] = (base, start, stop)
        return layout, (totals[0], totals[1], totals[2]), slices

    def infer_buffer_offsets(self) -> dict[str, int]:
        """Of a fused dispatch: offsets that let buffers overlap whose lives don't.

        Raises:
            UsageError: a fault of the plan that fits no buffer.
        """
        uses = [
            (
                [n for n, a in zip(s.names, s.args, strict=True) if a.reads],
                [n for n, a in zip(s.names, s.args, strict=True) if a.writes],
            )
            for s in self.steps
        ]
        sliced = {n for s in self.steps for n in s.names if "[" in n}
        pinned = {*self.input_args, *self.output_args, *self.explicit_buffer_sizes, *sliced}
        alive = lives(uses, pinned)
        offsets = places(alive, self._sizes)
        for fault in check_faults(self.faults, self.steps, fused=True):
            if fault.kind == OVERLAP:
                rng = np.random.default_rng([self.seed, fault.step or 0])
                moved, onto = collide(fault, self.steps, alive, self._sizes, rng)
                offsets[moved] = offsets[onto]
        return offsets

    def _plan(self) -> Mapping[str, int]:
        if self.buffer_offsets is not None:
            return self.buffer_offsets
        return self.infer_buffer_offsets() if self.plan_scratch else {}

    def get_layout_for_buffer(self, name: str) -> tuple[str, int, int]:
        """``(kind, offset, length)`` in bytes; for a slice its own length, as IRON answers since late August 2026."""
        if name in self.slice_info:
            base, start, stop = self.slice_info[name]
            kind, offset, _ = self.subbuffer_layout[base]
            return kind, offset + start, stop - start
        return self.subbuffer_layout[name]

    def written_buffers(self) -> frozenset[str]:
        """Base names of the buffers that some step writes."""
        return frozenset(
            parse_buffer(name)[0]
            for step in self.steps
            for name, arg in zip(step.names, step.args, strict=True)
            if arg.writes
        )

    def get_arg_spec(self) -> Any:
        raise NotImplementedError("a sequence has no arg spec of its own; see get_layout_for_buffer()")

    def compile(self) -> SimulatedSequence:
        self.subbuffer_layout, self.buffer_sizes, self.slice_info = self.calculate_buffer_layout()
        return self

    def get_callable(self) -> SimulatedCallable:
        """The sequence ready to run; compiles first if that has not happened yet.

        Raises:
            UsageError: a fault that fits no step, or a design outside the device's rules.
        """
        if not hasattr(self, "subbuffer_layout"):
            self.compile()
        if self.mode == "fused":
            from fusion_replay.simulator.fused import FusedCallable

            return FusedCallable(self)
        return SimulatedCallable(self)


def _planned(runlist: Sequence[tuple[Any, ...]]) -> tuple[PlannedStep, ...]:
    if not runlist:
        raise RunlistError("the runlist is empty: expected entries (operator, buffer name, ...)")
    known: dict[int, tuple[OperatorSpec, SimpleNamespace, tuple[ArgSpec, ...]]] = {}
    steps = []
    for index, entry in enumerate(runlist):
        if not isinstance(entry, (tuple, list)) or not entry:
            raise RunlistError(f"step {index}: expected (operator, buffer name, ...), found {entry!r}")
        op, *names = entry
        if id(op) not in known:
            known[id(op)] = _described(index, op)
        spec, params, args = known[id(op)]
        step = PlannedStep(index, op, spec, params, args, tuple(names), entry if isinstance(entry, tuple) else ())
        _check_names(step)
        steps.append(step)
    return tuple(steps)


def _described(index: int, op: Any) -> tuple[OperatorSpec, SimpleNamespace, tuple[ArgSpec, ...]]:
    if isinstance(op, type) or not callable(getattr(op, "get_arg_spec", None)):
        raise RunlistError(f"step {index}: {op!r} is no operator object (it has no get_arg_spec())")
    spec = catalogue.find(type(op).__name__)
    params = parameters_of(op)
    args = op.arg_specs() if isinstance(op, SimulatedOperator) else spec.arg_specs(params)
    if spec.shapeless and not any(a.writes for a in args):
        raise RunlistError(
            f"step {index} ({spec.type}): declared without shapes, so no runlist can hold it; give them to "
            "@fusion_replay.operator(..., args=...), or to operators.custom()"
        )
    return spec, spec.bind(params), args


def _check_names(step: PlannedStep) -> None:
    wrong = [n for n in step.names if not isinstance(n, str)]
    if wrong:
        raise RunlistError(f"{step.label}: buffer names must be text, found {wrong[0]!r}")
    if len(step.names) != len(step.args):
        raise RunlistError(
            f"{step.label}: expected {len(step.args)} buffers ({', '.join(a.name for a in step.args)}), "
            f"found {len(step.names)} ({', '.join(step.names)})"
        )


def _base_sizes(steps: Sequence[PlannedStep], explicit: Mapping[str, int]) -> dict[str, int]:
    """Bytes of every base buffer, in layout order: first use in the runlist, then those only named in ``explicit``."""
    for name, nbytes in explicit.items():
        if isinstance(nbytes, bool) or not isinstance(nbytes, (int, np.integer)) or nbytes < 1:
            raise RunlistError(f"buffer_sizes[{name!r}]: expected a size in bytes, found {nbytes!r}")
    sizes: dict[str, int] = {}
    elements: dict[str, tuple[int, str]] = {}
    for step in steps:
        for label, arg in zip(step.names, step.args, strict=True):
            base, start, stop = _parsed(step, label)
            if stop is not None:
                _check_slice(step, arg, label, start, stop, explicit.get(base, sizes.get(base)))
                continue
            count, first = elements.setdefault(base, (arg.size, step.label))
            if count != arg.size:
                raise RunlistError(
                    f"{step.label}: argument {arg.name} needs {arg.size} elements {arg.shape}, but buffer {base!r} has "
                    f"{count} since {first}"
                )
            nbytes = sizes.setdefault(base, int(explicit.get(base, arg.nbytes)))
            if nbytes < arg.nbytes:
                raise RunlistError(
                    f"{step.label}: argument {arg.name} needs {arg.nbytes} bytes, but buffer {base!r} has {nbytes}"
                )
    for name, nbytes in explicit.items():
        sizes.setdefault(name, int(nbytes))
    return sizes


def _parsed(step: PlannedStep, label: str) -> tuple[str, int, int | None]:
    try:
        base, start, stop = parse_buffer(label)
    except UsageError as wrong:
        raise RunlistError(f"{step.label}: {wrong}") from None
    if "[" in base or "]" in base or not base:
        raise RunlistError(f"{step.label}: buffer {label!r}: expected NAME or NAME[START:STOP], one level of slicing")
    return base, start, stop


def _check_slice(step: PlannedStep, arg: ArgSpec, label: str, start: int, stop: int, base: int | None) -> None:
    if base is None:
        raise RunlistError(f"{step.label}: slice {label!r} needs the size of its base in buffer_sizes")
    if stop > base:
        raise RunlistError(f"{step.label}: slice {label!r} lies outside its base of {base} bytes")
    if stop - start < arg.nbytes:
        raise RunlistError(
            f"{step.label}: argument {arg.name} needs {arg.nbytes} bytes {arg.shape}, "
            f"slice {label!r} has {stop - start}"
        )
    if start % GRANULE or (stop % GRANULE and stop != base):
        raise RunlistError(
            f"{step.label}: slice {label!r} must start and end on multiples of {GRANULE} bytes (or at the base's end): "
            "host and device are reconciled by whole cache lines"
        )


def _check_edges(sequence: SimulatedSequence) -> None:
    for kind, names in (("input", sequence.input_args), ("output", sequence.output_args)):
        for name in names:
            if name not in sequence._sizes:
                raise RunlistError(f"{kind} argument {name!r} is used by no step; used: {_some(sequence._sizes)}")


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
