# SPDX-License-Identifier: Apache-2.0
"""Reads the operands of each step of a source and hands them to the snapshot's writer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay import operators, refs
from fusion_replay.errors import UsageError
from fusion_replay.model.arrays import as_dtype
from fusion_replay.model.runlist import OperandUse, SequenceDescription, StepDescription, format_address
from fusion_replay.recording.references import Asked, Refused
from fusion_replay.snapshot.schema import INPUT, OUTPUT, PREVIOUS
from fusion_replay.sources.device_files import device_files
from fusion_replay.sources.protocol import KernelPaths, LiveStep, StepResult
from fusion_replay.system.messages import in_words
from fusion_replay.system.threads import current_frames

if TYPE_CHECKING:
    from fusion_replay.model.step import OperandKey
    from fusion_replay.recording.underway import Recording

Arrays = Mapping[int, npt.NDArray[Any]]

_OVERLAPPED = "another thread called this callable at the same time: what the step read and wrote is not known"


class Observer:
    """Of one source; several sources may take turns, and several threads.

    A callable's buffers are its own. Where another thread calls it while a call is under way nobody can say what a step
    read: it may have been written over between our look and the kernel's. From then on neither call is recorded; their
    steps are counted, and the one that was running is marked as failed. Whether a call is alone is looked at, and
    changes, under the guard's lock, as all reading does.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._sequence: int | None = None
        self._description: SequenceDescription | None = None
        self._invocation: int | None = None
        self._begun = False
        self._calls: dict[int, bool] = {}  # under way, by thread: whether another thread's call overlaps it
        self._thread: int | None = None  # whose call is recorded
        self._static: dict[tuple[str, int, int, str], int] = {}  # what weights had in them when they were first read
        self._read: dict[OperandKey, npt.NDArray[Any]] | None = None  # what a reference of the step that runs needs
        self._withheld = False
        self._specs: dict[int, operators.OperatorSpec | None] = {}  # the catalogue's for each step that has run
        self._asked: Asked | None = None  # the operator's own reference, while its kernel runs
        self._refused: Refused | None = None  # or why it is not asked

    def invocation_started(self, sequence: SequenceDescription) -> None:
        with self._recording.guard(f"starting {sequence.name}", "invocation"):
            writer = self._recording.writer
            if not self._begin_call():
                return
            if self._description is not sequence:
                self._specs.clear()
            self._invocation, self._description = None, sequence
            if self._sequence is None:
                self._sequence = writer.add_sequence(sequence)
            self._invocation = writer.begin_invocation(self._sequence)

    def prepared(self, kernels: Callable[[], Sequence[KernelPaths]]) -> None:
        if self._sequence is not None:
            with self._recording.guard("the device files of its kernels", "binaries"):
                files = device_files(kernels())
                if files:
                    self._recording.writer.add_binaries(self._sequence, files, keep=self._recording.options.binaries)

    def _begin_call(self) -> bool:
        """Whether it is the only one."""
        me = threading.get_ident()
        self._calls.pop(me, None)  # not finished, and over
        if self._calls:
            alive = current_frames()
            self._calls = {thread: True for thread in self._calls if thread in alive}
        overlaps = self._calls[me] = bool(self._calls)
        if not overlaps:
            self._thread = me
        elif self._is_recorded:
            self._thread = None
        return not overlaps

    @property
    def _is_recorded(self) -> bool:
        """Whether this thread's call is the one that is recorded, or was until another one began."""
        return self._thread == threading.get_ident()

    @property
    def _overlaps(self) -> bool:
        """Whether this thread's call isn't the only one."""
        return self._calls.get(threading.get_ident(), False)

    def _is_shared(self, step: LiveStep) -> bool:
        """Whether another thread is in a call, but at none of its steps; then this thread's isn't the only one."""
        if getattr(step, "shared", False):
            self._calls[threading.get_ident()] = True
            return True
        return False

    def _miss(self) -> None:
        """Count a step of a call that overlaps another."""
        name = "a sequence" if self._description is None else self._description.name
        self._recording.miss(f"steps of {name} while several threads called it, which share its buffers")

    def before(self, step: LiveStep) -> None:
        if self._overlaps or self._is_shared(step):
            if self._is_recorded:
                self._begun = False
            self._miss()
            return
        self._begun = False
        with self._recording.guard(self._words(step), "step"):
            if self._invocation is None or self._sequence is None:
                raise UsageError("its invocation could not be opened")
            inputs: dict[int, npt.NDArray[Any]] = {}
            previous: dict[int, npt.NDArray[Any]] = {}
            watched: dict[int, npt.NDArray[Any]] = {}
            assumed: dict[int, int] = {}
            keep = self._keeps_old_contents(step.description)
            self._read = self._asked = self._refused = None
            number = step.description.index
            withheld = self._recording.withheld(self._sequence, self._invocation, number, step.places)
            self._withheld = withheld is not None
            if withheld is not None and self._recording.options.only_matching:
                self._recording.writer.leave_out(f"steps {withheld}; not recorded")
                return
            asks = self._asks(step) if withheld is None else False
            for position, use in enumerate(step.description.operands):
                known = self._known(use)
                there = known is not None and (withheld is not None or self._recording.writer.holds(known))
                if known is not None and there and not (asks or self._looks_again):
                    assumed[position] = known
                elif use.spec.reads:
                    inputs[position] = step.read(position)
                if use.spec.writes:
                    kept = previous if keep or use.spec.reads else watched
                    kept[position] = step.read(position)
            contents = self._recording.writer.begin_step(
                self._invocation,
                step.description.index,
                inputs,
                previous=previous,
                watched=watched,
                values=step.values,
                assumed=assumed,
                withheld=withheld,
                places=step.places,
            )
            self._begun = True
            self._remember_static(step, contents)
            if withheld is None and (self._recording.judges or asks):
                self._read = read = _copied(inputs, previous)
                if asks:
                    results = sum(u.spec.nbytes for u in step.description.operands if u.spec.writes)
                    self._asked = self._recording.references.begin(
                        self._kind_of(step.description), lambda: self._reference(step, read), results
                    )
        with self._recording.guard("the step timer"):
            self._recording.timer.began(self._type_of(step.description), self._words(step).removeprefix("step "))

    def after(self, step: LiveStep, result: StepResult) -> None:
        self._recording.timer.ended(came_back=True)
        if not self._is_recorded or not self._begun or self._invocation is None:
            return  # its loss was counted when it began
        reference: dict[int, npt.NDArray[Any]] = {}
        if (asked := self._asked) is not None:
            self._asked = None
            with self._recording.guard(f"reference() of {self._words(step)}", "reference"):
                found = self._recording.references.collect(asked)
                if isinstance(found, Refused):
                    self._refused = found
                else:
                    reference = found
        if (refused := self._refused) is not None:
            self._refused = None
            with self._recording.guard(f"reference() of {self._words(step)}", "reference"):
                self._count_refused(step.description, refused)
        with self._recording.guard(f"outputs of {self._words(step)}", "outputs"):
            operands = enumerate(step.description.operands)
            outputs = {position: step.read(position) for position, use in operands if use.spec.writes}
            if self._overlaps or self._is_shared(step):
                self._begun = False
                self._recording.writer.fail_step(self._invocation, step.description.index, _OVERLAPPED)
                self._miss()
                return
            self._recording.writer.end_step(
                self._invocation,
                step.description.index,
                outputs,
                elapsed_ns=result.elapsed_ns,
                state=result.state,
                reference=reference,
                decide=None if self._recording.decider is None else partial(self._decide, step, outputs),
            )

    def _decide(self, step: LiveStep, outputs: Arrays, digests: Mapping[OperandKey, bytes]) -> str | None:
        assert self._sequence is not None
        assert self._invocation is not None
        sequence = self._recording.writer.sequence(self._sequence)
        contents = (self._read or {}) | {(OUTPUT, position): array for position, array in outputs.items()}
        number = step.description.index
        return self._recording.decide(
            digests, sequence, self._invocation, number, step.values, contents, self._withheld, step.places
        )

    def failed(self, step: LiveStep, error: BaseException) -> None:
        self._recording.timer.ended(came_back=False)
        recorded = self._is_recorded and self._begun and self._invocation is not None
        with self._recording.guard("the end of a call", may_raise=False):
            self._calls.pop(threading.get_ident(), None)
        if not recorded or self._invocation is None:
            return
        if self._asked is not None:
            self._recording.references.abandon(self._asked)
            self._asked = None
        with self._recording.guard(f"the failure of {self._words(step)}", "step", may_raise=False):
            self._recording.writer.fail_step(self._invocation, step.description.index, in_words(error))
            if not self._withheld:
                self._recording.count_failed(self._invocation)

    def judged(self, step: StepDescription, statistics: Mapping[str, Any]) -> None:
        if self._begun and self._is_recorded and self._invocation is not None:
            with self._recording.guard(f"IRON's statistics of step {step.index}", "statistics"):
                self._recording.writer.note_step(self._invocation, step.index, {"iron": dict(statistics)})

    def invocation_finished(self) -> None:
        with self._recording.guard("the end of an invocation", "invocation"):
            overlapped = self._calls.pop(threading.get_ident(), False)
            if self._invocation is not None and self._is_recorded and not overlapped:
                self._recording.writer.end_invocation(self._invocation)
                self._recording.expect()

    def _asks(self, step: LiveStep) -> bool:
        """Whether the operator itself is asked: unless told otherwise, where nothing of ours covers it."""
        wanted = self._recording.options.with_reference
        if wanted is False or getattr(step, "reference", None) is None or self._description is None:
            return False
        described = step.description
        if wanted is None and self._spec(described) is not None:
            return False
        copies = sum(use.spec.nbytes for use in described.operands)
        self._refused = self._recording.references.refusal(self._kind_of(described), copies)
        return self._refused is None

    def _count_refused(self, step: StepDescription, refused: Refused) -> None:
        """Nothing was kept of the operator's own reference: counted, and said of the step."""
        assert self._invocation is not None
        detail = f"of {self._type_of(step)}: {refused.why}"
        if refused.failed:
            self._recording.writer.lose("reference", detail)
        else:
            self._recording.writer.leave_out(f"references {detail}")
        self._recording.writer.note_step(self._invocation, step.index, {"reference": refused.why})

    def _kind_of(self, step: StepDescription) -> str:
        """Two packages may have an operator of one name."""
        op = None if self._description is None else self._description.operator_of(step.index)
        return "" if op is None else f"{op.module}.{op.type}"

    def _reference(self, step: LiveStep, read: Mapping[OperandKey, npt.NDArray[Any]]) -> dict[int, npt.NDArray[Any]]:
        """By position, in the outputs' dtypes, what the operator itself expects."""
        ask = getattr(step, "reference", None)
        inputs = {position: array for (role, position), array in read.items() if role == INPUT}
        old = {position: array for (role, position), array in read.items() if role == PREVIOUS}
        keeps = self._keeps_old_contents(step.description)
        previous = [array for position, array in old.items() if keeps and position not in inputs]
        results = None if ask is None else ask(list(inputs.values()), previous)
        if results is None:
            raise UsageError("the operator has none")
        uses = [(i, use.spec) for i, use in enumerate(step.description.operands) if use.spec.writes]
        if len(results) != len(uses):
            raise UsageError(f"it gave {len(results)} results for {len(uses)} outputs")
        return {i: as_dtype(result, spec.dtype) for (i, spec), result in zip(uses, results, strict=True)}

    @property
    def _looks_again(self) -> bool:
        return self._recording.judges or self._recording.options.verify_static

    def _known(self, use: OperandUse) -> int | None:
        """The content that a weight had when it was first read."""
        return self._static.get((use.buffer, use.start, use.spec.nbytes, use.spec.dtype))

    def _remember_static(self, step: LiveStep, contents: Mapping[int, int]) -> None:
        """``contents``: of the inputs that were read, by position."""
        rewritten = []
        for position, content in contents.items():
            use = step.description.operands[position]
            if use.buffer not in step.static:
                continue
            known = self._known(use)
            self._static[use.buffer, use.start, use.spec.nbytes, use.spec.dtype] = content
            if known is not None and not self._recording.writer.same(known, content):
                rewritten.append(use.spec.name)
                where = f"{self._words(step)} {use.spec.name} of {use.label}".removeprefix("step ")
                self._recording.writer.notice("buffers taken for static that changed", where)
        if rewritten and self._invocation is not None:
            self._recording.writer.note_step(self._invocation, step.description.index, {"rewritten": rewritten})

    def _words(self, step: LiveStep) -> str:
        if self._description is None or self._invocation is None:
            return f"step {step.description.index}"
        address = format_address(self._invocation, step.description.index)
        return f"step {address} {self._description.operator_of(step.description.index).type}"

    def _type_of(self, step: StepDescription) -> str:
        return "" if self._description is None else self._description.operator_of(step.index).type

    def _keeps_old_contents(self, step: StepDescription) -> bool:
        """Whether outputs' old contents are stored: partial writers need them, and an unknown operator may be one."""
        return self._spec(step) is None or self._is_partial(step)

    def _is_partial(self, step: StepDescription) -> bool:
        spec = self._spec(step)
        return spec is not None and spec.partial

    def _spec(self, step: StepDescription) -> operators.OperatorSpec | None:
        """What of the catalogue covers the step; None: nothing does."""
        if self._description is None:
            return None
        if step.index not in self._specs:
            self._specs[step.index] = refs.coverage(self._description.operator_of(step.index), step.operands).spec
        return self._specs[step.index]


def _copied(inputs: Arrays, previous: Arrays) -> dict[OperandKey, npt.NDArray[Any]]:
    """Copies of what the kernel may write over, for a reference that is asked meanwhile or afterwards."""
    read = {(INPUT, position): array.copy() for position, array in inputs.items()}
    for position, array in previous.items():
        known = read.get((INPUT, position))
        read[PREVIOUS, position] = array.copy() if known is None else known
    return read


__all__ = ["Observer"]
