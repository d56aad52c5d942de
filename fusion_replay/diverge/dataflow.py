# SPDX-License-Identifier: Apache-2.0
"""Who wrote the bytes that a step reads, over a whole recording, without reading any contents.

The runlists say which bytes of which buffer every step reads and writes; buffers keep their contents from one
invocation of a sequence to the next (caches). A step that writes only part of its output (StridedCopy into a cache)
also reads what was there before. Steps that ran and were not recorded still write. What the host writes between two
invocations is not recorded, but it shows: the bytes that a step read are not those that were last written there.

Steps are named by their row in the table of steps (:meth:`Dataflow.row` and :meth:`Dataflow.address` translate). Rows
are in the order in which the steps began, so every edge points forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.operands import Operands, Rows, place_of
from fusion_replay.model.byte_spans import ByteSpans
from fusion_replay.model.runlist import SequenceDescription, format_address
from fusion_replay.snapshot.schema import COMPLETE, INPUT, OUTPUT, PREVIOUS
from fusion_replay.sources.describe import keeps_old_contents

if TYPE_CHECKING:
    from fusion_replay.snapshot import Snapshot
    from fusion_replay.snapshot.schema import Index

OUTSIDE, UNRECORDED = -1, -2
"""Producers that are no recorded step: bytes that no step wrote (inputs, weights), or a step that left no record."""

CHANGED, HANDED, UNKNOWN = 0, 1, -1
"""Of an edge: the consumer saw other bytes than the producer wrote (the host wrote between them); the same; digests
can't say, because one reads another range than the other wrote."""

EDGES = np.dtype(
    [
        ("producer", "<i8"),  # row of the step that wrote the bytes last, or OUTSIDE, UNRECORDED
        ("wrote", "<u2"),  # position of that operand in the producer's runlist entry
        ("consumer", "<i8"),  # row of the step that reads them
        ("position", "<u2"),  # position of the operand that reads
        ("start", "<u8"),  # bytes of the buffer
        ("stop", "<u8"),
        ("state", "i1"),  # CHANGED, HANDED or UNKNOWN
    ]
)

Mask = npt.NDArray[np.bool_]
Edges = npt.NDArray[Any]


class Piece(NamedTuple):
    """Bytes ``start`` to ``stop`` of a buffer as ``producer`` (a row) last wrote them with its operand ``wrote``.

    ``whole``: it is all that this operand wrote.
    """

    start: int
    stop: int
    producer: int
    wrote: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Final:
    """What lies in (part of) a sequence's output buffer when an invocation ends."""

    invocation: int
    buffer: str
    piece: Piece


