# SPDX-License-Identifier: Apache-2.0
"""Copy against nested loops, runtime offsets and bounds, and walks no DMA can take (StridedCopy's too)."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf16_oracle import array, raw_bits
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import reference


def _visited(walk: dict[str, Any], channels: int, runtime: int = 0) -> list[list[int]]:
    """Flat element numbers, channel by channel."""
    sizes, strides = list(walk["sizes"]), list(walk["strides"])
    share = sizes[-1] // channels
    found = []
    for c in range(channels):
        ranges = [range(n) for n in (*sizes[:-1], share)]
        start = walk["offset"] + runtime + c * share * strides[-1]
        found.append(
            [start + sum(i * s for i, s in zip(at, strides, strict=True)) for at in itertools.product(*ranges)]
        )
    return found


@st.composite
def copies(draw: st.DrawFn) -> tuple[dict[str, Any], int, int]:
    """Parameters of a copy whose output walk is nested, and two runtime offsets."""
    channels = draw(st.sampled_from([1, 2, 3]))
    inner, outer = channels * draw(st.integers(1, 4)), draw(st.integers(1, 4))
    row = inner + draw(st.integers(0, 3))
    dst = {"offset": draw(st.integers(0, 4)), "sizes": [outer, inner], "strides": [row, 1], "bounded": None}
    if draw(st.booleans()):
        src = {"offset": 1, "sizes": [outer, inner], "strides": [1, outer], "bounded": None}  # transposed
    else:
        src = {"offset": 0, "sizes": [outer, inner], "strides": [0, 1], "bounded": None}  # one row again and again
    runtime_in, runtime_out = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    params = {
        "src": src,
        "dst": dst,
        "input_buffer_size": 1 + outer * inner + runtime_in,
        "output_buffer_size": dst["offset"] + outer * row + runtime_out,
        "num_channels": channels,
    }
    return params, runtime_in, runtime_out


@given(copies())
def test_gathers_and_scatters_channel_by_channel(drawn: tuple[dict[str, Any], int, int]) -> None:
    params, runtime_in, runtime_out = drawn
    x = array(np.arange(1, params["input_buffer_size"] + 1))
    old = array(np.arange(0x7F81, 0x7F81 + params["output_buffer_size"]))  # NaNs: payloads must survive
    want = raw_bits(old)
    channels = params["num_channels"]
    for take, put in zip(
        _visited(params["src"], channels, runtime_in), _visited(params["dst"], channels, runtime_out), strict=True
    ):
        for i, j in zip(take, put, strict=True):
            want[j] = i + 1
    values = {"in_offset": runtime_in, "out_offset": runtime_out}
    for flavour in FLAVOURS:
        (c,) = reference("Copy", params, [x], flavour, previous=old, values=values)
        assert raw_bits(c).tolist() == want.tolist()
    assert raw_bits(old)[0] == 0x7F81


def test_the_whole_buffer_where_no_walk_is_given() -> None:
    (c,) = reference("Copy", {"input_buffer_size": 4}, [array([1, 2, 3, 4])], previous=array([9] * 4))
    assert raw_bits(c).tolist() == [1, 2, 3, 4]


def test_walks_as_objects() -> None:
    walk = SimpleNamespace(offset=1, sizes=(2,), strides=(2,), bounded=None)
    params = {"input_buffer_size": 2, "output_buffer_size": 4, "dst": walk}
    (c,) = reference("Copy", params, [array([1, 2])], previous=array([9] * 4))
    assert raw_bits(c).tolist() == [9, 1, 9, 2]


def test_a_bound_shortens_both_walks() -> None:
    walk = {"offset": 0, "sizes": [4, 2], "strides": [2, 1], "bounded": 0}
    params = {"input_buffer_size": 8, "output_buffer_size": 8, "src": walk, "dst": walk}
    given_ = {"previous": array([9] * 8), "values": {"src_valid": 3, "dst_valid": 3}}
    (c,) = reference("Copy", params, [array(np.arange(1, 9))], **given_)
    assert raw_bits(c).tolist() == [1, 2, 3, 4, 5, 6, 9, 9]
    with pytest.raises(UsageError, match="dst: expected 6 elements, as this dispatch's src moves, found 8"):
        reference("Copy", params, [array(np.arange(8))], previous=array([9] * 8), values={"src_valid": 3})
    with pytest.raises(UsageError, match="runtime value src_valid 5: expected 1 to 4"):
        reference("Copy", params, [array(np.arange(8))], previous=array([9] * 8), values={"src_valid": 5})
    unbounded = params | {"src": walk | {"bounded": None}}
    with pytest.raises(UsageError, match="src has no bounded dimension"):
        reference("Copy", unbounded, [array(np.arange(8))], previous=array([9] * 8), values={"src_valid": 3})


def _walk(**changes: Any) -> dict[str, Any]:
    return {"offset": 0, "sizes": [2, 2], "strides": [2, 1], "bounded": None} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dst": _walk(strides=[-2, 1], offset=2)}, r"dst.strides \(-2, 1\): expected none below 0"),
        ({"src": _walk(strides=[-2, 1], offset=2)}, r"src.strides \(-2, 1\): expected none below 0"),
        (
            {"dst": _walk(strides=[1, 1])},
            r"dst.sizes \(2, 2\), dst.strides \(1, 1\): expected no element written twice",
        ),
        ({"dst": _walk(strides=[0, 1])}, "expected no element written twice"),
        ({"dst": _walk(offset=3)}, "the output walk: expected elements within a buffer of 4, found 3 to 6"),
        (
            {"src": _walk(sizes=[2, 3])},
            r"dst.sizes \(2, 2\): expected 6 elements, as src.sizes \(2, 3\) walks,.* 4",
        ),
        ({"src": _walk(strides=[1])}, r"src.strides \(1,\): expected 2, as src.sizes has, found 1"),
        ({"num_channels": 4}, r"src.sizes \(2, 2\): expected a last dimension that num_channels divides, found 4"),
        ({"src": "<Walk>"}, "src '<Walk>': expected a walk with offset, sizes and strides"),
    ],
)
def test_walks_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    params = {"input_buffer_size": 4, "output_buffer_size": 4, "src": _walk(), "dst": _walk()} | changes
    with pytest.raises(UsageError, match=f"Copy: .*{words}" if not words.startswith("the") else words):
        reference("Copy", params, [array([1, 2, 3, 4])], previous=array([9] * 4))


def test_overlaps_that_only_counting_finds() -> None:
    walk = {"offset": 0, "sizes": [2, 3], "strides": [3, 2], "bounded": None}  # 0 2 4 and 3 5 7: no element twice
    params = {"input_buffer_size": 6, "output_buffer_size": 8, "dst": walk, "src": _walk(sizes=[2, 3], strides=[3, 1])}
    (c,) = reference("Copy", params, [array([1, 2, 3, 4, 5, 6])], previous=array([9] * 8))
    assert raw_bits(c).tolist() == [1, 9, 2, 4, 3, 5, 9, 6]
    clashing = params | {"dst": walk | {"strides": [2, 2]}}
    with pytest.raises(UsageError, match="written twice"):
        reference("Copy", clashing, [array([1, 2, 3, 4, 5, 6])], previous=array([9] * 8))


def _strided(**changes: Any) -> dict[str, Any]:
    sides = {"input": (4, 1), "output": (8, 1)}
    params: dict[str, Any] = {}
    for side, strides in sides.items():
        params |= {f"{side}_sizes": (2, 4), f"{side}_strides": strides, f"{side}_offset": 0, f"{side}_buffer_size": 16}
    return params | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"output_strides": (-8, 1), "output_offset": 8},
            r"StridedCopy: output_strides \(-8, 1\): expected none below",
        ),
        ({"output_strides": (2, 1)}, r"StridedCopy: output_sizes .* expected no element written twice"),
    ],
)
def test_strided_copy_refuses_the_same_walks(changes: dict[str, Any], words: str) -> None:
    x = array(np.arange(16))
    with pytest.raises(UsageError, match=words):
        reference("StridedCopy", _strided(**changes), [x], previous=x)


def test_a_named_offset_must_be_given() -> None:
    x = array(np.arange(16))
    params = _strided(output_offset_parameter="cache_offset")
    with pytest.raises(MissingError, match=r"StridedCopy: runtime value output_offset \(symbol 'cache_offset'\)"):
        reference("StridedCopy", params, [x], previous=x)
    (by_symbol,) = reference("StridedCopy", params, [x], previous=x, values={"cache_offset": 4})
    (by_name,) = reference("StridedCopy", params, [x], previous=x, values={"output_offset": 4})
    assert raw_bits(by_symbol).tolist() == raw_bits(by_name).tolist()
    with pytest.raises(
        MissingError, match=r"Softmax: runtime value vector_size \(symbol 'length'\) is needed, found no"
    ):
        reference("Softmax", {"rows": 1, "cols": 16, "vector_size_parameter": "length"}, [x])
