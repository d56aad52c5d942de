# SPDX-License-Identifier: Apache-2.0
"""What a snapshot may claim, and what reading it may take: asked before anything is read or allocated by its numbers.

Compression and links make much of little, in honest files too. So what reading takes is added up first, and held
against the size of the file: a fixed part that no small file needs, and a share for each byte. ``FUSION_REPLAY_LIMITS``
multiplies both, for who trusts a file.

Tested in tests/hostile/test_expansion.py and test_made_to_hurt.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import HostileFileError, UsageError
from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot.encodings.registry import check_links, sources
from fusion_replay.snapshot.schema import (
    DELTA,
    DERIVED,
    DIGEST_ONLY,
    IN_CHUNKS,
    IN_SPILL,
    LOST,
    MAX_CHUNK,
    MAX_CONTENT,
    MAX_PIECE,
    NO_CONTENT,
    PACKED,
    REFERENCE,
    SIDE,
    Index,
)

FACTOR = "FUSION_REPLAY_LIMITS"
"""Environment variable: how many times the limits on what reading takes apply; 1 by default."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a file of any size may make reading take, and what for each of its bytes."""

    least: int
    per_byte: float


OPENING = Limit(512 << 20, 128)
"""Memory for tables and texts. 100,000 steps of which no two are alike take 250 MB, those of a runlist of 100,000
entries twice as much; each has bytes of its own in the file that don't compress, digests above all."""
STEPS = Limit(250_000, 0.25)
"""Steps and invocations, each of which takes time in every verb, some ten microseconds. One takes 4 bytes of a file
where it has no more than a time of its own."""
TENSOR = Limit(704 << 20, 64)
"""Memory to read one tensor. The largest of Llama 3.2 1B, 501 MiB, passes in a file of any size: all one value, say."""
DECODED = Limit(8 << 30, 1024)
"""Bytes decoded to read every tensor once, nothing being cached. Weights that are all one value take 20,000 times
their bytes in the file: three models of 1B pass."""

_PER_ROW = {"invocations": 300, "steps": 500, "operands": 48, "contents": 500, "chunks": 48, "parts": 128}
"""Bytes of memory for what is made of a row, over the row itself."""
_PER_BYTE, _PER_VALUE = 3, 160
"""The same of a JSON text; an object with one key is two values."""
_PER_ELEMENT = 16
"""Bytes of memory that a mover takes for each element it moves: where from, where to."""


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:,.1f} kB"


class Allowance:
    """What reading one file may take, by its size: used up by what is charged to it.

    Args:
        name: of the file, for messages.
        size: its bytes, with those of the files beside a journal.
        ours: this process has just written it, of what was read within the limits or recorded: there are none.
    """

    def __init__(self, name: str, size: int, *, ours: bool = False) -> None:
        self._name, self._size = name, size
        self._factor = math.inf if ours else _factor()
        self._memory = 0

    def take_tables(self, claimed: Mapping[str, tuple[int, int]]) -> None:
        """Tables and texts, so many rows of so many bytes each, before any of them is read.

        Raises:
            HostileFileError: beyond the limit.
        """
        cost = {
            name: rows * (2 * itemsize + _PER_ROW[name] if name in _PER_ROW else _PER_BYTE * itemsize)
            for name, (rows, itemsize) in claimed.items()
        }
        steps = claimed["steps"][0] + claimed["invocations"][0]
        self._check(STEPS, steps, f"{steps:,} steps and invocations", lambda number: f"{number:,.0f}")
        largest = max(cost, key=lambda name: cost[name])
        rows, itemsize = claimed[largest]
        size = f"{rows:,} rows" if largest in _PER_ROW else f"{rows * itemsize:,} bytes of text"
        self._open(sum(cost.values()), f"opening it ({largest} alone: {size})")

    def take_text(self, text: bytes, name: str) -> None:
        """A JSON text, before it is parsed.

        Raises:
            HostileFileError: beyond the limit.
        """
        values = text.count(b",") + text.count(b"[") + text.count(b"{")
        self._open(values * _PER_VALUE, f"opening it ({name} alone: {values:,} JSON values)")

    def _open(self, nbytes: int, what: str) -> None:
        self._memory += nbytes
        self._check(OPENING, self._memory, f"{what} would take {_size(self._memory)} of memory")

    def check_contents(self, index: Index) -> None:
        """Contents within tables that have been checked.

        Raises:
            HostileFileError: one, or all of them, take more than they may.
        """
        memory, decoded = _cost(index)
        if len(memory):
            row = int(memory.argmax())
            digest = index.contents["digest"][row].decode("ascii", "replace")
            most, total = float(memory[row]), float(decoded.sum())
            self._check(TENSOR, most, f"content {digest} would take {_size(most)} of memory to read")
            self._check(DECODED, total, f"{len(decoded):,} contents would take {_size(total)} of decoding")

    def _check(self, limit: Limit, found: float, what: str, unit: Callable[[float], str] = _size) -> None:
        allowed = limit.least + limit.per_byte * self._size
        if found > allowed * self._factor:
            raise HostileFileError(
                f"{self._name}: {what}, too much for a file of {_size(self._size)}: the limit is "
                f"{unit(allowed * self._factor)}; if you trust the file: {FACTOR}={math.ceil(found / allowed)}"
            )


