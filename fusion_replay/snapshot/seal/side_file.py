# SPDX-License-Identifier: Apache-2.0
"""Sealing a side file: what its journal has, together with what the file that it replaces has.

Tested in tests/snapshot/write/test_weights.py.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import DamagedSnapshotError, SnapshotError
from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot.encodings.side_file import Weight, weights_of
from fusion_replay.snapshot.journal import reading as journal
from fusion_replay.snapshot.read.sealed import read_sealed
from fusion_replay.snapshot.read.store import CHECKING_CACHE, ChunkSource, ContentStore
from fusion_replay.snapshot.schema import DIGEST_ONLY, PART_SUFFIX, Index
from fusion_replay.snapshot.seal import recording as seal
from fusion_replay.snapshot.seal.proof import Check, prove
from fusion_replay.snapshot.target import beside, publish, remove_working_files
from fusion_replay.system.files import regular

_SECOND = 0x10
"""In a filter mask of what is joined: a chunk of the second part."""


def seal_side(journal_path: Path, target: Path, *, check: Check | None = None) -> seal.Sealed:
    """Make ``target`` of its journal and of itself, then remove the journal. The caller holds the journal's lock.

    ``check``: as for :func:`.recording.seal`; the file that is there is read first, too, since it will be replaced.

    Raises:
        UnsealedError: it could not be written, or is not what it was made of; old file and journal are kept.
        SnapshotError: the file that is there is damaged, or no side file.
    """
    part = beside(target, PART_SUFFIX)
    with seal.sealing(target, journal_path), contextlib.ExitStack() as stores:
        files, summary = journal.open_journal(journal_path)
        index = summary.index()
        cache = 0 if check is None else CHECKING_CACHE
        store = ContentStore(index, files.journal, files.spill, files.chunks, cache_bytes=cache)
        stores.callback(store.close)
        if check is not None:
            seal.drop_damaged(index, store)
        parts = [(index, store)]
        if target.exists():
            if check is not None:
                _require_sound(target, check)
            parts.insert(0, _there_already(target))
            stores.callback(parts[0][1].close)
        joined, both = _join(parts, str(target))
        if len(parts) == 1:
            made, size = seal.write_beside(target, joined, both, check)
        else:
            made, size = part, seal.write_sealed(part, joined, both)
            prove(part, joined, target, check)
        publish(made, target, "replace")
    remove_working_files(target)
    return seal.Sealed(target, 0, 0, size, joined.losses)


def _require_sound(target: Path, check: Check) -> None:
    try:
        check(target)
    except SnapshotError as error:
        raise DamagedSnapshotError(
            f"{target}: is damaged ({error}), and would be replaced; move it away, then recover again"
        ) from error


def _there_already(target: Path) -> tuple[Index, ContentStore]:
    """What the side file has that is to be replaced."""
    file = open(target, "rb", buffering=0, opener=regular)  # noqa: SIM115 - the store closes it
    try:
        _, old = read_sealed(file, target)
        if len(old.steps):
            raise SnapshotError(f"{target}: a recording of {len(old.steps)} steps; expected a side file of weights")
    except BaseException:
        file.close()
        raise
    return old, ContentStore(old, file, cache_bytes=0)


def _join(parts: list[tuple[Index, ContentStore]], name: str) -> tuple[Index, ChunkSource]:
    """One index of the contents that any part keeps, each once, and a store that finds them."""
    taken: set[tuple[bytes, bytes]] = set()
    stores = [store for _, store in parts]
    chunks: list[npt.NDArray[Any]] = []
    first = 0
    weights: list[Weight] = []
    rows: list[Any] = []
    shapes: list[tuple[int, ...]] = []
    for number, (index, store) in enumerate(parts):
        known = weights_of(index.weights, name)
        chunks.append(index.chunks.copy())
        chunks[-1]["mask"] |= number * _SECOND
        for row, content in enumerate(index.contents):
            key = bytes(content["digest"]), bytes(content["dtype"])
            if key in taken or int(content["encoding"]) == DIGEST_ONLY:
                continue
            taken.add(key)
            rows.append(content.copy())
            rows[-1]["first_chunk"] += first
            shapes.append((int(content["nbytes"]) // DTYPE_BYTES[key[1].decode("ascii")],))
            text = key[0].decode("ascii"), key[1].decode("ascii")
            weight = known.get(text) or Weight(*text, int(content["nbytes"]), text[0])
            if weight.sha256 is None:  # killed before it was known
                weight = replace(weight, sha256=hashlib.sha256(store.read(row, weight.name).data).hexdigest())
            weights.append(weight)
        first += len(index.chunks)
    last = parts[-1][0]
    contents = np.array(rows, last.contents.dtype)
    contents["shape"] = b""
    joined = replace(
        last,
        contents=contents,
        chunks=np.concatenate(chunks),
        shapes=shapes,
        weights=[w.to_dict() for w in weights],
        losses=last.losses,
    )
    return joined, _Joined(stores)


class _Joined:
    """The chunks of one store, or two, for sealing."""

    def __init__(self, stores: list[ContentStore]) -> None:
        self._stores = stores

    def raw_chunk(self, chunk: tuple[int, int, int], what: str) -> bytes:
        offset, size, mask = chunk
        return self._stores[bool(mask & _SECOND)].raw_chunk((offset, size, mask & ~_SECOND), what)


__all__ = ["seal_side"]
