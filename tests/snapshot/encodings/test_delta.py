# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_replay.errors import HostileFileError
from fusion_replay.snapshot.encodings.delta import BLOCK, apply_patch, changed_blocks, make_patch


@given(
    size=st.integers(1, 5 * BLOCK + 7),
    places=st.lists(st.integers(0, 5 * BLOCK + 6), max_size=12),
    seed=st.integers(0, 9),
)
def test_a_patch_gives_the_new_version(size: int, places: list[int], seed: int) -> None:
    old = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    new = old.copy()
    for place in places:
        new[place % size] ^= 1 + place % 255
    blocks = changed_blocks(old, new, 10)
    assert blocks is not None
    differing = [
        i for i in range(-(-size // BLOCK)) if bytes(old[i * BLOCK :][:BLOCK]) != bytes(new[i * BLOCK :][:BLOCK])
    ]
    assert blocks.tolist() == differing
    patched = old.copy()
    apply_patch(patched, make_patch(old, new, blocks), "t")
    assert bytes(patched) == bytes(new)


def test_too_much_changed_is_no_patch() -> None:
    old = np.zeros(600 * BLOCK, np.uint8)
    assert changed_blocks(old, old + 1, 599) is None
    assert len(changed_blocks(old, old + 1, 600)) == 600  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "patch",
    [
        b"",
        b"\1\0",
        struct.pack("<I", 1),
        struct.pack("<I", 2**32 - 1),
        struct.pack("<II", 1, 3) + bytes(BLOCK),  # outside
        struct.pack("<II", 1, 0) + bytes(BLOCK - 1),
        struct.pack("<II", 1, 0) + bytes(BLOCK + 1),
        struct.pack("<II", 1, 2) + bytes(BLOCK),  # the last block is shorter
        struct.pack("<III", 2, 1, 0) + bytes(2 * BLOCK),  # out of order
        struct.pack("<III", 2, 1, 1) + bytes(2 * BLOCK),
        struct.pack("<IIIII", 4, 0, 1, 2, 3) + bytes(4 * BLOCK),
    ],
)
def test_impossible_patches_are_refused(patch: bytes) -> None:
    with pytest.raises(HostileFileError):
        apply_patch(np.zeros(2 * BLOCK + 5, np.uint8), patch, "t")
