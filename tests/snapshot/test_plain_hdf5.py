# SPDX-License-Identifier: Apache-2.0
"""A sealed snapshot through plain h5py and hdf5plugin, none of our code: the tables, and the right values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - the zstd filter, for h5py
import numpy as np
import pytest
import xxhash

from fusion_replay.model.runlist import ArgSpec, OperandUse, OperatorDescription, SequenceDescription, StepDescription
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.fsck import check
from snapshot_maker import BF16, contents, gemv_silu, random_bf16, record, run


def as_float(array: np.ndarray) -> np.ndarray:
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def where(row: np.void) -> tuple[str, int]:
    """Path of the dataset that has a content, and its row in there, as docs/format.md says."""
    group = {0: "contents", 5: "packed"}[int(row["encoding"])]
    return f"{group}/{row['dtype'].decode()}_{row['shape'].decode()}", int(row["place"])


def found(file: h5py.File) -> dict[str, np.ndarray]:
    """Every content that has bytes of its own, by its digest."""
    rows = [row for row in file["index/contents"][()] if row["encoding"] in (0, 5)]
    return {row["digest"].decode(): file[where(row)[0]][where(row)[1]] for row in rows}


def of(array: np.ndarray) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).tobytes())


@pytest.mark.parametrize("columns", [16, 600_000])  # W in one chunk and in ten; x packed, and two chunks
def test_the_values_by_the_tables(tmp_path: Path, columns: int) -> None:
    path = record(tmp_path / "t.h5", 2, columns=columns)
    with h5py.File(path) as file:
        assert set(file) == {"contents", "index", "packed"}
        assert b"export --as plain-h5" in file.attrs["about"]
        assert file.attrs["format"] == b"fusion-replay snapshot 1.2"
        kept = found(file)
        for number in range(2):
            for name, array in contents(0, number, 8, columns).items():
                stored = kept[of(array)]
                assert np.array_equal(stored, as_float(array)), name
                assert stored.shape == array.shape, name
        assert file["packed/bfloat16_8"].shape == file["packed/bfloat16_8"].chunks == (4, 8)  # y0, y1 of each
    assert check(path).ok


def test_the_tables(tmp_path: Path) -> None:
    path = record(tmp_path / "t.h5", 2)
    with h5py.File(path) as file:
        index = file["index"]
        assert index["steps"]["step"].tolist() == [0, 1, 2, 0, 1, 2]
        assert index["steps"]["elapsed_ns"].tolist() == [1000, -1, -1, 1001, -1, -1]
        assert len(index["contents"]) == len(set(index["contents"]["digest"]))
        assert json.loads(index["provenance"][0]) == {"host": "test"}
        assert json.loads(index["sequences"][0])[0]["name"] == "tiny"
        assert json.loads(index["losses"][0]) == []
        # Our own table of places agrees with HDF5's.
        raw = path.read_bytes()
        contents_table = index["contents"][()]
        for row in contents_table[np.isin(contents_table["encoding"], (0, 5))]:
            name, place = where(row)
            dataset, chunk = file[name], index["chunks"][int(row["first_chunk"])]
            start = place // dataset.chunks[0] * dataset.chunks[0]
            stored = dataset.id.read_direct_chunk((start,) + (0,) * (dataset.ndim - 1))[1]
            assert raw[chunk["offset"] : chunk["offset"] + chunk["size"]] == stored
            if row["encoding"] == 5:
                assert (row["source"], row["extent"]) == (
                    place % dataset.chunks[0] * row["nbytes"],
                    2 * np.prod(dataset.chunks),
                )


def test_the_index_lies_at_the_end(tmp_path: Path) -> None:
    """Who reads from afar needs two ranges: the user block, and all from where it says on."""
    path = record(tmp_path / "t.h5", 2, columns=600_000)
    raw = path.read_bytes()
    start = int.from_bytes(raw[72:80], "little")
    directory, size = (int.from_bytes(raw[at : at + 8], "little") for at in (40, 48))
    tables = json.loads(raw[directory : directory + size])["tables"]
    assert all(start <= entry["offset"] for entry in tables.values() if entry["size"])
    assert start <= directory
    sizes = size + sum(entry["size"] for entry in tables.values())
    assert len(raw) - start < sizes + 40_000  # and HDF5's own structure


def test_the_bf16_type_is_hdf5s_and_keeps_the_bits(tmp_path: Path) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    record_one(tmp_path / "t.h5", patterns.view(BF16))
    with h5py.File(tmp_path / "t.h5") as file:
        dataset = file["contents/bfloat16_65536"]
        kind = dataset.id.get_type()
        # sign bit, exponent at and wide, mantissa at and wide: H5T_FLOAT_BFLOAT16LE of HDF5 2.0
        assert (kind.get_fields(), kind.get_size(), kind.get_ebias()) == ((15, 7, 8, 0, 7), 2, 127)
        raw = np.empty(65536, np.uint16)
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, raw, kind)
        assert raw.tolist() == patterns.tolist()
        shown, want = dataset[0], as_float(patterns.view(BF16))
        assert np.array_equal(shown, want, equal_nan=True)


def record_one(path: Path, *arrays: np.ndarray) -> None:
    """One step that reads these."""
    specs = [ArgSpec(f"A{n}", "in", array.shape) for n, array in enumerate(arrays)]
    uses = tuple(OperandUse(spec, spec.name) for spec in specs)
    writer = SnapshotWriter(path)
    sequence = SequenceDescription("s", (OperatorDescription("Any"),), (), (StepDescription(0, 0, uses),))
    writer.begin_step(writer.begin_invocation(writer.add_sequence(sequence)), 0, dict(enumerate(arrays)))
    writer.close()


@pytest.mark.parametrize(
    "shape",
    [
        (3, 1000, 700),
        (2, 600_001),
        (1, 1, 5),
        (1,) * 31 + (9,),  # an axis more, for the stack, would be too many for HDF5
        (1,) * 30 + (3, 200_001),
        (0, 4),
        *(pytest.param(shape, marks=pytest.mark.long) for shape in ((2_100_000,), (5, 3, 200_000))),
    ],
)
def test_large_and_uneven_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = random_bf16(np.random.default_rng(0), shape)
    record_one(tmp_path / "t.h5", array, array.reshape(-1))
    with h5py.File(tmp_path / "t.h5") as file:
        kept = found(file) if array.size else {}
        assert len(kept) == (array.size > 0)
        for stored in kept.values():
            assert stored.shape == shape or len(shape) > 30
            assert np.array_equal(stored.reshape(shape), as_float(array))
    assert check(tmp_path / "t.h5").ok


def test_packs_of_many_and_of_small_and_large(tmp_path: Path) -> None:
    """700 contents of 1 KiB fill three packs of 234; two of 40 kB one; one of 64 KiB, and one alone, have their own."""
    rng = np.random.default_rng(0)
    small = [random_bf16(rng, (512,)) for _ in range(700)]
    large = [random_bf16(rng, (20_000,)) for _ in range(2)]
    own = random_bf16(rng, (1 << 15,)), random_bf16(rng, (3,))
    record_one(tmp_path / "t.h5", *small, *large, *own)
    with h5py.File(tmp_path / "t.h5") as file:
        assert {name: file["packed"][name].chunks for name in file["packed"]} == {
            "bfloat16_512": (234, 512),
            "bfloat16_20000": (2, 20_000),
        }
        assert set(file["contents"]) == {"bfloat16_32768", "bfloat16_3"}
        kept = found(file)
        assert all(np.array_equal(kept[of(array)], as_float(array)) for array in (*small, *large, *own))
        assert len(file["index/chunks"]) == 3 + 1 + 2
    assert check(tmp_path / "t.h5").ok


def test_writing_and_reading_need_no_plugin_and_reading_no_hdf5(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["hdf5plugin"] = None
sys.path[:0] = {sys.path!r}
from snapshot_maker import record
path = record({str(tmp_path / "t.h5")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    read = f"""
import sys
for name in ("hdf5plugin", "h5py", "torch"):
    sys.modules[name] = None
