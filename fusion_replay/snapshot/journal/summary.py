# SPDX-License-Identifier: Apache-2.0
"""The tables of a recording that was killed or is still going on, made of the frames of its journal.

A frame that is damaged, or does not fit the rest, costs what it says and what is made of that; it is told, and all else
stays.

Tested in tests/snapshot/test_recover.py, test_fsck.py and write/test_deduplication.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusion_replay.errors import NewerFormatError
from fusion_replay.model.runlist import ArgSpec, SequenceDescription, stored_dtype
from fusion_replay.snapshot.describe import load_json, sequence_from_json
from fusion_replay.snapshot.encodings.delta import Delta
from fusion_replay.snapshot.encodings.link import Journalled, Link
from fusion_replay.snapshot.encodings.registry import resolve
from fusion_replay.snapshot.encodings.side_file import InSideFile, weights_of
from fusion_replay.snapshot.journal import frames, payloads
from fusion_replay.snapshot.journal.spill import SLOT
from fusion_replay.snapshot.naming import named
from fusion_replay.snapshot.schema import (
    CHUNKED,
    CHUNKS,
    COMPLETE,
    CONTENTS,
    DIGEST_ONLY,
    FAILED,
    FORMAT_MAJOR,
    FORMAT_MINOR,
    IN_CHUNKS,
    IN_FLIGHT,
    IN_SPILL,
    INVOCATIONS,
    LOST,
    MAX_CHUNK,
    NO_CONTENT,
    OPERANDS,
    REFERENCE,
    SKIP_SHUFFLE,
    SKIP_ZSTD,
    STEPS,
    Index,
    Loss,
)

_RAW = SKIP_SHUFFLE | SKIP_ZSTD


@dataclass(slots=True)
class _Step:
    begun: bool = False
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

    @property
    def version(self) -> tuple[int, int]:
        """Of the format; the newest known here where it does not say."""
        major, minor = (*self.start.get("format", ()), FORMAT_MAJOR, FORMAT_MINOR)[:2]
        return int(major), int(minor)

    def take(self, frame: frames.Frame) -> None:
        payload = frame.payload
        match frame.kind:
            case frames.CHUNK:
                content, piece, mask = payloads.parse_chunk(payload)
                head = payloads.CHUNK_HEAD
                self._take_chunk(content, piece, (frame.offset + head, frame.length - head, mask & _RAW))
            case frames.PLACED:
                content, piece, mask, size, offset = payloads.parse_placed(payload)
                self._take_chunk(content, piece, (offset, size, mask & _RAW | IN_CHUNKS))
            case frames.CONTENT:
                record = payloads.ContentRecord.parse(payload, frame.offset)
                self.contents[record.content] = record
            case frames.STEP_BEGIN | frames.STEP_END | frames.STEP_FAILED | frames.STEP_NOTE:
                self._take_step(frame.kind, payloads.parse_step(frame.kind, payload))
            case frames.INVOCATION_BEGIN | frames.INVOCATION_END:
                invocation, sequence = payloads.parse_invocation(frame.kind, payload)
                self._is_of(invocation, sequence)
                state = self.invocations[invocation]
                if frame.kind == frames.INVOCATION_END and state[1] == IN_FLIGHT:
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
                start = dict(load_json(payload, "start"))
                major, _ = map(int, start["format"])
                self.start = start
                if major > FORMAT_MAJOR:
                    raise NewerFormatError(
                        f"{self.name}: journal format {major} is newer than {FORMAT_MAJOR}, the newest known here; "
                        "upgrade fusion-replay"
                    )
            case frames.CLOSE:
                self.closed = True
            case _:
                raise ValueError(f"a frame of unknown kind {frame.kind}")

    def _take_chunk(self, content: int, piece: int, chunk: tuple[int, int, int]) -> None:
        if chunk[1] > MAX_CHUNK:
            raise ValueError(f"a chunk of {chunk[1]} bytes; none has more than {MAX_CHUNK}")
        self.chunks.setdefault(content, {})[piece] = chunk

    def _is_of(self, invocation: int, sequence: int | None) -> None:
        """What is said last counts: an invocation may turn out to be of another sequence."""
        if sequence is not None:
            self.invocations.setdefault(invocation, [sequence, IN_FLIGHT])[0] = sequence

    def _take_step(self, kind: int, record: payloads.StepRecord) -> None:
        step = self.steps.setdefault((record.invocation, record.step), _Step())
        if not (step.begun if kind == frames.STEP_BEGIN else step.status != IN_FLIGHT and kind != frames.STEP_NOTE):
            self._is_of(record.invocation, record.sequence)  # a frame that is there twice is no news of the sequence
        if kind == frames.STEP_BEGIN:
            step.begin, step.begun = record.operands, True
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
        steps, operands, details = self._fitting(invocations, contents, *self._steps(invocations, row_of))
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
        at = {address: row for row, address in enumerate(steps[["invocation", "step"]].tolist())} if links else {}
        if lost := resolve(Journalled(index, row_of, at), links):
            self.damaged.append(
                f"{len(lost)} tensors are made of others that are lost; their digests are left: {named(index, lost)}"
            )
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
                encoding = record.link.ENCODING
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
            count = (len(step.begin) + len(step.end)) // OPERANDS.itemsize
            if count > 0xFFFF:
                self.damaged.append(f"step {invocation}:{number}: {count} operands; no step has more than {0xFFFF}")
                continue
            parts.extend((step.begin, step.end))
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

    def _fitting(
        self, invocations: Any, contents: Any, steps: Any, operands: Any, details: list[dict[str, Any]]
    ) -> tuple[Any, Any, list[dict[str, Any]]]:
        """Without the steps whose operands are not those of their runlist entries."""
        sequences = [self.sequences[n] for n in sorted(self.sequences)]
        entries = [step.operands for sequence in sequences for step in sequence.steps]
        first_entry = np.cumsum([0, *(len(sequence.steps) for sequence in sequences)])
        first_use = np.cumsum([0, *(len(uses) for uses in entries)])
        specs = [use.spec for uses in entries for use in uses] or [ArgSpec("", "in", ())]
        nbytes = np.array([spec.nbytes for spec in specs], np.uint64)
        dtype = np.array([stored_dtype(spec.dtype) for spec in specs], contents.dtype["dtype"])

        owner = np.repeat(np.arange(len(steps)), steps["n_operands"])
        entry = (first_entry[invocations["sequence"][steps["invocation"]]] + steps["step"])[owner]
        beyond = operands["position"] >= first_use[entry + 1] - first_use[entry]
        use = np.where(beyond, 0, first_use[entry] + operands["position"])
        there = operands["content"] != NO_CONTENT
        row = np.where(there, operands["content"], len(contents))
        other = (np.append(contents["nbytes"], 0)[row] != nbytes[use]) | (
            np.append(contents["dtype"], b"")[row] != dtype[use]
        )
        unfit = np.bincount(owner, beyond | (there & other) | (operands["role"] > REFERENCE), len(steps)) > 0
        for invocation, number in steps[["invocation", "step"]][unfit].tolist():
            self.damaged.append(f"step {invocation}:{number}: its operands are not those of its runlist entry")
        if unfit.any():
            operands, steps = operands[~unfit[owner]], steps[~unfit]
            steps["first_operand"] = np.cumsum(steps["n_operands"], dtype=np.uint64) - steps["n_operands"]
        return steps, operands, details


def _elsewhere(record: payloads.ContentRecord) -> int:
    return 2 if record.where == payloads.DIGEST else int(isinstance(record.link, InSideFile))


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
