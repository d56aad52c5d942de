# SPDX-License-Identifier: Apache-2.0
"""One recorded step as its user sees it: operator, operands by name and by place, tensors on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from fusion_replay.errors import DamagedSnapshotError, SnapshotError
from fusion_replay.model.runlist import (
    ArgSpec,
    Direction,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
    format_address,
)
from fusion_replay.snapshot.schema import INPUT, NO_CONTENT, OUTPUT, PREVIOUS, REFERENCE, STATUS, WATCHED, Index

if TYPE_CHECKING:
    import torch

    from fusion_replay.snapshot.read.store import Bytes


class Contents(Protocol):
    """Where a step's tensors come from: the snapshot's store, or one that reads ahead of a series of steps."""

    def kept(self, row: int) -> bool: ...
    def absent(self, row: int) -> str: ...
    def read(self, row: int, what: str) -> Bytes: ...


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


@dataclass(frozen=True, slots=True)
class RecordedTensor:
    """Contents of one operand, before the kernel (inputs) or after it (outputs).

    Attributes:
        use: the runlist's use: argument spec, buffer, byte slice.
        position: of the operand in the runlist entry.
        previous: the output's old contents where they were recorded with their bytes, else None.
        unchanged: whether an output kept its old contents bit for bit; None where nobody looked.
        previous_digest: of an output's old contents, as :attr:`digest`; None where nobody looked.
        reference: what the operator's own reference gave for this output, where it was recorded, else None.
    """

    use: OperandUse
    position: int
    previous: RecordedTensor | None
    unchanged: bool | None
    _row: int | None
    _digest: str | None
    _store: Contents
    _what: str
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
    def digest(self) -> str | None:
        """xxh3-128 of the raw bytes, hexadecimal; None where the contents were never seen (a step in flight)."""
        return self._digest

    @property
    def row(self) -> int | None:
        """Row of the contents table, the same for equal contents; None where they were never seen."""
        return self._row

    @property
    def what(self) -> str:
        """The tensor in words, for messages: ``step 3:412 GEMV, input A (W)``."""
        return self._what

    @property
    def kept(self) -> bool:
        """Whether the bytes are in the snapshot, not only their digest."""
        return self._row is not None and self._store.kept(self._row)

    @property
    def absent(self) -> str:
        """Where :attr:`kept` is false, why, as it follows "the contents of X": "were not kept"."""
        return "were not recorded" if self._row is None else self._store.absent(self._row)

    def numpy(self) -> npt.NDArray[Any]:
        """The contents, read-only, in this use's shape; bf16 as ``ml_dtypes.bfloat16``.

        Raises:
            DamagedSnapshotError: the bytes disagree with their digest.
            SnapshotError: the contents were not recorded or not kept.
        """
        if self._row is None:
            raise SnapshotError(f"{self._what}: was not recorded")
        from fusion_replay.model.arrays import numpy_dtype  # listing steps needs none of it

        return self._store.read(self._row, self._what).view(numpy_dtype(self.dtype)).reshape(self.shape)

    def torch(self) -> torch.Tensor:
        """The contents as a fresh CPU tensor; bits are kept.

        Raises:
            MissingDependencyError: no torch here; the extra ``torch`` brings it.
            DamagedSnapshotError, SnapshotError: as :meth:`numpy`.
        """
        from fusion_replay.model.arrays import to_torch

        return to_torch(self.numpy())


class RecordedStep:
    """A runlist entry as it ran: see the properties. Cheap to make; tensors are read when asked for."""

    __slots__ = ("_index", "_row", "_store", "description", "invocation", "sequence")

    def __init__(self, index: Index, store: Contents, row: int) -> None:
        record = index.steps[row]
        self._index = index
        self._store = store
        self._row = row
        self.invocation: int = int(record["invocation"])
        self.sequence: SequenceDescription = index.sequences[int(index.invocations["sequence"][self.invocation])]
        self.description: StepDescription = self.sequence.steps[int(record["step"])]

    def reading_from(self, store: Contents) -> RecordedStep:
        """The same step, its tensors read from ``store``."""
        return RecordedStep(self._index, store, self._row)

    @property
    def row(self) -> int:
        """Row of the steps table: how many steps were recorded before this one."""
        return self._row

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
        return f"{self.address} {self.op.type} {self.description.flow}"

    @property
    def status(self) -> str:
        """ "complete", "in_flight" (began, never came back) or "failed" (raised)."""
        return STATUS[int(self._index.steps["status"][self._row])]

    @property
    def elapsed_ns(self) -> int | None:
        """What the runtime said the kernel took, nanoseconds."""
        elapsed = int(self._index.steps["elapsed_ns"][self._row])
        return None if elapsed < 0 else elapsed

    @property
    def values(self) -> dict[str, Any]:
        """Runtime values of this dispatch, by name."""
        return dict(self._detail.get("values", {}))

    @property
    def state(self) -> str | None:
        """The runtime's final state of the step, where it gave one."""
        return self._text("state")

    @property
    def error(self) -> str | None:
        """What was raised, for a failed step."""
        return self._text("error")

    @property
    def iron(self) -> dict[str, Any] | None:
        """IRON's own statistics of the step, where a compare-mode callable was recorded: its keys, its numbers.

        One set (``max_abs``, ``mean_abs``, ``max_rel``, ``ref_max``, ``mismatch``), or since September 2026
        ``max_abs`` by output buffer.
        """
        found = self._detail.get("iron")
        return dict(found) if isinstance(found, dict) else None

    @property
    def withheld(self) -> str | None:
        """Why its contents were not kept, digests alone; None: they were.

        ``outside the filter``, ``beyond max_steps 10``, ``as in good.h5``, ``as the reference``.
        """
        return self._text("withheld")

    def digests(self) -> dict[tuple[int, int], bytes]:
        """Of all that was seen of it, by role and operand position."""
        return {spot: bytes.fromhex(self._digest(row)) for spot, row in self._rows().items()}

    @property
    def noticed(self) -> dict[str, Any]:
        """What the recorder noticed of the inputs, by argument name; keys that there is nothing of are left out.

        ``clobbered``: differs from what an earlier step left there, with that step's index and its argument;
        ``rewritten``: a weight that changed; ``assumed``: a weight that was taken for unchanged, nobody looked.
        """
        return {key: self._detail[key] for key in ("clobbered", "rewritten", "assumed") if self._detail.get(key)}

    @property
    def inputs(self) -> OperandMap:
        """Contents before the kernel, of every operand that it reads (in, inout)."""
        rows = self._rows()
        found = [
            self._tensor(position, use, rows.get((INPUT, position)), "input")
            for position, use in enumerate(self.description.operands)
            if use.spec.reads
        ]
        return OperandMap(tuple(found), f"step {self.address} inputs")

    @property
    def outputs(self) -> OperandMap:
        """Contents after the kernel, of every operand that it writes (out, inout)."""
        rows = self._rows()
        found = []
        for position, use in enumerate(self.description.operands):
            if not use.spec.writes:
                continue
            after = rows.get((OUTPUT, position))
            before = rows.get((PREVIOUS, position), rows.get((INPUT, position)))
            old = None if before is None else self._tensor(position, use, before, "previous contents of")
            watched = before if before is not None else rows.get((WATCHED, position))
            unchanged = None if after is None or watched is None else self._digest(after) == self._digest(watched)
            expected = rows.get((REFERENCE, position))
            reference = None if expected is None else self._tensor(position, use, expected, "reference of")
            digest = None if watched is None else self._digest(watched)
            found.append(self._tensor(position, use, after, "output", old, unchanged, reference, digest))
        return OperandMap(tuple(found), f"step {self.address} outputs")

    def tensors(self) -> Iterator[tuple[str, RecordedTensor]]:
        """Every tensor of the step with its side, named as in the file's tree: inputs, outputs, previous, reference.

        Old contents of an operand that the step also reads are its input, and come once.
        """
        outputs = tuple(self.outputs.values())
        yield from (("inputs", tensor) for tensor in self.inputs.values())
        yield from (("outputs", tensor) for tensor in outputs)
        yield from (("previous", t.previous) for t in outputs if t.previous is not None and t.direction == "out")
        yield from (("reference", t.reference) for t in outputs if t.reference is not None)

    def __repr__(self) -> str:
        return f"<RecordedStep {self.label} ({self.status})>"

    @property
    def _detail(self) -> dict[str, Any]:
        return self._index.details[int(self._index.steps["detail"][self._row])]

    def _text(self, key: str) -> str | None:
        value = self._detail.get(key)
        return None if value is None else str(value)

    def _rows(self) -> dict[tuple[int, int], int]:
        """(role, position) -> row of contents, of everything that is there."""
        record = self._index.steps[self._row]
        first = int(record["first_operand"])
        rows = {}
        operands = self._index.operands[first : first + int(record["n_operands"])]
        for position, role, content in operands.tolist():
            if content == NO_CONTENT:
                continue
            self._check(position, content)
            rows[role, position] = content
        return rows

    def _check(self, position: int, content: int) -> None:
        uses = self.description.operands
        if position >= len(uses):
            raise DamagedSnapshotError(f"step {self.address}: operand {position} of {len(uses)}")
        spec, stored = uses[position].spec, self._index.contents[content]
        if int(stored["nbytes"]) != spec.nbytes or stored["dtype"].decode("ascii", "replace") != spec.dtype:
            raise DamagedSnapshotError(
                f"step {self.address} {spec.name}: {int(stored['nbytes'])} bytes of {stored['dtype'].decode()} stored, "
                f"but the runlist says {spec.nbytes} bytes of {spec.dtype}"
            )

    def _digest(self, row: int) -> str:
        return str(self._index.contents["digest"][row].decode("ascii"))

    def _tensor(
        self,
        position: int,
        use: OperandUse,
        row: int | None,
        side: str,
        previous: RecordedTensor | None = None,
        unchanged: bool | None = None,
        reference: RecordedTensor | None = None,
        previous_digest: str | None = None,
    ) -> RecordedTensor:
        return RecordedTensor(
            use=use,
            position=position,
            previous=previous,
            unchanged=unchanged,
            _row=row,
            _digest=None if row is None else self._digest(row),
            _store=self._store,
            _what=f"step {self.address} {self.op.type}, {side} {use.spec.name} ({use.label})",
            reference=reference,
            previous_digest=previous_digest,
        )
