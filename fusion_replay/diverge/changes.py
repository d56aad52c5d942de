# SPDX-License-Identifier: Apache-2.0
"""Which contents of two aligned recordings differ: digests compared as columns, no contents read.

The cost of this is a few passes over the tables; everything dearer is done for the steps found here alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.align import MISSING, NOT_IN_RUNLIST, Alignment
from fusion_replay.diverge.dataflow import CHANGED, Dataflow
from fusion_replay.diverge.operands import Operands, Rows, key_of, place_of
from fusion_replay.replaying.replay_report import canonical_json
from fusion_replay.snapshot.schema import INPUT, OUTPUT, PREVIOUS
from fusion_replay.sources.describe import keeps_old_contents

if TYPE_CHECKING:
    from fusion_replay.snapshot import Snapshot

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Changes:
    """Pairs of aligned rows, in the order of b, and what is not the same in each.

    Attributes:
        a, b: rows of the two tables of steps.
        inputs, outputs, values, status: per pair: does any of them differ? ``inputs`` has old contents of partly
            written outputs and the runtime values in it.
        reads, writes: sorted keys (:func:`key_of` of b's row, position, 0) of the operands whose contents differ.
    """

    a: Rows
    b: Rows
    inputs: Mask
    outputs: Mask
    values: Mask
    status: Mask
    reads: Rows
    writes: Rows

    @property
    def differing(self) -> Rows:
        """Numbers of the pairs in which anything differs."""
        return np.flatnonzero(self.inputs | self.outputs | self.status).astype(np.int64)

    def positions(self, keys: Rows, row: int) -> list[int]:
        """Of one row of b in :attr:`reads` or :attr:`writes`."""
        lo, hi = np.searchsorted(keys, key_of(np.array([row, row + 1]), np.zeros(2, np.int64), 0))
        found: list[int] = place_of(keys[lo:hi])[1].tolist()
        return found


def changes(a: Snapshot, b: Snapshot, alignment: Alignment, scope: Mask | None = None) -> Changes:
    """Compare the digests of all aligned steps, or of b's rows in ``scope``."""
    chosen = alignment.a_of >= 0
    if scope is not None:
        chosen = chosen & scope
    row_b = np.flatnonzero(chosen).astype(np.int64)
    row_a = alignment.a_of[row_b]
    id_a, id_b = _common_ids(a.index.contents["digest"], b.index.contents["digest"])
    key_a, content_a = _by_pair(a, row_a, id_a)
    key_b, content_b = _by_pair(b, row_b, id_b)
    keys = _differing(key_a, content_a, key_b, content_b)
    pair, position, role = place_of(keys)
    reads, writes = role != OUTPUT, role == OUTPUT
    values = _values_differ(a, b, row_a, row_b)
    inputs, outputs = values.copy(), np.zeros(len(row_b), np.bool_)
    inputs[pair[reads]] = True
    outputs[pair[writes]] = True
    status = a.index.steps["status"][row_a] != b.index.steps["status"][row_b]
    places = key_of(row_b[pair], position, 0) if len(pair) else pair
    return Changes(row_a, row_b, inputs, outputs, values, status, np.unique(places[reads]), np.unique(places[writes]))


def carrying(flow: Dataflow, found: Changes, alignment: Alignment) -> Mask:
    """The edges of b's graph along which a difference went: what the producer wrote differs (or only b has that
    step), the consumer read it as it was written, and what the consumer read differs."""
    e = flow.edges
    producer, consumer = e["producer"], e["consumer"]
    wrote = key_of(producer, e["wrote"].astype(np.int64), 0)
    read = key_of(consumer, e["position"].astype(np.int64), 0)
    known = producer >= 0
    only_in_b = np.isin(alignment.a_of, (MISSING, NOT_IN_RUNLIST))
    only_b = known & only_in_b[np.where(known, producer, 0)] if len(e) else known
    differs = only_b | np.isin(wrote, found.writes)
    only_b_reads = only_in_b[consumer]
    mask: Mask = known & differs & (e["state"] != CHANGED) & (np.isin(read, found.reads) | only_b_reads)
    return mask


# --- parts ----------------------------------------------------------------------------------------------------------


def _common_ids(a: npt.NDArray[np.bytes_], b: npt.NDArray[np.bytes_]) -> tuple[Rows, Rows]:
    """The same number for the same digest on both sides."""
    _, ids = np.unique(np.concatenate([a, b]), return_inverse=True)
    ids = ids.astype(np.int64)
    return ids[: len(a)], ids[len(a) :]


def _by_pair(snapshot: Snapshot, rows: Rows, ids: Rows) -> tuple[Rows, Rows]:
    """(key of pair, position and role; id of the contents) of every operand that counts, sorted by key."""
    operands = Operands.of(snapshot.index)
    row, position, role = place_of(operands.key)
    pair_of = np.full(len(snapshot.index.steps), -1, np.int64)
    pair_of[rows] = np.arange(len(rows))
    pair = pair_of[row]
    keeps = _keeps(snapshot)[row] if len(row) else np.zeros(0, np.bool_)
    counts = (pair >= 0) & ((role == INPUT) | (role == OUTPUT) | ((role == PREVIOUS) & keeps))
    key, content = key_of(pair, position, role)[counts], ids[operands.content[counts]]
    order = np.argsort(key, kind="stable")
    return key[order], content[order]


def _keeps(snapshot: Snapshot) -> Mask:
    """Per row: is the old contents of the output an input of the step?"""
    per_sequence = [[keeps_old_contents(op) for op in s.operators] for s in snapshot.sequences]
    runlists = [q.steps for q in snapshot.sequences]
    flags = [np.array([k[s.operator] for s in q] or [False]) for k, q in zip(per_sequence, runlists, strict=True)]
    offsets = np.cumsum([0, *map(len, flags)])
    steps = snapshot.index.steps
    sequence = snapshot.index.invocations["sequence"].astype(np.int64)[steps["invocation"]]
    found: Mask = np.concatenate(flags)[offsets[sequence] + steps["step"].astype(np.int64)]
    return found


def _differing(key_a: Rows, content_a: Rows, key_b: Rows, content_b: Rows) -> Rows:
    """Keys at which the two differ; what only one side has differs."""
    if len(key_a) == len(key_b) and np.array_equal(key_a, key_b):
        there: Rows = key_a[content_a != content_b]
        return there
    keys = np.union1d(key_a, key_b)
    sides = []
    for key, content in ((key_a, content_a), (key_b, content_b)):
        full = np.full(len(keys), -1, np.int64)
        full[np.searchsorted(keys, key)] = content
        sides.append(full)
    found: Rows = keys[sides[0] != sides[1]]
    return found


def _values_differ(a: Snapshot, b: Snapshot, row_a: Rows, row_b: Rows) -> Mask:
    """Per pair: were other runtime values given?"""
    known: dict[str, int] = {}
    sides = []
    for snapshot, rows in ((a, row_a), (b, row_b)):
        texts = (d.get("values") for d in snapshot.index.details)
        ids = [known.setdefault(canonical_json(repr(v)) if v else "", len(known)) for v in texts]
        sides.append(np.array(ids, np.int64)[snapshot.index.steps["detail"][rows]])
    found: Mask = sides[0] != sides[1]
    return found


__all__ = ["Changes", "carrying", "changes"]
