# SPDX-License-Identifier: Apache-2.0
"""The journal's frames: append them so that a kill at any instant loses none, read them back past any damage.

A frame is a 32-byte header and its payload. The header has a checksum of its own, so a damaged payload costs one
frame and a damaged header costs the way to the next good one; what a killed process left half written at the end is
no damage.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from fusion_replay.snapshot.journal.pages import write_whole
from fusion_replay.system import platform
from fusion_replay.system.descriptors import OwnDescriptor
from fusion_replay.system.files import regular

FRAME_MAGIC = b"FRF\x1a"
HEADER = struct.Struct("<4sB3xQQ")  # magic, kind, payload length, xxh3-64 of the payload
FRAME_HEADER = HEADER.size + 8  # ... and xxh3-64 of those 24 bytes
MAX_FRAME = 1 << 31
KEPT_FREE = 1024
"""Bytes below a limit on the sizes of files that the last frames alone may take: they say what was lost."""

START, SEQUENCE, PROVENANCE, LOSS, CLOSE, BINARIES, WEIGHTS = 1, 2, 3, 4, 5, 6, 7
INVOCATION_BEGIN, INVOCATION_END = 10, 11
STEP_BEGIN, STEP_END, STEP_FAILED, STEP_NOTE = 12, 13, 14, 15
CONTENT, CHUNK, PLACED = 20, 21, 22


class JournalFile:
    """Appends whole frames; the lock says that one process alone records into this file.

    A failed append (disk full) is undone, so that the next one follows the last whole frame.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        fd = os.open(path, platform.CREATE, 0o666) if create else regular(path, platform.UPDATE)
        self._own = OwnDescriptor(fd, path)
        self._lock = threading.Lock()
        self._end = 0
        self._dirty = False
        try:
            platform.lock(self.fd)
        except OSError:
            self._own.close()
            raise

    @property
    def fd(self) -> int:
        """
        Raises:
            OSError: it is not ours any more.
        """
        return self._own.fd

    def append(self, frames: Sequence[tuple[int, Sequence[Any]]]) -> list[int]:
        """Append ``(kind, payload parts)`` frames as one write; the file offsets of their payloads.

        Raises:
            OSError: nothing of it is in the file.
        """
        return self._append(frames, KEPT_FREE)

    def append_last(self, frames: Sequence[tuple[int, Sequence[Any]]]) -> list[int]:
        """As :meth:`append`, into what is kept free, too."""
        return self._append(frames, 0)

    def _append(self, frames: Sequence[tuple[int, Sequence[Any]]], kept_free: int) -> list[int]:
        buffers: list[Any] = []
        at: list[int] = []
        total = 0
        for kind, parts in frames:
            header, length = _header(kind, parts)
            buffers.append(header)
            buffers.extend(parts)
            at.append(total + FRAME_HEADER)
            total += FRAME_HEADER + length
        with self._lock:
            if self._dirty:
                os.ftruncate(self.fd, self._end)
                self._dirty = False
            start = self._end
            limit = platform.file_size_limit()
            if limit is not None and start + total > limit - kept_free:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self.path))
            try:
                write_all(self.fd, buffers, total, start)
                self._end = start + total
            except BaseException:
                self._end = start
                self._dirty = True  # until the truncation has worked
                os.ftruncate(self.fd, start)
                self._dirty = False
                raise
        return [start + offset for offset in at]

    def close(self) -> None:
        self._own.close()


def write_all(fd: int, buffers: Sequence[Any], total: int, offset: int) -> None:
    """Write until everything is written; a short write goes on where it stopped (and meets the error there)."""
    written = platform.write_several_at(fd, buffers, offset)
    if written == total:
        return
    write_whole(fd, b"".join(bytes(b) for b in buffers)[written:], offset + written)


def _header(kind: int, parts: Sequence[Any]) -> tuple[bytes, int]:
    length = 0
    if len(parts) == 1:
        length = memoryview(parts[0]).nbytes
        checksum = xxhash.xxh3_64_intdigest(parts[0])
    else:
        state = xxhash.xxh3_64()
        for part in parts:
            length += memoryview(part).nbytes
            state.update(part)
        checksum = state.intdigest()
    head = HEADER.pack(FRAME_MAGIC, kind, length, checksum)
    return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little"), length


@dataclass(slots=True)
class Frame:
    """One frame found in a journal; ``payload`` is empty for kinds that were asked to be passed over."""

    kind: int
    offset: int
    """Of the payload, in the file."""
    length: int
    checksum: int
    payload: bytes


@dataclass(slots=True)
class ScanResult:
    """What :func:`scan` met besides good frames."""

    end: int = 0
    torn: int = 0
    """Bytes after the last good frame: a write cut short by the kill."""
    damaged: list[str] | None = None


def scan(file: BinaryIO, result: ScanResult, *, head_only: int = 0, head: int = 0) -> Iterator[Frame]:
    """Every good frame of a journal, in order; damage goes to ``result``.

    Of frames of kind ``head_only`` just the first ``head`` bytes are read: their payloads are checked on use.
    """
    damaged: list[str] = []
    result.damaged = damaged
    size = os.fstat(file.fileno()).st_size
    position = 0
    file.seek(0)
    while position < size:
        header = file.read(FRAME_HEADER)
        found = _parse(header, size - position)
        if found is None:
            following = _next_frame(file, position + 1, size)
            if following is None:
                result.torn = size - position
                break
            damaged.append(f"{following - position} bytes at offset {position} are no frame")
            position = following
            file.seek(position)
            continue
        kind, length, checksum = found
        start = position + FRAME_HEADER
        position = start + length
        if kind == head_only:
            payload = file.read(min(head, length))
            file.seek(position)
        else:
            payload = file.read(length)
            if len(payload) < length:
                result.torn = size - start + FRAME_HEADER
                break
            if xxhash.xxh3_64_intdigest(payload) != checksum:
                damaged.append(
                    f"the frame at offset {start - FRAME_HEADER} ({length} bytes) disagrees with its checksum"
                )
                continue
        result.end = position
        yield Frame(kind, start, length, checksum, payload)


def _parse(header: bytes, room: int) -> tuple[int, int, int] | None:
    if len(header) < FRAME_HEADER or not header.startswith(FRAME_MAGIC):
        return None
    if xxhash.xxh3_64_intdigest(header[: HEADER.size]) != int.from_bytes(header[HEADER.size :], "little"):
        return None
    _, kind, length, checksum = HEADER.unpack_from(header)
    if length > MAX_FRAME or FRAME_HEADER + length > room:
        return None
    return kind, length, checksum


def _next_frame(file: BinaryIO, position: int, size: int) -> int | None:
    """Offset of the next header that is right in itself, from ``position`` on."""
    window = 1 << 20
    while position < size:
        file.seek(position)
        block = file.read(window + FRAME_HEADER)
        at = block.find(FRAME_MAGIC)
        while at >= 0 and at < window:
            if _parse(block[at : at + FRAME_HEADER], size - position - at) is not None:
                return position + at
            at = block.find(FRAME_MAGIC, at + 1)
        position += window
    return None
