# SPDX-License-Identifier: Apache-2.0
"""``rec.step(...)``: one step given as arrays, for hosts that IRON's callables do not reach (C++, jit, Triton).

Each is an invocation of a sequence of one step; the same operator, parameters and shapes are the same sequence. What
the step writes is often known only when it has written it: then the sequence begun with is its inputs alone, and the
invocation is moved to the full one at the end. ``rec.invocation`` says in a step's details which call it belongs to,
and whoever reads the file sees that call (:mod:`fusion_replay.snapshot.read.groups`).

Tested in tests/recording/test_recorder.py.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.model.arrays import as_array, check_array
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    Direction,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot.schema import INPUT, OUTPUT, PREVIOUS
from fusion_replay.sources.fields import jsonable
from fusion_replay.sources.iron.watching import patches
from fusion_replay.system.messages import in_words

if TYPE_CHECKING:
    from fusion_replay.model.step import OperandKey
    from fusion_replay.recording.underway import Recording

Arrays = Mapping[str, npt.NDArray[Any]]
ORIGIN = {"variant": "arrays"}


class ArraySteps:
    """The steps given as arrays to one recording, and what they share.

    Attributes:
        written: what a step of a kind wrote last time, by the kind's key.
        unentered: the operators of steps that no ``with`` has entered, by a token of the step's: it may go.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.written: dict[str, tuple[ArgSpec, ...]] = {}
        self.unentered: dict[object, str] = {}
        self._numbers: dict[str, int] = {}
        self._calls: dict[str, int] = {}
        self._under_way = threading.local()

    @property
    def group(self) -> dict[str, str | int]:
        """The call that steps of this thread belong to, empty outside :meth:`invocation`."""
        return getattr(self._under_way, "group", {})

    @contextlib.contextmanager
    def invocation(self, sequence: str) -> Iterator[None]:
        """The steps of this thread are those of one more call of a sequence, until the block ends.

        Raises:
            UsageError: within another one, or a name that is none.
        """
        if not isinstance(sequence, str) or not sequence:
            raise UsageError(f"rec.invocation: expected a sequence's name such as 'decode', found {sequence!r}")
        if self.group:
            raise UsageError(f"rec.invocation({sequence!r}): {self.group['sequence']!r} is under way; end it first")
        call = self._calls.get(sequence, 0)
        self._calls[sequence] = call + 1
        self._under_way.group = {"sequence": sequence, "call": call}
        try:
            yield
        finally:
            self._under_way.group = {}

    def number(self, sequence: SequenceDescription) -> int:
        """Of a sequence in the recording; an equal one is described once."""
        key = repr(sequence)
        if key not in self._numbers:
            self._numbers[key] = self.recording.writer.add_sequence(sequence)
        return self._numbers[key]


class _Outputs(dict[str, Any]):
    """By name; what can't be recorded is an error where it is put in, and the step goes on."""

    def __init__(self, op: str, given: Mapping[str, Any]) -> None:
        super().__init__()
        self._op = op
        self.update(given)

    def __setitem__(self, name: str, value: Any) -> None:
        check_array(value, f"{name} of step {self._op}")
        super().__setitem__(name, value)

    def update(self, *given: Any, **named: Any) -> None:
        for name, value in dict(*given, **named).items():
            self[name] = value


