# SPDX-License-Identifier: Apache-2.0
"""From journal to sealed file: copy the compressed chunks into HDF5, write tables and tree, then digest the whole.

The file grows as ``NAME.h5.part``; only when it is complete and on the disk does it get its name, and only then do
journal and spill go. Whatever fails before leaves the journal as it was.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion_replay.errors import FusionReplayError, SnapshotError, TargetExistsError, UnsealedError
from fusion_replay.model import DTYPE_BYTES
from fusion_replay.snapshot import hdf5, journal
from fusion_replay.snapshot.codec import Encoder, Layout
from fusion_replay.snapshot.describe import dump_json, sequence_to_json
from fusion_replay.snapshot.schema import (
    CHUNKED,
    CHUNKS,
    DELTA,
    DIGEST_ONLY,
    FORMAT_MAJOR,
    FORMAT_MINOR,
    IN_SPILL,
    MAX_PIECE,
    PART_SUFFIX,
    SKIP_SHUFFLE,
    SKIP_ZSTD,
    TABLES,
    USER_BLOCK,
    Index,
    Loss,
    UserBlock,
    body_digest,
    digest_of,
)
from fusion_replay.snapshot.store import CHECKING_CACHE, ContentStore
from fusion_replay.snapshot.target import IfExists, beside, publish, remove_working_files
from fusion_replay.snapshot.tree import MAX_STEPS, Tree

_RAW = SKIP_SHUFFLE | SKIP_ZSTD


@dataclass(frozen=True, slots=True)
class Sealed:
    """The file that sealing made; sizes in bytes."""

    path: Path
    steps: int
    invocations: int
    file_bytes: int
    losses: tuple[Loss, ...]


def seal(
    journal_path: Path,
    target: Path,
    if_exists: IfExists = "error",
    *,
    unwritten: Sequence[Loss] = (),
    verify: bool = False,
) -> Sealed:
    """Make ``target`` of the journal, then remove the journal. The caller holds the journal's lock.

    Args:
        unwritten: losses that found no room in the journal.
        verify: decode every tensor first; what disagrees with its digest is counted as a loss (recovery).

    Raises:
        UnsealedError: it could not be written; the journal is kept.
        TargetExistsError: ``target`` exists; the journal is kept.
    """
    part = beside(target, PART_SUFFIX)
    try:
        file, spill, summary = journal.open_journal(journal_path)
        index = summary.index()
        store = ContentStore(index, file, spill, cache_bytes=CHECKING_CACHE if verify else 0)
        try:
            if verify:
                _drop_damaged(index, store)
            index.losses = _merged((*index.losses, *unwritten, *_damage_as_losses(summary.damaged)))
            _require_space(part, index)
            size = write_sealed(part, index, store)
        finally:
            store.close()
        path = publish(part, target, if_exists)
    except TargetExistsError as error:
        raise TargetExistsError(
            f"{error} The recording is kept in {journal_path}; move {target} away and run "
            f"`fusion-replay fsck --recover {target}`"
        ) from error
    except FusionReplayError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # h5py reports a full disk as any of them
        raise UnsealedError(
            f"{target}: could not be sealed ({_reason(error)}); everything recorded is kept in {journal_path}: "
            f"make room, then run `fusion-replay fsck --recover {target}`"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    remove_working_files(target)
    return Sealed(path, len(index.steps), len(index.invocations), size, index.losses)


def _reason(error: Exception) -> str:
    """One line; HDF5 wraps the system's own words into several."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    inner = re.search(r"error message = '([^']*)'", text)
    return inner[1] if inner else " ".join(text.split())


def write_sealed(path: Path, index: Index, store: ContentStore) -> int:
    """The whole sealed file at ``path``, which has not got its name yet; its length in bytes.

    Raises:
        OSError, RuntimeError, ValueError: what HDF5 makes of a full disk.
    """
    part = hdf5.PartFile(path)
    try:
        file = hdf5.create(part)
        try:
            directory, offset = _fill(file, part, index, store)
        finally:
            file.close()
        part.check()
        return _finish(part.fd, directory, offset)
    finally:
        part.close()


def _fill(file: Any, part: hdf5.PartFile, index: Index, store: ContentStore) -> tuple[bytes, int]:
    """Contents, tree, tables, directory into the HDF5 file; the directory and its place."""
    root = hdf5.root_group(file)
    hdf5.attribute(root, "format", f"fusion-replay snapshot {FORMAT_MAJOR}.{FORMAT_MINOR}")
    copier = _Copier(part, file, index, store)
    datasets = copier.copy_all()
    Tree(root, index, store, datasets).write()
    tables = hdf5.group(root, "index")
    entries: dict[str, Any] = {}
    for name in TABLES:
        rows = getattr(index, name) if name != "chunks" else np.array(copier.chunks, CHUNKS)
        entries[name] = copier.table(tables, name, rows)
    texts = {
        "sequences": [sequence_to_json(s) for s in index.sequences],
        "details": index.details,
        "losses": [loss.to_dict() for loss in index.losses],
        "provenance": index.provenance,
    }
    if index.binaries:
        texts["binaries"] = index.binaries
    for name, data in texts.items():
        entries[name] = copier.text(tables, name, dump_json(data))
    directory = dump_json({"format": [FORMAT_MAJOR, FORMAT_MINOR], "recording": index.recording, "tables": entries})
    line = np.array([directory], dtype=f"S{len(directory)}")
    made = hdf5.contiguous(tables, "directory", hdf5.text_type(len(directory)), line, (1,))
    return directory, int(made.get_offset())


def _finish(fd: int, directory: bytes, offset: int) -> int:
    """Digest the HDF5 part, write the user block, bring it all to the disk; the file's length."""
    length = os.fstat(fd).st_size
    # Older HDF5 counts from the end of the user block.
    at = next((o for o in (offset, offset + USER_BLOCK) if os.pread(fd, len(directory), o) == directory), None)
    if at is None:
        raise OSError(errno.EIO, "HDF5 put the directory elsewhere than it said")
    block = UserBlock(length, body_digest(fd, length), at, len(directory), digest_of(directory))
    os.pwrite(fd, block.pack(), 0)
    os.fsync(fd)
    return length


class _Copier:
    """Contents and tables into the HDF5 file, noting where their chunks come to lie.

    Where no tree links to single tensors, those of one chunk are stacked: one dataset per element type and shape with
    a chunk for each, since a dataset each would take longer than all the rest.
    """

    def __init__(self, part: hdf5.PartFile, root: Any, index: Index, store: ContentStore) -> None:
        self.chunks: list[tuple[int, int, int]] = []
        self._part = part
        self._root = root
        self._index = index
        self._store = store
        self._encoder = Encoder()
        self._stacked = len(index.steps) > MAX_STEPS
        self._stacks: dict[tuple[str, tuple[int, ...]], Any] = {}
        self._patches = _Patches(part, root, self._encoder)

    def copy_all(self) -> list[tuple[str, tuple[int, ...]] | None]:
        """Path and shape of the dataset that each row of the contents table has for itself."""
        parent = hdf5.group(self._root, "contents")
        taken: set[str] = set()
        datasets: list[tuple[str, tuple[int, ...]] | None] = []
        heights = self._heights()
        for row, content in enumerate(self._index.contents):
            place = len(self.chunks)
            found = None
            if int(content["encoding"]) == DELTA:
                self._patches.add(self._store.patch(row, "a patch"), self.chunks)
            elif int(content["encoding"]) == CHUNKED:
                dtype, shape = content["dtype"].decode(), self._index.shapes[row] or (1,)
                content["shape"] = "x".join(map(str, shape)).encode()
                if (dtype, shape) in heights:
                    content["place"] = self._stack(parent, row, dtype, shape, heights[dtype, shape])
                else:
                    name = content["digest"].decode()
                    if name in taken:  # the same bytes under another element type
                        name = f"{name}_{dtype}"
                    taken.add(name)
                    found = self._content(parent, name, row, dtype, shape)
            content["first_chunk"] = place
            content["n_chunks"] = 1 if int(content["encoding"]) == DELTA else len(self.chunks) - place
            datasets.append(found)
        self._patches.flush(self.chunks)
        return datasets

    def _heights(self) -> dict[tuple[str, tuple[int, ...]], int]:
        """How many tensors go on the stack of each element type and shape."""
        heights: dict[tuple[str, tuple[int, ...]], int] = {}
        if self._stacked:
            for row, content in enumerate(self._index.contents):
                if int(content["encoding"]) == CHUNKED and int(content["n_chunks"]) == 1:
                    key = content["dtype"].decode(), self._index.shapes[row] or (1,)
                    heights[key] = heights.get(key, 0) + 1
        return heights

    def _stack(self, parent: Any, row: int, dtype: str, shape: tuple[int, ...], height: int) -> int:
        """Put content ``row`` on its stack; its place there."""
        stack = self._stacks.get((dtype, shape))
        if stack is None:
            name = f"{dtype}_{'x'.join(map(str, shape))}"
            made = hdf5.chunked(parent, name, hdf5.element_type(dtype), (height, *shape), (1, *shape))
            stack = self._stacks[dtype, shape] = [made, 0]
        place = int(stack[1])
        stack[1] += 1
        ((data, mask),) = self._chunks_of(row, dtype, shape)
        offset = self._part.write_chunk(stack[0], (place,) + (0,) * len(shape), data, mask)
        self.chunks.append((offset, len(data), mask))
        return place

    def _content(self, parent: Any, name: str, row: int, dtype: str, shape: tuple[int, ...]) -> tuple[str, Any]:
        kind = hdf5.element_type(dtype)
        layout = Layout.of(shape, DTYPE_BYTES[dtype])
        if layout.nbytes == 0:
            hdf5.contiguous(parent, name, kind, None, shape)
        else:
            dataset = hdf5.chunked(parent, name, kind, shape, layout.chunk_shape)
            places = _coordinates(shape, layout.chunk_shape)
            for place, (data, mask) in zip(places, self._chunks_of(row, dtype, shape), strict=True):
                self.chunks.append((self._part.write_chunk(dataset, place, data, mask), len(data), mask))
        return f"/contents/{name}", shape

    def _chunks_of(self, row: int, dtype: str, shape: tuple[int, ...]) -> Iterator[tuple[bytes, int]]:
        """Compressed chunks of a content with their filter masks; what is still raw in the journal is compressed."""
        layout, itemsize = self._store.layout_of(row)
        for chunk in self._store.chunks_of(row).tolist():
            data, mask = self._store.raw_chunk(chunk, "a tensor"), chunk[2]
            if mask & _RAW == _RAW:
                raw = np.frombuffer(data, np.uint8)
                data, mask = self._encoder.encode(raw, layout.piece_bytes, itemsize, (dtype, shape))
            yield data, mask

    def table(self, parent: Any, name: str, rows: Any) -> dict[str, Any]:
        """Store a compound table as one chunk; its directory entry."""
        columns = [[n, rows.dtype[n].str] for n in rows.dtype.names]
        entry = self._single(parent, name, hdf5.table_type(rows.dtype), rows.view(np.uint8).reshape(-1), len(rows))
        return {**entry, "columns": columns}

    def text(self, parent: Any, name: str, text: bytes) -> dict[str, Any]:
        """Store a JSON text as one string; its directory entry."""
        return self._single(parent, name, hdf5.text_type(len(text)), np.frombuffer(text, np.uint8), 1)

    def _single(self, parent: Any, name: str, kind: Any, data: Any, rows: int) -> dict[str, Any]:
        entry = {"offset": 0, "size": 0, "rows": rows, "itemsize": int(kind.get_size()), "mask": 0, "digest": ""}
        if rows == 0:
            hdf5.contiguous(parent, name, kind, None, (0,))
            return entry
        # One element has nothing to shuffle: HDF5 leaves it as it is, and so must the encoder.
        chunk, mask = self._encoder.encode(data, data.size, 1 if rows == 1 else data.size // rows)
        dataset = hdf5.chunked(parent, name, kind, (rows,), (rows,))
        offset = self._part.write_chunk(dataset, (0,), chunk, mask)
        return {**entry, "offset": offset, "size": len(chunk), "mask": mask, "digest": digest_of(chunk).hex()}


class _Patches:
    """Compressed patches, packed into datasets of up to 1 MiB: one each would cost more than the patch."""

    _NOTE = (
        "differences between versions of a tensor, readable by fusion-replay alone: "
        "`fusion-replay export --as plain-h5` writes every tensor whole"
    )

    def __init__(self, part: hdf5.PartFile, root: Any, encoder: Encoder) -> None:
        self._part = part
        self._root = root
        self._encoder = encoder
        self._group: Any = None
        self._packed = 0
        self._waiting: list[tuple[int, bytes, int]] = []
        self._bytes = 0

    def add(self, patch: bytes, chunks: list[tuple[int, int, int]]) -> None:
        """Append the row of the chunk table; its offset is right once the pack is full, or flushed."""
        data, mask = self._encoder.encode(np.frombuffer(patch, np.uint8), len(patch), 1)
        if self._bytes + len(data) > MAX_PIECE:
            self.flush(chunks)
        self._waiting.append((len(chunks), data, mask))
        self._bytes += len(data)
        chunks.append((0, len(data), mask))

    def flush(self, chunks: list[tuple[int, int, int]]) -> None:
        if not self._waiting:
            return
        if self._group is None:
            self._group = hdf5.group(self._root, "patches")
            hdf5.attribute(self._group, "note", self._NOTE)
        pack = b"".join(data for _, data, _ in self._waiting)
        shape = (len(pack),)
        dataset = hdf5.chunked(self._group, f"{self._packed:06d}", hdf5.element_type("uint8"), shape, shape)
        offset = self._part.write_chunk(dataset, (0,), pack, _RAW)
        for row, data, mask in self._waiting:
            chunks[row] = (offset, len(data), mask)
            offset += len(data)
        self._packed += 1
        self._waiting, self._bytes = [], 0


def _coordinates(shape: tuple[int, ...], chunk: tuple[int, ...]) -> list[tuple[int, ...]]:
    counts = (-(-n // c) for n, c in zip(shape, chunk, strict=True))
    return [tuple(i * c for i, c in zip(place, chunk, strict=True)) for place in np.ndindex(*counts)]


def _drop_damaged(index: Index, store: ContentStore) -> None:
    damaged = 0
    for row, content in enumerate(index.contents):
        if int(content["encoding"]) == DIGEST_ONLY:
            continue
        try:
            store.read(row, "content")
        except SnapshotError:  # or made of one of those
            content["encoding"], content["n_chunks"] = DIGEST_ONLY, 0
            damaged += 1
    if damaged:
        index.losses = (
            *index.losses,
            Loss("contents", "tensors damaged in the journal; their digests are kept", damaged),
        )


def _damage_as_losses(damaged: Sequence[str]) -> list[Loss]:
    return [Loss("journal", entry) for entry in damaged]


def _merged(losses: Sequence[Loss]) -> tuple[Loss, ...]:
    counts: dict[tuple[str, str], int] = {}
    for loss in losses:
        counts[loss.kind, loss.detail] = counts.get((loss.kind, loss.detail), 0) + loss.count
    return tuple(Loss(kind, detail, count) for (kind, detail), count in counts.items())


def _require_space(part: Path, index: Index) -> None:
    """Fail before half of it is written."""
    in_spill = (index.chunks["mask"] & IN_SPILL) != 0
    needed = int(index.chunks["size"].sum()) + 512 * len(index.contents) + 64 * len(index.steps) + (1 << 16)
    stat = os.statvfs(part.parent)
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed} bytes needed, {free} free, {int(in_spill.sum())} pieces uncompressed")
