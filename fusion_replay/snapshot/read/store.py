# SPDX-License-Identifier: Apache-2.0
"""Tensors out of a sealed file or a journal: read chunk by chunk with ``pread``, verified, kept in a bounded cache.

HDF5 takes no part: the chunks' places are in our own table, so a hostile or damaged file can't reach its parser, and
nothing converts a number on the way.

Tested in tests/snapshot/test_roundtrip.py and read/test_shared_decoding.py.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import DamagedSnapshotError, SnapshotError
from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot import schema
from fusion_replay.snapshot.encodings import registry
from fusion_replay.snapshot.encodings.chunks import Layout, decode
from fusion_replay.snapshot.encodings.packed import Packs
from fusion_replay.snapshot.read.decoding import Decoding
from fusion_replay.snapshot.schema import (
    DIGEST_ONLY,
    IN_CHUNKS,
    IN_SPILL,
    MAX_CHUNK,
    Index,
    digest_of,
)
from fusion_replay.system import platform

if TYPE_CHECKING:
    from fusion_replay.snapshot.encodings.side_file import NeededWeights

Bytes = npt.NDArray[np.uint8]

NOT_KEPT = "were not kept"
DEFAULT_CACHE = 512 << 20  # bytes of decoded tensors
CHECKING_CACHE = 64 << 20  # where each tensor is read once: only for those that others are made of
SHARED_FROM = 64  # pieces (1 MiB): from here on a second thread takes part in decoding a content
_TORN = "the file ends inside one of its chunks"


def _fresh(nbytes: int) -> Bytes:
    return np.empty(nbytes, np.uint8)


class ChunkSource(Protocol):
    """Chunks as they lie in a file, not decoded, for sealing another one: rows of the table that is sealed."""

    def raw_chunk(self, chunk: tuple[int, int, int], what: str) -> bytes: ...


class ContentStore:
    """Decoded contents by row of the contents table; safe to use from several threads.

    ``relocate`` (journals that are still being written) looks where the chunks are now: a spill slot may have been
    used again between the scan and the read.
    """

    def __init__(
        self,
        index: Index,
        file: BinaryIO,
        spill: BinaryIO | None = None,
        chunks: BinaryIO | None = None,
        *,
        cache_bytes: int = DEFAULT_CACHE,
        relocate: Callable[[], Index] | None = None,
        side: NeededWeights | None = None,
        elsewhere: Callable[[int], Bytes | None] | None = None,
        empty: Callable[[int], Bytes] = _fresh,
    ) -> None:
        self._index = index
        self._file = file
        self._spill = spill
        self._chunks = chunks
        self._relocate = relocate
        self.side = side
        """Where weights are that the snapshot leaves to a side file."""
        self._budget = cache_bytes
        self._held = 0
        self._cache: OrderedDict[int, Bytes] = OrderedDict()
        self._elsewhere = elsewhere
        self._empty = empty
        self._lock = threading.Lock()
        self._packs = Packs()

    def apart(self, held: Callable[[int], Bytes | None], budget: int, empty: Callable[[int], Bytes]) -> ContentStore:
        """Another store of the same files, for a caller that caches contents itself: ``held(row)`` has them.

        Its cache keeps only what contents that others are made of need. That and what this store has cached, which
        it still finds, are ``budget`` bytes at most. ``empty`` gives the memory to decode into. The files stay this
        store's to close.
        """
        with self._lock:
            self._shrink(budget)
            left = budget - self._held

        def at_hand(row: int) -> Bytes | None:
            found = held(row)
            return self.at_hand(row) if found is None else found

        return ContentStore(
            self._index,
            self._file,
            self._spill,
            self._chunks,
            cache_bytes=left,
            relocate=self._relocate,
            side=self.side,
            elsewhere=at_hand,
            empty=empty,
        )

    @property
    def index(self) -> Index:
        return self._index

    def kept(self, row: int) -> bool:
        """Whether the bytes are at hand: in the snapshot, or in a side file that is here."""
        encoding = int(self._index.contents["encoding"][row])
        return encoding != DIGEST_ONLY and (encoding != schema.SIDE or self._side_has(row))

    def absent(self, row: int) -> str:
        """Why the bytes are not at hand, as it follows "its contents"."""
        aside = self.side is not None and int(self._index.contents["encoding"][row]) == schema.SIDE
        return self.side.reason if aside and self.side is not None else NOT_KEPT

    def _side_has(self, row: int) -> bool:
        return self.side is not None and self.side.has(self._key(row))

    def _key(self, row: int) -> tuple[str, str]:
        content = self._index.contents[row]
        return content["digest"].decode("ascii"), content["dtype"].decode("ascii")

    @property
    def budget(self) -> int:
        """Bytes of decoded tensors kept, at most."""
        return self._budget

    def read(self, row: int, what: str, *, keep: bool = True) -> Bytes:
        """The raw bytes of content ``row``, read-only; ``what`` names the tensor in messages.

        ``keep=False`` is for a caller that caches contents itself: this cache is asked but not filled.

        Raises:
            SnapshotError: only the digest was kept.
            DamagedSnapshotError: the bytes don't give the digest under which they were stored.
        """
        held = self.at_hand(row)
        if held is not None:
            return held
        data = self._read_verified(row, what)
        if not keep:
            return data
        with self._lock:
            if row not in self._cache and data.nbytes <= self._budget:
                self._cache[row] = data
                self._held += data.nbytes
                self._shrink(self._budget)
        return data

    def begin(self, row: int, what: str) -> Decoding | None:
        """Content ``row`` for several threads to decode together; nothing is read or allocated yet.

        None: one thread had better :meth:`read` it, since it is at hand, in one piece, or made of other contents.
        """
        content = self._index.contents[row]
        cut = int(content["encoding"]) == schema.CHUNKED and int(content["n_chunks"]) > 1
        if not cut or self.at_hand(row) is not None:
            return None
        layout, fill = self._pieces(row, what)
        return Decoding(list(layout.spans()), lambda: self._empty(layout.nbytes), fill)

    def finish(self, row: int, decoding: Decoding, what: str) -> Bytes:
        """What was begun, as :meth:`read` gives it, by all threads that call this together.

        Raises:
            DamagedSnapshotError: :meth:`read` may still succeed, which looks where a journal's chunks are now.
        """
        return self._verified(row, *decoding.result(), what)

    def at_hand(self, row: int) -> Bytes | None:
        """Content ``row`` where it is decoded already."""
        with self._lock:
            held = self._cache.get(row)
            if held is not None:
                self._cache.move_to_end(row)
                return held
        return None if self._elsewhere is None else self._elsewhere(row)

    def _shrink(self, budget: int) -> None:
        while self._held > budget:
            self._held -= self._cache.popitem(last=False)[1].nbytes

    def chunks_of(self, row: int) -> npt.NDArray[Any]:
        """The rows of the chunk table that make up content ``row``."""
        content = self._index.contents[row]
        first = int(content["first_chunk"])
        return self._index.chunks[first : first + int(content["n_chunks"])]

    def layout_of(self, row: int) -> tuple[Layout, int]:
        """How content ``row`` is cut, and the bytes of one element."""
        content = self._index.contents[row]
        layout = Layout(int(content["nbytes"]), int(content["row_bytes"]), int(content["piece_bytes"]))
        return layout, DTYPE_BYTES[content["dtype"].decode("ascii")]

    def raw_chunk(self, chunk: tuple[int, int, int], what: str) -> bytes:
        """The bytes of one chunk (a row of the chunk table) as stored."""
        offset, size, mask = chunk
        data = platform.read_at(self._descriptor(mask, what), size, offset)
        if len(data) != size:
            raise DamagedSnapshotError(f"{what}: {_TORN}")
        return data

    def _chunk_here(self, chunk: tuple[int, int, int], what: str) -> memoryview:
        """The same until this thread reads its next: always in one place, which costs half of reading into new ones."""
        offset, size, mask = chunk
        place = _place()[:size]
        if platform.read_into(self._descriptor(mask, what), place, offset) != size:
            raise DamagedSnapshotError(f"{what}: {_TORN}")
        return place

    def _descriptor(self, mask: int, what: str) -> int:
        """Of the file that a chunk lies in."""
        file = self._spill if mask & IN_SPILL else self._chunks if mask & IN_CHUNKS else self._file
        if file is None:
            which = "spill file" if mask & IN_SPILL else "file of chunks"
            raise DamagedSnapshotError(f"{what}: the {which} that holds its bytes is missing beside the journal")
        return file.fileno()

    def close(self) -> None:
        for file in (self._file, self._spill, self._chunks):
            if file is not None:
                file.close()
        if self.side is not None:
            self.side.close()
        with self._lock:
            self._cache.clear()
            self._held = 0

    def _read_verified(self, row: int, what: str) -> Bytes:
        try:
            return self._decode(row, what)
        except DamagedSnapshotError:
            if self._relocate is None:
                raise
        fresh = self._relocate()
        digests = {digest: number for number, digest in enumerate(fresh.contents["digest"].tolist())}
        source = digests.get(self._index.contents["digest"][row])
        if source is None:
            raise DamagedSnapshotError(f"{what}: its contents are no longer in the journal")
        return ContentStore(fresh, self._file, self._spill, self._chunks, cache_bytes=0, side=self.side)._decode(
            source, what
        )

    def _decode(self, row: int, what: str) -> Bytes:
        encoding = int(self._index.contents["encoding"][row])
        if encoding == schema.CHUNKED:
            return self._verified(row, *self._from_chunks(row, what), what)
        if encoding == schema.SIDE and self.side is not None:
            out = self.side.read(self._key(row), what)
        elif (made := registry.read(self, row, what)) is not None:
            out = made
        else:
            raise SnapshotError(f"{what}: its contents were not kept, only their digest; see the losses in `show`")
        return self._verified(row, out, digest_of(out), what)

    def _verified(self, row: int, out: Bytes, digest: bytes, what: str) -> Bytes:
        content = self._index.contents[row]
        if out.size != int(content["nbytes"]) or digest.hex().encode() != content["digest"]:
            raise DamagedSnapshotError(f"{what}: its contents disagree with their digest {content['digest'].decode()}")
        out.flags.writeable = False
        return out

    def _from_chunks(self, row: int, what: str) -> tuple[Bytes, bytes]:
        """The content and its digest."""
        decoding = self.begin(row, what)
        if decoding is None:
            layout, fill = self._pieces(row, what)
            out = self._empty(layout.nbytes)
            if out.size:
                fill(0, out)
            return out, digest_of(out)
        if int(self._index.contents["n_chunks"][row]) >= SHARED_FROM:  # reading, zstd and numpy let go of Python's lock
            with suppress(RuntimeError):  # no more threads: this one does it all
                _helper().submit(_help, weakref.ref(decoding))
        return decoding.result()

    def _pieces(self, row: int, what: str) -> tuple[Layout, Callable[[int, Bytes], None]]:
        """How it is cut, and what decodes the piece of a number into its place."""
        layout, itemsize = self.layout_of(row)
        chunks = self.chunks_of(row).tolist()

        def fill(number: int, out: Bytes) -> None:
            chunk = chunks[number]
            decode(self._chunk_here(chunk, what), chunk[2], out, layout.piece_bytes, itemsize, what)

        return layout, fill

    def chunk(self, row: int, what: str) -> tuple[bytes, int]:
        """The only chunk of content ``row`` as stored, and its filter mask."""
        (chunk,) = self.chunks_of(row).tolist()
        return self.raw_chunk(chunk, what), chunk[2]

    def pack(self, row: int, what: str) -> Bytes:
        """The decoded chunk that content ``row`` shares with others."""
        return self._packs.get(self, row, what)

    def empty(self, nbytes: int) -> Bytes:
        """Memory to decode into."""
        return self._empty(nbytes)


_per_thread = threading.local()


def _place() -> memoryview:
    """Where this thread reads chunks to."""
    place: memoryview | None = getattr(_per_thread, "place", None)
    if place is None:
        place = _per_thread.place = memoryview(bytearray(MAX_CHUNK))
    return place


def _help(decoding: weakref.ref[Decoding]) -> None:
    """Take part, unless it is done and gone by now: what waits here for a thread keeps no contents."""
    if (there := decoding()) is not None:
        there.work()


@cache
def _helper() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "decode")
