# SPDX-License-Identifier: Apache-2.0
"""Transpose, Repeat, StridedCopy: every bit pattern, against loops over plain integers."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16
CORE = Core("npu1")


def patterns(count: int, seed: int = 0) -> np.ndarray:
    """Random bit patterns, NaN payloads and subnormal numbers among them."""
    return np.random.default_rng(seed).integers(0, 65536, count).astype(np.uint16).view(BF16)


def bits(x: np.ndarray) -> list[int]:
    return x.view(np.uint16).reshape(-1).tolist()


def test_transpose() -> None:
    x = patterns(2 * 6 * 5)
    p = SimpleNamespace(M=6, N=5, num_batches=2)
    (out,) = find_kernel("Transpose").run(Dispatch(CORE, p, [x]))
    assert out.dtype == BF16
    source = bits(x)
    assert bits(out) == [source[b * 30 + i * 5 + j] for b in range(2) for j in range(5) for i in range(6)]


def test_repeat() -> None:
    x = patterns(3 * 4).reshape(3, 4)
    (out,) = find_kernel("Repeat").run(Dispatch(CORE, SimpleNamespace(rows=3, cols=4, repeat=3), [x]))
    assert out.shape == (9, 4)
    assert bits(out) == [v for row in x for _ in range(3) for v in bits(row.copy())]


def test_other_element_types_pass() -> None:
    x = np.arange(12, dtype=np.int32)
    (out,) = find_kernel("Transpose").run(Dispatch(CORE, SimpleNamespace(M=3, N=4), [x]))
    assert (out.dtype, out.reshape(-1).tolist()) == (np.int32, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])


def walk(sizes: list[int], strides: list[int], offset: int) -> list[int]:
    return [offset + sum(i * s for i, s in zip(index, strides, strict=True)) for index in np.ndindex(*sizes)]


def copy_by_hand(
    p: SimpleNamespace, source: list[int], old: list[int], shift_in: int = 0, shift_out: int = 0
) -> list[int]:
    new = list(old)
    for channel in range(p.num_aie_channels):

        def one_channel(sizes, strides, offset, channel=channel) -> list[int]:
            share = sizes[-1] // p.num_aie_channels
            return walk([*sizes[:-1], share], strides, offset + channel * share * strides[-1])

        reads = one_channel(p.input_sizes, p.input_strides, p.input_offset + shift_in)
        writes = one_channel(p.output_sizes, p.output_strides, p.output_offset + shift_out)
        for r, w in zip(reads, writes, strict=True):
            new[w] = source[r]
    return new


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize(("shift_in", "shift_out"), [(0, 0), (2, 24)])
def test_strided_copy_into_a_cache(channels: int, shift_in: int, shift_out: int) -> None:
    p = SimpleNamespace(
        input_sizes=[3, 8],
        input_strides=[8, 1],
        input_offset=1,
        output_sizes=[1, 3, 8],
        output_strides=[0, 40, 1],
        output_offset=5,
        num_aie_channels=channels,
    )
    x, old = patterns(32, 1), patterns(200, 2).reshape(1, 200)
    before = old.copy()
    values = {"input_offset": shift_in, "output_offset": shift_out}
    (out,) = find_kernel("StridedCopy").run(Dispatch(CORE, p, [x], [old], values))
    assert out.shape == old.shape
    assert bits(out) == copy_by_hand(p, bits(x), bits(old), shift_in, shift_out)
    assert bits(old) == bits(before)  # the old contents are an input, not a place to write


def test_channels_change_the_walk_when_the_two_sides_differ() -> None:
    """Each channel copies its share of the innermost dimension of both sides: rows of 4 into columns of 4."""
    p = SimpleNamespace(
        input_sizes=[4, 4],
        input_strides=[4, 1],
        input_offset=0,
        output_sizes=[2, 8],
        output_strides=[8, 1],
        output_offset=0,
        num_aie_channels=2,
    )
    x = np.arange(16).astype(np.uint16).view(BF16)
    (out,) = find_kernel("StridedCopy").run(Dispatch(CORE, p, [x], [np.zeros(16, BF16)]))
    assert bits(out) == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    p.num_aie_channels = 1
    (out,) = find_kernel("StridedCopy").run(Dispatch(CORE, p, [x], [np.zeros(16, BF16)]))
    assert bits(out) == list(range(16))


@pytest.mark.parametrize(("side", "values"), [("output", {"output_offset": 9}), ("input", {"input_offset": -1})])
def test_walks_beyond_a_buffer_are_refused(side: str, values: dict[str, int]) -> None:
    p = SimpleNamespace(
        input_sizes=[8], input_strides=[1], input_offset=0, output_sizes=[8], output_strides=[1], output_offset=0
    )
    with pytest.raises(UsageError, match=f"StridedCopy: {side} walk=.*{side} buffer's 16 elements"):
        find_kernel("StridedCopy").run(Dispatch(CORE, p, [patterns(16)], [patterns(16)], values))


def test_mem_copy() -> None:
    x = patterns(777)
    (out,) = find_kernel("MemCopy").run(Dispatch(CORE, SimpleNamespace(size=777), [x]))
    assert bits(out) == bits(x)
    assert out is not x


WALK = {"offset": 5, "sizes": [3, 8], "strides": [40, 1], "bounded": None}


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_copy_by_its_walks(channels: int) -> None:
    p = SimpleNamespace(src=None, dst=WALK, input_buffer_size=24, output_buffer_size=200, num_channels=channels)
    by_hand = SimpleNamespace(
        input_sizes=[24], input_strides=[1], input_offset=0, output_sizes=[3, 8], output_strides=[40, 1],
        output_offset=5, num_aie_channels=channels,
    )  # fmt: skip
    x, old = patterns(24, 1), patterns(200, 2)
    (out,) = find_kernel("Copy").run(Dispatch(CORE, p, [x], [old], {"out_offset": 24}))
    assert bits(out) == copy_by_hand(by_hand, bits(x), bits(old), 0, 24)
    p.dst = SimpleNamespace(**WALK)  # IRON's own object has the same attributes
    (same,) = find_kernel("Copy").run(Dispatch(CORE, p, [x], [old], {"out_offset": 24}))
    assert bits(same) == bits(out)


def test_copy_of_as_many_rows_as_a_dispatch_says() -> None:
    bounded = {"offset": 0, "sizes": [4, 8], "strides": [8, 1], "bounded": 0}
    p = SimpleNamespace(src=bounded, dst={**bounded, "offset": 8}, input_buffer_size=32, output_buffer_size=40)
    x, old = patterns(32, 1), patterns(40, 2)
    (out,) = find_kernel("Copy").run(Dispatch(CORE, p, [x], [old], {"src_valid": 2, "dst_valid": 2}))
    assert bits(out) == [*bits(old[:8]), *bits(x[:16]), *bits(old[24:])]
    p.src = None
    with pytest.raises(UsageError, match="Copy: dst_valid=9: expected no value"):
        find_kernel("Copy").run(
            Dispatch(CORE, SimpleNamespace(**{**vars(p), "dst": WALK}), [x], [old], {"dst_valid": 9})
        )


def test_no_rounding_state_matters() -> None:
    for op, mode in itertools.product(
        ("Transpose", "Repeat", "StridedCopy", "Copy", "MemCopy"), ("floor", "conv_even")
    ):
        assert "every rounding state" in find_kernel(op).rounding_note(SimpleNamespace(), Core("npu2", mode))
