# SPDX-License-Identifier: Apache-2.0
"""One step that ran, wherever it comes from: operator, operands by name and by place, contents on demand.

A step of a recording, one that has just run and one with something replaced look the same to code that judges,
compares, explains or exports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fusion_replay.errors import SnapshotError
from fusion_replay.model.runlist import (
    ArgSpec,
    Direction,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
    format_address,
)
from fusion_replay.model.text import one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from matplotlib.axes import Axes

INPUT, OUTPUT, PREVIOUS, WATCHED, REFERENCE = 0, 1, 2, 3, 4
"""Roles of an operand's contents: before the kernel, after it, old contents of an output (kept; digest only), and what
the operator's own reference gave for an output while it was recorded. A snapshot stores these numbers."""

OperandKey = tuple[int, int]
"""Role and position in the runlist entry: where a step has contents."""


class ContentSource(Protocol):
    """Where contents come from: a snapshot's file, one that reads ahead of a series of steps, memory.

    ``number`` is the source's own for a content.
    """

    def kept(self, number: int) -> bool:
        """Whether the bytes are at hand."""

    def absent(self, number: int) -> str:
        """Why they are not, as it follows "the contents of X": "were not kept"."""

    def read(self, number: int, what: str) -> npt.NDArray[np.uint8]:
        """The bytes, read-only; ``what`` names the tensor in messages.

        Raises:
            SnapshotError: they are not at hand, or damaged.
        """


