# SPDX-License-Identifier: Apache-2.0
"""What a snapshot holds, counted from its index alone: no recorded array is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.model.text import block
from fusion_replay.report.text import count, human_bytes, human_ns, ran_on, table
from fusion_replay.snapshot.schema import COMPLETE

if TYPE_CHECKING:
    from fusion_replay.model.runlist import SequenceDescription
    from fusion_replay.snapshot import KernelBinaries, Snapshot


@dataclass(frozen=True, slots=True)
class OperatorCounts:
    """Steps of one operator type: how many were recorded, the bytes of their operands, the runtime's own time."""

    op: str
    steps: int
    nbytes: int
    elapsed_ns: int | None


@dataclass(frozen=True, slots=True)
class SequenceRow:
    """One sequence: its size in steps, operators and buffers (bytes), and where it came from."""

    index: int
    name: str
    steps: int
    operators: int
    buffers: int
    buffer_bytes: int
    external: int
    origin: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class InvocationRow:
    """One call of a sequence's callable."""

    index: int
    sequence: int
    status: str
    steps_recorded: int
    steps: int


@dataclass(frozen=True, slots=True)
class UnfinishedRow:
    """A step that never came back ("in_flight") or raised ("failed"): what people look for in a broken run."""

    address: str
    label: str
    status: str
    error: str | None


@dataclass(frozen=True, slots=True)
class LossRow:
    kind: str
    detail: str
    count: int


@dataclass(frozen=True, slots=True)
class KernelRow:
    """The device files behind one operator; ``absent`` says why one of them is null."""

    sequence: int
    operator: int
    op: str
    kernel: str
    xclbin: Mapping[str, Any] | None
    instructions: Mapping[str, Any] | None
    absent: str | None


_ROWS = (
    ("sequence", "sequences"),
    ("invocation", "invocations"),
    ("operator_use", "operators"),
    ("unfinished", "unfinished"),
    ("loss", "losses"),
    ("kernel_files", "kernels"),
)


_ELSEWHERE = ("variant", "device", "evidence", "caution")
"""Of a sequence's origin: what has a place of its own in the text."""


@dataclass(frozen=True, slots=True)
class Overview:
    """All that ``show F`` says. ``nbytes`` counts operand bytes as seen; ``file_bytes`` what lies on the disk."""

    path: str
    format_version: str
    sealed: bool
    steps: int
    nbytes: int
    file_bytes: int
    sequences: tuple[SequenceRow, ...]
    invocations: tuple[InvocationRow, ...]
    operators: tuple[OperatorCounts, ...]
    unfinished: tuple[UnfinishedRow, ...]
    losses: tuple[LossRow, ...]
    kernels: tuple[KernelRow, ...]
    provenance: Mapping[str, Any]

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines, typed: one ``snapshot`` record, then the rows."""
        whole = asdict(self)
        rows = [{"type": kind, **row} for kind, key in _ROWS for row in whole.pop(key)]
        yield {"type": "snapshot", **whole}
        yield from rows

    def __str__(self) -> str:
        blocks = [self._head(), self._sequences(), self._operators(), self._invocations()]
        blocks += [self._unfinished(), self._losses(), self._kernels()]
        return "\n".join(b for b in blocks if b)

    def _head(self) -> str:
        state = "sealed" if self.sealed else "not sealed: the recording is running or was killed"
        seen = f"{human_bytes(self.nbytes)} of operands in {human_bytes(self.file_bytes)} on disk"
        invocations = count(len(self.invocations), "invocation")
        head = f"{self.path}: {count(self.steps, 'step')} recorded in {invocations}, {seen}"
        lines = [head, f"format {self.format_version}, {state}", *self._chosen()]
        return block(lines)

    def _chosen(self) -> list[str]:
        """What was kept, where that was left to what deviates, and what deviated."""
        about = self.provenance.get("recording")
        if not isinstance(about, Mapping) or not isinstance(kept := about.get("kept"), Mapping):
            return []
        if kept.get("keep") != "mismatch":
            return []
        found = about.get("deviating")
        told = f": {found.get('sentence')}" if isinstance(found, Mapping) else ""
        return [f"contents of deviating steps alone{told}"]

    def _sequences(self) -> str:
        lines = []
        for s in self.sequences:
            told = [f"{k} {v}" for k, v in s.origin.items() if k not in _ELSEWHERE]
            lines.append(
                f"sequence {s.index}  {s.name}: {count(s.steps, 'step')}, {count(s.operators, 'operator')}, "
                f"{count(s.buffers, 'buffer')} ({human_bytes(s.buffer_bytes)}, {s.external} filled from outside)"
            )
            lines.append("  " + ", ".join([f"ran on: {ran_on(s.origin)}", *told]))
            if evidence := s.origin.get("evidence"):
                lines.append(f"  recorded from: IRON's {s.origin.get('variant', '')} form ({evidence})")
            if caution := s.origin.get("caution"):
                lines.append(f"  caution: {caution}")
        return block(lines)

    def _operators(self) -> str:
        if not self.operators:
            return ""
        timed = any(o.elapsed_ns is not None for o in self.operators)
        clocks = ", ".join(sorted({ran_on(s.origin) for s in self.sequences}))
        rows: list[list[object]] = [["operator", "steps", "operands", *([f"time on {clocks}"] if timed else [])]]
        for o in self.operators:
            time = [human_ns(o.elapsed_ns)] if timed else []
            rows.append([o.op, f"{o.steps:,}", human_bytes(o.nbytes), *time])
        return table(rows, right=(1, 2, 3))

    def _invocations(self) -> str:
        """The first few, and every one that did not finish."""
        unfinished = [i for i in self.invocations if i.status != "complete"]
        shown = unfinished[:8] or list(self.invocations[:1])
        lines = [
            f"invocation {i.index}: {i.status}, {i.steps_recorded:,} of {count(i.steps, 'step')} recorded"
            for i in shown
        ]
        if others := len(self.invocations) - len(shown):
            incomplete = len(unfinished[8:])
            state = f"{incomplete:,} not complete" if incomplete else "complete"
            lines.append(f"and {count(others, 'other')}, {state}")
        return block(lines)

    def _unfinished(self) -> str:
        lines = [f"{u.status}: {u.label}" + (f": {u.error}" if u.error else "") for u in self.unfinished[:8]]
        if more := len(self.unfinished) - len(lines):
            lines.append(f"and {count(more, 'other unfinished step')}")
        return block(lines)

    def _losses(self) -> str:
        if not self.losses:
            return "losses: none"
        return block(f"loss: {x.kind}: {x.detail} ({x.count:,})" for x in self.losses)

    def _kernels(self) -> str:
        """What the kernels were loaded from: part of where the numbers come from."""
        if not self.kernels:
            return ""
        files = {f["sha256"]: f for k in self.kernels for f in (k.xclbin, k.instructions) if f is not None}
        kept = [f for f in files.values() if f["kept"]]
        size = human_bytes(sum(f["nbytes"] for f in kept))
        named = f", {len(files) - len(kept)} only by SHA-256" if len(kept) < len(files) else ""
        lines = [f"binaries: {count(len(self.kernels), 'kernel')}, {count(len(kept), 'file')} kept ({size}){named}"]
        without = [k for k in self.kernels if k.absent]
        lines += [f"  {k.op} ({k.kernel or 'no name'}): {k.absent}" for k in without[:3]]
        if more := len(without) - 3:
            lines += [f"  and {count(more, 'other')} without a file"] if more > 0 else []
        return block(lines)


def leaves(provenance: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of everything that a provenance says."""
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", " ".join(map(str, value)) if isinstance(value, list) else str(value)


