# SPDX-License-Identifier: Apache-2.0
"""Every encoding of contents that lean on others, by its number: links packed and resolved, tables checked.

Tested in tests/hostile/test_links_made_to_hurt.py and tests/snapshot/test_recover.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import HostileFileError
from fusion_replay.snapshot.encodings import delta, derived, packed, parts
from fusion_replay.snapshot.encodings.delta import Delta
from fusion_replay.snapshot.encodings.derived import Derived
from fusion_replay.snapshot.encodings.link import Bytes, Journalled, Link, Store
from fusion_replay.snapshot.encodings.parts import Parts
from fusion_replay.snapshot.encodings.side_file import InSideFile
from fusion_replay.snapshot.schema import (
    CHUNKED,
    DELTA,
    DERIVED,
    DIGEST_ONLY,
    MAX_DEPTH,
    PACKED,
    PARTS,
    SIDE,
    Index,
)

LINKS: Mapping[int, type[Link]] = {kind.ENCODING: kind for kind in (Delta, Parts, Derived, InSideFile)}
_READ = {DELTA: delta.read, PARTS: parts.read, DERIVED: derived.read, PACKED: packed.read}
_CHECK = {DELTA: delta.check, PARTS: parts.check, DERIVED: derived.check, PACKED: packed.check}
_SOURCES = {DELTA: delta.sources, PARTS: parts.sources, DERIVED: derived.sources}
_KIND = struct.Struct("<B3xI")

PATCH_AT = _KIND.size
"""Bytes before the patch in what :func:`pack` gives for a delta."""


def pack(link: Link) -> bytes:
    """The link as the end of a content's frame."""
    number, body = link.packed()
    return _KIND.pack(link.ENCODING, number) + body


def unpack(data: bytes, what: str) -> Link:
    """Undo :func:`pack`.

    Raises:
        HostileFileError: of no known kind, or of another length than it says.
        struct.error: shorter than any link.
    """
    kind, number = _KIND.unpack_from(data)
    link = LINKS[kind].unpacked(number, data[_KIND.size :]) if kind in LINKS else None
    if link is None:
        raise HostileFileError(f"{what}: a link of unknown kind {kind}, or of another length than it says")
    return link


def read(store: Store, row: int, what: str) -> Bytes | None:
    """A content that leans on others, not verified yet; None where its encoding is another."""
    reader = _READ.get(int(store.index.contents["encoding"][row]))
    return None if reader is None else reader(store, row, what)


def resolve(journal: Journalled, found: Sequence[tuple[int, Link]]) -> list[int]:
    """Put the links of a journal, by row, into the tables; the rows of which the digest alone is left.

    ``found`` is in the order recorded. A content that is made of one that is lost, or in a way that can't be, is lost.
    """
    index = journal.index
    contents = index.contents
    rows: list[tuple[int, int, int]] = []
    lost: list[int] = []
    unresolved = {row for row, link in found if link.ENCODING != SIDE}
    for row, link in found:
        if link.ENCODING == SIDE:
            continue
        made = link.references(journal)
        depth = 1 + max((int(contents["depth"][r]) for r in made.made_of if r >= 0), default=-1)
        gone = any(r < 0 or r in unresolved or contents["encoding"][r] in (DIGEST_ONLY, SIDE) for r in made.made_of)
        unresolved.discard(row)
        if gone or depth > MAX_DEPTH:
            drop(index, [row])
            lost.append(row)
            continue
        contents["source"][row] = len(rows) if made.parts else made.source
        contents["extent"][row], contents["mover"][row], contents["depth"][row] = made.extent, made.mover, depth
        rows += made.parts
    index.parts = np.array(rows, index.parts.dtype)
    while len(wrong := np.flatnonzero(np.any([*_problems(index).values()], axis=0))):  # and what is made of those
        drop(index, wrong)
        lost += wrong.tolist()
    return lost


def drop(index: Index, rows: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """Leave of these contents their digests."""
    index.contents["encoding"][rows] = DIGEST_ONLY
    for column in ("n_chunks", "source", "extent", "depth", "mover"):
        index.contents[column][rows] = 0


def check_links(index: Index, name: str) -> None:
    """Refuse links that lead outside, in circles, too deep, or to another number of bytes. Columns at a time.

    Raises:
        HostileFileError: one does. Tables and references between them must have been checked before.
    """
    for problem, found in _problems(index).items():
        if found.any():
            digest = index.contents["digest"][int(found.argmax())].decode("ascii", "replace")
            raise HostileFileError(f"{name}: content {digest} has {problem}")


def sources(index: Index) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every reference of :func:`check_links`, passed: the content that is made, and one that it is made of."""
    found = [of(index, np.flatnonzero(index.contents["encoding"] == kind)) for kind, of in _SOURCES.items()]
    users, made_of = zip(*found, strict=True)
    return np.concatenate(users), np.concatenate(made_of)


def _problems(index: Index) -> dict[str, npt.NDArray[np.bool_]]:
    """By what is wrong: which rows."""
    encoding, depth = index.contents["encoding"], index.contents["depth"]
    own = (encoding == CHUNKED) | (encoding == PACKED) | (encoding == DIGEST_ONLY) | (encoding == SIDE)
    problems = {"bytes of its own and a depth": own & (depth != 0), "too great a depth": depth > MAX_DEPTH}
    for number, check in _CHECK.items():
        rows = np.flatnonzero(encoding == number)
        if len(rows):
            for problem, wrong in check(index, rows).items():
                problems[problem] = np.zeros(len(encoding), np.bool_)
                problems[problem][rows] = wrong
    return problems


__all__ = ["LINKS", "PATCH_AT", "check_links", "drop", "pack", "read", "resolve", "sources", "unpack"]
