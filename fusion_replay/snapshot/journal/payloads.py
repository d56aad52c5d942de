# SPDX-License-Identifier: Apache-2.0
"""The payloads of the journal's frames, packed and unpacked (docs/format.md lists them).

Tested in tests/snapshot/test_recover.py and tests/hostile/test_links_made_to_hurt.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_replay.errors import HostileFileError
from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot.describe import dump_json, load_json
from fusion_replay.snapshot.encodings.chunks import Layout
from fusion_replay.snapshot.encodings.link import Link
from fusion_replay.snapshot.encodings.registry import PATCH_AT, pack, unpack
from fusion_replay.snapshot.journal import frames
from fusion_replay.snapshot.schema import MAX_RANK, OPERANDS

DIGEST, INLINE, SPILLED, LINKED = 0, 1, 2, 3
"""Where a content's raw bytes went: nowhere, right behind its record, into slots of the spill file; or else a link."""

_CONTENT = struct.Struct("<I8s16sB3xQQIB3x")
_CHUNK = struct.Struct("<IIB7x")
_PLACED = struct.Struct("<IIB3xIQ")
_STEP_BEGIN = struct.Struct("<IIHHI")
_STEP_END = struct.Struct("<IIHHIq")
_INVOCATION = struct.Struct("<II")

CHUNK_HEAD = _CHUNK.size

Frame = tuple[int, list[Any]]
Row = tuple[int, int, int]
"""Position, role, content id."""
Address = tuple[int, int, int]
"""Of a step that is written: invocation, sequence, number of the runlist entry. The sequence stands in every frame, so
that none is lost with the one that began the invocation; readers before format 1.2 pass over it."""


@dataclass(frozen=True, slots=True)
class ContentRecord:
    """A content as its frame declares it: where the raw bytes are, or that they are not kept."""

    content: int
    dtype: str
    digest: bytes
    where: int
    layout: Layout
    shape: tuple[int, ...]
    slots: tuple[int, ...] = ()
    raw_offset: int = 0
    """Of inline bytes or a patch, in the journal."""
    link: Link | None = None

    def frame(self, raw: Any = b"") -> Frame:
        head = _CONTENT.pack(
            self.content,
            self.dtype.encode(),
            self.digest,
            self.where,
            self.layout.nbytes,
            self.layout.row_bytes,
            self.layout.piece_bytes,
            len(self.shape),
        )
        parts: list[Any] = [head + struct.pack(f"<{len(self.shape)}Q", *self.shape)]
        if self.where == SPILLED:
            parts.append(struct.pack(f"<{len(self.slots)}I", *self.slots))
        elif self.where == INLINE:
            parts.append(raw)
        elif self.link is not None:
            parts.append(pack(self.link))
        return frames.CONTENT, parts

    @classmethod
    def parse(cls, payload: bytes, offset: int) -> ContentRecord:
        """The record in a payload that starts at ``offset`` of the journal.

        Raises:
            HostileFileError: sizes beyond the limits or at odds with each other.
            struct.error, ValueError: shorter than it says.
        """
        content, dtype_bytes, digest, where, nbytes, row, piece, rank = _CONTENT.unpack_from(payload)
        dtype = dtype_bytes.rstrip(b"\0").decode("ascii")
        what = f"content {content}"
        if rank > MAX_RANK or dtype not in DTYPE_BYTES or where not in (DIGEST, INLINE, SPILLED, LINKED):
            raise HostileFileError(f"{what}: {rank} axes of {dtype!r}, stored in way {where}")
        shape = struct.unpack_from(f"<{rank}Q", payload, _CONTENT.size)
        layout = Layout.of(shape, DTYPE_BYTES[dtype])
        if (layout.nbytes, layout.row_bytes, layout.piece_bytes) != (nbytes, row, piece):
            raise HostileFileError(f"{what}: {nbytes} bytes, cut into {row} and {piece}, are no {shape} of {dtype}")
        layout.check(DTYPE_BYTES[dtype], what)
        at = _CONTENT.size + 8 * rank
        slots: tuple[int, ...] = ()
        room = len(payload) - at
        if where == SPILLED:
            if room != 4 * layout.count:
                raise HostileFileError(f"{what}: {room // 4} slots for {layout.count} pieces")
            slots = struct.unpack_from(f"<{layout.count}I", payload, at)
        elif where == INLINE and (room != nbytes or layout.count > 1):
            raise HostileFileError(f"{what}: {room} bytes where {nbytes} are announced")
        link = None
        if where == LINKED:
            link, at = unpack(payload[at:], what), at + PATCH_AT
        return cls(content, dtype, digest, where, layout, shape, slots, offset + at, link)


