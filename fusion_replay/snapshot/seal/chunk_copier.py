# SPDX-License-Identifier: Apache-2.0
"""Contents and tables into the HDF5 file of a snapshot: chunks that stay where they are, chunks that are copied.

Contents of one element type and shape are one dataset, since a dataset each would take longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot.encodings.chunks import Encoder, Layout, decode
from fusion_replay.snapshot.encodings.packed import PACKED_BELOW, height
from fusion_replay.snapshot.read.store import ChunkSource
from fusion_replay.snapshot.schema import (
    CHUNKED,
    CHUNKS,
    CONTENTS,
    DELTA,
    IN_CHUNKS,
    MAX_PIECE,
    MAX_RANK,
    NO_CONTENT,
    PACKED,
    SKIP_SHUFFLE,
    SKIP_ZSTD,
    Index,
    digest_of,
)
from fusion_replay.snapshot.seal import hdf5

_RAW = SKIP_SHUFFLE | SKIP_ZSTD
_SHAPE_BYTES = CONTENTS["shape"].itemsize


@dataclass(slots=True)
class _Stack:
    """Contents of one element type and shape: those that have chunks of their own, and those that are packed."""

    dtype: str
    shape: tuple[int, ...]
    whole: list[int]
    packed: list[int]
    dataset: Any = None
    coordinates: list[tuple[int, ...]] | None = None

    @property
    def itemsize(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def seen(self) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """The shape that one of them has in HDF5, as text and numbers, and that of a chunk; an axis more has room."""
        layout = Layout.of(self.shape, self.itemsize)
        text = "x".join(map(str, self.shape))
        if len(self.shape) < MAX_RANK and len(text) <= _SHAPE_BYTES:
            return text, self.shape, layout.chunk_shape
        rows, row, piece = layout.nbytes // layout.row_bytes, layout.row_bytes, layout.piece_bytes
        shape, chunk = (rows, row // self.itemsize), (1, piece // self.itemsize)
        return f"{shape[0]}x{shape[1]}_by_{chunk[1]}", shape, chunk


class Copier:
    """Contents and tables into the HDF5 file, noting where their chunks come to lie.

    Attributes:
        contents, chunks: the tables as the sealed file has them.
    """

    def __init__(self, part: hdf5.PartFile, root: Any, index: Index, store: ChunkSource, *, in_place: bool) -> None:
        self.contents = index.contents.copy()
        self.contents["place"] = NO_CONTENT
        self._part = part
        self._root = root
        self._index = index
        self._store = store
        self._in_place = in_place
        self._encoder = Encoder()
        self._stack_of: dict[int, _Stack] = {}
        self._stacks = self._stacked()
        self.chunks = self._numbered()

    def _stacked(self) -> list[_Stack]:
        """Who goes on which stack, in the order of the table; small contents of the journal are packed, two or more."""
        index, stacks = self._index, dict[tuple[str, tuple[int, ...]], _Stack]()
        nbytes, first = self.contents["nbytes"].tolist(), self.contents["first_chunk"].tolist()
        masks = index.chunks["mask"].tolist()
        dtypes = self.contents["dtype"].astype("U").tolist()
        for row in np.flatnonzero((self.contents["encoding"] == CHUNKED) & (self.contents["nbytes"] > 0)).tolist():
            kind = dtypes[row], index.shapes[row] or (1,)
            stack = stacks.get(kind)
            if stack is None:
                stack = stacks[kind] = _Stack(*kind, [], [])
            raw = nbytes[row] < PACKED_BELOW and masks[first[row]] & (_RAW | IN_CHUNKS) == _RAW
            (stack.packed if raw else stack.whole).append(row)
        for stack in stacks.values():
            if len(stack.packed) == 1:
                stack.whole, stack.packed = sorted(stack.whole + stack.packed), []
            for rows in (stack.whole, stack.packed):
                self.contents["shape"][rows] = stack.seen[0].encode()
                self.contents["place"][rows] = np.arange(len(rows))
            self._stack_of.update(dict.fromkeys(stack.whole, stack))
        return list(stacks.values())

    def _numbered(self) -> npt.NDArray[Any]:
        """Who has which rows of the table of chunks, which is empty yet: those of the packs come last."""
        table = self.contents
        encoding = table["encoding"]
        for stack in self._stacks:
            encoding[stack.packed] = PACKED
        own = np.where(encoding == CHUNKED, table["n_chunks"], encoding == DELTA).astype(np.uint64)
        table["n_chunks"], table["first_chunk"] = own, np.cumsum(own) - own
        count = int(own.sum())
        for stack in self._stacks:
            if stack.packed:
                size = int(table["nbytes"][stack.packed[0]])
                per = height(len(stack.packed), size)
                number, at = np.divmod(np.arange(len(stack.packed), dtype=np.uint64), per)
                table["n_chunks"][stack.packed] = 1
                table["first_chunk"][stack.packed] = count + number
                table["source"][stack.packed], table["extent"][stack.packed] = at * size, per * size
                count += int(number[-1]) + 1
        return np.zeros(count, CHUNKS)

    def copy_all(self) -> None:
        """Every content, first those that stay where they are."""
        parent = hdf5.group(self._root, "contents")
        for stack in self._stacks:
            if stack.whole:
                text, shape, chunk = stack.seen
                kind, size = hdf5.element_type(stack.dtype), (len(stack.whole), *shape)
                stack.dataset = hdf5.chunked(parent, f"{stack.dtype}_{text}", kind, size, (1, *chunk))
                stack.coordinates = _coordinates(shape, chunk)
        left = self._place_all() if self._in_place else None
        for row in sorted(self._stack_of):
            for piece, chunk in enumerate(self._chunks_of(row)) if left is None else left[row]:
                self._write(row, piece, chunk)
        self._pack_all()
        patches = _Patches(self._part, self._root, self._encoder)
        for row in np.flatnonzero(self.contents["encoding"] == DELTA).tolist():
            patches.add(self._patch(row), int(self.contents["first_chunk"][row]), self.chunks)
        patches.flush(self.chunks)

    def _place_all(self) -> dict[int, list[tuple[int, tuple[int, int, int]]]]:
        """Those chunks that stay where they are, in the order in which they lie there: HDF5 hands out space so."""
        left = {row: list(enumerate(self._chunks_of(row))) for row in self._stack_of}
        placed = [(c[0], row, piece, c) for row, cs in left.items() for piece, c in cs if c[2] & IN_CHUNKS]
        for row in {row for _, row, _, _ in placed}:
            left[row] = [(piece, c) for piece, c in left[row] if not c[2] & IN_CHUNKS]
        for offset, row, piece, (_, size, mask) in sorted(placed):
            dataset, at = self._at(row, piece)
            self._part.place_chunk(dataset, at, offset, size, mask & _RAW)
            self._note(row, piece, offset, size, mask & _RAW)
        return left

    def _write(self, row: int, piece: int, chunk: tuple[int, int, int]) -> None:
        """One chunk from the journal or a spill slot, compressed if it is not yet."""
        dataset, at = self._at(row, piece)
        data, mask = self._store.raw_chunk(chunk, "a tensor"), chunk[2] & _RAW
        if mask == _RAW and not chunk[2] & IN_CHUNKS:
            stack, piece_bytes = self._stack_of[row], int(self.contents["piece_bytes"][row])
            raw = np.frombuffer(data, np.uint8)
            data, mask = self._encoder.encode(raw, piece_bytes, stack.itemsize, (stack.dtype, stack.shape))
        self._note(row, piece, self._part.write_chunk(dataset, at, data, mask), len(data), mask)

    def _patch(self, row: int) -> npt.NDArray[np.uint8]:
        (chunk,) = self._chunks_of(row)
        patch = np.empty(int(self.contents["extent"][row]), np.uint8)
        decode(self._store.raw_chunk(chunk, "a patch"), chunk[2], patch, patch.size, 1, "a patch")
        return patch

    def _chunks_of(self, row: int) -> list[tuple[int, int, int]]:
        content = self._index.contents[row]
        first = int(content["first_chunk"])
        chunks: list[tuple[int, int, int]] = self._index.chunks[first : first + int(content["n_chunks"])].tolist()
        return chunks

    def _at(self, row: int, piece: int) -> tuple[Any, tuple[int, ...]]:
        """Where in HDF5 a piece of a content goes."""
        stack = self._stack_of[row]
        assert stack.coordinates is not None
        return stack.dataset, (int(self.contents["place"][row]), *stack.coordinates[piece])

    def _note(self, row: int, piece: int, offset: int, size: int, mask: int) -> None:
        self.chunks[int(self.contents["first_chunk"][row]) + piece] = offset, size, mask

    def _pack_all(self) -> None:
        packed = [stack for stack in self._stacks if stack.packed]
        if not packed:
            return
        parent = hdf5.group(self._root, "packed")
        for stack in packed:
            size = int(self.contents["nbytes"][stack.packed[0]])
            per = height(len(stack.packed), size)
            (text, shape, _), kind = stack.seen, hdf5.element_type(stack.dtype)
            whole = (len(stack.packed), *shape)
            dataset = hdf5.chunked(parent, f"{stack.dtype}_{text}", kind, whole, (per, *shape))
            for start in range(0, len(stack.packed), per):
                rows = stack.packed[start : start + per]
                raw = np.frombuffer(b"".join(self._raw(rows)), np.uint8)
                data, mask = self._encoder.encode(raw, per * size, stack.itemsize, (stack.dtype, stack.shape, "packed"))
                offset = self._part.write_chunk(dataset, (start,) + (0,) * len(shape), data, mask)
                self.chunks[int(self.contents["first_chunk"][rows[0]])] = offset, len(data), mask

    def _raw(self, rows: list[int]) -> Iterator[bytes]:
        for chunk in self._index.chunks[self._index.contents["first_chunk"][rows]].tolist():
            yield self._store.raw_chunk(chunk, "a tensor")

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

    def add(self, patch: npt.NDArray[np.uint8], row: int, chunks: npt.NDArray[Any]) -> None:
        """Note the patch's place in ``row`` of the table of chunks, once its pack is full, or flushed."""
        data, mask = self._encoder.encode(patch, len(patch), 1)
        if self._bytes + len(data) > MAX_PIECE:
            self.flush(chunks)
        self._waiting.append((row, data, mask))
        self._bytes += len(data)

    def flush(self, chunks: npt.NDArray[Any]) -> None:
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
            chunks[row] = offset, len(data), mask
            offset += len(data)
        self._packed += 1
        self._waiting, self._bytes = [], 0


def _coordinates(shape: tuple[int, ...], chunk: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The first element of every chunk, in the order of the pieces."""
    if shape == chunk:
        return [(0,) * len(shape)]
    counts = (-(-n // c) for n, c in zip(shape, chunk, strict=True))
    return [tuple(i * c for i, c in zip(place, chunk, strict=True)) for place in np.ndindex(*counts)]
