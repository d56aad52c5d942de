# SPDX-License-Identifier: Apache-2.0
"""Calls of single operators, outside any sequence: each is an invocation of a sequence of one step.

Buffers are named after the operator's arguments. The same tensor given twice (an operator run in place) is one
buffer, so a call's description depends on which of its arguments are the same object.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from fusion_replay.errors import RunlistError
from fusion_replay.model.runlist import SequenceDescription
from fusion_replay.sources.describe import arg_specs, describe_operator, describe_sequence
from fusion_replay.sources.iron.binaries import operator_paths
from fusion_replay.sources.iron.source import LiveIronStep, step_result
from fusion_replay.sources.iron.variant import current_device
from fusion_replay.sources.protocol import StepObserver


class OperatorSource:
    """One operator with one way of sharing tensors between its arguments; what a step asks of its source."""

    static: frozenset[str] = frozenset()  # every call brings tensors of its own

    def __init__(self, operator: Any, sharing: tuple[int, ...]) -> None:
        self._operator = operator
        names = [spec.name for spec, _ in arg_specs(operator, describe_operator(operator))]
        buffers = [names[i] for i in sharing]
        stand_in = SimpleNamespace(name=type(operator).__name__, runlist=[(operator, *buffers)])
        described = describe_sequence(stand_in, operator_origin(operator))
        self.sequence: SequenceDescription = _with_roles(described)
        self.observer: StepObserver | None = None
        self.prepared = False

    def operator(self, index: int) -> Any:
        return self._operator

    def dispatch_values(self) -> Mapping[str, Any]:
        return {}

    def called_elsewhere(self) -> bool:
        return False  # all that a call does lies between its beginning and its end, which are reported

    def symbol_of(self, operator: Any, value: Any) -> str | None:
        """The device symbol of a declared value: IRON's own function says it, where there is one."""
        name = getattr(sys.modules.get("iron.common.image.callable"), "device_symbol", None)
        return str(name(operator, value)) if callable(name) else None


def operator_origin(operator: Any) -> dict[str, str]:
    """As :func:`~fusion_replay.sources.iron.source.origin_of` for an operator alone.

    Told by what its arguments offer: declared buffers came in late August 2026 (``iron/common/declare/``), specs that
    answer ``reads`` and ``writes`` at the start of August (``iron/common/base.py``).
    """
    if isinstance(getattr(operator, "buffers", None), (list, tuple)):
        variant, flavour = "V5", "iron-2026-09"
    elif all(hasattr(spec, "reads") for spec in operator.get_arg_spec()):
        variant, flavour = "V3", "iron-2026-08"
    else:
        variant, flavour = "V2", "pr117"
    origin = {"variant": variant, "flavour": flavour, "dispatch": "operator"}
    if device := current_device():
        origin["device"] = device
    return origin


@dataclass
class OperatorCalls:
    """Reports calls of operators to observers, one observer per description."""

    observer: Callable[[], StepObserver]
    _sources: dict[tuple[int, tuple[int, ...]], OperatorSource] = field(default_factory=dict)
    _known: dict[int, tuple[Any, int]] = field(default_factory=dict)
    """Operators by id, held so that no other gets it, with the number of their arguments."""

    def begin(self, operator: Any, args: Sequence[Any], scalars: Mapping[str, Any], kernel: Any = None) -> OperatorCall:
        """The call is about to be dispatched: its inputs are read now. ``kernel``: what the runtime was given for it.

        Raises:
            RunlistError: fewer tensors than the operator declares.
        """
        tensors = [a for a in args if not callable(a)]  # the runtime drops callables, too
        source = self._source(operator, tensors)
        assert source.observer is not None
        step = LiveIronStep(source, 0, tensors, scalars)  # type: ignore[arg-type]  # it asks no more than this gives
        source.observer.invocation_started(source.sequence)
        if not source.prepared:
            source.prepared = True
            source.observer.prepared(lambda: operator_paths(operator, kernel))
        source.observer.before(step)
        return OperatorCall(source.observer, step)

    def _source(self, operator: Any, tensors: Sequence[Any]) -> OperatorSource:
        if id(operator) not in self._known:
            self._known[id(operator)] = operator, len(arg_specs(operator, describe_operator(operator)))
        wanted = self._known[id(operator)][1]
        if len(tensors) < wanted:
            raise RunlistError(
                f"{type(operator).__name__}: called with {len(tensors)} tensors, its arg spec has {wanted}; "
                "nothing can be said about which is which"
            )
        ids = [id(t) for t in tensors[:wanted]]  # a trace buffer may follow
        sharing = tuple(ids.index(i) for i in ids)
        key = (id(operator), sharing)
        if key not in self._sources:
            source = OperatorSource(operator, sharing)
            source.observer = self.observer()
            self._sources[key] = source
        return self._sources[key]


@dataclass
class OperatorCall:
    """One dispatch that was begun."""

    observer: StepObserver
    step: LiveIronStep

    def finished(self, result: Any) -> None:
        self.step.ran()
        self.observer.after(self.step, step_result(result))
        self.observer.invocation_finished()

    def failed(self, error: BaseException) -> None:
        self.observer.failed(self.step, error)


def _with_roles(sequence: SequenceDescription) -> SequenceDescription:
    """Arguments that are read come from outside, those that are only written go there."""
    read = {use.buffer for use in sequence.steps[0].operands if use.spec.reads}
    written = {use.buffer for use in sequence.steps[0].operands if use.spec.writes}
    buffers = tuple(replace(b, role="input" if b.name in read else "output") for b in sequence.buffers)
    inputs = tuple(b.name for b in buffers if b.name in read)
    outputs = tuple(b.name for b in buffers if b.name in written)
    return replace(sequence, buffers=buffers, input_args=inputs, output_args=outputs)


__all__ = ["OperatorCall", "OperatorCalls", "OperatorSource", "operator_origin"]
