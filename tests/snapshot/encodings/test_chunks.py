# SPDX-License-Identifier: Apache-2.0
"""Cutting, shuffling, compressing: against loops written out and HDF5's own rule for chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_replay.errors import DamagedSnapshotError, HostileFileError
from fusion_replay.snapshot.encodings.chunks import Encoder, Layout, decode, decompress, shuffle, unshuffle
from fusion_replay.snapshot.schema import MAX_CONTENT, MAX_PIECE, SKIP_SHUFFLE, SKIP_ZSTD

SHAPES = st.lists(st.sampled_from([1, 2, 3, 7, 64, 1000, 4096, 65537, 1_100_000]), min_size=0, max_size=4).filter(
    lambda s: math.prod(s) < 1 << 27
)


@given(SHAPES, st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=2 * settings().max_examples, deadline=None)
def test_pieces_partition_the_tensor_and_are_hdf5_chunks(shape: list[int], itemsize: int) -> None:
    layout = Layout.of(tuple(shape), itemsize)
    full = tuple(shape) or (1,)
    assert layout.nbytes == math.prod(full) * itemsize
    assert len(layout.chunk_shape) == len(full)
    assert math.prod(layout.chunk_shape) * itemsize == layout.piece_bytes <= MAX_PIECE
    assert layout.count == math.prod(-(-n // c) for n, c in zip(full, layout.chunk_shape, strict=True))
    position = count = 0
    for start, stop in layout.spans():
        assert start == position
        assert 0 < stop - start <= layout.piece_bytes
        position, count = stop, count + 1
    assert (position, count) == (layout.nbytes, layout.count)
    layout.check(itemsize, "x")


def test_pieces_are_what_hdf5_puts_into_a_chunk() -> None:
    # A row longer than a piece: HDF5's chunk (0, j) of (3, 700_001) must hold exactly span j of row 0.
    data = np.arange(3 * 700_001, dtype=np.uint32).reshape(3, 700_001)
    layout = Layout.of(data.shape, 4)
    one, length = layout.chunk_shape
    assert one == 1
    spans = list(layout.spans())
    columns = range(0, data.shape[1], length)
    places = [(row, column) for row in range(3) for column in columns]
    for (row, column), (start, stop) in zip(places, spans, strict=True):
        assert data[row, column : column + length].tobytes() == data.tobytes()[start:stop]


def test_nothing_has_no_pieces() -> None:
    layout = Layout.of((0, 4), 4)
    assert (layout.nbytes, layout.count, list(layout.spans())) == (0, 0, [])
    layout.check(4, "x")


@pytest.mark.parametrize(
    "layout",
    [
        Layout(MAX_CONTENT + 2, 2, 2),
        Layout(16, 16, 0),
        Layout(16, 0, 16),
        Layout(16, 16, MAX_PIECE * 2),
        Layout(16, 32, 16),
        Layout(16, 8, 16),
        Layout(16, 12, 12),
        Layout(15, 15, 15),
        Layout(16, 16, 3),
        Layout(0, 4, 4),
    ],
)
def test_impossible_layouts_are_refused(layout: Layout) -> None:
    with pytest.raises(HostileFileError, match="thing"):
        layout.check(2, "thing")


@pytest.mark.parametrize("itemsize", [1, 2, 3, 4, 8, 46])
def test_shuffle_is_hdf5s(itemsize: int) -> None:
    data = np.random.default_rng(itemsize).integers(0, 256, 50 * itemsize, dtype=np.uint8)
    by_hand = [data[element * itemsize + byte] for byte in range(itemsize) for element in range(50)]
    shuffled = np.empty_like(data)
    shuffle(data, itemsize, shuffled)
    assert shuffled.tolist() == by_hand
    out = np.empty(30 * itemsize, np.uint8)
    unshuffle(shuffled, itemsize, out)  # the padding is left out
    assert out.tolist() == data[: 30 * itemsize].tolist()


@given(st.binary(min_size=2, max_size=5000), st.sampled_from([1, 2, 4]), st.integers(0, 64))
@settings(deadline=None)
def test_whatever_goes_in_comes_out(data: bytes, itemsize: int, padding: int) -> None:
    piece = np.frombuffer(data[: len(data) // itemsize * itemsize], np.uint8)
    if not piece.size:
        return
    piece_bytes = piece.size + padding * itemsize
    chunk, mask = Encoder().encode(piece, piece_bytes, itemsize)
    assert len(chunk) <= piece_bytes
    out = np.empty(piece.size, np.uint8)
    decode(chunk, mask, out, piece_bytes, itemsize, "x")
    assert out.tobytes() == piece.tobytes()


def test_noise_is_stored_as_it_is_and_floats_shrink() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 1 << 16, dtype=np.uint8)
    assert Encoder().encode(noise, noise.size, 1) == (noise.tobytes(), SKIP_SHUFFLE | SKIP_ZSTD)
    floats = rng.standard_normal(1 << 18).astype(np.float32).view(np.uint16)[1::2].copy().view(np.uint8)
    chunk, mask = Encoder().encode(floats, floats.size, 2)
    assert mask == 0
    assert len(chunk) < 0.75 * floats.size  # gaussian bf16 came to 1/1.48 in the measurements


def test_long_repeats_fall_back_to_the_stock_parameters() -> None:
    row = np.random.default_rng(1).integers(0, 256, 1 << 17, dtype=np.uint8)
    repeated = np.tile(row, 8)
    memory: dict = {}
    chunk, _ = Encoder(memory).encode(repeated, repeated.size, 2, "kv")
    assert len(chunk) < 1.2 * row.size
    assert memory["kv"] != "shuffled"


def test_a_chunk_that_claims_another_size_is_refused_before_it_is_decompressed() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    assert len(bomb) < 1 << 14
    with pytest.raises(HostileFileError, match="y: a chunk claims another size than the 64 bytes"):
        decompress(bomb, 64, "y")
    without_size = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64))
    with pytest.raises(HostileFileError):
        decompress(without_size, 64, "y")


@pytest.mark.parametrize("garbage", [b"", b"\x28\xb5\x2f\xfd", b"nonsense at all", b"\0" * 40])
def test_garbage_is_damage(garbage: bytes) -> None:
    with pytest.raises(DamagedSnapshotError):
        decode(garbage, 0, np.empty(64, np.uint8), 64, 2, "y")


def test_a_short_raw_chunk_is_damage() -> None:
    with pytest.raises(DamagedSnapshotError, match="7 bytes, expected 64"):
        decode(b"1234567", SKIP_SHUFFLE | SKIP_ZSTD, np.empty(60, np.uint8), 64, 2, "y")


def test_a_frame_may_not_ask_for_a_large_window() -> None:
    """128 MiB of memory for a frame of 64 bytes, one byte of which is missing: zstd would stream it."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0b1000_0000, (27 - 10) << 3]) + (64).to_bytes(4, "little")
    block = (64 << 3 | 1).to_bytes(3, "little") + bytes(range(64))
    out = np.empty(64, np.uint8)
    decode(header + block, SKIP_SHUFFLE, out, 64, 1, "y")
    assert out.tolist() == list(range(64))
    with pytest.raises(DamagedSnapshotError, match=r"y: a compressed chunk can't be read .*memory"):
        decode(header + block[:-1], SKIP_SHUFFLE, out, 64, 1, "y")
