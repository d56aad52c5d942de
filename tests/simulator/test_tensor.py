# SPDX-License-Identifier: Apache-2.0
"""Coherence of the software NPU's tensors, against a model that keeps one owner per byte and copies everything."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_replay.errors import UsageError
from fusion_replay.simulator.memory import ByteRanges
from fusion_replay.simulator.tensor import NpuTensor

BF16 = ml_dtypes.bfloat16


def kernel_writes(tensor: NpuTensor, value: Any) -> None:
    """What a kernel does to an output: take it to the device, write there, leave it there."""
    tensor.to("npu")
    tensor.device_view(tensor.shape, tensor.dtype)[...] = value
    tensor.device_wrote(tensor.nbytes)


def on_device(tensor: NpuTensor) -> np.ndarray[Any, Any]:
    return tensor.device_view(tensor.shape, tensor.dtype).copy()


# --- byte ranges ------------------------------------------------------------------------------------------------

_SPANS = st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40)), max_size=30)


@given(_SPANS, st.integers(0, 40), st.integers(0, 40))
def test_byte_ranges_are_a_set_of_bytes(changes: list[tuple[bool, int, int]], lo: int, hi: int) -> None:
    ranges, expected = ByteRanges(), set[int]()
    for add, start, stop in changes:
        if add:
            ranges.add(start, stop)
            expected |= set(range(start, stop))
        else:
            ranges.remove(start, stop)
            expected -= set(range(start, stop))
    held = list(ranges)
    assert {b for start, stop in held for b in range(start, stop)} == expected
    assert all(a[1] < b[0] for a, b in pairwise(held)), "adjacent ranges must be merged"
    assert {b for start, stop in ranges.within(lo, hi) for b in range(start, stop)} == expected & set(range(lo, hi))
    assert bool(ranges) == bool(expected)
    assert ranges.covers(lo, hi) == (set(range(lo, hi)) <= expected)


# --- reading and writing ----------------------------------------------------------------------------------------


def test_allocated_zero_on_both_sides_and_on_the_device() -> None:
    t = NpuTensor((100,), BF16)
    assert t.device == "npu"
    assert not t.numpy().any()
    assert not on_device(t).any()


def test_data_given_at_construction_is_on_the_device() -> None:
    t = NpuTensor(np.arange(64, dtype=np.int32))
    assert (t.shape, t.dtype, t.nbytes, t.device) == ((64,), np.int32, 256, "npu")
    assert on_device(t).tolist() == list(range(64))


def test_numpy_fetches_what_a_kernel_wrote_and_claims_nothing() -> None:
    t = NpuTensor((64,), np.int32)
    kernel_writes(t, 7)
    assert t.numpy().tolist() == [7] * 64
    assert t.device == "npu"
    kernel_writes(t, 8)
    assert np.asarray(t).tolist() == [8] * 64
    kernel_writes(t, 9)
    assert t[3] == 9


def test_reading_a_clean_tensor_moves_nothing() -> None:
    t = NpuTensor(np.arange(1024, dtype=np.int32))
    moved = t.allocation.pushed, t.allocation.pulled
    assert np.shares_memory(t.numpy(), t.data)
    t.to("npu")
    t.numpy()
    assert (t.allocation.pushed, t.allocation.pulled) == moved == (4096, 0)


def test_a_kernel_output_is_fetched_once() -> None:
    t = NpuTensor((64,), np.int32)
    kernel_writes(t, 1)
    t.numpy()
    t.numpy()
    t.to("cpu")
    assert t.allocation.pulled == 256


@pytest.mark.parametrize("write", ["setitem", "fill", "mutate", "overwrite", "numpy_view"])
def test_recorded_writes_reach_the_device(write: str) -> None:
    t = NpuTensor((64,), np.int32)
    if write == "setitem":
        t[...] = 5
    elif write == "fill":
        t.fill_(5)
    elif write == "numpy_view":
        t.numpy_view()[:] = 5
    else:
        with getattr(t, write)() as array:
            array[:] = 5
    assert t.device == "cpu"
    assert t.to("npu") is t
    assert t.device == "npu"
    assert on_device(t).tolist() == [5] * 64


def test_writes_through_numpy_and_data_are_lost() -> None:
    t = NpuTensor((64,), np.int32)
    t.numpy()[:] = 5
    t.to("npu")
    t.data[:] = 6
    t.to("npu")
    assert not on_device(t).any()


def test_a_partial_write_keeps_what_the_device_wrote_around_it() -> None:
    t = NpuTensor((64,), np.int32)
    kernel_writes(t, 3)
    t[10] = 99
    t.to("npu")
    assert on_device(t).tolist() == [99 if i == 10 else 3 for i in range(64)]


def test_overwrite_does_not_fetch() -> None:
    t = NpuTensor((64,), np.int32)
    kernel_writes(t, 3)
    with t.overwrite() as array:
        assert not array.any()
        array[:] = 4
    assert t.allocation.pulled == 0
    assert t.numpy().tolist() == [4] * 64


def test_a_write_that_fails_claims_nothing_and_the_borrowed_array_is_retired() -> None:
    t = NpuTensor((64,), np.int32)
    kernel_writes(t, 3)
    kept = []

    def failing_write() -> None:
        with t.overwrite() as array:
            kept.append(array)
            raise KeyError

    with pytest.raises(KeyError):
        failing_write()
    assert t.device == "npu"
    assert t.numpy().tolist() == [3] * 64
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0] = 1


# --- the traps --------------------------------------------------------------------------------------------------


def test_a_raw_view_shows_old_contents_and_then_overwrites_the_device() -> None:
    t = NpuTensor((64,), np.int32)
    t[...] = 1
    kernel_writes(t, 2)
    assert t.numpy_view().tolist() == [1] * 64, "nothing is fetched"
    assert t.device == "cpu"
    t.to("npu")  # what the next kernel does to its inputs
    assert on_device(t).tolist() == [1] * 64, "the kernel's result is gone"


@pytest.mark.torch
def test_torch_view_has_the_same_trap_and_to_torch_does_not() -> None:
    torch = pytest.importorskip("torch")
    t = NpuTensor((64,), BF16)
    kernel_writes(t, 2)
    assert torch.equal(t.to_torch(), torch.full((64,), 2.0, dtype=torch.bfloat16))
    assert t.device == "npu"
    kernel_writes(t, 3)
    view = t.torch_view()
    assert (view.dtype, t.device) == (torch.bfloat16, "cpu")
    assert view[0] == 2, "still the old contents"
    view[:] = 4
    t.to("npu")
    assert on_device(t).astype(np.float32).tolist() == [4.0] * 64


def test_asserting_residency_copies_nothing() -> None:
    t = NpuTensor((64,), np.int32)
    t[...] = 1
    t.device = "npu"
    assert not on_device(t).any(), "the write was never sent"
    assert not t.numpy().any(), "and the device's zeros are what counts"
    kernel_writes(t, 2)
    t.device = "cpu"
    assert not t.numpy().any(), "claimed for the host without fetching"


def test_claiming_the_host_side_sends_the_whole_tensor_again() -> None:
    t = NpuTensor((64,), np.int32)
    kernel_writes(t, 2)
    t.to("cpu")
    assert t.device == "cpu"
    t.data[:] = 3  # on the host's side a plain write does travel, as on the machine
    t.to("npu")
    assert on_device(t).tolist() == [3] * 64


# --- views ------------------------------------------------------------------------------------------------------


def test_views_share_memory_and_record() -> None:
    t = NpuTensor((128,), np.int32)
    left, right = t.subview(0, (64,)), t.subview(256, (64,))
    kernel_writes(right, 7)
    assert t.numpy().tolist() == [0] * 64 + [7] * 64
    left[...] = 1
    assert (left.device, right.device, t.device) == ("cpu", "npu", "cpu")
    t.to("npu")
    assert left.device == "npu"
    assert on_device(t).tolist() == [1] * 64 + [7] * 64


def test_a_view_of_a_view_belongs_to_the_owner() -> None:
    t = NpuTensor((1024,), np.uint8)
    inner = t.subview(256, (512,)).subview(64, (32, 2), BF16)
    assert (inner.base, inner.is_view, inner.storage_offset, inner.shape) == (t, True, 320, (32, 2))
    assert (t.base, t.is_view, t.storage_offset) == (None, False, 0)
    inner[...] = 1.0
    assert np.flatnonzero(t.numpy()).min() >= 320
    assert np.flatnonzero(t.numpy()).max() < 448


@pytest.mark.parametrize(
    ("offset", "length"),
    [(32, 64), (64, 32), (-64, 64), (64, 1024), (1088, 1)],
)
def test_views_off_the_cache_lines_or_outside_are_refused(offset: int, length: int) -> None:
    t = NpuTensor((1000,), np.uint8)
    with pytest.raises(UsageError, match="subview"):
        t.subview(offset, (length,))


def test_a_view_may_end_with_its_parent() -> None:
    t = NpuTensor((1000,), np.uint8)
    assert t.subview(960, (40,)).nbytes == 40


def test_unknown_sides_and_shapes() -> None:
    t = NpuTensor((4,), np.int32)
    with pytest.raises(UsageError, match="gpu"):
        t.to("gpu")
    with pytest.raises(UsageError, match="gpu"):
        t.device = "gpu"
    with pytest.raises(UsageError, match="negative"):
        NpuTensor((-1,))
    with pytest.raises(TypeError, match="0-d"):
        len(NpuTensor(()))
    assert len(t) == 4


# --- everything at once, against a model that copies every byte -------------------------------------------------

LINES = 4


class Model:
    """mlir-aie's rules literally: one owner per byte, reads fetch all device bytes, transfers send all host bytes."""

    def __init__(self, nbytes: int) -> None:
        self.host, self.device, self.owner = [0] * nbytes, [0] * nbytes, ["npu"] * nbytes

    def pull(self, lo: int, hi: int) -> None:
        for i in range(lo, hi):
            if self.owner[i] == "npu":
                self.host[i] = self.device[i]

    def push(self, lo: int, hi: int) -> None:
        for i in range(lo, hi):
            if self.owner[i] == "cpu":
                self.device[i] = self.host[i]

    def own(self, lo: int, hi: int, side: str) -> None:
        self.owner[lo:hi] = [side] * (hi - lo)


