# SPDX-License-Identifier: Apache-2.0
"""Checks the finished file against what it was made of, before it gets its name and the journal is removed.

Tested in tests/snapshot/test_recover.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fusion_replay.errors import DamagedSnapshotError, SnapshotError, UnsealedError
from fusion_replay.snapshot.describe import dump_json, sequence_to_json
from fusion_replay.snapshot.read.sealed import read_sealed
from fusion_replay.snapshot.schema import CHUNKED, PACKED, Index
from fusion_replay.system.files import regular

Check = Callable[[Path], None]
"""Looks at every bit of a file that has not got its name yet; raises SnapshotError."""

_CONTENTS = ("digest", "dtype", "nbytes", "row_bytes", "piece_bytes", "depth", "mover")
_ENCODED = ("encoding", "source", "extent")


def prove(made: Path, promised: Index, target: Path, check: Check | None) -> None:
    """Open the file and compare it with the tables that it was made of; with ``check``, read the whole of it.

    Raises:
        UnsealedError: it is another; what it was made of is still there.
    """
    try:
        with open(made, "rb", buffering=0, opener=regular) as file:
            _, index = read_sealed(file, made, ours=True)
        for what in _differing(index, promised):
            raise DamagedSnapshotError(f"{what} differ")
        if check is not None:
            check(made)
    except SnapshotError as error:
        raise UnsealedError(
            f"{target}: what was sealed is not what had been recorded ({error}); the recording is kept as it is, "
            f"nothing was removed: try `fusion-replay fsck --recover {target}` again, on another disk if need be"
        ) from error


def _differing(made: Index, promised: Index) -> Iterator[str]:
    for name in ("invocations", "steps", "operands", "parts"):
        if not np.array_equal(getattr(made, name), getattr(promised, name)):
            yield name
    packed = made.contents["encoding"] == PACKED  # which is how sealing keeps what has bytes of its own
    same = all(np.array_equal(made.contents[c], promised.contents[c]) for c in _CONTENTS)
    if not (
        same
        and (promised.contents["encoding"][packed] == CHUNKED).all()
        and all(np.array_equal(made.contents[c][~packed], promised.contents[c][~packed]) for c in _ENCODED)
    ):
        yield "contents"
    for name in ("recording", "details", "provenance", "binaries", "weights"):
        if dump_json(getattr(made, name)) != dump_json(getattr(promised, name)):
            yield name
    if made.losses != promised.losses:
        yield "losses"
    ours, theirs = ([sequence_to_json(sequence) for sequence in i.sequences] for i in (made, promised))
    if dump_json(ours) != dump_json(theirs):
        yield "sequences"


__all__ = ["Check", "prove"]
