# SPDX-License-Identifier: Apache-2.0
"""Reading a journal: what a recording that was killed, or is still going on, adds up to."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fusion_replay.errors import NewerFormatError, SnapshotError
from fusion_replay.model.runlist import SequenceDescription
from fusion_replay.snapshot.describe import load_json, sequence_from_json
from fusion_replay.snapshot.encodings.links import ENCODING, Delta, Link, Side, resolve
from fusion_replay.snapshot.encodings.side_file import weights_of
from fusion_replay.snapshot.journal import frames, payloads
from fusion_replay.snapshot.journal.spill import SLOT
from fusion_replay.snapshot.schema import (
    CHUNKED,
    CHUNKS,
    CHUNKS_SUFFIX,
    COMPLETE,
    CONTENTS,
    DIGEST_ONLY,
    FAILED,
    FORMAT_MAJOR,
    IN_CHUNKS,
    IN_FLIGHT,
    IN_SPILL,
    INVOCATIONS,
    JOURNAL_SUFFIX,
    LOST,
    NO_CONTENT,
    OPERANDS,
    SKIP_SHUFFLE,
    SKIP_ZSTD,
    SPILL_SUFFIX,
    STEPS,
    Index,
    Loss,
)

_RAW = SKIP_SHUFFLE | SKIP_ZSTD
_UNFIT = (struct.error, ValueError, KeyError, TypeError, IndexError)


@dataclass(slots=True)
class _Step:
    begin: bytes = b""
    end: bytes = b""
    status: int = IN_FLIGHT
    elapsed_ns: int = -1
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class JournalSummary:
    """What the frames of one journal say, before tables are made of it."""

    name: str
    start: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    sequences: dict[int, SequenceDescription] = field(default_factory=dict)
    invocations: dict[int, list[int]] = field(default_factory=dict)
    steps: dict[tuple[int, int], _Step] = field(default_factory=dict)
    contents: dict[int, payloads.ContentRecord] = field(default_factory=dict)
    chunks: dict[int, dict[int, tuple[int, int, int]]] = field(default_factory=dict)
    losses: dict[tuple[str, str], int] = field(default_factory=dict)
    binaries: list[dict[str, Any]] = field(default_factory=list)
    weights: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False
    torn: int = 0
    damaged: list[str] = field(default_factory=list)

    def take(self, frame: frames.Frame) -> None:
        payload = frame.payload
        match frame.kind:
            case frames.CHUNK:
                content, piece, mask = payloads.parse_chunk(payload)
                head = payloads.CHUNK_HEAD
                self.chunks.setdefault(content, {})[piece] = (frame.offset + head, frame.length - head, mask & _RAW)
            case frames.PLACED:
                content, piece, mask, size, offset = payloads.parse_placed(payload)
                self.chunks.setdefault(content, {})[piece] = (offset, size, mask & _RAW | IN_CHUNKS)
            case frames.CONTENT:
                record = payloads.ContentRecord.parse(payload, frame.offset)
                self.contents[record.content] = record
            case frames.STEP_BEGIN | frames.STEP_END | frames.STEP_FAILED | frames.STEP_NOTE:
                self._take_step(frame.kind, payloads.parse_step(frame.kind, payload))
            case frames.INVOCATION_BEGIN:
                invocation, sequence = payloads.parse_invocation(payload)
                known = self.invocations.setdefault(invocation, [sequence, IN_FLIGHT])
                known[0] = sequence  # a second such frame moves it to another sequence
            case frames.INVOCATION_END:
                invocation, _ = payloads.parse_invocation(payload)
                state = self.invocations[invocation]
                if state[1] == IN_FLIGHT:
                    state[1] = COMPLETE
            case frames.SEQUENCE:
                data = load_json(payload, "sequence")
                self.sequences[int(data["id"])] = sequence_from_json(data["sequence"], f"sequence {data['id']}")
            case frames.PROVENANCE:
                self.provenance = dict(load_json(payload, "provenance"))
            case frames.LOSS:
                data = load_json(payload, "loss")
                key = (str(data["kind"]), str(data["detail"]))
                self.losses[key] = self.losses.get(key, 0) + int(data["count"])
            case frames.WEIGHTS:
                entries = [dict(entry) for entry in load_json(payload, "weights")]
                weights_of(entries, self.name)
                self.weights += entries
            case frames.BINARIES:
                entries = load_json(payload, "binaries")
                self.binaries += [{**entry, "sequence": int(entry["sequence"])} for entry in entries]
            case frames.START:
                self.start = dict(load_json(payload, "start"))
                major = int(self.start["format"][0])
                if major > FORMAT_MAJOR:
                    raise NewerFormatError(
                        f"{self.name}: journal format {major} is newer than {FORMAT_MAJOR}, the newest known here; "
                        "upgrade fusion-replay"
                    )
            case frames.CLOSE:
                self.closed = True
            case _:
                raise ValueError(f"a frame of unknown kind {frame.kind}")

    def _take_step(self, kind: int, record: payloads.StepRecord) -> None:
        step = self.steps.setdefault((record.invocation, record.step), _Step())
        if kind == frames.STEP_BEGIN:
            step.begin = record.operands
        elif kind != frames.STEP_NOTE:
            step.end = record.operands
            step.status = COMPLETE if kind == frames.STEP_END else FAILED
            step.elapsed_ns = record.elapsed_ns
            if step.status == FAILED and record.invocation in self.invocations:
                self.invocations[record.invocation][1] = FAILED
        step.detail = _merged(step.detail, record.detail)

    def index(self) -> Index:
        """Tables of all that, in the order recorded."""
        sequence_rows = {number: row for row, number in enumerate(sorted(self.sequences))}
        invocations = self._invocations(sequence_rows)
        contents, chunks, shapes, row_of, links = self._contents()
        steps, operands, details = self._steps(invocations, row_of)
        index = Index(
            recording=str(self.start.get("recording", "")),
            provenance=self.provenance,
            sequences=tuple(self.sequences[n] for n in sorted(self.sequences)),
            details=details,
            losses=tuple(Loss(kind, detail, count) for (kind, detail), count in self.losses.items()),
            invocations=invocations,
            steps=steps,
            operands=operands,
            contents=contents,
            chunks=chunks,
            shapes=shapes,
            weights=[weight.to_dict() for weight in weights_of(self.weights, self.name).values()],
            binaries=[
                {**entry, "sequence": sequence_rows[entry["sequence"]]}
                for entry in self.binaries
                if entry["sequence"] in sequence_rows
            ],
        )
        if lost := resolve(index, links, row_of):
            self.damaged.append(f"{lost} tensors are made of others that are lost; their digests are left")
        index.notes = [f"damaged: {entry}" for entry in self.damaged]
        return index

    def _invocations(self, sequence_rows: dict[int, int]) -> Any:
        """One row per number, so that addresses stay what they were where an invocation is lost."""
        known = {n: state for n, state in self.invocations.items() if state[0] in sequence_rows}
        for number in self.invocations.keys() - known.keys():
            self.damaged.append(f"invocation {number}: the description of its sequence is lost")
        # Numbers count up from 0: one far beyond all others is damage, and no size to allocate.
        known = {n: state for n, state in known.items() if n < 2 * len(known) + 1_000_000}
        table = np.zeros(max(known, default=-1) + 1, INVOCATIONS)
        table["status"] = LOST
        for number, (sequence, status) in known.items():
            table[number] = sequence_rows[sequence], status
        return table

    def _contents(
        self,
    ) -> tuple[Any, Any, list[tuple[int, ...]], dict[int, int], list[tuple[int, Link]]]:
        stored: dict[tuple[bytes, str], int] = {}
        row_of: dict[int, int] = {}
        rows: list[tuple[Any, ...]] = []
        chunk_rows: list[tuple[int, int, int]] = []
        shapes: list[tuple[int, ...]] = []
        links: list[tuple[int, Link]] = []
        # Contents that are kept here first: a digest-only record of the same bytes then points at them.
        for record in sorted(self.contents.values(), key=lambda r: (_elsewhere(r), r.content)):
            key = (record.digest, record.dtype)
            if key in stored:
                row_of[record.content] = stored[key]
                continue
            row_of[record.content] = stored[key] = len(rows)
            layout, pieces = record.layout, self._pieces(record)
            encoding = DIGEST_ONLY if record.where == payloads.DIGEST else CHUNKED
            if record.link is not None:
                encoding = ENCODING[type(record.link)]
                links.append((len(rows), record.link))
            rows.append(
                (
                    record.digest.hex().encode(),
                    record.dtype.encode(),
                    layout.nbytes,
                    layout.row_bytes,
                    layout.piece_bytes,
                    encoding,
                    len(pieces),
                    len(chunk_rows),
                    b"",
                    NO_CONTENT,
                    0,
                    0,
                    0,
                )
            )
            chunk_rows.extend(pieces)
            shapes.append(record.shape)
        return np.array(rows, CONTENTS), np.array(chunk_rows, CHUNKS), shapes, row_of, links

    def _pieces(self, record: payloads.ContentRecord) -> list[tuple[int, int, int]]:
        if record.where == payloads.DIGEST:
            return []
        if record.where == payloads.INLINE:
            return [(record.raw_offset, record.layout.nbytes, _RAW)] if record.layout.nbytes else []
        if record.where == payloads.LINKED:
            link = record.link
            return [(record.raw_offset, len(link.patch), _RAW)] if isinstance(link, Delta) else []
        compressed = self.chunks.get(record.content, {})
        return [
            compressed.get(piece) or (record.slots[piece] * SLOT, stop - start, _RAW | IN_SPILL)
            for piece, (start, stop) in enumerate(record.layout.spans())
        ]

    def _steps(self, invocations: Any, row_of: dict[int, int]) -> tuple[Any, Any, list[dict[str, Any]]]:
        rows: list[tuple[int, ...]] = []
        parts: list[bytes] = []
        details: list[dict[str, Any]] = [{}]
        seen: dict[str, int] = {"{}": 0}
        first = 0
        for (invocation, number), step in self.steps.items():
            if invocation >= len(invocations) or invocations["status"][invocation] == LOST:
                self.damaged.append(f"step {invocation}:{number}: nothing is known of its invocation")
                continue
            sequence = self.sequences[self.invocations[invocation][0]]
            if number >= len(sequence.steps):
                self.damaged.append(f"step {invocation}:{number}: its sequence has {len(sequence.steps)} steps")
                continue
            parts.extend((step.begin, step.end))
            count = (len(step.begin) + len(step.end)) // OPERANDS.itemsize
            key = repr(step.detail)
            detail = seen.setdefault(key, len(details))
            if detail == len(details):
                details.append(step.detail)
            rows.append((invocation, number, step.status, count, first, step.elapsed_ns, detail))
            first += count
        operands = np.frombuffer(b"".join(parts), OPERANDS).copy()
        if len(operands):
            operands["content"] = _renumber(operands["content"], row_of)
        return np.array(rows, STEPS), operands, details


def _elsewhere(record: payloads.ContentRecord) -> int:
    return 2 if record.where == payloads.DIGEST else int(isinstance(record.link, Side))


def _merged(known: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Later details beside earlier ones; objects of the same name are joined (a note per output of one step)."""
    joined = {**known, **more}
    for key in known.keys() & more.keys():
        if isinstance(known[key], dict) and isinstance(more[key], dict):
            joined[key] = {**known[key], **more[key]}
    return joined


