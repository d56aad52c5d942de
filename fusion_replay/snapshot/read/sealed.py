# SPDX-License-Identifier: Apache-2.0
"""Opening a sealed file: user block, directory, tables; each by its own digest, without HDF5.

Tested in tests/hostile/test_made_to_hurt.py and test_bit_flips.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fusion_replay.errors import DamagedSnapshotError, HostileFileError
from fusion_replay.snapshot.describe import load_json, sequence_from_json
from fusion_replay.snapshot.encodings.chunks import decompress, unshuffle
from fusion_replay.snapshot.read.limits import Allowance, check_index
from fusion_replay.snapshot.schema import (
    LATER_COLUMNS,
    LATER_TEXTS,
    MAX_DIRECTORY,
    MAX_TABLE,
    SKIP_SHUFFLE,
    SKIP_ZSTD,
    TABLES,
    TEXTS,
    USER_BLOCK,
    Index,
    Loss,
    UserBlock,
    digest_of,
)
from fusion_replay.system import platform


def read_sealed(file: BinaryIO, path: Path, *, ours: bool = False) -> tuple[UserBlock, Index]:
    """The user block and the index of a sealed snapshot; ``ours``: as of :class:`.limits.Allowance`.

    Raises:
        ForeignFileError, NewerFormatError: not ours, or of a later major version.
        DamagedSnapshotError: length, checksum, directory or a table disagrees with what was sealed.
        HostileFileError: sizes, counts or references beyond what can be.
    """
    name = str(path)
    block = UserBlock.unpack(platform.read_at(file.fileno(), USER_BLOCK, 0), name)
    size = os.fstat(file.fileno()).st_size
    if size != block.length:
        raise DamagedSnapshotError(
            f"{name}: {size} bytes long, but {block.length} were sealed: "
            + ("the end is missing; copy it again" if size < block.length else "something was added after the end")
        )
    return block, read_index(file, block, name, ours=ours)


def read_index(file: BinaryIO, block: UserBlock, name: str, *, ours: bool = False) -> Index:
    size = min(block.length, os.fstat(file.fileno()).st_size)
    allowance = Allowance(name, size, ours=ours)
    directory = _directory(file, block, name)
    try:
        entries = directory["tables"]
        recording = str(directory["recording"])
        kept = [key for key in TABLES if key in entries or key != "parts"]
        written = [*TEXTS, *(key for key in LATER_TEXTS if key in entries)]
        allowance.take_tables(
            {key: _claimed(entries[key], block.length, f"{name}: {key}") for key in (*kept, *written)}
        )
        tables: dict[str, Any] = {
            key: _table(file, entries[key], TABLES[key], block.length, f"{name}: table {key}") for key in kept
        }
        texts = {key: _text(file, entries[key], block.length, f"{name}: {key}") for key in written}
        for key, text in texts.items():
            allowance.take_text(text, key)
        parsed = {key: load_json(texts.pop(key), f"{name}: {key}") for key in written}
        index = Index(
            recording=recording,
            provenance=dict(parsed["provenance"]),
            sequences=tuple(
                sequence_from_json(data, f"{name}: sequence {number}")
                for number, data in enumerate(parsed["sequences"])
            ),
            details=[dict(entry) for entry in parsed["details"]],
            losses=tuple(Loss(str(e["kind"]), str(e["detail"]), int(e["count"])) for e in parsed["losses"]),
            version=(block.major, block.minor),
            binaries=[dict(entry) for entry in parsed.get("binaries", ())],
            weights=[dict(entry) for entry in parsed.get("weights", ())],
            **tables,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedSnapshotError(f"{name}: the directory does not fit ({error!r})") from error
    check_index(index, block.length, name)
    allowance.check_contents(index)
    return index


def _directory(file: BinaryIO, block: UserBlock, name: str) -> dict[str, Any]:
    if not 0 < block.directory_size <= MAX_DIRECTORY:
        raise HostileFileError(f"{name}: a directory of {block.directory_size} bytes; the limit is {MAX_DIRECTORY}")
    data = platform.read_at(file.fileno(), block.directory_size, min(block.directory_offset, block.length))
    if len(data) != block.directory_size or digest_of(data) != block.directory_digest:
        raise DamagedSnapshotError(f"{name}: the directory disagrees with its digest in the user block")
    directory = load_json(data, f"{name}: directory")
    if not isinstance(directory, dict):
        raise DamagedSnapshotError(f"{name}: the directory is no JSON object")
    return directory


def _table(file: BinaryIO, entry: dict[str, Any], dtype: np.dtype[Any], length: int, what: str) -> Any:
    """One table with the columns known here; a later minor version may have more, an earlier one lacks some."""
    columns = np.dtype([(str(n), str(t)) for n, t in entry["columns"]])
    if columns.hasobject or columns.itemsize != entry["itemsize"] or not 0 < columns.itemsize <= 1 << 12:
        raise HostileFileError(f"{what}: impossible columns")
    absent = [group for group in LATER_COLUMNS if not set(group) & set(columns.names or ())]
    names = tuple(n for n in dtype.names or () if not any(n in group for group in absent))
    if any(n not in (columns.names or ()) or columns[n] != dtype[n] for n in names):
        raise DamagedSnapshotError(f"{what}: lacks columns, or has them of another type")
    flat = np.frombuffer(_blob(file, entry, length, what), columns)
    if columns == dtype:
        return flat
    table = np.zeros(len(flat), dtype)
    for column in names:
        table[column] = flat[column]
    return table


def _text(file: BinaryIO, entry: dict[str, Any], length: int, what: str) -> bytes:
    return bytes(_blob(file, entry, length, what))


def _claimed(entry: dict[str, Any], length: int, what: str) -> tuple[int, int]:
    """How many rows of how many bytes a table has, or a text."""
    offset, size, rows, itemsize = (int(entry[k]) for k in ("offset", "size", "rows", "itemsize"))
    if rows < 0 or itemsize < 1 or rows * itemsize > MAX_TABLE or offset < 0 or size < 0 or offset + size > length:
        raise HostileFileError(f"{what}: {rows} rows of {itemsize} bytes at {offset}+{size}: impossible")
    return rows, itemsize


def _blob(file: BinaryIO, entry: dict[str, Any], length: int, what: str) -> Any:
    rows, itemsize = _claimed(entry, length, what)
    offset, size, mask = (int(entry[k]) for k in ("offset", "size", "mask"))
    nbytes = rows * itemsize
    if nbytes == 0:
        return b""
    stored = platform.read_at(file.fileno(), size, offset)
    if digest_of(stored).hex() != entry["digest"]:
        raise DamagedSnapshotError(f"{what}: disagrees with its digest in the directory")
    plain = stored if mask & SKIP_ZSTD else decompress(stored, nbytes, what)
    if len(plain) != nbytes:
        raise DamagedSnapshotError(f"{what}: {len(plain)} bytes, expected {nbytes}")
    if mask & SKIP_SHUFFLE or itemsize == 1:
        return plain
    out = np.empty(nbytes, np.uint8)
    unshuffle(np.frombuffer(plain, np.uint8), itemsize, out)
    return out
