# SPDX-License-Identifier: Apache-2.0
"""Contents that have no bytes of their own but are made of other contents, as the journal and the tables say it.

``Delta`` a patch on another content; ``Parts`` byte ranges of others, one behind the other (a slice is one part);
``Derived`` what a movement operator makes of its inputs. Every content has a depth: 0 with bytes of its own, else more
than the depth of all that it is made of. That one comparison per reference rules out circles and endless chains.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import HostileFileError
from fusion_replay.snapshot.schema import (
    CHUNKED,
    DELTA,
    DERIVED,
    DIGEST_ONLY,
    INPUT,
    MAX_DEPTH,
    MAX_PIECE,
    NO_CONTENT,
    OUTPUT,
    PARTS,
    PREVIOUS,
    SIDE,
    Index,
)

_KIND = struct.Struct("<B3xI")
_PART = struct.Struct("<I4xQQ")
_STEP = struct.Struct("<III")


@dataclass(frozen=True, slots=True)
class Delta:
    """``patch`` (:mod:`fusion_replay.snapshot.encodings.delta`) turns content ``base`` into this one."""

    base: int
    patch: bytes


@dataclass(frozen=True, slots=True)
class Parts:
    """``(content, offset, nbytes)`` of each part, in order."""

    parts: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Derived:
    """Operand ``position`` of this step, which its operator makes of its inputs."""

    invocation: int
    step: int
    position: int


@dataclass(frozen=True, slots=True)
class Side:
    """In the side file, under the same digest. Nothing else is made of such a content: it may be missing."""


Link = Delta | Parts | Derived | Side

ENCODING: dict[type[Link], int] = {Delta: DELTA, Parts: PARTS, Derived: DERIVED, Side: SIDE}


def pack(link: Link) -> bytes:
    """The link as the end of a content's frame."""
    kind = ENCODING[type(link)]
    match link:
        case Delta(base, patch):
            return _KIND.pack(kind, base) + patch
        case Parts(parts):
            return _KIND.pack(kind, len(parts)) + b"".join(_PART.pack(*part) for part in parts)
        case Derived(invocation, step, position):
            return _KIND.pack(kind, 0) + _STEP.pack(invocation, step, position)
        case Side():
            return _KIND.pack(kind, 0)


PATCH_AT = _KIND.size
"""Bytes before the patch in what :func:`pack` gives for a delta."""


def unpack(data: bytes, what: str) -> Link:
    """Undo :func:`pack`.

    Raises:
        HostileFileError: of no known kind, or of another length than it says.
        struct.error: shorter than any link.
    """
    kind, number = _KIND.unpack_from(data)
    body = data[_KIND.size :]
    if kind == DELTA and 4 <= len(body) <= MAX_PIECE:
        return Delta(number, bytes(body))
    if kind == PARTS and len(body) == number * _PART.size:
        return Parts(tuple(_PART.iter_unpack(body)))
    if kind == DERIVED and len(body) == _STEP.size:
        return Derived(*_STEP.unpack(body))
    if kind == SIDE and not body:
        return Side()
    raise HostileFileError(f"{what}: a link of unknown kind {kind}, or of another length than it says")


def resolve(index: Index, found: Sequence[tuple[int, Link]], row_of: dict[int, int]) -> int:
    """Put the links of a journal, by row, into the tables; how many led nowhere: of those the digest is left.

    ``found`` is in the order recorded; ``row_of`` has the row of each content id of the journal. Where some part of a
    content is lost, or was recorded later than what is made of it, its digest alone remains.
    """
    contents = index.contents
    steps = {address: row for row, address in enumerate(index.steps[["invocation", "step"]].tolist())} if found else {}
    parts: list[tuple[int, int, int]] = []
    lost = 0
    open_rows = {row for row, link in found if not isinstance(link, Side)}
    for row, link in found:
        rows: list[int] = []
        source = extent = 0
        match link:
            case Delta(base, patch):
                rows, extent = [row_of.get(base, -1)], len(patch)
                source = rows[0]
            case Parts(given):
                rows = [row_of.get(content, -1) for content, _, _ in given]
                source, extent = len(parts), len(given)
            case Derived(invocation, step, position):
                source, extent = steps.get((invocation, step), -1), position
                rows = _made_of(index, source) if source >= 0 else [-1]
            case Side():
                continue
        depth = 1 + max((int(contents["depth"][r]) for r in rows if r >= 0), default=-1)
        gone = any(r < 0 or r in open_rows or contents["encoding"][r] in (DIGEST_ONLY, SIDE) for r in rows)
        open_rows.discard(row)
        if gone or depth > MAX_DEPTH:
            contents["encoding"][row], contents["n_chunks"][row] = DIGEST_ONLY, 0
            lost += 1
            continue
        if isinstance(link, Parts):
            parts += [(r, offset, nbytes) for r, (_, offset, nbytes) in zip(rows, link.parts, strict=True)]
        contents["source"][row], contents["extent"][row], contents["depth"][row] = source, extent, depth
    index.parts = np.array(parts, index.parts.dtype)
    return lost


def _made_of(index: Index, step: int) -> list[int]:
    """Rows of the contents that a step read, and of its outputs' kept old contents; -1 where one is missing."""
    record = index.steps[step]
    first = int(record["first_operand"])
    operands = index.operands[first : first + int(record["n_operands"])]
    chosen = operands["content"][(operands["role"] == INPUT) | (operands["role"] == PREVIOUS)]
    return [-1 if row == NO_CONTENT else row for row in chosen.tolist()] or [-1]