_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["read", "npu", "cpu", "assert-npu", "assert-cpu", "view", "view-write", "set", "kernel"]),
        st.integers(0, LINES - 1),
        st.integers(1, LINES),
        st.integers(1, 255),
    ),
    max_size=40,
)


@settings(max_examples=2 * settings().max_examples)
@given(_ACTIONS)
def test_any_history_gives_the_bytes_of_the_model(actions: list[tuple[str, int, int, int]]) -> None:
    whole = NpuTensor((LINES * 64,), np.uint8)
    model = Model(LINES * 64)
    for action, line, count, value in actions:
        lo, hi = line * 64, min(line + count, LINES) * 64
        t = whole.subview(lo, (hi - lo,))
        if action == "read":
            model.pull(lo, hi)
            assert t.numpy().tolist() == model.host[lo:hi]
        elif action == "npu":
            t.to("npu")
            model.push(lo, hi)
            model.own(lo, hi, "npu")
        elif action == "cpu":
            t.to("cpu")
            model.pull(lo, hi)
            model.own(lo, hi, "cpu")
        elif action.startswith("assert"):
            t.device = action[-3:]
            model.own(lo, hi, action[-3:])
        elif action == "view":
            assert t.numpy_view().tolist() == model.host[lo:hi]
            model.own(lo, hi, "cpu")
        elif action == "view-write":
            t.numpy_view()[::2] = value
            model.own(lo, hi, "cpu")
            model.host[lo:hi:2] = [value] * ((hi - lo) // 2)
        elif action == "set":
            t[1] = value
            model.pull(lo, hi)
            model.own(lo, hi, "cpu")
            model.host[lo + 1] = value
        else:
            kernel_writes(t, value)
            model.push(lo, hi)
            model.own(lo, hi, "npu")
            model.device[lo:hi] = [value] * (hi - lo)
        assert t.device == ("cpu" if "cpu" in model.owner[lo:hi] else "npu")
        assert whole.allocation.device.tolist() == model.device
