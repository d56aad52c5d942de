# SPDX-License-Identifier: Apache-2.0
"""Seeded weights are normal, repeatable and unique; files give rounded tensors or one error that names every fault."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads.weights import fill_all_seeded, fill_seeded, open_tensors

BF16 = ml_dtypes.bfloat16


def seeded(name: str = "W", seed: int = 0, size: int = 100_000, **kw: float) -> np.ndarray[Any, Any]:
    out = np.zeros(size, BF16)
    fill_seeded(out, seed=seed, name=name, **kw)
    return out


def test_seeded_values_are_normal() -> None:
    values = seeded(size=400_000, mean=0.25, std=0.5).astype(np.float64)
    assert abs(values.mean() - 0.25) < 0.005  # six standard errors of the mean are 0.0047
    assert abs(values.std() - 0.5) < 0.005
    z = (values - 0.25) / 0.5
    # shares of a normal distribution within 1, 2 and 3 deviations
    for bound, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert abs((np.abs(z) <= bound).mean() - share) < 0.004


def test_seeded_values_depend_on_seed_and_name_alone() -> None:
    first = seeded().tobytes()
    assert seeded().tobytes() == first
    assert seeded(seed=1).tobytes() != first
    assert seeded(name="V").tobytes() != first
    # a longer tensor begins with the same values, across the block size too
    assert seeded(size=(1 << 20) + 999)[: 1 << 16].tobytes() == seeded(size=1 << 16).tobytes()


def test_order_and_threads_change_nothing() -> None:
    sizes = {"a": 3, "b": (1 << 20) + 5, "c": 4096}
    results = []
    for threads, order in ((1, "abc"), (2, "cba"), (2, "bac")):
        arrays = {n: np.zeros(sizes[n], BF16) for n in order}
        fill_all_seeded([(arrays[n], n, 0.0, 1.0) for n in order], seed=5, threads=threads)
        results.append({n: arrays[n].tobytes() for n in sorted(order)})
    assert results[0] == results[1] == results[2]


def test_seeded_contents_do_not_repeat_or_compress() -> None:
    values = seeded(size=1 << 20)
    rows = values.view(np.uint16).reshape(-1, 64)
    assert len(np.unique(rows, axis=0)) == len(rows)
    # 16-bit normals carry about 10.4 bits: a tiled or counted pattern would compress far below that
    assert len(zlib.compress(values.tobytes(), 6)) > 0.6 * values.nbytes


def test_a_buffer_that_cannot_be_filled_in_place_is_refused() -> None:
    with pytest.raises(UsageError, match="contiguous"):
        fill_seeded(np.zeros((8, 8), BF16).T[:4], seed=0, name="W")


# --- files ------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """A safetensors file by hand, from its published layout: u64 header length, JSON, data."""
    header, blobs, offset = {}, [], 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        blobs.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def rounded(value: float) -> int:
    """bf16 bits of a float32 value, ties to even, in integers."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


@pytest.fixture
def _safetensors() -> None:
    pytest.importorskip("safetensors", reason="needs the minilm extra (make minilm)")


@pytest.mark.usefixtures("_safetensors")
def test_tensors_arrive_rounded_to_bf16(tmp_path: Path) -> None:
    values = [1.0, 1.00390625, 1.01171875, 1.0039063, -3.14159, 1e-40, 3.0e38, 0.0]  # ties both ways, a subnormal
    f32 = np.array(values, np.float32)
    f16 = np.array([0.1, -65504, 6e-8, 1.5], np.float16)
    bits = np.array([0x3F80, 0x7FC1, 0x8000, 0x0001], np.uint16)
    tie = 1 + 2**-8 + 2**-40  # above a tie, which float32 cannot see
    f64 = np.array([tie, -tie], np.float64)
    write_tensors(
        tmp_path / "model.safetensors",
        {
            "f32": ("F32", (4, 2), f32.tobytes()),
            "f16": ("F16", (4,), f16.tobytes()),
            "bf16": ("BF16", (2, 2), bits.tobytes()),
            "f64": ("F64", (2,), f64.tobytes()),
        },
    )
    with open_tensors(tmp_path) as tensors:
        tensors.check({"f32": (4, 2), "f16": (4,), "bf16": (2, 2), "f64": (2,)})
        out = {n: np.zeros(s, BF16) for n, s in (("f32", 8), ("f16", 4), ("bf16", 4), ("f64", 2))}
        for name, array in out.items():
            tensors.read_into(name, array)
        assert tensors.read("f32").tolist() == f32.reshape(4, 2).tolist()
    got = {name: array.view(np.uint16).tolist() for name, array in out.items()}
    assert got["f32"] == [rounded(float(v)) for v in f32]
    assert got["f16"] == [rounded(float(v)) for v in f16]
    assert got["bf16"] == bits.tolist()
    assert got["f64"] == [0x3F81, 0xBF81]


@pytest.mark.usefixtures("_safetensors")
def test_large_tensors_are_read_in_blocks_that_meet(tmp_path: Path) -> None:
    data = np.arange(3 * (1 << 19) + 3 * 7, dtype=np.float32).reshape(
        3, -1
    )  # more than a block, rows that do not fit it
    write_tensors(tmp_path / "model.safetensors", {"w": ("F32", data.shape, data.tobytes())})
    out = np.zeros(data.size, BF16)
    with open_tensors(tmp_path) as tensors:
        tensors.read_into("w", out)
    assert (out.astype(np.float32) == data.reshape(-1).astype(BF16).astype(np.float32)).all()


@pytest.mark.usefixtures("_safetensors")
def test_every_unusable_tensor_is_named_at_once(tmp_path: Path) -> None:
    write_tensors(
        tmp_path / "model.safetensors",
        {"good": ("F32", (2,), bytes(8)), "bent": ("F32", (1, 2), bytes(8)), "whole": ("I64", (2,), bytes(16))},
    )
    with open_tensors(tmp_path) as tensors, pytest.raises(UsageError) as caught:
        tensors.check({"good": (2,), "bent": (2, 1), "whole": (2,), "gone": (5,)})
    message = str(caught.value)
    for part in ("3 of 4", "bent has shape (1, 2), expected (2, 1)", "whole holds I64", "gone is missing"):
        assert part in message
    assert "good" not in message
    assert "\n" not in message


@pytest.mark.usefixtures("_safetensors")
@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 7, b"\xff" * 64, struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", 2) + b"[]" + bytes(8)],
)
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match="not a readable safetensors file"), open_tensors(tmp_path):
        pass


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a model\.safetensors"), open_tensors(tmp_path):
        pass