def _factor() -> float:
    text = os.environ.get(FACTOR) or "1"
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not factor >= 1:
        raise UsageError(f"{FACTOR}={text!r}: expected a number from 1 on, how many times the limits apply")
    return factor


def _cost(index: Index) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For each content: memory to read it, and bytes decoded to read it, nothing being cached.

    What it is made of lies less deep, so one pass by depth has the whole way down; numbers that grow beyond any bound
    are floats, which they can't leave.
    """
    contents = index.contents
    encoding, nbytes = contents["encoding"], contents["nbytes"].astype(np.float64)
    bare = (encoding == DIGEST_ONLY) | (encoding == SIDE)
    memory = np.where(bare, 0.0, nbytes)
    decoded = np.where(encoding == DELTA, contents["extent"], memory)  # only patches, then one copy of what is below
    packed = np.flatnonzero(encoding == PACKED)
    if len(packed):  # a pack is decoded once for all that it holds, where they are read one after the other
        pack, size = contents["first_chunk"][packed].astype(np.int64), contents["extent"][packed]
        memory[packed] += size
        decoded[packed] += size / np.bincount(pack)[pack]
    for dtype, itemsize in DTYPE_BYTES.items():
        moved = (encoding == DERIVED) & (contents["dtype"] == dtype.encode())
        memory[moved] += nbytes[moved] / itemsize * _PER_ELEMENT
    users, made_of = sources(index)
    depth = contents["depth"][users]
    for level in np.unique(depth):
        user, source = users[depth == level], made_of[depth == level]
        decoded += np.bincount(user, decoded[source], len(contents))
        beside = np.zeros(len(contents))
        np.maximum.at(beside, user, memory[source])
        memory += np.where(encoding == DERIVED, np.bincount(user, memory[source], len(contents)), beside)
    return memory, decoded


def check_index(index: Index, file_size: int, name: str) -> None:
    """Sizes and counts that can be, references that lead somewhere; no two steps share operands.

    Raises:
        HostileFileError: something else.
    """
    _check_contents(index, file_size, name)
    _check_steps(index, name)
    check_links(index, name)


def _check_contents(index: Index, file_size: int, name: str) -> None:
    """Refuse contents and chunks that can't be, before any is read. Columns at a time: there may be 100,000s."""
    contents, chunks = index.contents, index.chunks
    itemsize = np.zeros(len(contents), np.uint64)
    for dtype, size in DTYPE_BYTES.items():
        itemsize[contents["dtype"] == dtype.encode()] = size
    nbytes, row, piece = contents["nbytes"], contents["row_bytes"], contents["piece_bytes"].astype(np.uint64)
    at_least_1 = np.maximum(np.stack([itemsize, row, piece]), 1)
    unit, per_row, per_piece = at_least_1[0], at_least_1[1], at_least_1[2]
    empty = (nbytes == 0) & (row == 0) & (piece == 0)
    cut = (
        (piece > 0)
        & (piece <= MAX_PIECE)
        & (piece <= row)
        & (row <= nbytes)
        & (nbytes % per_row == 0)
        & (nbytes % unit == 0)
        & (row % unit == 0)
        & (piece % unit == 0)
    )
    encoding = contents["encoding"]
    bare = (encoding == DIGEST_ONLY) | ((encoding > DELTA) & (encoding <= SIDE))
    one = (encoding == DELTA) | (encoding == PACKED)
    # nbytes is below MAX_CONTENT where it counts, so nothing here wraps around.
    count = nbytes // per_row * ((row + per_piece - 1) // per_piece)
    want = np.where(bare | empty, 0, np.where(one, 1, count))
    end = contents["first_chunk"] + contents["n_chunks"]
    checks = {
        "an element type or a digest that is none": (itemsize == 0) | (np.char.str_len(contents["digest"]) != 32),
        "an encoding that is not known here; upgrade fusion-replay": (encoding > PACKED) & ~bare,
        f"more than {MAX_CONTENT} bytes, the limit for one tensor": nbytes > MAX_CONTENT,
        "rows and pieces that make no tensor": ~(empty | cut),
        "another number of chunks than its size asks for": (contents["n_chunks"] != want)
        | (contents["first_chunk"] > len(chunks))
        | (end > len(chunks)),
    }
    for problem, found in checks.items():
        if found.any():
            digest = contents["digest"][int(found.argmax())].decode("ascii", "replace")
            raise HostileFileError(f"{name}: content {digest} has {problem}")
    if len(chunks):
        inside = (chunks["mask"] & (IN_SPILL | IN_CHUNKS)) == 0
        sizes, offsets = chunks["size"].astype(np.uint64), chunks["offset"]
        outside = inside & ((offsets > file_size) | (sizes > file_size) | (offsets + sizes > file_size))
        if outside.any() or int(sizes.max()) > MAX_CHUNK:
            raise HostileFileError(f"{name}: a chunk lies outside the file or is larger than any chunk can be")


