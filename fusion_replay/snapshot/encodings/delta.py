# SPDX-License-Identifier: Apache-2.0
"""A new version of a buffer as a patch on an earlier one: the 4 KiB blocks that differ, xored with the old ones.

A patch is the number of blocks (u32), their numbers (u32 each, ascending), then their bytes. The last block may be
shorter. Xor leaves zeros where a block did not change inside, and those compress away. A cache that gains one row a
step changes in 0.2 % of its blocks where the heads lie inside a row, in 1 % where each head has rows of its own.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import HostileFileError

Bytes = npt.NDArray[np.uint8]

BLOCK = 1 << 12
_STRETCH = 256  # blocks compared at a time, so that what is compared stays in a core's cache


def changed_blocks(old: Bytes, new: Bytes, limit: int) -> npt.NDArray[np.uint32] | None:
    """Numbers of the blocks that differ; None as soon as they are more than ``limit``."""
    whole = old.size // BLOCK
    left = old[: whole * BLOCK].view(np.uint64).reshape(whole, BLOCK // 8)
    right = new[: whole * BLOCK].view(np.uint64).reshape(whole, BLOCK // 8)
    found: list[npt.NDArray[np.intp]] = []
    count = 0
    for start in range(0, whole, _STRETCH):
        stop = start + _STRETCH
        differ = np.flatnonzero((left[start:stop] != right[start:stop]).any(axis=1))
        count += len(differ)
        if count > limit:
            return None
        found.append(differ + start)
    if not np.array_equal(old[whole * BLOCK :], new[whole * BLOCK :]):
        found.append(np.array([whole]))
    return np.concatenate(found or [np.empty(0, np.intp)]).astype("<u4")


def make_patch(old: Bytes, new: Bytes, blocks: npt.NDArray[np.uint32]) -> bytes:
    """What :func:`apply_patch` needs to turn ``old`` into ``new``."""
    parts = [struct.pack("<I", len(blocks)), blocks.tobytes()]
    for block in blocks.tolist():
        at = slice(block * BLOCK, (block + 1) * BLOCK)
        parts.append((old[at] ^ new[at]).tobytes())
    return b"".join(parts)


def apply_patch(data: Bytes, patch: bytes, what: str) -> None:
    """Turn ``data`` from the old version into the new one, in place.

    Raises:
        HostileFileError: blocks outside the tensor, out of order, or another length than they ask for.
    """
    if len(patch) < 4:
        raise HostileFileError(f"{what}: a patch of {len(patch)} bytes")
    (count,) = struct.unpack_from("<I", patch)
    last = -(-data.size // BLOCK)
    if count > last or 4 + 4 * count > len(patch):
        raise HostileFileError(f"{what}: a patch of {count} blocks on a tensor that has {last}")
    blocks = np.frombuffer(patch, "<u4", count, 4).astype(np.int64)
    if count and (int(blocks[-1]) >= last or (np.diff(blocks) <= 0).any()):
        raise HostileFileError(f"{what}: a patch on blocks that are not there, or out of order")
    short = last * BLOCK - data.size if count and int(blocks[-1]) == last - 1 else 0
    if len(patch) != 4 + 4 * count + count * BLOCK - short:
        raise HostileFileError(f"{what}: a patch of {len(patch)} bytes for {count} blocks")
    at = 4 + 4 * count
    for block in blocks.tolist():
        target = data[block * BLOCK : (block + 1) * BLOCK]
        target ^= np.frombuffer(patch, np.uint8, target.size, at)
        at += target.size


__all__ = ["BLOCK", "apply_patch", "changed_blocks", "make_patch"]