class OperandMap(Mapping[str, "RecordedTensor"]):
    """Tensors of one side of a step, in arg-spec order: ``m["A"]`` by argument name, ``m[0]`` by place on this side."""

    def __init__(self, tensors: tuple[RecordedTensor, ...], what: str) -> None:
        self._tensors = tensors
        self._what = what

    def __getitem__(self, key: str | int) -> RecordedTensor:
        if isinstance(key, int):
            if -len(self._tensors) <= key < len(self._tensors):
                return self._tensors[key]
        else:
            for tensor in self._tensors:
                if tensor.name == key:
                    return tensor
        raise KeyError(f"{self._what} has no {key!r}; it has {', '.join(self) or 'nothing'}")

    def __iter__(self) -> Iterator[str]:
        return (tensor.name for tensor in self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def in_order(self) -> tuple[RecordedTensor, ...]:
        """All of them, in arg-spec order; those of one name too, which a loop over names would give only once."""
        return self._tensors

    def replaced(self, change: Callable[[RecordedTensor], RecordedTensor]) -> OperandMap:
        """The same operands, each as ``change`` makes it."""
        return OperandMap(tuple(map(change, self._tensors)), self._what)


@dataclass(frozen=True, slots=True, repr=False)
class RecordedTensor:
    """Contents of one operand, before the kernel (inputs) or after it (outputs).

    Attributes:
        use: the runlist's use: argument spec, buffer, byte slice.
        position: of the operand in the runlist entry.
        row: number of the contents in their source (in a snapshot: row of the contents table), the same for equal
            contents; None where they were never seen (a step in flight).
        digest: xxh3-128 of the raw bytes, hexadecimal; None where the contents were never seen.
        what: the tensor in words, for messages: ``step 3:412 GEMV, input A (W)``.
        source: where the contents are read from.
        previous: the output's old contents where they were recorded with their bytes, else None.
        unchanged: whether an output kept its old contents bit for bit; None where that was not recorded.
        reference: what the operator's own reference gave for this output, where it was recorded, else None.
        previous_digest: of an output's old contents, as :attr:`digest`; None where that was not recorded.
    """

    use: OperandUse
    position: int
    row: int | None
    digest: str | None
    what: str
    source: ContentSource
    previous: RecordedTensor | None = None
    unchanged: bool | None = None
    reference: RecordedTensor | None = None
    previous_digest: str | None = None

    @property
    def spec(self) -> ArgSpec:
        return self.use.spec

    @property
    def name(self) -> str:
        return self.use.spec.name

    @property
    def direction(self) -> Direction:
        return self.use.spec.direction

    @property
    def buffer(self) -> str:
        """``name``, or ``name[start:end]`` in bytes."""
        return self.use.label

    @property
    def shape(self) -> tuple[int, ...]:
        """Of this use, elements."""
        return self.use.spec.shape

    @property
    def dtype(self) -> str:
        return self.use.spec.dtype

    @property
    def nbytes(self) -> int:
        return self.use.spec.nbytes

    @property
    def kept(self) -> bool:
        """Whether the bytes are at hand, not only their digest."""
        return self.row is not None and self.source.kept(self.row)

    @property
    def absent(self) -> str:
        """Where :attr:`kept` is false, why, as it follows "the contents of X": "were not kept"."""
        return "were not recorded" if self.row is None else self.source.absent(self.row)

    def numpy(self) -> npt.NDArray[Any]:
        """The contents, read-only, in this use's shape; bf16 as ``ml_dtypes.bfloat16``.

        Raises:
            DamagedSnapshotError: the bytes disagree with their digest.
            SnapshotError: the contents were not recorded or not kept.
        """
        if self.row is None:
            raise SnapshotError(f"{self.what}: was not recorded")
        from fusion_replay.model.arrays import numpy_dtype  # listing steps needs none of it

        return self.source.read(self.row, self.what).view(numpy_dtype(self.dtype)).reshape(self.shape)

    def torch(self) -> torch.Tensor:
        """The contents as a fresh CPU tensor; bits are kept.

        Raises:
            MissingDependencyError: no torch here; the extra ``torch`` brings it.
            DamagedSnapshotError, SnapshotError: as :meth:`numpy`.
        """
        from fusion_replay.model.arrays import to_torch

        return to_torch(self.numpy())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """``np.asarray(tensor)``: as :meth:`numpy`."""
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        """``torch.as_tensor(tensor)``: as :meth:`torch`, bf16 included."""
        return self.torch().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU of DLPack's dlpack.h

    def __repr__(self) -> str:
        kept = "" if self.kept else f", contents {self.absent}"
        return f"<RecordedTensor {one_line(self.what)}: {self.dtype} {self.shape}{kept}>"

    def plot(self, ax: Axes | None = None) -> Axes:
        """A line of a vector, a heat map of anything else, on ``ax`` or new axes; returns them.

        Raises:
            MissingDependencyError: no matplotlib here; the extra ``plot`` brings it.
            DamagedSnapshotError, SnapshotError: as :meth:`numpy`.
        """
        from fusion_replay.model.notebook import axes, draw

        return draw(self.numpy(), self.what, axes(ax))


class Step(Protocol):
    """A runlist entry as it ran. What follows from the runlist is the same for every kind of step and stands here."""

    __slots__ = ()

    @property
    def invocation(self) -> int:
        """Number of the sequence's call, from 0."""

    @property
    def sequence(self) -> SequenceDescription: ...

    @property
    def description(self) -> StepDescription:
        """The runlist entry."""

    @property
    def status(self) -> str:
        """ "complete", "in_flight" (began, never came back) or "failed" (raised)."""

    @property
    def error(self) -> str | None:
        """What was raised, for a failed step."""

    @property
    def values(self) -> dict[str, Any]:
        """Runtime values of this dispatch, by name."""

    @property
    def withheld(self) -> str | None:
        """Why its contents were not kept, digests alone; None: they were.

        ``outside the filter``, ``beyond max_steps 10``, ``as in good.h5``, ``as the reference``.
        """

    @property
    def state(self) -> str | None:
        """The runtime's final state of the step, where it gave one."""
        return None

    @property
    def elapsed_ns(self) -> int | None:
        """What the runtime said the kernel took, nanoseconds."""
        return None

    @property
    def inputs(self) -> OperandMap:
        """Contents before the kernel, of every operand that it reads (in, inout)."""

    @property
    def outputs(self) -> OperandMap:
        """Contents after the kernel, of every operand that it writes (out, inout)."""

    @property
    def index(self) -> int:
        """Number of the runlist entry, from 0."""
        return self.description.index

    @property
    def address(self) -> str:
        """``INVOCATION:STEP``."""
        return format_address(self.invocation, self.index)

    @property
    def op(self) -> OperatorDescription:
        return self.sequence.operators[self.description.operator]

    @property
    def label(self) -> str:
        """``3:412 GEMV W_ffn_down_7, ffn_hidden -> ffn_output``."""
        return one_line(f"{self.address} {self.op.type} {self.description.flow}")

    def plot(self) -> list[Axes]:
        """Every tensor whose contents were kept, one below the other; the axes. Errors: :meth:`RecordedTensor.plot`."""
        from fusion_replay.model.notebook import draw, panels

        kept = [tensor for _, tensor in self.tensors() if tensor.kept]
        made = panels(max(len(kept), 1), size=(7.0, 1.8))
        return [draw(t.numpy(), t.what, on) for t, on in zip(kept, made, strict=False)]

    def _repr_html_(self) -> str:
        from fusion_replay.model.notebook import card

        head = ("side", "argument", "buffer", "dtype", "shape", "contents")
        rows = [
            (side, t.name, t.buffer, t.dtype, t.shape, "kept" if t.kept else t.absent) for side, t in self.tensors()
        ]
        told = [f"{self.status}, ran on {self.sequence.ran_on}", *([self.error] if self.error else [])]
        return card(self.label, told, [head, *rows])

    def tensors(self) -> Iterator[tuple[str, RecordedTensor]]:
        """Every tensor of the step with its side, named as in the file's tree: inputs, outputs, previous, reference.

        Old contents of an operand that the step also reads are its input, and come once.
        """
        outputs = self.outputs.in_order()
        yield from (("inputs", tensor) for tensor in self.inputs.in_order())
        yield from (("outputs", tensor) for tensor in outputs)
        yield from (("previous", t.previous) for t in outputs if t.previous is not None and t.direction == "out")
        yield from (("reference", t.reference) for t in outputs if t.reference is not None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a step's operands: the number of each content by role and position, digests, where they are."""

    rows: Mapping[OperandKey, int]
    digest: Callable[[int], str]
    source: ContentSource

    def inputs(self, step: Step) -> OperandMap:
        """As :attr:`Step.inputs`."""
        address = step.address
        found = [
            self._tensor(f"step {address} {step.op.type}", position, use, self.rows.get((INPUT, position)), "input")
            for position, use in enumerate(step.description.operands)
            if use.spec.reads
        ]
        return OperandMap(tuple(found), f"step {address} inputs")

    def outputs(self, step: Step) -> OperandMap:
        """As :attr:`Step.outputs`."""
        address = step.address
        found = [
            self._output(f"step {address} {step.op.type}", position, use)
            for position, use in enumerate(step.description.operands)
            if use.spec.writes
        ]
        return OperandMap(tuple(found), f"step {address} outputs")

    def _output(self, where: str, position: int, use: OperandUse) -> RecordedTensor:
        after = self.rows.get((OUTPUT, position))
        before = self.rows.get((PREVIOUS, position), self.rows.get((INPUT, position)))
        expected = self.rows.get((REFERENCE, position))
        watched = before if before is not None else self.rows.get((WATCHED, position))
        old = None if watched is None else self.digest(watched)
        return RecordedTensor(
            use,
            position,
            after,
            None if after is None else self.digest(after),
            _words(where, use, "output"),
            self.source,
            previous=None if before is None else self._tensor(where, position, use, before, "previous contents of"),
            unchanged=None if after is None or old is None else self.digest(after) == old,
            reference=None if expected is None else self._tensor(where, position, use, expected, "reference of"),
            previous_digest=old,
        )

    def _tensor(self, where: str, position: int, use: OperandUse, row: int | None, side: str) -> RecordedTensor:
        digest = None if row is None else self.digest(row)
        return RecordedTensor(use, position, row, digest, _words(where, use, side), self.source)


def _words(where: str, use: OperandUse, side: str) -> str:
    return f"{where}, {side} {use.spec.name} ({use.label})"


__all__ = [
    "INPUT",
    "OUTPUT",
    "PREVIOUS",
    "REFERENCE",
    "WATCHED",
    "ContentSource",
    "OperandKey",
    "OperandMap",
    "RecordedTensor",
    "Seen",
    "Step",
]
