# SPDX-License-Identifier: Apache-2.0
"""One recorded step: a row of the snapshot's tables as its user sees it.

Tested in tests/snapshot/test_roundtrip.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusion_replay.errors import DamagedSnapshotError
from fusion_replay.model.runlist import SequenceDescription, StepDescription, stored_dtype
from fusion_replay.model.step import ContentSource, OperandKey, OperandMap, Seen, Step
from fusion_replay.snapshot.schema import NO_CONTENT, STATUS, Index


class RecordedStep(Step):
    """A runlist entry as it ran: see the properties. Cheap to make; tensors are read when asked for."""

    __slots__ = ("_index", "_inputs", "_outputs", "_source", "description", "invocation", "row", "sequence")

    def __init__(self, index: Index, source: ContentSource, row: int) -> None:
        record = index.steps[row]
        self._index = index
        self._source = source
        self._inputs: OperandMap | None = None  # made when first asked for
        self._outputs: OperandMap | None = None
        self.row = row
        """Row of the steps table: how many steps were recorded before this one."""
        self.invocation: int = int(record["invocation"])
        self.sequence: SequenceDescription = index.sequences[int(index.invocations["sequence"][self.invocation])]
        self.description: StepDescription = self.sequence.steps[int(record["step"])]
        if places := self._detail.get("places"):
            self.description = self.description.placed(self._checked(places))

    def reading_from(self, source: ContentSource) -> RecordedStep:
        """The same step, its tensors read from ``source``."""
        return RecordedStep(self._index, source, self.row)

    @property
    def status(self) -> str:
        """ "complete", "in_flight" (began, never came back) or "failed" (raised)."""
        return STATUS[int(self._index.steps["status"][self.row])]

    @property
    def elapsed_ns(self) -> int | None:
        """What the runtime said the kernel took, nanoseconds."""
        elapsed = int(self._index.steps["elapsed_ns"][self.row])
        return None if elapsed < 0 else elapsed

    @property
    def values(self) -> dict[str, Any]:
        """Runtime values of this dispatch, by name."""
        found = self._detail.get("values")
        return dict(found) if isinstance(found, dict) else {}

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

    def digests(self) -> dict[OperandKey, bytes]:
        """Of all that was seen of it, by role and operand position."""
        return {spot: bytes.fromhex(self._digest(row)) for spot, row in self._rows().items()}

    @property
    def noticed(self) -> dict[str, Any]:
        """What the recorder noticed of the inputs, by argument name; keys that there is nothing of are left out.

        ``clobbered``: differs from what an earlier step left there, with that step's index and its argument;
        ``rewritten``: a weight that changed; ``assumed``: a weight that was taken for unchanged and not read;
        ``reference``: why what the operator's own reference gives was not kept, where it was wanted.
        """
        return {key: value for key, fits in _NOTICED.items() if (value := self._detail.get(key)) and fits(value)}

    @property
    def inputs(self) -> OperandMap:
        """Contents before the kernel, of every operand that it reads (in, inout)."""
        if self._inputs is None:
            self._inputs = self._seen().inputs(self)
        return self._inputs

    @property
    def outputs(self) -> OperandMap:
        """Contents after the kernel, of every operand that it writes (out, inout)."""
        if self._outputs is None:
            self._outputs = self._seen().outputs(self)
        return self._outputs

    def __repr__(self) -> str:
        return f"<RecordedStep {self.label} ({self.status})>"

    def _checked(self, places: Any) -> dict[int, int]:
        """First bytes of the operands that this call had elsewhere than the runlist says, by position."""
        operands, sizes = self.description.operands, {b.name: b.nbytes for b in self.sequence.buffers}
        try:
            found = {int(position): int(start) for position, start in places.items()}
            fits = all(s >= 0 and s + operands[p].spec.nbytes <= sizes[operands[p].buffer] for p, s in found.items())
        except (AttributeError, ValueError, TypeError, LookupError):
            fits = False
        if not fits or any(position < 0 for position in found):
            raise DamagedSnapshotError(
                f"step {self.address}: the places of its operands {places!r} do not fit its buffers"
            )
        return found

    @property
    def _detail(self) -> dict[str, Any]:
        return self._index.details[int(self._index.steps["detail"][self.row])]

    def _text(self, key: str) -> str | None:
        value = self._detail.get(key)
        return None if value is None else str(value)

    def _seen(self) -> Seen:
        return Seen(self._rows(), self._digest, self._source)

    def _rows(self) -> dict[OperandKey, int]:
        """Rows of contents of everything that is there."""
        record = self._index.steps[self.row]
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
        nbytes, dtype = int(stored["nbytes"]), stored["dtype"].decode("ascii", "replace")
        if nbytes != spec.nbytes or dtype != stored_dtype(spec.dtype):
            raise DamagedSnapshotError(
                f"step {self.address} {spec.name}: {nbytes} bytes of {dtype} stored, "
                f"but the runlist says {spec.nbytes} bytes of {spec.dtype}"
            )

    def _digest(self, row: int) -> str:
        return str(self._index.contents["digest"][row].decode("ascii", "replace"))


def _is_clobbered(value: Any) -> bool:
    """Argument -> step that wrote it, as what."""
    pairs = list(value.values()) if isinstance(value, dict) else [None]
    return all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs)


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


_NOTICED: dict[str, Callable[[Any], bool]] = {
    "clobbered": _is_clobbered,
    "rewritten": _is_names,
    "assumed": _is_names,
    "reference": lambda why: isinstance(why, str),
}
"""A file may say anything: what is not of this form was not noticed."""
