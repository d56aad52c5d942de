# SPDX-License-Identifier: Apache-2.0
"""A sealed snapshot through plain h5py and hdf5plugin, none of our code: the tree, and the right values."""

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
from fusion_replay.snapshot.seal import chunk_copier as copier_module
from fusion_replay.snapshot.seal import tree as tree_module
from snapshot_maker import BF16, contents, gemv_silu, random_bf16, record, run


def as_float(array: np.ndarray) -> np.ndarray:
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def test_the_tree_and_the_values(tmp_path: Path) -> None:
    path = record(tmp_path / "t.h5", 2)
    with h5py.File(path) as file:
        assert set(file) == {"contents", "index", "invocation_0000", "invocation_0001", "sequences"}
        assert list(file["invocation_0001"]) == ["step_0000_GEMV", "step_0001_SiLU", "step_0002_Bump"]
        for number in range(2):
            data = contents(0, number)
            steps = file[f"invocation_{number:04d}"]
            for name, want in {
                "step_0000_GEMV/inputs.A": data["W"],
                "step_0000_GEMV/inputs.B": data["x"],
                "step_0000_GEMV/outputs.C": data["y0"],
                "step_0001_SiLU/inputs.A": data["y0"],
                "step_0001_SiLU/outputs.B": data["y1"],
                "step_0002_Bump/inputs.A": data["y1"][4:],
                "step_0002_Bump/outputs.A": data["y2"],
            }.items():
                assert np.array_equal(steps[name][()], as_float(want)), name
                assert steps[name].shape == want.shape
        assert json.loads(file["invocation_0001/step_0000_GEMV"].attrs["about"]) == {
            "label": "1:0 GEMV W, x -> y",
            "status": "complete",
            "params": {"M": 8, "K": 16},
            "values": {"n": 1},
            "state": "COMPLETED",
        }
        assert file["sequences/0000_tiny"].attrs["name"] == b"tiny"
        assert list(file["sequences/0000_tiny/runlist"]) == [
            b"0 GEMV W, x -> y",
            b"1 SiLU y -> y",
            b"2 Bump y[8:16] -> y[8:16]",
        ]
        assert file.attrs["format"] == b"fusion-replay snapshot 1.2"


def test_the_tables(tmp_path: Path) -> None:
    path = record(tmp_path / "t.h5", 2)
    with h5py.File(path) as file:
        index = file["index"]
        assert index["steps"]["step"].tolist() == [0, 1, 2, 0, 1, 2]
        assert index["steps"]["elapsed_ns"].tolist() == [1000, -1, -1, 1001, -1, -1]
        assert len(index["contents"]) == len(set(index["contents"]["digest"]))
        kept = index["contents"][index["contents"]["encoding"] == 0]
        assert {digest.decode() for digest in kept["digest"]} == set(file["contents"])
        assert json.loads(index["provenance"][0]) == {"host": "test"}
        assert json.loads(index["sequences"][0])[0]["name"] == "tiny"
        assert json.loads(index["losses"][0]) == []
        # Our own table of places agrees with HDF5's.
        raw = path.read_bytes()
        for row in kept:
            chunk = index["chunks"][int(row["first_chunk"])]
            stored = file["contents"][row["digest"].decode()].id.read_direct_chunk((0,) * 1 + (0,) * (
                file["contents"][row["digest"].decode()].ndim - 1))[1]  # fmt: skip
            assert raw[chunk["offset"] : chunk["offset"] + chunk["size"]] == stored


