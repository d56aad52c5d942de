# SPDX-License-Identifier: Apache-2.0
"""Transpose, Repeat and StridedCopy: every bit, NaN payloads included, to its place by plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import array, raw_bits, to_torch
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import find, reference

PAYLOADS = np.arange(0x7F70, 0x7FD0)  # the last finite numbers, Inf, and NaNs with payloads


def patterns(n: int) -> np.ndarray:
    return array(np.resize(np.concatenate([PAYLOADS, PAYLOADS | 0x8000, np.arange(7)]), n))


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
def test_transpose(batches: int, m: int, n: int) -> None:
    x = patterns(batches * m * n)
    flat = raw_bits(x).tolist()
    want = [flat[b * m * n + i * n + j] for b in range(batches) for j in range(n) for i in range(m)]
    for flavour in FLAVOURS:
        (c,) = reference("Transpose", {"M": m, "N": n, "num_batches": batches}, [x], flavour)
        assert c.shape == (batches * m * n,)
        assert raw_bits(c).tolist() == want


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
def test_repeat(rows: int, cols: int, times: int) -> None:
    x = patterns(rows * cols)
    want = [v for row in raw_bits(x).reshape(rows, cols).tolist() for _ in range(times) for v in row]
    for flavour in FLAVOURS:
        (c,) = reference("Repeat", {"rows": rows, "cols": cols, "repeat": times}, [x], flavour)
        assert c.shape == (rows * times, cols)
        assert raw_bits(c).tolist() == want


def test_repeat_of_a_stack_and_of_other_types() -> None:
    (c,) = reference("Repeat", {"rows": 2, "cols": 3, "seq": 4, "repeat": 2}, [patterns(24)])
    assert c.shape == (4, 4, 3)
    x = np.arange(6, dtype=np.int32)
    (c,) = reference("Repeat", {"rows": 2, "cols": 3, "repeat": 2, "dtype": "int32"}, [x])
    assert c.dtype == np.int32
    assert c.tolist() == [[0, 1, 2]] * 2 + [[3, 4, 5]] * 2


def copy_params(**changes: object) -> dict[str, object]:
    return {
        "input_sizes": (2, 3),
        "input_strides": (3, 1),
        "input_offset": 0,
        "output_sizes": (2, 3),
        "output_strides": (8, 1),
        "output_offset": 1,
        "input_buffer_size": 6,
        "output_buffer_size": 16,
    } | changes


def run_copy(x: object, old: object, flavour: str = "exact", values: dict[str, int] | None = None, **changes: object):
    (c,) = reference("StridedCopy", copy_params(**changes), [x], flavour, previous=old, values=values)
    return c


def test_a_copy_keeps_what_it_does_not_touch() -> None:
    x, old = patterns(6), array(np.arange(0x4000, 0x4010))
    before = raw_bits(old).tolist()
    want = list(before)
    want[1:4], want[9:12] = raw_bits(x).tolist()[:3], raw_bits(x).tolist()[3:]
    for flavour in FLAVOURS:
        assert raw_bits(run_copy(x, old, flavour)).tolist() == want
    assert raw_bits(old).tolist() == before  # the old contents were not written through


def test_runtime_offsets_add_to_the_static_ones() -> None:
    x, old = patterns(6), array(np.zeros(16, np.uint16))
    moved = run_copy(x, old, values={"output_offset": 4})
    assert raw_bits(moved).tolist()[5:8] == raw_bits(x).tolist()[:3]
    by_symbol = run_copy(x, old, values={"cache_offset": 4}, output_offset_parameter="cache_offset")
    np.testing.assert_array_equal(raw_bits(by_symbol), raw_bits(moved))
    by_field = run_copy(x, old, output_offset=5)
    np.testing.assert_array_equal(raw_bits(by_field), raw_bits(moved))
    source = run_copy(
        patterns(8), old, values={"input_offset": 2}, input_buffer_size=8, input_offset_parameter="unused"
    )
    assert raw_bits(source).tolist()[1:4] == raw_bits(patterns(8)).tolist()[2:5]


def _loop_copy(p: dict[str, object], x: list[int], old: list[int]) -> list[int]:
    """Channel by channel, four nested loops, as the descriptors walk."""
    new = list(old)
    channels = int(p.get("num_aie_channels", 1))  # type: ignore[call-overload]

    def walk(side: str, channel: int) -> list[int]:
        sizes, strides = list(p[f"{side}_sizes"]), list(p[f"{side}_strides"])  # type: ignore[call-overload]
        share = sizes[-1] // channels
        start = p[f"{side}_offset"] + channel * share * strides[-1]  # type: ignore[operator]
        ranges = [range(n) for n in (*sizes[:-1], share)]
        return [start + sum(i * s for i, s in zip(at, strides, strict=True)) for at in itertools.product(*ranges)]

    for channel in range(channels):
        for source, target in zip(walk("input", channel), walk("output", channel), strict=True):
            new[target] = x[source]
    return new


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize(
    "shapes",
    [
        {"input_sizes": (4, 8), "input_strides": (8, 1), "output_sizes": (4, 8), "output_strides": (10, 1)},
        # Two sides of different shape: split channels do not add up to the whole walk.
        {"input_sizes": (32,), "input_strides": (1,), "output_sizes": (8, 4), "output_strides": (5, 1)},
        {"input_sizes": (2, 2, 8), "input_strides": (16, 8, 1), "output_sizes": (4, 8), "output_strides": (1, 5)},
    ],
)
def test_channels_split_the_innermost_dimension_of_both_sides(channels: int, shapes: dict[str, object]) -> None:
    params = copy_params(
        **shapes, input_buffer_size=32, output_buffer_size=64, num_aie_channels=channels, output_offset=2
    )
    x, old = patterns(32), array(np.arange(0x4100, 0x4140))
    (c,) = reference("StridedCopy", params, [x], previous=old)
    assert raw_bits(c).tolist() == _loop_copy(params, raw_bits(x).tolist(), raw_bits(old).tolist())


def test_split_and_whole_walks_differ_where_the_shapes_do() -> None:
    shapes = {"input_sizes": (8,), "input_strides": (1,), "output_sizes": (2, 4), "output_strides": (4, 1)}
    x, old = array(np.arange(8)), array(np.zeros(8, np.uint16))
    whole = run_copy(x, old, **shapes, input_buffer_size=8, output_buffer_size=8, output_offset=0)
    split = run_copy(x, old, **shapes, input_buffer_size=8, output_buffer_size=8, output_offset=0, num_aie_channels=2)
    assert raw_bits(whole).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert raw_bits(split).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_offset": 6}, r"output walk: expected elements within a buffer of 16, found 6 to 16"),
        ({"input_offset": -1}, r"input walk: .*, found -1 to 4"),
        ({"output_strides": (-2, 1)}, r"output_strides \(-2, 1\): expected none below 0"),
        ({"input_strides": (-1, 1), "input_offset": 2}, r"input_strides \(-1, 1\): expected none below 0"),
        ({"output_strides": (1, 1)}, r"output_strides \(1, 1\): expected no element written twice"),
        ({"num_aie_channels": 2}, r"a last dimension that num_aie_channels divides, found 2"),
        ({"num_aie_channels": 0}, r"num_aie_channels divides, found 0"),
        (
            {"input_sizes": (2, 4), "input_buffer_size": 8},
            r"output_sizes .*: expected 8 elements, .* found 6",
        ),
        ({"input_strides": (1,)}, r"input_strides \(1,\): expected 2, as input_sizes has, found 1"),
        ({"input_sizes": (0, 3), "output_sizes": (0, 3)}, r"each at least 1"),
    ],
)
def test_walks_that_cannot_be(changes: dict[str, object], words: str) -> None:
    params = copy_params(**changes)
    x, old = np.zeros(params["input_buffer_size"], np.float32), np.zeros(16, np.float32)
    with pytest.raises(UsageError, match=words):
        reference("StridedCopy", params, [x], previous=old)


def test_the_runtime_offset_is_checked_too() -> None:
    with pytest.raises(UsageError, match="offset 1 plus runtime 5"):
        run_copy(patterns(6), patterns(16), values={"output_offset": 5})


def test_old_contents_are_asked_for() -> None:
    with pytest.raises(MissingError, match="previous=array"):
        reference("StridedCopy", copy_params(), [patterns(6)])
    with pytest.raises(UsageError, match="argument C needs 16 elements"):
        reference("StridedCopy", copy_params(), [patterns(6)], previous=patterns(15))


def test_old_pull_request_fields_are_accepted() -> None:
    marked = run_copy(patterns(6), patterns(16), kwargs={"output_offset_patch_marker": 0xDEADBEE0})
    np.testing.assert_array_equal(raw_bits(marked), raw_bits(run_copy(patterns(6), patterns(16))))


def test_float32_arrays_come_out_in_the_specs_type() -> None:
    x = np.array([1 + 2**-12, 2, 3, 4, 5, 6], np.float32)
    (c,) = reference("Repeat", {"rows": 2, "cols": 3, "repeat": 1}, [x])
    assert c.dtype == array([0]).dtype
    assert c.astype(np.float32).tolist() == [[1, 2, 3], [4, 5, 6]]
    mixed = run_copy(x, patterns(16))
    assert mixed.dtype == array([0]).dtype


@pytest.mark.torch
def test_torch_tensors_move_the_same_bits() -> None:
    pytest.importorskip("torch")
    x, old = patterns(24), patterns(16)
    cases = (
        ("Transpose", {"M": 4, "N": 6}, x, None),
        ("Repeat", {"rows": 4, "cols": 6, "repeat": 3}, x, None),
        ("StridedCopy", copy_params(), x[:6], old),
    )
    for op, params, a, previous in cases:
        (mine,) = reference(op, params, [a], previous=previous)
        as_torch = None if previous is None else to_torch(previous)
        (theirs,) = reference(op, params, [to_torch(a)], previous=as_torch)
        np.testing.assert_array_equal(raw_bits(theirs), raw_bits(mine))


def test_movement_is_judged_exactly() -> None:
    for op in ("Transpose", "Repeat", "StridedCopy"):
        spec = find(op)
        assert spec.exact_bits
        assert str(spec.tolerance_for("npu1")) == "exact"
    assert "no reference" in str(find("StridedCopy").iron_failure(copy_params(), "pr117"))
    assert "zeros" in str(find("StridedCopy").iron_failure(copy_params(), "iron-2026-08"))
    assert find("StridedCopy").iron_failure(copy_params(), "iron-2026-09") is None
    assert "num_batches" in str(find("Transpose").iron_failure({"M": 2, "N": 2, "num_batches": 2}, "pr117"))