@dataclass(frozen=True)
class Dataflow:
    """The dataflow graph of one recording; made by :func:`dataflow`.

    Attributes:
        edges: one row of :data:`EDGES` for every run of bytes that an operand reads, by consumer and position.
        finals: what the sequences' outputs hold at the end of each invocation, in order. Without declared outputs:
            what the last recorded step of the invocation writes.
        live: (row, position) of the writes of which some byte is still in its buffer when the recording ends.
        addresses: (invocation, step) of each row.
        handed: of steps given as arrays, which have no buffers in common: (invocation, position) of what was read ->
            that of the latest output before it with the same bits.
    """

    edges: Edges
    finals: tuple[Final, ...]
    live: frozenset[tuple[int, int]]
    addresses: npt.NDArray[Any]
    handed: Mapping[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def address(self, row: int) -> str:
        """ "3:412" of a row."""
        return format_address(*map(int, self.addresses[row]))

    def row(self, invocation: int, step: int) -> int | None:
        """The row of a step, None where it left no record."""
        return self._rows.get((invocation, step))

    def sources(self, row: int, position: int | None = None) -> Edges:
        """Edges into a step (or one operand of it): who wrote what it reads."""
        lo, hi = np.searchsorted(self.edges["consumer"], [row, row + 1])
        found = self.edges[lo:hi]
        return found if position is None else found[found["position"] == position]

    def readers(self, row: int, position: int | None = None) -> Edges:
        """Edges out of a step (or of one operand that it writes): who reads what it wrote, until it is overwritten."""
        order, producers = self._by_producer
        lo, hi = np.searchsorted(producers, [row, row + 1])
        found = self.edges[order[lo:hi]]
        return found if position is None else found[found["wrote"] == position]

    def forward(self, rows: Iterable[int], along: Mask | None = None) -> Mask:
        """Per row: can anything of these steps' outputs have reached it (the steps themselves included)?

        Args:
            along: use only these of :attr:`edges`.
        """
        reached = self._mask(rows)
        for producer, consumer in self._inner(along):
            if reached[producer]:
                reached[consumer] = True
        return np.array(reached, np.bool_)

    def backward(self, rows: Iterable[int], along: Mask | None = None) -> Mask:
        """Per row: can these steps' inputs (and so outputs) depend on it (the steps themselves included)?"""
        needed = self._mask(rows)
        for producer, consumer in reversed(self._inner(along)):
            if needed[consumer]:
                needed[producer] = True
        return np.array(needed, np.bool_)

    def path(self, start: int, targets: Iterable[int], along: Mask | None = None) -> tuple[int, ...]:
        """A shortest way along the edges from a step to the nearest of the targets, both ends included; () if none."""
        steps: dict[int, tuple[int, int]] = {start: (0, -1)}  # row -> its distance, and the row before it
        for producer, consumer in self._inner(along):
            if producer in steps and steps[producer][0] + 1 < steps.get(consumer, (len(self.addresses) + 1, 0))[0]:
                steps[consumer] = (steps[producer][0] + 1, producer)
        reached = [(steps[t][0], t) for t in sorted(set(targets)) if t in steps]
        if not reached:
            return ()
        way = [min(reached)[1]]
        while way[-1] != start:
            way.append(steps[way[-1]][1])
        return tuple(reversed(way))

    def outputs(self, invocation: int | None = None) -> tuple[Final, ...]:
        """:attr:`finals`, of one invocation."""
        return tuple(f for f in self.finals if invocation in (None, f.invocation))

    @cached_property
    def _rows(self) -> dict[tuple[int, int], int]:
        return {(i, s): row for row, (i, s) in enumerate(self.addresses.tolist())}

    @cached_property
    def _by_producer(self) -> tuple[Rows, Rows]:
        order = np.argsort(self.edges["producer"], kind="stable")
        return order, self.edges["producer"][order]

    def _mask(self, rows: Iterable[int]) -> list[bool]:
        mask = [False] * len(self.addresses)
        for row in rows:
            mask[row] = True
        return mask

    def _inner(self, along: Mask | None) -> list[tuple[int, int]]:
        """(producer, consumer) of the edges between recorded steps, consumers in ascending order."""
        chosen = self.edges["producer"] >= 0
        if along is not None:
            chosen = chosen & along
        found = self.edges[chosen]
        return list(zip(found["producer"].tolist(), found["consumer"].tolist(), strict=True))


def dataflow(snapshot: Snapshot) -> Dataflow:
    """The graph of a recording, from its runlists and tables alone."""
    index = snapshot.index
    plans = [_Uses(s) for s in index.sequences]
    buffers: list[_Buffers] = [ByteSpans() for _ in plans]
    invocations = index.invocations.tolist()
    steps = list(zip(*(index.steps[c].tolist() for c in ("invocation", "step")), strict=True))
    details = index.steps["detail"].tolist()
    last = {invocation: row for row, (invocation, _) in enumerate(steps)}
    next_step: defaultdict[int, int] = defaultdict(int)
    edges: list[tuple[int, int, int, int, int, int, int]] = []
    finals: list[Final] = []
    begun = 0
    for row, (invocation, number) in enumerate(steps):
        for unseen in range(begun, invocation):  # ran whole, and nothing of it was recorded
            if unseen not in last and invocations[unseen][1] == COMPLETE:
                for writes in plans[invocations[unseen][0]].writes:
                    _write(buffers[invocations[unseen][0]], writes, UNRECORDED)
        begun = max(begun, invocation)
        sequence, status = invocations[invocation]
        plan, state = plans[sequence], buffers[sequence]
        if plan.alone:  # the operator is called with other tensors each time
            state = buffers[sequence] = ByteSpans()
        reads, wrote = plan.reads[number], plan.writes[number]
        if places := index.details[details[row]].get("places"):
            reads, wrote = _placed(reads, places), _placed(wrote, places)
        for missing in range(next_step[invocation], number):
            _write(state, plan.writes[missing], UNRECORDED)
        next_step[invocation] = max(next_step[invocation], number + 1)
        for position, buffer, start, stop in reads:
            for p in _read(state, buffer, start, stop):
                same = p.whole and (p.start, p.stop) == (start, stop)
                edges.append((p.producer, p.wrote, row, position, p.start, p.stop, HANDED if same else UNKNOWN))
        _write(state, wrote, row)
        if last[invocation] == row:
            if status == COMPLETE:
                for missing in range(next_step[invocation], len(plan.writes)):
                    _write(state, plan.writes[missing], UNRECORDED)
            spans = plan.outputs or [(name, lo, hi) for _, name, lo, hi in wrote]
            finals += [Final(invocation, name, p) for name, lo, hi in spans for p in _read(state, name, lo, hi)]
    table = np.array(edges, EDGES)
    _settle(table, Operands.of(index))
    live = frozenset((s.writer[0], s.writer[1][0]) for state in buffers for s in state if s.writer[0] >= 0)
    addresses = np.stack([index.steps["invocation"], index.steps["step"]], 1).astype(np.int64)
    return Dataflow(table, tuple(finals), live, addresses, _hand_over(table, index))


def _settle(edges: Edges, operands: Operands) -> None:
    """Where a consumer reads exactly what a producer wrote, their digests say whether it saw that."""
    exact = (edges["state"] == HANDED) & (edges["producer"] >= 0)
    position, wrote = edges["position"].astype(np.int64), edges["wrote"].astype(np.int64)
    written = operands.find(edges["producer"], wrote, OUTPUT)
    seen = operands.find(edges["consumer"], position, INPUT)
    seen = np.where(seen < 0, operands.find(edges["consumer"], position, PREVIOUS), seen)
    state = np.where(written == seen, HANDED, CHANGED)
    edges["state"] = np.where(exact & (written >= 0) & (seen >= 0), state, UNKNOWN)


def _hand_over(edges: Edges, index: Index) -> dict[tuple[int, int], tuple[int, int]]:
    """Edges between steps that were given as arrays, put in where an input came from outside."""
    given = np.array([s.origin.get("variant") == "arrays" for s in index.sequences], np.bool_)
    if not given.any():
        return {}
    of_row = given[index.invocations["sequence"][index.steps["invocation"]]]
    rows, positions, roles = place_of((operands := Operands.of(index)).key)
    digests = index.contents["digest"][operands.content]
    writers: dict[bytes, tuple[int, int]] = {}  # the latest
    read: dict[tuple[int, int], tuple[int, int]] = {}
    inputs_first = np.lexsort((roles == OUTPUT, rows))
    for i in inputs_first[of_row[rows[inputs_first]]].tolist():
        row, position, digest = int(rows[i]), int(positions[i]), bytes(digests[i])
        if roles[i] == OUTPUT:
            writers[digest] = row, position
        elif roles[i] == INPUT and digest in writers:
            read[row, position] = writers[digest]
    for edge in np.flatnonzero(edges["producer"] == OUTSIDE).tolist():
        found = read.get((int(edges["consumer"][edge]), int(edges["position"][edge])))
        if found is not None:
            edges["producer"][edge], edges["wrote"][edge] = found
            edges["state"][edge] = HANDED
    invocation = index.steps["invocation"].tolist()
    steps = [len(index.sequences[i].steps) for i in index.invocations["sequence"].tolist()]
    alone = [steps[i] == 1 for i in invocation]  # those of a group have buffers in common
    pairs = ((r, p, row, wrote) for (r, p), (row, wrote) in read.items() if alone[r] and alone[row])
    return {(invocation[r], p): (invocation[row], wrote) for r, p, row, wrote in pairs}


# --- parts ----------------------------------------------------------------------------------------------------------

_Use = tuple[int, str, int, int]
"""One operand of a runlist entry: its position, the buffer, the first byte, the byte behind the last."""

_Buffers = ByteSpans[tuple[int, _Use]]
"""Who wrote the bytes of a sequence's buffers last: the row of the step, and all that its operand wrote."""


class _Uses:
    """What each entry of a runlist reads and writes."""

    def __init__(self, sequence: SequenceDescription) -> None:
        partial = [keeps_old_contents(op) for op in sequence.operators]
        sizes = {b.name: b.nbytes for b in sequence.buffers}
        self.reads: list[list[_Use]] = []
        self.writes: list[list[_Use]] = []
        self.alone = sequence.origin.get("dispatch") == "operator"
        self.outputs = [(name, 0, sizes[name]) for name in sequence.output_args if sizes.get(name)]
        for step in sequence.steps:
            uses = [(i, u, (i, u.buffer, u.start, u.end)) for i, u in enumerate(step.operands)]
            keeps = partial[step.operator]
            self.reads.append([at for _, u, at in uses if u.spec.reads or keeps])
            self.writes.append([at for _, u, at in uses if u.spec.writes])


def _placed(uses: list[_Use], places: Mapping[str, int]) -> list[_Use]:
    """These uses where a call had them: some of its operands begin elsewhere than the runlist says."""
    moved = [(i, name, places.get(str(i), lo), lo, hi) for i, name, lo, hi in uses]
    return [(i, name, start, start + hi - lo) for i, name, start, lo, hi in moved]


def _read(buffers: _Buffers, buffer: str, start: int, stop: int) -> Iterator[Piece]:
    for lo, hi, writer in buffers.read(buffer, start, stop):
        if writer is None:
            yield Piece(lo, hi, OUTSIDE, 0, False)
        else:
            row, (position, _, first, end) = writer
            yield Piece(lo, hi, row, position, (lo, hi) == (first, end))


def _write(buffers: _Buffers, uses: list[_Use], row: int) -> None:
    for use in uses:
        _, buffer, start, stop = use
        buffers.write(buffer, start, stop, (row, use))


__all__ = ["CHANGED", "EDGES", "HANDED", "OUTSIDE", "UNKNOWN", "UNRECORDED", "Dataflow", "Final", "Piece", "dataflow"]
