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
from fusion_replay.snapshot.encodings.registry import check_links
from fusion_replay.snapshot.read.limits import check_contents
from fusion_replay.snapshot.schema import (
    LATER_COLUMNS,
    LATER_TEXTS,
    LOST,
    MAX_DIRECTORY,
    MAX_TABLE,
    NO_CONTENT,
    REFERENCE,
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


def read_sealed(file: BinaryIO, path: Path) -> tuple[UserBlock, Index]:
    """The user block and the index of a sealed snapshot.

    Raises:
        ForeignFileError, NewerFormatError: not ours, or of a later major version.
        DamagedSnapshotError: length, checksum, directory or a table disagrees with what was sealed.
        HostileFileError: sizes, counts or references beyond what can be.
    """
    name = str(path)
    block = UserBlock.unpack(os.pread(file.fileno(), USER_BLOCK, 0), name)
    size = os.fstat(file.fileno()).st_size
    if size != block.length:
        raise DamagedSnapshotError(
            f"{name}: {size} bytes long, but {block.length} were sealed: "
            + ("the end is missing; copy it again" if size < block.length else "something was added after the end")
        )
    return block, read_index(file, block, name)


def read_index(file: BinaryIO, block: UserBlock, name: str) -> Index:
    directory = _directory(file, block, name)
    try:
        entries = directory["tables"]
        recording = str(directory["recording"])
        tables: dict[str, Any] = {
            key: _table(file, entries[key], dtype, block.length, f"{name}: table {key}")
            for key, dtype in TABLES.items()
            if key in entries or key != "parts"
        }
        texts = {
            key: load_json(_text(file, entries[key], block.length, f"{name}: {key}"), f"{name}: {key}")
            for key in (*TEXTS, *(k for k in LATER_TEXTS if k in entries))
        }
        index = Index(
            recording=recording,
            provenance=dict(texts["provenance"]),
            sequences=tuple(
                sequence_from_json(data, f"{name}: sequence {number}") for number, data in enumerate(texts["sequences"])
            ),
            details=[dict(entry) for entry in texts["details"]],
            losses=tuple(Loss(str(e["kind"]), str(e["detail"]), int(e["count"])) for e in texts["losses"]),
            version=(block.major, block.minor),
            binaries=[dict(entry) for entry in texts.get("binaries", ())],
            weights=[dict(entry) for entry in texts.get("weights", ())],
            **tables,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedSnapshotError(f"{name}: the directory does not fit ({error!r})") from error
    check_contents(index, block.length, name)
    check_index(index, name)
    check_links(index, name)
    return index


def check_index(index: Index, name: str) -> None:
    """Every reference between tables leads somewhere.

    Raises:
        HostileFileError: one does not.
    """
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
        "an operand of unknown role": (operands["role"] > REFERENCE).any(),
        "an operand of unknown contents": (
            (operands["content"] >= len(index.contents)) & (operands["content"] != NO_CONTENT)
        ).any(),
    }
    if not any(problems.values()) and len(steps):
        problems["a step of an invocation that is lost"] = (invocations["status"] == LOST)[steps["invocation"]].any()
    if not any(problems.values()) and len(steps):
        of_sequence = invocations["sequence"][steps["invocation"]]
        problems["a step beyond its sequence"] = (steps["step"] >= lengths[of_sequence]).any()
        address = steps["invocation"].astype(np.uint64) << np.uint64(32) | steps["step"]
        problems["a step that is there twice"] = len(np.unique(address)) < len(address)
    for problem, found in problems.items():
        if found:
            raise HostileFileError(f"{name}: the index has {problem}")


def _directory(file: BinaryIO, block: UserBlock, name: str) -> dict[str, Any]:
    if not 0 < block.directory_size <= MAX_DIRECTORY:
        raise HostileFileError(f"{name}: a directory of {block.directory_size} bytes; the limit is {MAX_DIRECTORY}")
    data = os.pread(file.fileno(), block.directory_size, min(block.directory_offset, block.length))
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
    flat = np.frombuffer(_blob(file, entry, columns.itemsize, length, what), columns)
    if columns == dtype:
        return flat
    table = np.zeros(len(flat), dtype)
    for column in names:
        table[column] = flat[column]
    return table


def _text(file: BinaryIO, entry: dict[str, Any], length: int, what: str) -> bytes:
    return bytes(_blob(file, entry, int(entry["itemsize"]), length, what))


def _blob(file: BinaryIO, entry: dict[str, Any], itemsize: int, length: int, what: str) -> Any:
    offset, size, rows, mask = (int(entry[k]) for k in ("offset", "size", "rows", "mask"))
    nbytes = rows * itemsize
    if rows < 0 or itemsize < 1 or nbytes > MAX_TABLE or offset < 0 or size < 0 or offset + size > length:
        raise HostileFileError(f"{what}: {rows} rows of {itemsize} bytes at {offset}+{size}: impossible")
    if nbytes == 0:
        return b""
    stored = os.pread(file.fileno(), size, offset)
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