from fusion_replay.snapshot import open_snapshot
from fusion_replay.snapshot.fsck import check
with open_snapshot({str(tmp_path / "t.h5")!r}) as snap:
    assert len([t.numpy() for step in snap for t in step.inputs.values()]) == 8
assert check({str(tmp_path / "t.h5")!r}).ok
"""
    subprocess.run([sys.executable, "-c", read], check=True)


def test_the_same_recording_twice_has_the_same_tables(tmp_path: Path) -> None:
    first, second = record(tmp_path / "a.h5"), record(tmp_path / "b.h5")
    with h5py.File(first) as one, h5py.File(second) as two:
        for name in ("steps", "operands", "contents", "invocations", "sequences"):
            assert one[f"index/{name}"][()].tobytes() == two[f"index/{name}"][()].tobytes()


def test_a_step_in_flight_is_visible(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    run(writer, writer.add_sequence(gemv_silu()), contents(0, 0), stop_after=3)
    writer.close()
    with h5py.File(tmp_path / "t.h5") as file:
        step = file["index/steps"][1]
        assert (step["step"], step["status"]) == (1, 1)
        (operand,) = file["index/operands"][int(step["first_operand"]) :]
        assert file["index/contents"][operand["content"]]["digest"].decode() == of(contents(0, 0)["y0"])
        assert np.array_equal(found(file)[of(contents(0, 0)["y0"])], as_float(contents(0, 0)["y0"]))