class ArrayStep:
    """Context manager of one step; put results into :attr:`outputs`, by argument name."""

    def __init__(
        self,
        steps: ArraySteps,
        op: str,
        inputs: Mapping[str, Any],
        params: Mapping[str, Any],
        values: Mapping[str, int | float],
        previous: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        for what, mapping in (("inputs", inputs), ("params", params), ("previous", previous), ("outputs", outputs)):
            if not isinstance(mapping, Mapping) or not all(isinstance(name, str) for name in mapping):
                raise UsageError(f"rec.step({op!r}): {what} must map names to values, found {type(mapping).__name__}")
        if not isinstance(op, str) or not op:
            raise UsageError(f"rec.step: expected an operator type such as 'GEMV', found {op!r}")
        for name, value in {**inputs, **previous}.items():
            check_array(value, f"{name} of step {op}")
        self.outputs: dict[str, Any] = _Outputs(op, outputs)
        self._steps, self._recording = steps, steps.recording
        self._spec = refs.lookup(op)
        self._operator = OperatorDescription(op, {k: jsonable(v) for k, v in params.items()}, module="")
        self._inputs, self._values, self._previous = dict(inputs), dict(values), dict(previous)
        self._declared = dict(outputs)
        self._args: tuple[ArgSpec, ...] = ()
        self._on_disk: set[str] = set()
        self._key = ""
        self._invocation: int | None = None
        self._read: dict[OperandKey, npt.NDArray[Any]] = {}  # what its reference needs
        self._withheld = False
        self._token = object()
        steps.unentered[self._token] = op

    def __enter__(self) -> ArrayStep:
        self._steps.unentered.pop(self._token, None)
        patches.enter()  # what IRON dispatches in the body is this step
        with self._recording.guard(f"rec.step {self._operator.type}", "step"):
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        patches.leave()
        if self._invocation is None:
            return  # its loss was counted when it began
        address = f"step {self._invocation}:0 {self._operator.type}"
        if error is not None:
            with self._recording.guard(f"the failure of {address}", "step", may_raise=False):
                self._recording.writer.fail_step(self._invocation, 0, in_words(error))
                if not self._withheld:
                    self._recording.count_failed(self._invocation)
            return
        with self._recording.guard(f"outputs of {address}", "outputs"):
            self._end(self._invocation)

    def _begin(self) -> None:
        inputs = {name: as_array(value, name) for name, value in self._inputs.items()}
        previous = {name: as_array(value, name) for name, value in self._previous.items()}
        watched = {name: as_array(value, name) for name, value in self._declared.items() if name not in previous}
        reads, announced = _specs(inputs, "in"), _specs({**previous, **watched}, "out")
        self._key = json.dumps(
            [self._operator.type, self._operator.params, [(a.name, a.shape, a.dtype) for a in reads]]
        )
        expected = self._steps.written.get(self._key, ()) or self._cataloged(inputs)
        self._args = self._arrange(reads, announced, expected)
        writer = self._recording.writer
        sequence = self._steps.number(self._describe())
        invocation = writer.begin_invocation(sequence)
        withheld = self._recording.withheld(sequence, invocation, 0)
        self._withheld = withheld is not None
        if withheld is not None and self._recording.options.only_matching:
            writer.leave_out(f"steps {withheld}; not recorded")
            writer.end_invocation(invocation)
            return
        position = {arg.name: i for i, arg in enumerate(self._args)}
        inout = {name: array for name, array in inputs.items() if name in watched}
        read = {position[name]: array for name, array in inputs.items()}
        kept = {position[name]: array for name, array in {**inout, **previous}.items()}
        if self._recording.judges and withheld is None:  # the body may write over them
            self._read = {(INPUT, i): array.copy() for i, array in read.items()}
            self._read |= {(PREVIOUS, i): array.copy() for i, array in kept.items()}
        writer.begin_step(
            invocation,
            0,
            read,
            previous=kept,
            watched={position[name]: array for name, array in watched.items() if name not in inout},
            values={name: jsonable(value) for name, value in self._values.items()},
            withheld=withheld,
            group=self._steps.group,
        )
        self._on_disk = {*inputs, *previous, *watched}
        self._inputs, self._previous, self._declared = {}, {}, {}  # the run may want the memory
        self._invocation = invocation

    def _end(self, invocation: int) -> None:
        writer = self._recording.writer
        outputs = {}
        for name, value in self.outputs.items():
            try:
                outputs[name] = as_array(value, name)
            except UsageError as why:  # a list of words, say: the other outputs are kept
                writer.lose("outputs", f"step {invocation}:0 {self._operator.type}: {why}")
                self._recording.guard.tell(str(why))
        found = _specs(outputs, "out")
        if not self.outputs:
            message = f"step {invocation}:0 {self._operator.type} was given no outputs: s.outputs[NAME] = array"
            writer.lose("outputs", message)
            self._recording.guard.tell(message)
        elif found and [(a.name, a.shape, a.dtype) for a in self._args if a.writes] != [
            (a.name, a.shape, a.dtype) for a in found
        ]:
            self._args = self._rearrange(found)
            writer.reassign(invocation, self._steps.number(self._describe()))
        self._steps.written[self._key] = tuple(found)
        position = {arg.name: i for i, arg in enumerate(self._args)}
        written = {position[name]: array for name, array in outputs.items()}
        decide = None if self._recording.decider is None else partial(self._decide, written)
        writer.end_step(invocation, 0, written, decide=decide)
        writer.end_invocation(invocation)

    def _decide(self, outputs: Mapping[int, npt.NDArray[Any]], digests: Mapping[OperandKey, bytes]) -> str | None:
        assert self._invocation is not None
        sequence = self._recording.writer.sequence(self._steps.number(self._describe()))
        contents = self._read | {(OUTPUT, position): array for position, array in outputs.items()}
        values = {name: jsonable(value) for name, value in self._values.items()}
        return self._recording.decide(digests, sequence, self._invocation, 0, values, contents, self._withheld, {})

    # --- the sequence of one step -------------------------------------------------------------------------------

    def _cataloged(self, inputs: Arrays) -> tuple[ArgSpec, ...]:
        """The outputs that the catalogue expects, where it knows the operator by these argument names."""
        declared = self._declared_args()
        named = {arg.name for arg in declared if arg.reads} == set(inputs)
        return tuple(arg for arg in declared if not arg.reads) if named else ()

    def _declared_args(self) -> tuple[ArgSpec, ...]:
        try:
            return self._spec.arg_specs(self._operator.params) if self._spec is not None else ()
        except FusionReplayError:
            return ()  # replay will say what is wrong with the parameters

    def _arrange(
        self, reads: Sequence[ArgSpec], announced: Sequence[ArgSpec], expected: Sequence[ArgSpec]
    ) -> tuple[ArgSpec, ...]:
        """Inputs, announced outputs, expected outputs; each in the catalogue's order where it has these names.

        An announced output that is an input too is ``inout``. What has contents before the step comes first, since
        its position is on disk before the other outputs are known.
        """
        names = {arg.name for arg in announced}
        inputs = [replace(arg, direction="inout") if arg.name in names else arg for arg in reads]
        args = list(self._ordered(inputs))
        for group in (announced, expected):
            taken = {arg.name for arg in args}
            args += self._ordered([arg for arg in group if arg.name not in taken])
        return tuple(args)

    def _rearrange(self, found: Sequence[ArgSpec]) -> tuple[ArgSpec, ...]:
        """As begun, with the outputs that came: what is on disk already keeps its position, shape and dtype."""
        by_name = {arg.name: arg for arg in found}
        kept = []
        for arg in self._args:
            if arg.name not in self._on_disk:
                continue
            output = by_name.pop(arg.name, None)
            if output is None and not arg.reads:
                raise UsageError(f"output {arg.name} was announced and not given")
            if output is not None and (output.shape, output.dtype) != (arg.shape, arg.dtype):
                raise UsageError(
                    f"{arg.name} was {arg.shape} {arg.dtype} before the step and {output.shape} {output.dtype} after; "
                    "give the output another name"
                )
            kept.append(replace(arg, direction=("in" if output is None else "inout") if arg.reads else "out"))
        return (*kept, *self._ordered(list(by_name.values())))

    def _ordered(self, args: Sequence[ArgSpec]) -> list[ArgSpec]:
        declared = [arg.name for arg in self._declared_args()]
        known = {arg.name for arg in args} <= set(declared)
        return sorted(args, key=lambda arg: declared.index(arg.name)) if known else list(args)

    def _describe(self) -> SequenceDescription:
        args = self._args
        return SequenceDescription(
            name=self._operator.type,
            operators=(self._operator,),
            buffers=tuple(
                BufferDescription(arg.name, arg.nbytes, "input" if arg.reads else "output", external=arg.reads)
                for arg in args
            ),
            steps=(StepDescription(0, 0, tuple(OperandUse(arg, arg.name) for arg in args)),),
            input_args=tuple(arg.name for arg in args if arg.reads),
            output_args=tuple(arg.name for arg in args if arg.writes),
            origin=ORIGIN,
        )


def _specs(arrays: Arrays, direction: Direction) -> list[ArgSpec]:
    return [ArgSpec(name, direction, array.shape, array.dtype.name) for name, array in arrays.items()]


__all__ = ["ArrayStep", "ArraySteps"]
