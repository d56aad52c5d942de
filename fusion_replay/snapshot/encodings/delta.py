# SPDX-License-Identifier: Apache-2.0
"""Delta: a new version of a buffer as a patch on an earlier one: the 4 KiB blocks that differ, xored with the old ones.

A patch is the number of blocks (u32), their numbers (u32 each, ascending), then their bytes. The last block may be
shorter. Xor leaves zeros where a block did not change inside, and those compress away. A cache that gains one row a
step changes in 0.2 % of its blocks where the heads lie inside a row, in 1 % where each head has rows of its own.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import HostileFileError
from fusion_replay.snapshot.encodings.chunks import decode
from fusion_replay.snapshot.encodings.link import Bytes, Journalled, Link, Referred, Store, below
from fusion_replay.snapshot.encodings.place import Place, Region
from fusion_replay.snapshot.schema import DELTA, MAX_PIECE, Index

BLOCK = 1 << 12
COPIED_BYTES = 96 << 20
"""Memory for copies of the newest version of each buffer; a version of a buffer beyond it is stored whole."""
KEYFRAME = 64
"""Every so many versions one is whole."""
_STRETCH = 256  # blocks compared at a time, so that what is compared stays in a core's cache
_FROM = 4 * BLOCK  # bytes; smaller contents are stored whole
_HOPELESS = 3  # versions in a row that had little in common with the last


@dataclass(frozen=True, slots=True)
class Delta(Link):
    """``patch`` turns content ``base`` into this one."""

    ENCODING: ClassVar[int] = DELTA
    base: int
    patch: bytes

    @property
    def own_bytes(self) -> int:
        return len(self.patch)

    def packed(self) -> tuple[int, bytes]:
        return self.base, self.patch

    @classmethod
    def unpacked(cls, number: int, body: bytes) -> Self | None:
        return cls(number, bytes(body)) if 4 <= len(body) <= MAX_PIECE else None

    def references(self, journal: Journalled) -> Referred:
        base = journal.row_of.get(self.base, -1)
        return Referred([base], base, len(self.patch))


@dataclass(slots=True)
class _Version:
    content: int
    copy: Bytes


class Versions:
    """Finds deltas: keeps a copy of the newest version of each region, for the next one to be compared with.

    ``depths``: of every content that is made of others, by its id.
    """

    def __init__(self, depths: Mapping[int, int]) -> None:
        self._depths = depths
        self._newest: OrderedDict[Region, _Version] = OrderedDict()
        self._copied = 0  # bytes
        self._unlike: dict[Region, int] = {}

    def __contains__(self, region: object) -> bool:
        return region in self._newest

    def find(self, place: Place, raw: Bytes) -> Delta | None:
        last = self._newest.get(place.region)
        if last is None or self._depths.get(last.content, 0) >= KEYFRAME - 1:
            return None
        limit = min(raw.size // (4 * BLOCK), (MAX_PIECE - 4) // (BLOCK + 4))
        blocks = changed_blocks(last.copy, raw, limit)
        if blocks is None or len(blocks) > limit:
            return None
        return Delta(last.content, make_patch(last.copy, raw, blocks))

    def remember(self, place: Place, content: int, raw: Bytes, *, whole: bool, written: bool) -> None:
        """The newest version of its region, stored ``whole`` or not, in a buffer that is ``written`` or not."""
        region = place.region
        last = self._newest.pop(region, None)
        if last is not None and whole and self._depths.get(last.content, 0) < KEYFRAME - 1:
            self._unlike[region] = self._unlike.get(region, 0) + 1
        elif not whole:
            self._unlike.pop(region, None)
        if self._unlike.get(region, 0) >= _HOPELESS or raw.size < _FROM or not written:
            self._copied -= 0 if last is None else last.copy.size
            return
        if last is None:
            if self._copied + raw.size > COPIED_BYTES:
                return
            self._copied += raw.size
            last = _Version(content, raw.copy())
        else:
            np.copyto(last.copy, raw)
        last.content = content
        self._newest[region] = last

    def forget(self) -> None:
        self._newest.clear()
        self._copied = 0


def changed_blocks(old: Bytes, new: Bytes, limit: int) -> npt.NDArray[np.uint32] | None:
    """Numbers of the blocks that differ; None as soon as they are more than ``limit``."""
    whole = old.size // BLOCK
    left = old[: whole * BLOCK].view(np.uint64).reshape(whole, BLOCK // 8)
    right = new[: whole * BLOCK].view(np.uint64).reshape(whole, BLOCK // 8)
    found: list[npt.NDArray[np.intp]] = []
    count = 0
    for start in range(0, whole, _STRETCH):
        stop = start + _STRETCH
        differ = np.flatnonzero((left[start:stop] != right[start:stop]).any(axis=1))
        count += len(differ)
        if count > limit:
            return None
        found.append(differ + start)
    if not np.array_equal(old[whole * BLOCK :], new[whole * BLOCK :]):
        found.append(np.array([whole]))
    return np.concatenate(found or [np.empty(0, np.intp)]).astype("<u4")


def make_patch(old: Bytes, new: Bytes, blocks: npt.NDArray[np.uint32]) -> bytes:
    """What :func:`apply_patch` needs to turn ``old`` into ``new``."""
    parts = [struct.pack("<I", len(blocks)), blocks.tobytes()]
    for block in blocks.tolist():
        at = slice(block * BLOCK, (block + 1) * BLOCK)
        parts.append((old[at] ^ new[at]).tobytes())
    return b"".join(parts)


def apply_patch(data: Bytes, patch: bytes, what: str) -> None:
    """Turn ``data`` from the old version into the new one, in place.

    Raises:
        HostileFileError: blocks outside the tensor, out of order, or another length than they ask for.
    """
    if len(patch) < 4:
        raise HostileFileError(f"{what}: a patch of {len(patch)} bytes")
    (count,) = struct.unpack_from("<I", patch)
    last = -(-data.size // BLOCK)
    if count > last or 4 + 4 * count > len(patch):
        raise HostileFileError(f"{what}: a patch of {count} blocks on a tensor that has {last}")
    blocks = np.frombuffer(patch, "<u4", count, 4).astype(np.int64)
    if count and (int(blocks[-1]) >= last or (np.diff(blocks) <= 0).any()):
        raise HostileFileError(f"{what}: a patch on blocks that are not there, or out of order")
    short = last * BLOCK - data.size if count and int(blocks[-1]) == last - 1 else 0
    if len(patch) != 4 + 4 * count + count * BLOCK - short:
        raise HostileFileError(f"{what}: a patch of {len(patch)} bytes for {count} blocks")
    at = 4 + 4 * count
    for block in blocks.tolist():
        target = data[block * BLOCK : (block + 1) * BLOCK]
        target ^= np.frombuffer(patch, np.uint8, target.size, at)
        at += target.size


def check(index: Index, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_]]:
    """By what is wrong: which of these rows."""
    contents = index.contents
    source, extent = contents["source"][rows], contents["extent"][rows]
    outside = source >= len(contents)
    base = np.where(outside, 0, source).astype(np.int64)
    wrong = outside | (contents["nbytes"][base] != contents["nbytes"][rows]) | ~below(index, base, rows)
    return {
        "a patch on a content that it can't be on": wrong,
        "a patch of impossible size": (extent < 4) | (extent > MAX_PIECE),
    }


def sources(index: Index, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each of these rows, checked, and its base."""
    return rows, index.contents["source"][rows].astype(np.int64)


def patch_of(store: Store, row: int, what: str) -> bytes:
    """The patch that makes content ``row`` of its base."""
    chunk, mask = store.chunk(row, what)
    out = np.empty(int(store.index.contents["extent"][row]), np.uint8)
    decode(chunk, mask, out, out.size, 1, what)
    return out.tobytes()


def read(store: Store, row: int, what: str) -> Bytes:
    """Back to the nearest version that is whole or at hand, then forward; the result alone is verified."""
    contents: npt.NDArray[Any] = store.index.contents
    patches = []
    base = store.at_hand(row)
    while base is None and int(contents["encoding"][row]) == DELTA:
        patches.append(patch_of(store, row, what))
        row = int(contents["source"][row])
        base = store.at_hand(row)
    base = store.read(row, what) if base is None else base
    out = store.empty(base.size)
    out[:] = base
    for patch in reversed(patches):
        apply_patch(out, patch, what)
    return out


__all__ = [
    "BLOCK",
    "COPIED_BYTES",
    "KEYFRAME",
    "Delta",
    "Versions",
    "apply_patch",
    "changed_blocks",
    "check",
    "make_patch",
    "patch_of",
    "read",
    "sources",
]