def check_links(index: Index, name: str) -> None:
    """Refuse links that lead outside, in circles, too deep, or to another number of bytes. Columns at a time.

    Raises:
        HostileFileError: one does. Tables and references between them must have been checked before.
    """
    contents, parts = index.contents, index.parts
    encoding, depth, source, extent = (contents[c] for c in ("encoding", "depth", "source", "extent"))
    own = (encoding == CHUNKED) | (encoding == DIGEST_ONLY) | (encoding == SIDE)
    problems = {"bytes of its own and a depth": own & (depth != 0), "too great a depth": depth > MAX_DEPTH}
    delta, joined, derived = (np.flatnonzero(encoding == kind) for kind in (DELTA, PARTS, DERIVED))
    if len(delta):
        outside = source[delta] >= len(contents)
        base = np.where(outside, 0, source[delta]).astype(np.int64)
        wrong = outside | (contents["nbytes"][base] != contents["nbytes"][delta]) | ~_below(index, base, delta)
        _mark(problems, "a patch on a content that it can't be on", delta, wrong, len(contents))
        _mark(problems, "a patch of impossible size", delta, ~_between(extent[delta], 4, MAX_PIECE), len(contents))
    if len(joined):
        first, count = source[joined], extent[joined]
        wrong = (count == 0) | (first > len(parts)) | (count > len(parts)) | (first + count > len(parts))
        wrong[~wrong] = ~_parts_fit(index, joined[~wrong])
        _mark(problems, "parts that make no content", joined, wrong, len(contents))
    if len(derived):
        wrong = (source[derived] >= len(index.steps)) | (extent[derived] > 0xFFFF)
        wrong[~wrong] = ~_steps_fit(index, derived[~wrong])
        _mark(problems, "a step that can't have made it", derived, wrong, len(contents))
    for problem, found in problems.items():
        if found.any():
            digest = contents["digest"][int(found.argmax())].decode("ascii", "replace")
            raise HostileFileError(f"{name}: content {digest} has {problem}")


def _mark(
    problems: dict[str, npt.NDArray[Any]], what: str, rows: npt.NDArray[Any], wrong: npt.NDArray[Any], size: int
) -> None:
    found = np.zeros(size, np.bool_)
    found[rows] = wrong
    problems[what] = found


def _between(values: npt.NDArray[Any], low: int, high: int) -> npt.NDArray[np.bool_]:
    return (values >= low) & (values <= high)


def _below(index: Index, sources: npt.NDArray[Any], users: npt.NDArray[Any]) -> Any:
    """Whether each source has bytes, or a way to them, and lies less deep than what is made of it."""
    contents = index.contents
    encoding = contents["encoding"][sources]
    return (encoding != DIGEST_ONLY) & (encoding != SIDE) & (contents["depth"][sources] < contents["depth"][users])


def _parts_fit(index: Index, rows: npt.NDArray[Any]) -> Any:
    contents, parts = index.contents, index.parts
    counts = contents["extent"][rows].astype(np.int64)
    if int(counts.sum()) > len(parts):  # parts belong to one content each
        return np.zeros(len(rows), np.bool_)
    starts = np.cumsum(counts) - counts
    chosen = np.repeat(contents["source"][rows].astype(np.int64) - starts, counts) + np.arange(int(counts.sum()))
    owner = np.repeat(np.arange(len(rows)), counts)
    content, offset, nbytes = (parts[c][chosen] for c in ("content", "offset", "nbytes"))
    known = content < len(contents)
    source = np.where(known, content, 0)
    size = contents["nbytes"][source]
    inside = known & (nbytes <= size) & (offset <= size - np.minimum(nbytes, size))
    sound = inside & _below(index, source, rows[owner])
    # Sizes are below 64 GiB where they count: float64 adds them exactly.
    total = np.bincount(owner, np.where(inside, nbytes, 0).astype(np.float64), len(rows))
    bad = np.bincount(owner, ~sound, len(rows))
    return (bad == 0) & (total == contents["nbytes"][rows].astype(np.float64))


def _steps_fit(index: Index, rows: npt.NDArray[Any]) -> Any:
    contents, steps = index.contents, index.steps[index.contents["source"][rows].astype(np.int64)]
    counts = steps["n_operands"].astype(np.int64)
    if int(counts.sum()) > 64 * len(index.operands):  # a step has few outputs, and each is one content
        return np.zeros(len(rows), np.bool_)
    starts = np.cumsum(counts) - counts
    chosen = np.repeat(steps["first_operand"].astype(np.int64) - starts, counts) + np.arange(int(counts.sum()))
    owner = np.repeat(np.arange(len(rows)), counts)
    operands = index.operands[chosen]
    reads = (operands["role"] == INPUT) | (operands["role"] == PREVIOUS)
    missing = operands["content"] == NO_CONTENT
    source = np.where(missing, 0, operands["content"]).astype(np.int64)
    sound = ~missing & _below(index, source, rows[owner])
    mine = (
        (operands["role"] == OUTPUT)
        & (operands["position"] == contents["extent"][rows][owner])
        & (operands["content"] == rows[owner])
    )
    read, unsound, made = (np.bincount(owner, flags, len(rows)) for flags in (reads, reads & ~sound, mine))
    return (read > 0) & (unsound == 0) & (made > 0)


__all__ = [
    "ENCODING",
    "PATCH_AT",
    "Delta",
    "Derived",
    "Link",
    "Parts",
    "Side",
    "check_links",
    "pack",
    "resolve",
    "unpack",
]