def overview(snapshot: Snapshot) -> Overview:
    """Count what ``snapshot`` holds."""
    operators = _operator_rows(snapshot)
    sequences = tuple(_sequence_row(i, s) for i, s in enumerate(snapshot.sequences))
    invocations = tuple(
        InvocationRow(i.index, i.sequence, i.status, i.steps_recorded, sequences[i.sequence].steps)
        for i in snapshot.invocations
    )
    return Overview(
        path=str(snapshot.path),
        format_version=".".join(map(str, snapshot.format_version)),
        sealed=snapshot.sealed,
        steps=sum(o.steps for o in operators),
        nbytes=sum(o.nbytes for o in operators),
        file_bytes=_size_on_disk(snapshot),
        sequences=sequences,
        invocations=invocations,
        operators=operators,
        unfinished=tuple(_unfinished_rows(snapshot)),
        losses=tuple(LossRow(x.kind, x.detail, x.count) for x in snapshot.losses),
        kernels=tuple(_kernel_row(snapshot, k) for k in snapshot.binaries),
        provenance=dict(snapshot.provenance),
    )


def _operator_rows(snapshot: Snapshot) -> tuple[OperatorCounts, ...]:
    """By operator type; whole columns at a time, since there may be 100,000 steps."""
    entries = [(s.operators[e.operator].type, e) for s in snapshot.sequences for e in s.steps]
    types = sorted({op for op, _ in entries})
    number = {op: i for i, op in enumerate(types)}
    of_entry = np.array([number[op] for op, _ in entries], np.int64)
    lengths = np.array([len(s.steps) for s in snapshot.sequences], np.int64)
    table = snapshot.index.steps
    sequence = snapshot.index.invocations["sequence"][table["invocation"]]
    entry = (np.cumsum(lengths) - lengths)[sequence] + table["step"]
    of_step, ran = of_entry[entry], np.bincount(entry, minlength=len(entries)).tolist()
    steps = np.bincount(of_step, minlength=len(types)).tolist()
    nbytes = dict.fromkeys(types, 0)
    for (op, description), times in zip(entries, ran, strict=True):
        nbytes[op] += times * sum(use.spec.nbytes for use in description.operands)
    timed = table["elapsed_ns"] >= 0
    clocks, elapsed = np.bincount(of_step[timed], minlength=len(types)), np.zeros(len(types), np.int64)
    np.add.at(elapsed, of_step[timed], table["elapsed_ns"][timed])
    return tuple(
        OperatorCounts(op, steps[i], nbytes[op], int(elapsed[i]) if clocks[i] else None)
        for i, op in enumerate(types)
        if steps[i]
    )


def _unfinished_rows(snapshot: Snapshot) -> Iterator[UnfinishedRow]:
    for row in np.flatnonzero(snapshot.index.steps["status"] != COMPLETE).tolist():
        step = snapshot.at(row)
        yield UnfinishedRow(step.address, step.label, step.status, step.error)


def _kernel_row(snapshot: Snapshot, kernel: KernelBinaries) -> KernelRow:
    return KernelRow(**kernel.to_dict(), op=snapshot.sequences[kernel.sequence].operators[kernel.operator].type)


def _sequence_row(index: int, s: SequenceDescription) -> SequenceRow:
    return SequenceRow(
        index=index,
        name=s.name,
        steps=len(s.steps),
        operators=len(s.operators),
        buffers=len(s.buffers),
        buffer_bytes=sum(b.nbytes for b in s.buffers),
        external=sum(b.external for b in s.buffers),
        origin=dict(s.origin),
    )


def _size_on_disk(snapshot: Snapshot) -> int:
    """Bytes of the file read (a spill beside a journal is working space, not part of the recording)."""
    try:
        return snapshot.path.stat().st_size
    except OSError:  # sealed and renamed between opening and asking
        return 0