def _renumber(contents: Any, row_of: dict[int, int]) -> Any:
    """Content ids -> rows; an id whose frame is missing becomes NO_CONTENT. Ids may be any number a file can hold."""
    ids = np.array([*sorted(row_of), NO_CONTENT], "<u4")
    rows = np.array([*(row_of[i] for i in sorted(row_of)), NO_CONTENT], "<u4")
    at = np.searchsorted(ids, contents)
    return np.where(ids[at] == contents, rows[at], NO_CONTENT)


def read_journal(file: BinaryIO, name: str) -> JournalSummary:
    """All that stands in the journal ``file``, called ``name`` in messages.

    Raises:
        NewerFormatError: written by a later major version.
    """
    summary = JournalSummary(name)
    result = frames.ScanResult()
    for frame in frames.scan(file, result, head_only=frames.CHUNK, head=payloads.CHUNK_HEAD):
        try:
            summary.take(frame)
        except NewerFormatError:
            raise
        except (*_UNFIT, SnapshotError) as error:
            summary.damaged.append(f"the frame at offset {frame.offset} does not fit ({error})")
    summary.torn = result.torn
    summary.damaged[:0] = result.damaged or []
    return summary


@dataclass(slots=True)
class Files:
    """The open files of a recording that is not sealed; those beside the journal may be missing."""

    journal: BinaryIO
    spill: BinaryIO | None = None
    chunks: BinaryIO | None = None

    def close(self) -> None:
        for file in (self.journal, self.spill, self.chunks):
            if file is not None:
                file.close()


def open_journal(path: Path) -> tuple[Files, JournalSummary]:
    """The files of the journal at ``path``, which the caller closes, and what stands in it."""

    def beside(suffix: str) -> BinaryIO | None:
        with contextlib.suppress(OSError):
            return open(path.with_name(path.name.removesuffix(JOURNAL_SUFFIX) + suffix), "rb", buffering=0)
        return None

    # The journal last: opened the other way round, a recording that is sealed in between would lack the others.
    spill, chunks = beside(SPILL_SUFFIX), beside(CHUNKS_SUFFIX)
    try:
        files = Files(open(path, "rb", buffering=1 << 16), spill, chunks)  # noqa: SIM115
    except BaseException:
        for file in (spill, chunks):
            if file is not None:
                file.close()
        raise
    try:
        return files, read_journal(files.journal, str(path))
    except BaseException:
        files.close()
        raise
