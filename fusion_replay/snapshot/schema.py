# SPDX-License-Identifier: Apache-2.0
"""What a snapshot consists of: names, versions, hard limits, the user block and the tables (docs/format.md).

Every number is little endian. Offsets and sizes are bytes, counted from the first byte of the file.

Tested in tests/hostile/test_bit_flips.py and test_made_to_hurt.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from fusion_replay.errors import DamagedSnapshotError, ForeignFileError, NewerFormatError
from fusion_replay.model import serialise
from fusion_replay.model.runlist import SequenceDescription
from fusion_replay.model.step import INPUT as INPUT  # the roles of an operand row, which the file stores
from fusion_replay.model.step import OUTPUT as OUTPUT
from fusion_replay.model.step import PREVIOUS as PREVIOUS
from fusion_replay.model.step import REFERENCE as REFERENCE
from fusion_replay.model.step import WATCHED as WATCHED
from fusion_replay.system import platform
from fusion_replay.system.files import refuse_lfs_pointer

FORMAT_MAJOR, FORMAT_MINOR = 1, 2

JOURNAL_SUFFIX = ".journal"
SPILL_SUFFIX = ".spill"
CHUNKS_SUFFIX = ".chunks"
PART_SUFFIX = ".part"

# The first byte has its high bit set and both line endings follow, so a text-mode transfer shows at once (as in PNG).
SNAPSHOT_MAGIC = b"\x89FRSN\r\n\x1a"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

USER_BLOCK = 512
MAX_PIECE = 1 << 20  # bytes of one chunk before compression; a spill slot holds one
MAX_CHUNK = MAX_PIECE + (1 << 10)  # and after it: a zstd frame is never longer than its piece and this

# Hard limits: checked before anything is allocated or decompressed.
MAX_CONTENT = 1 << 36  # bytes of one tensor
MAX_TABLE = 1 << 31  # bytes of one table or text, decompressed
MAX_DIRECTORY = 1 << 20
MAX_RANK = 32
MAX_NAME = 4096
MAX_OPERANDS = 65535  # of a step: the table counts them in 16 bits

COMPLETE, IN_FLIGHT, FAILED = 0, 1, 2
STATUS = ("complete", "in_flight", "failed")
LOST = 3
"""Status of an invocation of which nothing is left but its number."""

CHUNKED, DELTA, PARTS, DERIVED, SIDE, PACKED, DIGEST_ONLY = 0, 1, 2, 3, 4, 5, 255
"""Encodings of a content: shuffle + zstd chunks; a patch on another content; byte ranges of others; what a movement
operator makes of its inputs; bytes in a side file; bytes of a chunk that several share; nothing but its digest. The
numbers between are for later ones."""

MAX_DEPTH = 80
"""Of contents made of contents made of ..."""

SKIP_SHUFFLE, SKIP_ZSTD = 1, 2
"""Bits of a chunk's filter mask, HDF5's meaning: filter number i of the pipeline (shuffle, zstd) was not applied."""

IN_SPILL, IN_CHUNKS = 0x80, 0x40
"""Journal only: the chunk's raw bytes lie in the spill file, its compressed ones in the file of chunks."""

NO_CONTENT = 0xFFFFFFFF

ContentKey = tuple[bytes, str]
"""Digest (16 bytes) and element type: what makes two contents one."""

_READ = 1 << 18  # bytes read at a time for the digest of the whole: they stay in a core's cache

INVOCATIONS = np.dtype([("sequence", "<u4"), ("status", "u1")])
STEPS = np.dtype(
    [
        ("invocation", "<u4"),
        ("step", "<u4"),
        ("status", "u1"),
        ("n_operands", "<u2"),
        ("first_operand", "<u8"),
        ("elapsed_ns", "<i8"),  # -1: the runtime did not say
        ("detail", "<u4"),  # row of details: runtime values, state, error
    ]
)
OPERANDS = np.dtype([("position", "<u2"), ("role", "u1"), ("content", "<u4")])
CONTENTS = np.dtype(
    [
        ("digest", "S32"),  # xxh3-128 of the raw bytes, hexadecimal
        ("dtype", "S8"),
        ("nbytes", "<u8"),
        ("row_bytes", "<u8"),
        ("piece_bytes", "<u4"),
        ("encoding", "u1"),
        ("n_chunks", "<u4"),
        ("first_chunk", "<u8"),
        ("shape", "S40"),  # for people, as is ...
        # ... the row of /contents/DTYPE_SHAPE or, PACKED, /packed/DTYPE_SHAPE; NO_CONTENT, before 1.2: /contents/DIGEST
        ("place", "<u4"),
        # DELTA: row of the base; PARTS: first row of parts; DERIVED: row of steps; PACKED: first byte in the pack
        ("source", "<u8"),
        # DELTA: bytes of the patch; PARTS: rows of parts; DERIVED: position of the operand; PACKED: bytes of the pack
        ("extent", "<u8"),
        ("depth", "u1"),  # 0, or more than of any content that this one is made of
        ("mover", "u1"),  # DERIVED: version of the mover that made it
    ]
)
CHUNKS = np.dtype([("offset", "<u8"), ("size", "<u4"), ("mask", "u1")])
RANGES = np.dtype([("content", "<u4"), ("offset", "<u8"), ("nbytes", "<u8")])

