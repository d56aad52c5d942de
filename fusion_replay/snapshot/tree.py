# SPDX-License-Identifier: Apache-2.0
"""The tree for people: invocation, step, inputs and outputs by argument name, as links to the stored tensors.

Nothing here is needed to read a snapshot with fusion-replay; it is what h5py, h5dump or HDFView show.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fusion_replay.model import SequenceDescription
from fusion_replay.snapshot import hdf5
from fusion_replay.snapshot.describe import dump_json
from fusion_replay.snapshot.schema import DELTA, DERIVED, PARTS, SIDE, Index
from fusion_replay.snapshot.step import OperandMap, RecordedStep, RecordedTensor
from fusion_replay.snapshot.store import ContentStore

MAX_STEPS = 2000
"""Steps for which the tree is written; beyond, groups cost more than the tables they repeat."""

_EXPORT = "; `fusion-replay export --as plain-h5` writes it as an array"
_NOTES = {
    DELTA: "stored as a difference from an earlier version" + _EXPORT,
    PARTS: "stored as parts of other tensors" + _EXPORT,
    DERIVED: "not stored: the operator's inputs give it bit for bit" + _EXPORT,
    SIDE: "stored in the side file of weights" + _EXPORT,
}


class Tree:
    """Writes the tree into an open file in which ``/contents`` is complete.

    ``datasets`` has, per row of the contents table, the path and the shape of its dataset, or None.
    """

    def __init__(
        self, root: Any, index: Index, store: ContentStore, datasets: list[tuple[str, tuple[int, ...]] | None]
    ) -> None:
        self._root = root
        self._index = index
        self._store = store
        self._datasets = datasets
        self._views: dict[tuple[int, tuple[int, ...]], str] = {}

    def write(self) -> None:
        self._sequences()
        if len(self._index.steps) > MAX_STEPS or not any(self._datasets):
            return  # nothing to link to: digests stand in the tables
        groups: dict[int, tuple[Any, str]] = {}
        for row in range(len(self._index.steps)):
            step = RecordedStep(self._index, self._store, row)
            if step.invocation not in groups:
                name = f"invocation_{step.invocation:04d}"
                made = hdf5.group(self._root, name)
                hdf5.attribute(made, "sequence", step.sequence.name)
                groups[step.invocation] = made, name
            self._step(*groups[step.invocation], step)

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

    def _step(self, parent: Any, parent_path: str, step: RecordedStep) -> None:
        name = f"step_{step.index:04d}_{safe_name(step.op.type)}"
        made, path = hdf5.group(parent, name), f"/{parent_path}/{name}"
        hdf5.attribute(made, "label", step.label)
        hdf5.attribute(made, "status", step.status)
        if step.op.params:
            hdf5.attribute(made, "params", dump_json(dict(step.op.params)).decode())
        for key, value in (("values", step.values), ("state", step.state), ("error", step.error), ("iron", step.iron)):
            if value:
                hdf5.attribute(made, key, value if isinstance(value, str) else dump_json(value).decode())
        outputs = step.outputs
        previous = [t.previous for t in outputs.values() if t.previous is not None and t.direction == "out"]
        self._operands(made, path, "inputs", step.inputs)
        self._operands(made, path, "outputs", outputs)
        if previous:
            self._operands(made, path, "previous", OperandMap(tuple(previous), name))
        references = tuple(t.reference for t in outputs.values() if t.reference is not None)
        if references:
            self._operands(made, path, "reference", OperandMap(references, name))

    def _operands(self, parent: Any, parent_path: str, side: str, tensors: OperandMap) -> None:
        made, path = hdf5.group(parent, side), f"{parent_path}/{side}"
        taken: set[str] = set()
        for tensor in tensors.values():
            name = safe_name(tensor.name)
            if name in taken:
                name = f"{name}_{tensor.position}"
            taken.add(name)
            if tensor.row is not None:
                self._link(made, path, name, tensor, tensor.row)

    def _link(self, parent: Any, parent_path: str, name: str, tensor: RecordedTensor, row: int) -> None:
        stored = self._datasets[row]
        if stored is None:
            if note := _NOTES.get(int(self._index.contents["encoding"][row])):
                hdf5.attribute(parent, name, f"{tensor.digest}: {note}")
            return  # or only its digest was kept
        source, shape = stored
        if tensor.shape == shape or not tensor.shape:
            parent.links.create_hard(name.encode(), self._root, source.encode())
            return
        seen = self._views.get((row, tensor.shape))
        if seen is not None:
            parent.links.create_hard(name.encode(), self._root, seen.encode())
            return
        kind = hdf5.element_type(tensor.dtype)
        if tensor.nbytes == 0:
            hdf5.contiguous(parent, name, kind, None, tensor.shape)
        else:
            hdf5.reshaped(parent, name, kind, tensor.shape, source, shape)
        self._views[row, tensor.shape] = f"{parent_path}/{name}"


def safe_name(name: str) -> str:
    """``name`` as HDF5 can link it and a shell can type it."""
    return re.sub(r"[^\w.+\-=\[\]:,]", "_", name)[:200].strip(".") or "_"
