# SPDX-License-Identifier: Apache-2.0
"""Parts: a content as byte ranges of other contents, one behind the other; a slice of one is a single part.

Tested in tests/snapshot/write/test_deduplication.py.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from fusion_replay.snapshot.encodings.link import Bytes, Journalled, Link, Referred, Store, below, reached
from fusion_replay.snapshot.encodings.place import Place, Regions
from fusion_replay.snapshot.schema import MAX_DEPTH, PARTS, ContentKey, Index, digest_of

Part = tuple[int, int, int]
"""Content, offset, bytes."""

_PART = struct.Struct("<I4xQQ")
_REMEMBERED = 1 << 16  # slices


@dataclass(frozen=True, slots=True)
class Parts(Link):
    """Each part in order."""

    ENCODING: ClassVar[int] = PARTS
    parts: tuple[Part, ...]

    def packed(self) -> tuple[int, bytes]:
        return len(self.parts), b"".join(_PART.pack(*part) for part in self.parts)

    @classmethod
    def unpacked(cls, number: int, body: bytes) -> Self | None:
        return cls(tuple(_PART.iter_unpack(body))) if len(body) == number * _PART.size else None

    def references(self, journal: Journalled) -> Referred:
        rows = [journal.row_of.get(content, -1) for content, _, _ in self.parts]
        parts = tuple((row, offset, nbytes) for row, (_, offset, nbytes) in zip(rows, self.parts, strict=True))
        return Referred(rows, 0, len(rows), parts=parts)


class Slices:
    """Finds parts: knows, by digest, the slices of contents that other operands have for themselves.

    ``depths``: of every content that is made of others, by its id.
    """

    def __init__(self, depths: Mapping[int, int]) -> None:
        self._depths = depths
        self._known: OrderedDict[bytes, Part] = OrderedDict()

    def find(
        self, place: Place, raw: Bytes, key: ContentKey, stored: Mapping[ContentKey, int], regions: Regions
    ) -> Parts | None:
        part = self._known.get(key[0])
        if part is not None and part[2] == raw.size and (slice_ := self._shallow((part,))) is not None:
            return slice_
        return self._joined(place, raw, key, stored, regions)

    def remember(self, place: Place, content: int, raw: Bytes, regions: Regions) -> None:
        """The slices of this content."""
        for offset, nbytes in regions.slices(place.use):
            self._known[digest_of(raw[offset : offset + nbytes])] = content, offset, nbytes
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def forget(self) -> None:
        self._known.clear()

    def _joined(
        self, place: Place, raw: Bytes, key: ContentKey, stored: Mapping[ContentKey, int], regions: Regions
    ) -> Parts | None:
        """Slices of this use, all of them known, that cover it."""
        longest: dict[int, int] = {}
        for offset, nbytes in regions.slices(place.use):
            longest[offset] = max(nbytes, longest.get(offset, 0))
        cover, at = [], 0
        while at < raw.size:
            if at not in longest:
                return None
            cover.append((at, longest[at]))
            at += longest[at]
        if at != raw.size:
            return None
        parts = []
        for offset, nbytes in cover:
            digest = digest_of(raw[offset : offset + nbytes])
            content = stored.get((digest, key[1]))
            part = self._known.get(digest) if content is None else (content, 0, nbytes)
            if part is None or part[2] != nbytes:
                return None
            parts.append(part)
        return self._shallow(tuple(parts))

    def _shallow(self, parts: tuple[Part, ...]) -> Parts | None:
        deepest = max(self._depths.get(content, 0) for content, _, _ in parts)
        return Parts(parts) if deepest < MAX_DEPTH else None


def check(index: Index, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_]]:
    """By what is wrong: which of these rows."""
    parts = index.parts
    first, count = index.contents["source"][rows], index.contents["extent"][rows]
    wrong = (count == 0) | (first > len(parts)) | (count > len(parts)) | (first + count > len(parts))
    wrong[~wrong] = ~_fit(index, rows[~wrong])
    return {"parts that make no content": wrong}


def _fit(index: Index, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    contents, parts = index.contents, index.parts
    if int(contents["extent"][rows].sum()) > len(parts):  # parts belong to one content each
        return np.zeros(len(rows), np.bool_)
    owner, chosen = reached(contents["source"][rows], contents["extent"][rows])
    content, offset, nbytes = (parts[c][chosen] for c in ("content", "offset", "nbytes"))
    known = content < len(contents)
    source = np.where(known, content, 0)
    size = contents["nbytes"][source]
    inside = known & (nbytes <= size) & (offset <= size - np.minimum(nbytes, size))
    sound = inside & below(index, source, rows[owner])
    # Sizes are below 64 GiB where they count: float64 adds them exactly.
    total = np.bincount(owner, np.where(inside, nbytes, 0).astype(np.float64), len(rows))
    bad = np.bincount(owner, ~sound, len(rows))
    found: npt.NDArray[np.bool_] = (bad == 0) & (total == contents["nbytes"][rows].astype(np.float64))
    return found


def sources(index: Index, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of these rows, checked: each, as often as it has parts, and the content of each part."""
    owner, chosen = reached(index.contents["source"][rows], index.contents["extent"][rows])
    return rows[owner], index.parts["content"][chosen].astype(np.int64)


def read(store: Store, row: int, what: str) -> Bytes:
    content = store.index.contents[row]
    out = store.empty(int(content["nbytes"]))
    at, first = 0, int(content["source"])
    for source, offset, nbytes in store.index.parts[first : first + int(content["extent"])].tolist():
        out[at : at + nbytes] = store.read(source, what)[offset : offset + nbytes]
        at += nbytes
    return out


__all__ = ["Parts", "Slices", "check", "read", "sources"]
