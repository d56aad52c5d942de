# SPDX-License-Identifier: Apache-2.0
"""Dequant of the software NPU against a loop over bytes."""

from __future__ import annotations

import math
import struct
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16


def run(core: Core, packed: bytes, **params: int) -> list[float]:
    (out,) = find_kernel("Dequant").run(Dispatch(core, SimpleNamespace(**params), [np.frombuffer(packed, np.uint8)]))
    assert out.dtype == BF16
    return out.reshape(-1).astype(np.float64).tolist()


def packed_by_hand(nibbles: list[int], scale_bits: list[int]) -> bytes:
    pairs = [nibbles[i] | nibbles[i + 1] << 4 for i in range(0, len(nibbles), 2)]
    return bytes(pairs) + b"".join(struct.pack("<H", s) for s in scale_bits)


def stored(x: float, mode: str) -> float:
    if x == 0:
        return 0.0
    ulp = 2.0 ** (math.frexp(x)[1] - 8)
    return (math.floor(x / ulp) if mode == "floor" else round(x / ulp)) * ulp  # round() is half to even


@pytest.mark.parametrize("mode", ["floor", "conv_even"])
@pytest.mark.parametrize("group", [32, 64])
def test_tiles_of_nibbles_and_scales(mode: str, group: int) -> None:
    rng = np.random.default_rng(group)
    tile, tiles = 128, 3
    packed, expected = b"", []
    for _ in range(tiles):
        nibbles = rng.integers(0, 16, tile).tolist()
        scales = rng.uniform(-2, 2, tile // group).astype(np.float32).view(np.uint32) >> 16
        packed += packed_by_hand(nibbles, scales.tolist())
        for i, nibble in enumerate(nibbles):
            scale = struct.unpack("<f", struct.pack("<I", int(scales[i // group]) << 16))[0]
            expected.append(stored(nibble * scale, mode))
    out = run(Core("npu1", mode), packed, size=tile * tiles, tile_size=tile, group_size=group)
    assert out == expected


def test_values_by_hand() -> None:
    """Low nibble first; 15 * 1.0078125 = 15.1171875 lies between 15.0625 and 15.125."""
    packed = bytes([0x10, 0xF2] + [0] * 14) + struct.pack("<H", 0x3F81)
    out = run(Core("npu2"), packed, size=32, tile_size=32, group_size=32)
    assert out[:4] == [0.0, 1.0078125, 2.015625, 15.0625]
    assert run(Core("npu2", "conv_even"), packed, size=32, tile_size=32, group_size=32)[3] == 15.125
    assert find_kernel("Dequant").rounding_note(SimpleNamespace(), Core("npu2", "conv_even"))