def test_the_bf16_type_is_hdf5s_and_keeps_the_bits(tmp_path: Path) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    spec = ArgSpec("A", "in", (65536,))
    step = StepDescription(0, 0, (OperandUse(spec, "a"),))
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = SequenceDescription("s", (OperatorDescription("Any"),), (), (step,))
    writer.begin_step(writer.begin_invocation(writer.add_sequence(sequence)), 0, {0: patterns.view(BF16)})
    writer.close()
    with h5py.File(tmp_path / "t.h5") as file:
        dataset = file["invocation_0000/step_0000_Any/inputs.A"]
        kind = dataset.id.get_type()
        # sign bit, exponent at and wide, mantissa at and wide: H5T_FLOAT_BFLOAT16LE of HDF5 2.0
        assert (kind.get_fields(), kind.get_size(), kind.get_ebias()) == ((15, 7, 8, 0, 7), 2, 127)
        raw = np.empty(65536, np.uint16)
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, raw, kind)
        assert raw.tolist() == patterns.tolist()
        shown, want = dataset[()], as_float(patterns.view(BF16))
        assert np.array_equal(shown, want, equal_nan=True)


@pytest.mark.parametrize(
    "shape",
    [
        (3, 1000, 700),
        (2, 600_001),
        (1, 1, 5),
        *(pytest.param(shape, marks=pytest.mark.long) for shape in ((2_100_000,), (5, 3, 200_000))),
    ],
)
def test_large_and_uneven_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = random_bf16(np.random.default_rng(0), shape)
    flat = ArgSpec("B", "in", (array.size,))
    uses = OperandUse(ArgSpec("A", "in", shape), "a"), OperandUse(flat, "a")
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = SequenceDescription("s", (OperatorDescription("Any"),), (), (StepDescription(0, 0, uses),))
    invocation = writer.begin_invocation(writer.add_sequence(sequence))
    writer.begin_step(invocation, 0, {0: array, 1: array.reshape(-1)})
    writer.close()
    with h5py.File(tmp_path / "t.h5") as file:
        step = file["invocation_0000/step_0000_Any"]
        assert np.array_equal(step["inputs.A"][()], as_float(array))
        assert step["inputs.B"].shape == flat.shape
        assert np.array_equal(step["inputs.B"][()], as_float(array).reshape(-1))
        assert len(file["contents"]) == 1


def test_names_that_hdf5_or_a_shell_would_not_take(tmp_path: Path) -> None:
    specs = [ArgSpec(name, "in", (2,), "int32") for name in ("a/b", "a_b", ".", "", "ü x")]
    uses = tuple(OperandUse(spec, spec.name) for spec in specs)
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = SequenceDescription("se/q", (OperatorDescription("My/Op"),), (), (StepDescription(0, 0, uses),))
    invocation = writer.begin_invocation(writer.add_sequence(sequence))
    writer.begin_step(invocation, 0, {n: np.array([n, 7], np.int32) for n in range(len(specs))})
    writer.close()
    with h5py.File(tmp_path / "t.h5") as file:
        step = file["invocation_0000/step_0000_My_Op"]
        assert sorted(int(step[name][0]) for name in step) == list(range(len(specs)))
        assert list(file["sequences"]) == ["0000_se_q"]


def test_long_recordings_have_stacks_and_no_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_STEPS", 5)
    monkeypatch.setattr(copier_module, "MAX_STEPS", 5)
    path = record(tmp_path / "t.h5", 2, columns=600_000)  # W takes ten chunks, x two
    with h5py.File(path) as file:
        assert set(file) == {"contents", "index", "sequences"}
        table = file["index/contents"][:]
        found = {}
        for row in table[table["encoding"] == 0]:
            name = row["digest"].decode()
            if row["place"] == 0xFFFFFFFF:
                found[name] = file["contents"][name][()]
            else:
                found[name] = file["contents"][f"{row['dtype'].decode()}_{row['shape'].decode()}"][row["place"]]
        assert set(file["contents"]["bfloat16_8"].shape) == {4, 8}
        for number in range(2):
            for name, array in contents(0, number, 8, 600_000).items():
                digest = xxhash.xxh3_128_hexdigest(array.tobytes())
                assert np.array_equal(found[digest], as_float(array)), name
    assert check(path).ok


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
        step = file["invocation_0000/step_0001_SiLU"]
        assert json.loads(step.attrs["about"])["status"] == "in_flight"
        assert list(step) == ["inputs.A"]
        assert np.array_equal(step["inputs.A"][()], as_float(contents(0, 0)["y0"]))
