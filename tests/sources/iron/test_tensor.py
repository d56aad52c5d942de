# SPDX-License-Identifier: Apache-2.0
"""Reading a tensor leaves it as it is, or as the dispatch that follows would have left it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusion_replay.sources.iron.tensor import host_bytes, is_readable
from iron_doubles import old_tensors, tensors
from iron_doubles.memory import POISON

U8 = np.dtype(np.uint8)


def old(kind: str, parent: Any) -> Any:
    if kind == "V0b":
        return old_tensors.XRTSubBuffer(parent.buffer_object(), 64, 64, (64,), U8)
    return old_tensors.FlaggingSubBuffer(parent.buffer_object(), 64, 64, (64,), U8, parent if kind == "V1b" else None)


def test_a_coherent_tensor_is_pulled_and_not_claimed() -> None:
    tensor = tensors.XRTTensor((128,), U8)
    tensor.on_device()[:] = 7
    assert set(host_bytes(tensor).tolist()) == {7}
    assert tensor.device == "npu"


def test_what_the_host_wrote_and_nobody_sent_is_read_and_left_to_be_sent() -> None:
    tensor = tensors.XRTTensor((128,), U8)
    tensor.torch_view()[:64] = 9
    view = tensor.subview(64, (64,))
    view.device = "npu"
    assert host_bytes(tensor).tolist() == [9] * 64 + [POISON] * 64
    assert set(tensor.on_device().tolist()) == {POISON}
    tensor.to("npu")
    assert set(tensor.on_device()[:64].tolist()) == {9}


@pytest.mark.parametrize("kind", ["V0b", "V1", "V1b"])
def test_a_parent_is_fresh_after_its_slice_was_written_though_its_flag_says_host(kind: str) -> None:
    parent = old_tensors.XRTTensor((128,), U8)
    part = old(kind, parent)
    parent.to("cpu")
    part.on_device()[:] = 3
    assert set(parent.numpy().tolist()) == {POISON}  # stale: its own flag knows nothing of the slice
    assert host_bytes(parent).tolist() == [POISON] * 64 + [3] * 64


@pytest.mark.parametrize("kind", ["V0b", "V1", "V1b"])
def test_a_slice_is_fresh_after_its_parent_was_written_and_gets_no_mark(kind: str) -> None:
    parent = old_tensors.XRTTensor((128,), U8)
    part = old(kind, parent)
    host_bytes(part)
    parent.on_device()[:] = 4
    assert set(host_bytes(part).tolist()) == {4}
    assert (part.device, parent.device) == ("npu", "npu")


@pytest.mark.parametrize("kind", ["whole", "V1", "V1b"])
def test_pending_writes_of_the_host_are_sent_as_the_dispatch_would_and_not_lost(kind: str) -> None:
    parent = old_tensors.XRTTensor((128,), U8)
    tensor = parent if kind == "whole" else old(kind, parent)
    tensor.torch_view()[:8] = 5
    read = host_bytes(tensor)
    assert read[:9].tolist() == [5] * 8 + [POISON]
    assert tensor.on_device()[:9].tolist() == [5] * 8 + [POISON]
    assert tensor.device == "npu"


def test_what_has_no_safe_read_is_none() -> None:
    assert not is_readable(object())
    assert is_readable(tensors.XRTTensor((64,), U8))
    assert is_readable(old_tensors.XRTTensor((64,), U8))