def placed_frame(content: int, piece: int, mask: int, size: int, offset: int) -> Frame:
    """A chunk of ``size`` bytes that stands at ``offset`` of the file of chunks."""
    return frames.PLACED, [_PLACED.pack(content, piece, mask, size, offset)]


def parse_placed(payload: bytes) -> tuple[int, int, int, int, int]:
    """``(content, piece, filter mask, size, offset)``."""
    return _PLACED.unpack(payload)


def parse_chunk(head: bytes) -> tuple[int, int, int]:
    """``(content, piece, filter mask)`` from the first :data:`CHUNK_HEAD` bytes; the chunk follows them."""
    return _CHUNK.unpack_from(head)


def step_begin_frame(step: Address, rows: list[Row], detail: dict[str, Any]) -> Frame:
    return frames.STEP_BEGIN, [_step_head(_STEP_BEGIN, step, rows, detail)]


def step_end_frame(step: Address, rows: list[Row], detail: dict[str, Any], elapsed_ns: int | None) -> Frame:
    elapsed = -1 if elapsed_ns is None else int(elapsed_ns)
    return frames.STEP_END, [_step_head(_STEP_END, step, rows, detail, elapsed)]


def step_failed_frame(step: Address, detail: dict[str, Any]) -> Frame:
    return frames.STEP_FAILED, [_step_head(_STEP_BEGIN, step, [], detail)]


def step_note_frame(step: Address, detail: dict[str, Any]) -> Frame:
    """More details of a step, whenever they become known."""
    return frames.STEP_NOTE, [_step_head(_STEP_BEGIN, step, [], detail)]


def _step_head(head: struct.Struct, step: Address, rows: list[Row], detail: dict[str, Any], *more: int) -> bytes:
    invocation, sequence, number = step
    text = dump_json(detail) if detail else b""
    packed = head.pack(invocation, number, len(rows), _said(sequence), len(text), *more)
    return packed + np.array(rows, OPERANDS).tobytes() + text


def _said(sequence: int) -> int:
    """As a frame has it: 0 where the field is too small for it."""
    return sequence + 1 if sequence < 0xFFFF else 0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """``sequence``: of its invocation; None where the frame does not say."""

    invocation: int
    step: int
    sequence: int | None
    operands: bytes
    detail: dict[str, Any]
    elapsed_ns: int


def parse_step(kind: int, payload: bytes) -> StepRecord:
    elapsed = -1
    if kind == frames.STEP_END:
        invocation, step, count, said, text, elapsed = _STEP_END.unpack_from(payload)
        at = _STEP_END.size
    else:
        invocation, step, count, said, text = _STEP_BEGIN.unpack_from(payload)
        at = _STEP_BEGIN.size
    middle = at + count * OPERANDS.itemsize
    if middle + text != len(payload):
        raise HostileFileError(f"step {invocation}:{step}: {len(payload)} bytes for {count} operands")
    detail = load_json(payload[middle:], f"step {invocation}:{step}") if text else {}
    if not isinstance(detail, dict):
        raise HostileFileError(f"step {invocation}:{step}: its details are no object")
    return StepRecord(invocation, step, said - 1 if said else None, payload[at:middle], detail, elapsed)


def invocation_begin_frame(invocation: int, sequence: int) -> Frame:
    return frames.INVOCATION_BEGIN, [_INVOCATION.pack(invocation, sequence)]


def invocation_end_frame(invocation: int, sequence: int) -> Frame:
    return frames.INVOCATION_END, [_INVOCATION.pack(invocation, _said(sequence))]


def parse_invocation(kind: int, payload: bytes) -> tuple[int, int | None]:
    """Its number and its sequence; None where the frame does not say."""
    invocation, sequence = _INVOCATION.unpack(payload)
    if kind == frames.INVOCATION_END:
        return invocation, sequence - 1 if sequence else None
    return invocation, sequence


def json_frame(kind: int, data: Any) -> Frame:
    return kind, [dump_json(data)]