TABLES = {
    "invocations": INVOCATIONS,
    "steps": STEPS,
    "operands": OPERANDS,
    "contents": CONTENTS,
    "chunks": CHUNKS,
    "parts": RANGES,
}
LATER_COLUMNS = (("source", "extent", "depth"), ("mover",))
"""Columns that files of version 1.0 lack, with the table ``parts``, and files of version 1.1: read as zeros."""
TEXTS = ("sequences", "details", "losses", "provenance")
LATER_TEXTS = ("binaries", "weights")
"""JSON lists that files of version 1.0 lack: nothing in them then."""


LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that happened and is not in the snapshot: ``count`` times ``detail``, of one ``kind``."""

    kind: str
    detail: str
    count: int = 1

    @property
    def asked_for(self) -> bool:
        """Whether it was told not to be kept, by level, filters, limits or the like: no failure."""
        return self.kind == LEFT_OUT

    to_dict = serialise.to_dict


@dataclass(slots=True)
class Index:
    """Everything but the tensors, in memory: what a sealed file's directory leads to, what a journal adds up to."""

    recording: str
    """Identity of the recording, the same in its journal and in the sealed file."""
    provenance: dict[str, Any]
    sequences: tuple[SequenceDescription, ...]
    details: list[dict[str, Any]]
    losses: tuple[Loss, ...]
    invocations: npt.NDArray[Any]
    steps: npt.NDArray[Any]
    operands: npt.NDArray[Any]
    contents: npt.NDArray[Any]
    chunks: npt.NDArray[Any]
    version: tuple[int, int] = (FORMAT_MAJOR, FORMAT_MINOR)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    """Shape of each content, elements; known while journalled, in the HDF5 datasets afterwards."""
    notes: list[str] = field(default_factory=list)
    binaries: list[dict[str, Any]] = field(default_factory=list)
    """Device files behind operators, one entry each: see :mod:`.binaries`."""
    weights: list[dict[str, Any]] = field(default_factory=list)
    """Contents in a side file, one entry each: see :mod:`.encodings.side_file`."""
    parts: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, RANGES))


@dataclass(frozen=True, slots=True)
class UserBlock:
    """The 512 bytes before the HDF5 part: what the file is, how long, and the digest of all that follows."""

    length: int
    digest: bytes
    directory_offset: int
    directory_size: int
    directory_digest: bytes
    major: int = FORMAT_MAJOR
    minor: int = FORMAT_MINOR
    index_offset: int = 0
    """Directory and tables lie between here and the end of the file, for who reads from afar; 0: it is not said."""

    _LAYOUT = struct.Struct("<8sHHIQ16sQQ16sQ")
    _CHECK_AT = USER_BLOCK - 16

    def pack(self) -> bytes:
        head = self._LAYOUT.pack(
            SNAPSHOT_MAGIC,
            self.major,
            self.minor,
            USER_BLOCK,
            self.length,
            self.digest,
            self.directory_offset,
            self.directory_size,
            self.directory_digest,
            self.index_offset,
        )
        body = head.ljust(self._CHECK_AT, b"\0")
        return body + digest_of(body)

    @classmethod
    def unpack(cls, block: bytes, name: str) -> UserBlock:
        """The block of the file called ``name`` in messages.

        Raises:
            ForeignFileError: other bytes than ours at the start (a git-LFS pointer's are told), or none.
            DamagedSnapshotError: cut short, a checksum that disagrees, or something in the reserved zeros.
            NewerFormatError: a later major version.
        """
        if not block.startswith(SNAPSHOT_MAGIC):
            refuse_lfs_pointer(block, name)
            raise ForeignFileError(f"{name}: {_what_it_is(name, block)}; expected a recording made by fusion-replay")
        if len(block) < USER_BLOCK:
            raise DamagedSnapshotError(
                f"{name}: cut short: {len(block)} bytes, but the user block alone has {USER_BLOCK}; copy it again"
            )
        body, check = block[: cls._CHECK_AT], block[cls._CHECK_AT : USER_BLOCK]
        if digest_of(body) != check:
            raise DamagedSnapshotError(f"{name}: the user block (first {USER_BLOCK} bytes) disagrees with its checksum")
        _, major, minor, size, length, whole, offset, nbytes, digest, index = cls._LAYOUT.unpack_from(body)
        if major > FORMAT_MAJOR:
            raise NewerFormatError(
                f"{name}: format {major}.{minor} is newer than {FORMAT_MAJOR}.{FORMAT_MINOR}, the newest known here; "
                "upgrade fusion-replay"
            )
        if minor <= FORMAT_MINOR and (size != USER_BLOCK or any(body[cls._LAYOUT.size :])):
            raise DamagedSnapshotError(f"{name}: the reserved part of the user block is not zero")
        return cls(length, whole, offset, nbytes, digest, major, minor, index)


def digest_of(data: Any) -> bytes:
    """xxh3-128, 16 bytes, of anything with a contiguous buffer."""
    return xxhash.xxh3_128_digest(data)


def body_digest(fd: int, length: int) -> bytes:
    """xxh3-128 of everything behind the user block."""
    state = xxhash.xxh3_128()
    buffer = memoryview(bytearray(min(_READ, max(1, length))))
    position = USER_BLOCK
    while position < length:
        count = platform.read_into(fd, buffer[: min(len(buffer), length - position)], position)
        if not count:
            break
        state.update(buffer[:count])
        position += count
    return state.digest()


def _what_it_is(name: str, block: bytes) -> str:
    if not block:
        return "empty file"
    if name.endswith((".onnx", ".pt", ".pth", ".safetensors", ".gguf")):
        return "a model or its weights, no recording of what an NPU computed with it"
    if block.startswith(HDF5_MAGIC):
        return "an HDF5 file without fusion-replay's user block"
    return f"no snapshot (starts with {block[:8].hex(' ')})"
