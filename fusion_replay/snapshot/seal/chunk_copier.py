# SPDX-License-Identifier: Apache-2.0
"""Contents and tables into the HDF5 file of a snapshot: chunks that stay where they are, chunks that are copied."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot.encodings.chunks import Encoder, Layout
from fusion_replay.snapshot.read.store import ChunkSource
from fusion_replay.snapshot.schema import (
    CHUNKED,
    CHUNKS,
    DELTA,
    IN_CHUNKS,
    MAX_PIECE,
    SKIP_SHUFFLE,
    SKIP_ZSTD,
    Index,
    digest_of,
)
from fusion_replay.snapshot.seal import hdf5
from fusion_replay.snapshot.seal.tree import MAX_STEPS

_RAW = SKIP_SHUFFLE | SKIP_ZSTD


class Copier:
    """Contents and tables into the HDF5 file, noting where their chunks come to lie.

    Where no tree links to single tensors, those of one chunk are stacked: one dataset per element type and shape with
    a chunk for each, since a dataset each would take longer than all the rest.

    Attributes:
        contents, chunks: the tables as the sealed file has them.
    """

    def __init__(self, part: hdf5.PartFile, root: Any, index: Index, store: ChunkSource, *, in_place: bool) -> None:
        self.contents = index.contents.copy()
        encoding = self.contents["encoding"]
        self.contents["n_chunks"] = np.where(encoding == CHUNKED, self.contents["n_chunks"], encoding == DELTA)
        counts = self.contents["n_chunks"].astype(np.uint64)
        self.contents["first_chunk"] = np.cumsum(counts) - counts
        self.chunks = np.zeros(int(counts.sum()), CHUNKS)
        self._part = part
        self._parent = hdf5.group(root, "contents")
        self._index = index
        self._store = store
        self._in_place = in_place
        self._encoder = Encoder()
        self._patches = _Patches(part, root, self._encoder)
        self._heights = self._count_stacks() if len(index.steps) > MAX_STEPS else {}
        self._stacks: dict[tuple[str, tuple[int, ...]], list[Any]] = {}
        self._open: dict[int, tuple[Any, list[tuple[int, ...]]]] = {}
        self._taken: set[str] = set()
        self._datasets: list[tuple[str, tuple[int, ...]] | None] = [None] * len(self.contents)

    def copy_all(self) -> list[tuple[str, tuple[int, ...]] | None]:
        """Path and shape of the dataset that each row of the contents table has for itself."""
        kept = np.flatnonzero(self.contents["encoding"] == CHUNKED).tolist()
        left: dict[int, list[tuple[int, tuple[int, int, int]]]] = {}
        if self._in_place:
            left = {row: list(enumerate(self._store.chunks_of(row).tolist())) for row in kept}
            self._place_all(left)
        for row in kept:
            # Asked for one content at a time: a store may decode it when asked.
            for piece, chunk in left.pop(row) if self._in_place else enumerate(self._store.chunks_of(row).tolist()):
                self._write(row, piece, chunk)
            self._dataset(row)  # a tensor without elements has no chunk that asks for it
            self._open.pop(row)
        for row in np.flatnonzero(self.contents["encoding"] == DELTA).tolist():
            self._patches.add(self._store.patch(row, "a patch"), int(self.contents["first_chunk"][row]), self.chunks)
        self._patches.flush(self.chunks)
        return self._datasets

    def _place_all(self, left: dict[int, list[tuple[int, tuple[int, int, int]]]]) -> None:
        """Those chunks that stay where they are, in the order in which they lie there: HDF5 hands out space so."""
        placed = [(c[0], row, piece, c) for row, cs in left.items() for piece, c in cs if c[2] & IN_CHUNKS]
        for row in {row for _, row, _, _ in placed}:
            left[row] = [(piece, c) for piece, c in left[row] if not c[2] & IN_CHUNKS]
        remaining = Counter(row for _, row, _, _ in placed)
        for offset, row, piece, (_, size, mask) in sorted(placed):
            dataset, places = self._dataset(row)
            self._part.place_chunk(dataset, places[piece], offset, size, mask & _RAW)
            self._note(row, piece, offset, size, mask & _RAW)
            remaining[row] -= 1
            if not remaining[row] and not left[row]:
                self._open[row] = None, []  # an open dataset costs memory

    def _write(self, row: int, piece: int, chunk: tuple[int, int, int]) -> None:
        """One chunk from the journal or a spill slot, compressed if it is not yet."""
        dataset, places = self._dataset(row)
        data, mask = self._store.raw_chunk(chunk, "a tensor"), chunk[2] & _RAW
        if mask == _RAW and not chunk[2] & IN_CHUNKS:
            layout, itemsize = self._store.layout_of(row)
            raw = np.frombuffer(data, np.uint8)
            data, mask = self._encoder.encode(raw, layout.piece_bytes, itemsize, self._kind(row))
        self._note(row, piece, self._part.write_chunk(dataset, places[piece], data, mask), len(data), mask)

    def _note(self, row: int, piece: int, offset: int, size: int, mask: int) -> None:
        self.chunks[int(self.contents["first_chunk"][row]) + piece] = offset, size, mask

    def _kind(self, row: int) -> tuple[str, tuple[int, ...]]:
        return self.contents["dtype"][row].decode(), self._index.shapes[row] or (1,)

    def _count_stacks(self) -> dict[tuple[str, tuple[int, ...]], int]:
        """How many tensors go on the stack of each element type and shape."""
        alone = (self.contents["encoding"] == CHUNKED) & (self.contents["n_chunks"] == 1)
        return Counter(self._kind(row) for row in np.flatnonzero(alone).tolist())

    def _dataset(self, row: int) -> tuple[Any, list[tuple[int, ...]]]:
        """The dataset of a content and where in it each of its pieces goes; made when first asked for."""
        made = self._open.get(row)
        if made is None:
            kind = self._kind(row)
            self.contents["shape"][row] = "x".join(map(str, kind[1])).encode()
            stacked = kind in self._heights and int(self.contents["n_chunks"][row]) == 1
            made = self._open[row] = self._stack(row, *kind) if stacked else self._own(row, *kind)
        return made

    def _stack(self, row: int, dtype: str, shape: tuple[int, ...]) -> tuple[Any, list[tuple[int, ...]]]:
        stack = self._stacks.get((dtype, shape))
        if stack is None:
            name = f"{dtype}_{'x'.join(map(str, shape))}"
            size = (self._heights[dtype, shape], *shape)
            made = hdf5.chunked(self._parent, name, hdf5.element_type(dtype), size, (1, *shape))
            stack = self._stacks[dtype, shape] = [made, 0]
        place = int(stack[1])
        stack[1] += 1
        self.contents["place"][row] = place
        return stack[0], [(place,) + (0,) * len(shape)]

    def _own(self, row: int, dtype: str, shape: tuple[int, ...]) -> tuple[Any, list[tuple[int, ...]]]:
        name = self.contents["digest"][row].decode()
        if name in self._taken:  # the same bytes under another element type
            name = f"{name}_{dtype}"
        self._taken.add(name)
        self._datasets[row] = f"/contents/{name}", shape
        element = hdf5.element_type(dtype)
        layout = Layout.of(shape, DTYPE_BYTES[dtype])
        if layout.nbytes == 0:
            return hdf5.contiguous(self._parent, name, element, None, shape), []
        dataset = hdf5.chunked(self._parent, name, element, shape, layout.chunk_shape)
        return dataset, _coordinates(shape, layout.chunk_shape)

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

    def add(self, patch: bytes, row: int, chunks: npt.NDArray[Any]) -> None:
        """Note the patch's place in ``row`` of the table of chunks, once its pack is full, or flushed."""
        data, mask = self._encoder.encode(np.frombuffer(patch, np.uint8), len(patch), 1)
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
