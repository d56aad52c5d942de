# SPDX-License-Identifier: Apache-2.0
"""Dequant against a byte-by-byte unpacking, and by hand."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf16_oracle import any_bits, array, bits_of, finite_bits, nearest, value
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import reference


def _unpacked(packed: bytes, size: int, tile: int, group: int) -> list[tuple[int, int]]:
    """(nibble, bits of its scale) of every value."""
    found, nbytes = [], tile // 2 + tile // group * 2
    for i in range(size):
        at = i // tile * nbytes
        byte = packed[at + i % tile // 2]
        (scale,) = struct.unpack_from("<H", packed, at + tile // 2 + 2 * (i % tile // group))
        found.append((byte >> 4 if i % 2 else byte & 15, scale))
    return found


@st.composite
def packings(draw: st.DrawFn, scales: st.SearchStrategy[int] = finite_bits) -> tuple[bytes, int, int, int]:
    group = draw(st.sampled_from([2, 4, 32]))
    tile, tiles = group * draw(st.integers(1, 4)), draw(st.integers(1, 3))
    parts = []
    for _ in range(tiles):
        parts.append(draw(st.binary(min_size=tile // 2, max_size=tile // 2)))
        parts += [struct.pack("<H", draw(scales)) for _ in range(tile // group)]
    return b"".join(parts), tile * tiles, tile, group


@given(packings())
def test_every_value_is_its_nibble_times_its_scale(drawn: tuple[bytes, int, int, int]) -> None:
    packed, size, tile, group = drawn
    params = {"size": size, "tile_size": tile, "group_size": group}
    pairs = _unpacked(packed, size, tile, group)
    (c,) = reference("Dequant", params, [np.frombuffer(packed, np.uint8)])
    want = [nearest(q * value(s), s & 0x8000) for q, s in pairs]
    assert bits_of(c).tolist() == want
    for flavour in FLAVOURS[:3]:  # IRON's forms leave the product in float32
        (c,) = reference("Dequant", params, [np.frombuffer(packed, np.uint8)], flavour)
        assert c.dtype == np.float32
        assert [Fraction(float(v)) for v in c if np.isfinite(v)] == [
            q * value(s) for (q, s), v in zip(pairs, c, strict=True) if np.isfinite(v)
        ]


@given(packings(any_bits))
def test_scales_that_are_no_numbers(drawn: tuple[bytes, int, int, int]) -> None:
    packed, size, tile, group = drawn
    params = {"size": size, "tile_size": tile, "group_size": group}
    (c,) = reference("Dequant", params, [np.frombuffer(packed, np.uint8)])
    with np.errstate(all="ignore"):
        for got, (q, s) in zip(c.astype(np.float64), _unpacked(packed, size, tile, group), strict=True):
            want = np.float64(q) * np.float64(float(value(s)))
            assert np.isnan(got) == np.isnan(want)
            if np.isinf(float(value(s))) and q:
                assert got == want


def test_by_hand() -> None:
    # Two tiles of four values in groups of two: nibbles, low ones first, then the tile's two scales (1, -0.5; 2, 0).
    packed = np.array([0x21, 0x43, 0x80, 0x3F, 0x00, 0xBF, 0x65, 0xF7, 0x00, 0x40, 0x00, 0x00], np.uint8)
    (c,) = reference("Dequant", {"size": 8, "tile_size": 4, "group_size": 2}, [packed])
    assert c.astype(float).tolist() == [1, 2, -1.5, -2, 10, 12, 0, 0]


@pytest.mark.torch
def test_torch_tensors_give_the_same_bits() -> None:
    torch = pytest.importorskip("torch")
    packed = np.random.default_rng(0).integers(0, 256, 4 * 36, dtype=np.uint8)
    params = {"size": 256, "tile_size": 64}
    for flavour in FLAVOURS:
        (mine,) = reference("Dequant", params, [packed], flavour)
        (theirs,) = reference("Dequant", params, [torch.from_numpy(packed)], flavour)
        if flavour == "exact":
            assert bits_of(theirs).tolist() == bits_of(mine).tolist()
        else:
            np.testing.assert_array_equal(theirs.numpy(), mine)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"size": 96, "tile_size": 64}, "size 96: expected a multiple of tile_size, an even number, found 64"),
        ({"size": 64, "tile_size": 64, "group_size": 48}, "tile_size 64: expected a multiple of group_size, found 48"),
        ({"size": 64, "tile_size": 64, "group_size": 0}, "group_size, found 0"),
        ({"size": 64}, "size 64: expected a multiple of tile_size, an even number, found 4096"),
    ],
)
def test_sizes_that_do_not_divide(params: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        reference("Dequant", params, [np.zeros(36, np.uint8)])


def test_nothing_but_bytes() -> None:
    with pytest.raises(UsageError, match="Dequant: argument A needs uint8 elements, found bfloat16"):
        reference("Dequant", {"size": 64, "tile_size": 64}, [array([0] * 36)])
    with pytest.raises(UsageError, match=r"Dequant: argument A needs 36 elements \(36,\), found 35"):
        reference("Dequant", {"size": 64, "tile_size": 64}, [np.zeros(35, np.uint8)])
