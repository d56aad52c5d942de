# SPDX-License-Identifier: Apache-2.0
"""Packed: small contents of one element type and shape behind each other in one chunk, compressed together.

A chunk for each would cost HDF5, zstd and whoever reads them more than their bytes do.

Tested in tests/snapshot/encodings/test_packed.py.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot.encodings.chunks import decode
from fusion_replay.snapshot.encodings.link import Bytes, Store
from fusion_replay.snapshot.schema import MAX_PIECE, Index

PACK = 1 << 18  # bytes of a pack: from here on each byte plane of 16-bit elements gets a block of zstd to itself
PACKED_BELOW = 1 << 16  # bytes of a content; weights, which side files hold, are no smaller
_HELD = 16  # decoded packs: a step reads and writes contents of several shapes


def height(count: int, nbytes: int) -> int:
    """How many of ``count`` contents of ``nbytes`` each go into a pack: as many in each, so that little is padding."""
    packs = -(-count // (PACK // nbytes))
    return -(-count // packs)


class Packs:
    """The packs decoded last, of one file; safe to use from several threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[int, int], Bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, store: Store, row: int, what: str) -> Bytes:
        """The pack that holds the content in this row of the contents table."""
        content = store.index.contents[row]
        itemsize = DTYPE_BYTES[content["dtype"].decode("ascii")]
        key = int(content["first_chunk"]), itemsize
        with self._lock:
            pack = self._held.get(key)
            if pack is not None:
                self._held.move_to_end(key)
                return pack
        pack = np.empty(int(content["extent"]), np.uint8)
        chunk, mask = store.chunk(row, what)
        decode(chunk, mask, pack, pack.size, itemsize, what)
        with self._lock:
            self._held[key] = pack
            if len(self._held) > _HELD:
                self._held.popitem(last=False)
        return pack


def check(index: Index, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_]]:
    """By what is wrong: which of these rows."""
    contents = index.contents[rows]
    start, size, nbytes = contents["source"], contents["extent"], contents["nbytes"]
    wrong = (nbytes == 0) | (size == 0) | (size > MAX_PIECE) | (start >= size)
    unit = np.maximum(nbytes, 1)  # all in a pack are of one size: ends at whole multiples lie inside, and are aligned
    wrong |= (start % unit != 0) | (size % unit != 0)
    return {"a place outside its pack": wrong}


def read(store: Store, row: int, what: str) -> Bytes:
    content = store.index.contents[row]
    start, nbytes = int(content["source"]), int(content["nbytes"])
    out = store.empty(nbytes)
    out[:] = store.pack(row, what)[start : start + nbytes]
    return out


__all__ = ["PACKED_BELOW", "Packs", "check", "height", "read"]
