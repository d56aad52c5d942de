# SPDX-License-Identifier: Apache-2.0
"""Bytes of a tensor to compressed chunks and back: byte shuffle and zstd, exactly as HDF5's filters 2 and 32015 do.

A content is cut along its shape into *pieces* of at most 1 MiB, each of which is one HDF5 chunk: rows of ``row_bytes``,
each split into pieces of ``piece_bytes``; the last piece of a row is padded with zeros, as HDF5 wants whole chunks.

Level 1 with a tiny hash table (``hash_log=6, min_match=7``) after the shuffle is faster and smaller than any stock
level on floats: what other levels find in noise are spurious matches. It misses true long repeats, so one piece of
every kind of tensor is tried with the stock parameters too.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zstandard

from fusion_replay.errors import DamagedSnapshotError, HostileFileError
from fusion_replay.snapshot.schema import MAX_CONTENT, MAX_PIECE, SKIP_SHUFFLE, SKIP_ZSTD

Bytes = npt.NDArray[np.uint8]
Buffer = bytes | memoryview
Way = Literal["shuffled", "stock", "plain"]

_PROBE_FROM = 1 << 17  # bytes; below, a second try costs more than it saves
_WINDOW = 1 << 23  # bytes that a frame may make zstd allocate beside its content; what every decoder should offer
_STOCK_MUST_SAVE = 0.97  # stock parameters take twice the time: only for something in return


@dataclass(frozen=True, slots=True)
class Layout:
    """How a content of ``nbytes`` is cut: rows of ``row_bytes``, each in pieces of ``piece_bytes``."""

    nbytes: int
    row_bytes: int
    piece_bytes: int
    chunk_shape: tuple[int, ...] = ()

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, shape: tuple[int, ...], itemsize: int) -> Layout:
        """The layout for a tensor of ``shape`` (elements), pieces as near to 1 MiB as whole sub-arrays allow."""
        shape = shape or (1,)
        nbytes = math.prod(shape) * itemsize
        if nbytes == 0:
            return cls(0, 0, 0, shape)
        axis = next(k for k in range(len(shape)) if math.prod(shape[k + 1 :]) * itemsize <= MAX_PIECE)
        inner = math.prod(shape[axis + 1 :]) * itemsize
        pieces = -(-shape[axis] // (MAX_PIECE // inner))
        length = -(-shape[axis] // pieces)  # balanced, so that the padding stays small
        chunk = (1,) * axis + (length,) + shape[axis + 1 :]
        return cls(nbytes, shape[axis] * inner, length * inner, chunk)

    @property
    def per_row(self) -> int:
        return -(-self.row_bytes // self.piece_bytes) if self.piece_bytes else 0

    @property
    def count(self) -> int:
        """Number of pieces."""
        return self.nbytes // self.row_bytes * self.per_row if self.row_bytes else 0

    def spans(self) -> Iterator[tuple[int, int]]:
        """``(start, stop)`` in bytes of every piece, in order, padding left out."""
        for row in range(0, self.nbytes, self.row_bytes or 1):
            for start in range(row, row + self.row_bytes, self.piece_bytes):
                yield start, min(start + self.piece_bytes, row + self.row_bytes)

    def check(self, itemsize: int, what: str) -> None:
        """Refuse impossible numbers before anyone allocates by them."""
        if self.nbytes > MAX_CONTENT:
            raise HostileFileError(f"{what}: {self.nbytes} bytes claimed; the limit for one tensor is {MAX_CONTENT}")
        if self.nbytes == 0:
            sound = self.row_bytes == 0 and self.piece_bytes == 0
        else:
            sound = (
                0 < self.piece_bytes <= MAX_PIECE
                and 0 < self.row_bytes <= self.nbytes
                and self.piece_bytes <= self.row_bytes
                and not any(n % itemsize for n in (self.nbytes, self.row_bytes, self.piece_bytes))
                and self.nbytes % self.row_bytes == 0
            )
        if not sound:
            raise HostileFileError(
                f"{what}: {self.nbytes} bytes in rows of {self.row_bytes} and pieces of "
                f"{self.piece_bytes} make no tensor of {itemsize}-byte elements"
            )


class Encoder:
    """Compresses pieces; one per thread. ``memory`` of which way won is shared between the encoders of a writer.

    It shuffles into a buffer of its own: fresh pages for every piece cost as much as the shuffle.
    """

    def __init__(self, memory: dict[Any, Way] | None = None) -> None:
        small_hash = zstandard.ZstdCompressionParameters.from_level(1, hash_log=6, min_match=7, write_content_size=1)
        self._fast = zstandard.ZstdCompressor(compression_params=small_hash)
        self._stock = zstandard.ZstdCompressor(level=1)
        self._memory: dict[Any, Way] = {} if memory is None else memory
        self._scratch = np.empty(0, np.uint8)

    def encode(self, piece: Bytes, piece_bytes: int, itemsize: int, kind: Any = None) -> tuple[bytes, int]:
        """``(chunk, filter mask)`` of one piece, zero-padded to ``piece_bytes`` first.

        ``kind`` is what the choice of parameters is remembered by (dtype and shape, say); None: nothing is remembered.
        """
        if piece.size < piece_bytes:
            padded = np.zeros(piece_bytes, np.uint8)
            padded[: piece.size] = piece
            piece = padded
        way = self._memory.get(kind) if kind is not None else None
        if way is not None:
            chunk, mask = self._by(way, piece, itemsize)
        else:
            chunk, mask, way = self._best(piece, itemsize)
            if kind is not None and piece_bytes >= _PROBE_FROM:
                self._memory[kind] = way
        if len(chunk) >= piece.size:
            return piece.tobytes(), SKIP_SHUFFLE | SKIP_ZSTD
        return chunk, mask

    def _best(self, piece: Bytes, itemsize: int) -> tuple[bytes, int, Way]:
        first: Way = "shuffled" if itemsize > 1 else "plain"
        chunk, mask = self._by(first, piece, itemsize)
        way = first
        if piece.size >= _PROBE_FROM:
            others: tuple[Way, ...] = ("stock", "plain") if itemsize > 1 else ()
            for other in others:
                rival, rival_mask = self._by(other, piece, itemsize)
                if len(rival) < len(chunk) * _STOCK_MUST_SAVE:
                    chunk, mask, way = rival, rival_mask, other
        return chunk, mask, way

    def _by(self, way: Way, piece: Bytes, itemsize: int) -> tuple[bytes, int]:
        if way == "plain" or itemsize == 1:
            return self._stock.compress(piece.data), SKIP_SHUFFLE
        if self._scratch.size < piece.size:
            self._scratch = np.empty(max(piece.size, MAX_PIECE), np.uint8)
        shuffled = self._scratch[: piece.size]
        shuffle(piece, itemsize, shuffled)
        return (self._fast if way == "shuffled" else self._stock).compress(shuffled.data), 0


_per_thread = threading.local()


def decode(chunk: Buffer, mask: int, out: Bytes, piece_bytes: int, itemsize: int, what: str) -> None:
    """Undo :meth:`Encoder.encode` into ``out`` (the unpadded piece).

    Raises:
        HostileFileError: the chunk says it holds another number of bytes than ``piece_bytes``.
        DamagedSnapshotError: zstd can't read it. ``what`` names the tensor in the message.
    """
    if mask & SKIP_ZSTD:
        # A raw chunk may come unpadded from the journal.
        if len(chunk) not in (piece_bytes, out.size):
            raise DamagedSnapshotError(f"{what}: a raw chunk has {len(chunk)} bytes, expected {piece_bytes}")
        plain = np.frombuffer(chunk, np.uint8)
    else:
        plain = np.frombuffer(decompress(chunk, piece_bytes, what), np.uint8)
    if mask & SKIP_SHUFFLE or itemsize == 1:
        out[:] = plain[: out.size]
    else:
        unshuffle(plain, itemsize, out)


def decompress(frame: Buffer, nbytes: int, what: str) -> bytes:
    """One zstd frame that must hold exactly ``nbytes``; the size is checked before anything is allocated."""
    try:
        if zstandard.frame_content_size(frame) != nbytes:
            raise HostileFileError(f"{what}: a chunk claims another size than the {nbytes} bytes it should have")
        decompressor = getattr(_per_thread, "decompressor", None)
        if decompressor is None:
            decompressor = _per_thread.decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        data: bytes = decompressor.decompress(frame, max_output_size=nbytes)
    except zstandard.ZstdError as error:
        raise DamagedSnapshotError(f"{what}: a compressed chunk can't be read ({error})") from error
    if len(data) != nbytes:
        raise DamagedSnapshotError(f"{what}: a chunk holds {len(data)} bytes, expected {nbytes}")
    return data


def shuffle(data: Bytes, itemsize: int, out: Bytes) -> None:
    """HDF5's byte shuffle into ``out``: all first bytes of the elements, then all second bytes, ..."""
    if itemsize == 2:
        # Four times as fast as a transposing copy.
        words, half = data.view("<u2"), data.size // 2
        np.copyto(out[:half], words, casting="unsafe")
        np.right_shift(words, 8, out=out[half:], casting="unsafe")
    else:
        out.reshape(itemsize, -1)[:] = data.reshape(-1, itemsize).T


def unshuffle(data: Bytes, itemsize: int, out: Bytes) -> None:
    """Undo :func:`shuffle` into ``out``, which may end before the padding does."""
    planes, elements = data.reshape(itemsize, -1), out.size // itemsize
    if itemsize == 2:
        words = out.view("<u2")
        np.left_shift(planes[1, :elements], 8, out=words, dtype=np.uint16)
        np.bitwise_or(words, planes[0, :elements], out=words)
    else:
        out.reshape(-1, itemsize)[:] = planes[:, :elements].T
