# SPDX-License-Identifier: Apache-2.0
"""The tree for people: invocation, step, inputs and outputs by argument name, as links to the stored tensors.

Nothing here is needed to read a snapshot with fusion-replay; it is what h5py, h5dump or HDFView show. Every group and
every attribute takes HDF5 as long as a small tensor does: so a step has one group and one attribute.

Tested in tests/snapshot/test_plain_hdf5.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_replay.errors import DamagedSnapshotError
from fusion_replay.model.runlist import SequenceDescription, StepDescription, stored_dtype
from fusion_replay.snapshot.describe import dump_json
from fusion_replay.snapshot.schema import (
    DELTA,
    DERIVED,
    INPUT,
    NO_CONTENT,
    OUTPUT,
    PARTS,
    PREVIOUS,
    REFERENCE,
    SIDE,
    STATUS,
    Index,
)
from fusion_replay.snapshot.seal import hdf5

MAX_STEPS = 2000
"""Steps for which the tree is written; beyond, groups cost more than the tables they repeat."""

_DETAILS = ("values", "state", "error", "iron")  # what of a step's details is shown

_EXPORT = "; `fusion-replay export --as plain-h5` writes it as an array"
_NOTES = {
    DELTA: "stored as a difference from an earlier version" + _EXPORT,
    PARTS: "stored as parts of other tensors" + _EXPORT,
    DERIVED: "not stored: the operator's inputs give it bit for bit" + _EXPORT,
    SIDE: "stored in the side file of weights" + _EXPORT,
}


@dataclass(frozen=True, slots=True)
class _Use:
    """An operand as it is linked: under which name, and what the runlist says of it."""

    link: bytes
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a runlist: what is the same for every invocation of it."""

    name: str
    label: str
    about: Mapping[str, Any]
    uses: Mapping[tuple[int, int], _Use]
    """By role and position; those of no role that is linked are left out."""

    @classmethod
    def of(cls, sequence: SequenceDescription, step: StepDescription) -> _Entry:
        op = sequence.operators[step.operator]
        uses: dict[tuple[int, int], _Use] = {}
        taken: set[str] = set()
        for position, use in enumerate(step.operands):
            spec = use.spec
            sides = {INPUT: "inputs"} if spec.reads else {PREVIOUS: "previous"}
            if spec.writes:
                sides |= {OUTPUT: "outputs", REFERENCE: "reference"}
            for role, side in sides.items():
                link = f"{side}.{safe_name(spec.name)}"
                if link in taken:
                    link = f"{link}_{position}"
                taken.add(link)
                uses[role, position] = _Use(link.encode(), spec.shape, stored_dtype(spec.dtype), spec.nbytes)
        about = {"params": dict(op.params)} if op.params else {}
        name = f"step_{step.index:04d}_{safe_name(op.type)}"
        return cls(name, f"{step.index} {op.type} {step.flow}", about, uses)


class Tree:
    """Writes the tree into an open file in which ``/contents`` is complete.

    ``datasets`` has, per row of the contents table, the path and the shape of its dataset, or None.
    """

    def __init__(self, root: Any, index: Index, datasets: list[tuple[str, tuple[int, ...]] | None]) -> None:
        self._root = root
        self._index = index
        self._datasets = datasets
        self._contents = index.contents[["nbytes", "dtype", "encoding", "digest"]].tolist()
        self._entries: dict[tuple[int, int], _Entry] = {}
        self._views: dict[tuple[int, tuple[int, ...]], str] = {}

    def write(self) -> None:
        self._sequences()
        if len(self._index.steps) > MAX_STEPS or not any(self._datasets):
            return  # nothing to link to: digests stand in the tables
        operands = self._index.operands.tolist()
        sequence_of = self._index.invocations["sequence"].tolist()
        groups: dict[int, Any] = {}
        for invocation, number, status, count, first, _, detail in self._index.steps.tolist():
            if invocation not in groups:
                groups[invocation] = hdf5.group(self._root, f"invocation_{invocation:04d}")
                hdf5.attribute(groups[invocation], "sequence", self._index.sequences[sequence_of[invocation]].name)
            entry = self._entry(sequence_of[invocation], number)
            about = {
                "label": f"{invocation}:{entry.label}",
                "status": STATUS[status],
                **entry.about,
                **{key: self._index.details[detail][key] for key in _DETAILS if self._index.details[detail].get(key)},
            }
            made = hdf5.group(groups[invocation], entry.name)
            hdf5.attribute(made, "about", dump_json(about).decode())
            where = f"/invocation_{invocation:04d}/{entry.name}"
            for position, role, row in operands[first : first + count]:
                use = entry.uses.get((role, position))
                if use is not None and row != NO_CONTENT:
                    self._link(made, where, use, row)

    def _entry(self, sequence: int, step: int) -> _Entry:
        found = self._entries.get((sequence, step))
        if found is None:
            described = self._index.sequences[sequence]
            found = self._entries[sequence, step] = _Entry.of(described, described.steps[step])
        return found

    def _sequences(self) -> None:
        parent = hdf5.group(self._root, "sequences")
        for number, sequence in enumerate(self._index.sequences[:MAX_STEPS]):
            made = hdf5.group(parent, f"{number:04d}_{safe_name(sequence.name)}")
            hdf5.attribute(made, "name", sequence.name)
            hdf5.attribute(made, "origin", dump_json(dict(sequence.origin)).decode())
            hdf5.attribute(made, "input_args", " ".join(sequence.input_args))
            hdf5.attribute(made, "output_args", " ".join(sequence.output_args))
            self._runlist(made, sequence)

    def _runlist(self, parent: Any, sequence: SequenceDescription) -> None:
        lines = [f"{s.index} {sequence.operators[s.operator].type} {s.flow}".encode() for s in sequence.steps]
        if lines and len(self._index.sequences) <= MAX_STEPS:
            width = max(map(len, lines))
            data = np.array(lines, dtype=f"S{width}")
            hdf5.contiguous(parent, "runlist", hdf5.text_type(width), data, (len(lines),))

    def _link(self, parent: Any, where: str, use: _Use, row: int) -> None:
        nbytes, dtype, encoding, digest = self._contents[row]
        if nbytes != use.nbytes or dtype.decode() != use.dtype:
            raise DamagedSnapshotError(
                f"{where} {use.link.decode()}: {nbytes} bytes of {dtype.decode()} stored, "
                f"but the runlist says {use.nbytes} bytes of {use.dtype}"
            )
        stored = self._datasets[row]
        if stored is None:
            if note := _NOTES.get(encoding):
                hdf5.attribute(parent, use.link.decode(), f"{digest.decode()}: {note}")
            return  # or only its digest was kept
        source, shape = stored
        if use.shape == shape or not use.shape:
            parent.links.create_hard(use.link, self._root, source.encode())
            return
        seen = self._views.get((row, use.shape))
        if seen is not None:
            parent.links.create_hard(use.link, self._root, seen.encode())
            return
        kind = hdf5.element_type(use.dtype)
        if use.nbytes == 0:
            hdf5.contiguous(parent, use.link.decode(), kind, None, use.shape)
        else:
            hdf5.reshaped(parent, use.link.decode(), kind, use.shape, source, shape)
        self._views[row, use.shape] = f"{where}/{use.link.decode()}"


def safe_name(name: str) -> str:
    """``name`` as HDF5 can link it and a shell can type it."""
    return re.sub(r"[^\w.+\-=\[\]:,]", "_", name)[:200].strip(".") or "_"