def _check_steps(index: Index, name: str) -> None:
    """Every reference between tables leads somewhere."""
    steps, operands, invocations = index.steps, index.operands, index.invocations
    lengths = np.array([len(s.steps) for s in index.sequences], np.int64)
    problems = {
        "an invocation of an unknown sequence": (
            (invocations["sequence"] >= len(lengths)) & (invocations["status"] != LOST)
        ).any(),
        "an invocation of unknown status": (invocations["status"] > LOST).any(),
        "a step of an unknown invocation": (steps["invocation"] >= len(invocations)).any(),
        "a step of unknown status": (steps["status"] > 2).any(),
        "a step with unknown details": (steps["detail"] >= len(index.details)).any(),
        "a step with operands that are not there": (
            (steps["first_operand"] > len(operands))
            | (steps["first_operand"] + steps["n_operands"].astype(np.uint64) > len(operands))
        ).any(),
        "steps that share operands": int(steps["n_operands"].sum()) > len(operands),
        "an operand of unknown role": (operands["role"] > REFERENCE).any(),
        "an operand of unknown contents": (
            (operands["content"] >= len(index.contents)) & (operands["content"] != NO_CONTENT)
        ).any(),
    }
    if not any(problems.values()) and len(steps):
        problems["a step of an invocation that is lost"] = (invocations["status"] == LOST)[steps["invocation"]].any()
    if not any(problems.values()) and len(steps):
        of_sequence = invocations["sequence"][steps["invocation"]]
        address = steps["invocation"].astype(np.uint64) << np.uint64(32) | steps["step"]
        problems["a step that is there twice"] = len(np.unique(address)) < len(address)
        problems["a step beyond its sequence"] = (steps["step"] >= lengths[of_sequence]).any()
    for problem, found in problems.items():
        if found:
            raise HostileFileError(f"{name}: the index has {problem}")
