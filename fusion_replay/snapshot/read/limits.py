# SPDX-License-Identifier: Apache-2.0
"""Checks the sizes and places that a snapshot's tables claim, before anything is read or allocated by them.

Tested in tests/hostile/test_made_to_hurt.py.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.errors import HostileFileError
from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot.schema import (
    DELTA,
    DIGEST_ONLY,
    IN_CHUNKS,
    IN_SPILL,
    MAX_CHUNK,
    MAX_CONTENT,
    MAX_PIECE,
    SIDE,
    Index,
)


def check_contents(index: Index, file_size: int, name: str) -> None:
    """Refuse contents and chunks that can't be, before any is read. Columns at a time: there may be 100,000s.

    Raises:
        HostileFileError: sizes beyond the limits, chunks outside the file.
    """
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
    # nbytes is below MAX_CONTENT where it counts, so nothing here wraps around.
    count = nbytes // per_row * ((row + per_piece - 1) // per_piece)
    want = np.where(bare | empty, 0, np.where(encoding == DELTA, 1, count))
    end = contents["first_chunk"] + contents["n_chunks"]
    checks = {
        "an element type or a digest that is none": (itemsize == 0) | (np.char.str_len(contents["digest"]) != 32),
        "an encoding that is not known here; upgrade fusion-replay": (encoding > SIDE) & ~bare,
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
