# SPDX-License-Identifier: Apache-2.0
"""Operators beyond one bfloat16 output, from the software NPU through the IRON adapter into a recording and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay import refs as catalogue
from fusion_replay.errors import UsageError
from fusion_replay.simulator import operators as ops
from fusion_replay.simulator.kernels import has_kernel
from fusion_replay.simulator.workloads import find

BF16 = ml_dtypes.bfloat16


def write(call: Any, name: str, values: np.ndarray) -> None:
    with call.get_buffer(name).mutate() as held:
        held.reshape(-1).view(np.uint8)[: values.nbytes] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    call.get_buffer(name).to("npu")


def int32(call: Any, name: str) -> list[int]:
    return np.array(call.get_buffer(name).numpy()).reshape(-1).view(np.int32).tolist()


def test_every_operator_has_a_kernel_or_is_a_runlist_of_others() -> None:
    for spec in catalogue.specs():
        assert has_kernel(spec.type) or spec.runlist is not None, spec.type


@pytest.mark.parametrize("device", ["npu1", "npu2"])
def test_sample_with_in_out_tokens_and_the_position_as_runtime_values(device: str, tmp_path: Path) -> None:
    op = ops.Sample(vocab=256, k_max=8, cores=4, steps=3, row_parameter="row_of_draw", at_parameter="at")
    call = fr.simulate([(op, "logits", "draws", "tokens", "token")], device)
    logits = np.linspace(-3, 3, 256).astype(BF16)
    greedy = np.array([[0, 1, 0, 0]] * 3, np.int32)  # temperature 0 in every row
    write(call, "logits", logits)
    write(call, "draws", greedy)
    write(call, "tokens", np.full(3, -1, np.int32))
    with fr.record(tmp_path / "s.h5", call):
        for position in range(3):
            call.write_values({"row_of_draw": 4 * position, "at": position})
            call()
    first = int(np.argmax(logits))
    assert int32(call, "tokens")[:3] == [first] * 3
    assert int32(call, "token")[:1] == [first]
    with fr.open(tmp_path / "s.h5") as snap:
        step = snap["1:0"]
        assert [t.direction for t in step.outputs.values()] == ["inout", "out"]
        assert step.inputs["tokens"].numpy().tolist() == [first, -1, -1]
        assert step.outputs["tokens"].numpy().tolist() == [first, first, -1]
        assert step.outputs["token"].numpy().dtype == np.int32
        assert step.values == {"row_of_draw": 4, "row": 4, "at": 1}
    report = fr.replay(tmp_path / "s.h5")
    assert report.passed
    assert report.compared == 3


def test_sample_needs_its_position_once_it_was_bound(tmp_path: Path) -> None:
    op = ops.Sample(vocab=256, k_max=8, steps=2, row_parameter="row", at_parameter="at")
    call = fr.simulate([(op, "logits", "draws", "tokens", "token")])
    with pytest.raises(UsageError, match=r"expected runtime values for row, at; missing row, at"):
        call()


def test_a_token_that_is_off_by_one_is_a_mismatch(tmp_path: Path) -> None:
    run = find("op:Sample").build("npu2", ["0:0:bitflip:0:0"], {})
    with fr.record(tmp_path / "s.h5", run.callable):
        run.execute()
    report = fr.replay(tmp_path / "s.h5")
    assert not report.passed
    assert report.first_mismatch is not None


def test_dequant_of_bytes(tmp_path: Path) -> None:
    op = ops.Dequant(size=128, num_aie_columns=1, num_channels=1, tile_size=64, group_size=32)
    assert [np.dtype(a.dtype) for a in op.get_arg_spec()] == [np.uint8, np.dtype(BF16)]
    call = fr.simulate([(op, "packed", "values")], "npu1")
    tile = np.concatenate([np.arange(32, dtype=np.uint8), np.array([0.5, -2.0]).astype(BF16).view(np.uint8)])
    write(call, "packed", np.concatenate([tile, tile]))
    with fr.record(tmp_path / "d.h5", call):
        call()
    with fr.open(tmp_path / "d.h5") as snap:
        step = snap["0:0"]
        assert (step.inputs[0].dtype, step.inputs[0].shape) == ("uint8", (72,))
        out = step.outputs[0].numpy().astype(np.float64)
    want = [
        n * scale
        for byte, scale in zip(range(32), [0.5] * 16 + [-2.0] * 16, strict=True)
        for n in (byte % 16, byte // 16)
    ]
    assert out.tolist() == want * 2
    assert fr.replay(tmp_path / "d.h5").passed


@dataclass(frozen=True)
class Walk:
    """Shaped like IRON's own (amd/IRON iron/common/tiling.py)."""

    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    bounded: int | None = None


@pytest.mark.parametrize("walk", [Walk(64, (8, 64), (1024, 1)), {"offset": 64, "sizes": [8, 64], "strides": [1024, 1]}])
def test_copy_by_a_walk_object_replays_from_its_recorded_data(walk: Any, tmp_path: Path) -> None:
    op = ops.Copy(input_buffer_size=512, output_buffer_size=8192, dst=walk, out_offset_parameter="slot")
    call = fr.simulate([(op, "x", "cache")])
    x = np.arange(512, dtype=np.uint16) + 1
    write(call, "x", x)
    call.write_values({"slot": 128})
    with fr.record(tmp_path / "c.h5", call):
        call()
    held = np.array(call.get_buffer("cache").numpy()).view(np.uint16).reshape(8, 1024)
    assert held[:, 192:256].reshape(-1).tolist() == x.tolist()
    assert np.count_nonzero(held) == 512
    with fr.open(tmp_path / "c.h5") as snap:
        assert snap["0:0"].op.params["dst"]["sizes"] == [8, 64]
        assert snap["0:0"].values == {"slot": 128, "out_offset": 128}
    assert fr.replay(tmp_path / "c.h5").passed


def test_reference_of_the_operator_object() -> None:
    copy = ops.Copy(input_buffer_size=2, output_buffer_size=4, dst={"offset": 1, "sizes": [2], "strides": [2]})
    x = np.array([5, 7], BF16)
    assert copy.reference(x).astype(int).tolist() == [0, 5, 0, 7]  # without old contents: zeros
    assert copy.reference(x, previous=np.ones(4, BF16)).astype(int).tolist() == [1, 5, 1, 7]
    emit = ops.Emit(slots=1, carried=1)
    image, state = emit.reference(
        np.array([[0, 0, 2, 1, 2], [1, 0, 1, 0, 0]], np.int32), np.array([[3], [4]], np.int32)
    )
    assert (image.tolist(), state.tolist()) == ([28], [4])
