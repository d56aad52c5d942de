# SPDX-License-Identifier: Apache-2.0
"""Every format gives back the recorded bits, read by the program that format belongs to and not by this package."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fusion_replay as fr
from export_maker import one_step
from fusion_replay.model.runlist import DTYPE_BYTES

BF16 = np.dtype(ml_dtypes.bfloat16)
TREE = "invocation_0000/step_0000_Odd"


def as_dtype(raw: np.ndarray, name: str) -> np.ndarray:
    """Random bits as an array of that dtype: NaN payloads, infinities, subnormals included."""
    if name == "bool":
        return raw % 2 == 1
    return raw.view(BF16 if name == "bfloat16" else np.dtype(name))


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    name = draw(st.sampled_from(sorted(DTYPE_BYTES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    unsigned = np.dtype(f"uint{8 * DTYPE_BYTES[name]}")
    return as_dtype(draw(hnp.arrays(unsigned, shape)), name).reshape(shape)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        meta = json.loads(found["meta.json"])["arrays"]
        names = [name for name in found.files if name != "meta.json"]
        assert set(names) == set(meta)
        return {n: found[n].view(meta[n]["dtype"]) if "stored" in meta[n] else found[n] for n in names}


WIDE = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}
"""safetensors/src/tensor.rs, Dtype, in the words of ml_dtypes and numpy."""


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """With the library's core: what it makes of float8 for numpy takes a numpy that knows those."""
    with safetensors.safe_open(path, framework="np") as file:
        meta = json.loads(file.metadata()["fusion_replay"])["arrays"]
    found = {}
    for name, entry in safetensors.deserialize(path.read_bytes()):
        dtype = meta[name]["dtype"] if entry["dtype"] == "U8" and "stored" in meta[name] else WIDE[entry["dtype"]]
        found[name] = np.frombuffer(bytes(entry["data"]), dtype).reshape(entry["shape"])
    return found


def read_h5(path: Path) -> dict[str, np.ndarray]:
    """With h5py alone; the raw bytes of bfloat16, whose values h5py shows as float32 or float64.

    What HDF5 has no type for is there as bytes, and the group says what they are.
    """
    found: dict[str, np.ndarray] = {}

    def take(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and name.startswith("invocation"):
            kind = item.id.get_type()
            if kind.get_class() == h5py.h5t.FLOAT and kind.get_ebias() == 127 and kind.get_size() == 2:
                raw = np.empty(item.shape, np.uint16)
                item.id.read(h5py.h5s.ALL, h5py.h5s.ALL, raw, kind)
                found[name] = raw.view(BF16)
            else:
                group, _, own = name.rpartition("/")
                values = np.asarray(item[()])
                stated = file[group].attrs.get(f"dtype of {own}")
                found[name] = values if stated is None else values.view(stated)

    with h5py.File(path) as file:
        items: dict[str, object] = {}
        _walk(file, "", items)
        for name, item in items.items():
            take(name, item)
    return found


def _walk(group: h5py.Group, prefix: str, into: dict[str, object]) -> None:
    for name in group:  # visititems() shows a hard-linked dataset under one of its names only
        item = group[name]
        into[f"{prefix}{name}"] = item
        if isinstance(item, h5py.Group):
            _walk(item, f"{prefix}{name}/", into)


OF_EVERY_DTYPE = [as_dtype(np.arange(n, dtype=f"uint{8 * n}"), name) for name, n in sorted(DTYPE_BYTES.items())]


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "npz": read_npz,
    "safetensors": read_safetensors,
    "plain-h5": read_h5,
}


@pytest.mark.parametrize("format_", sorted(READERS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(inputs=st.lists(arrays(), min_size=1, max_size=4), output=arrays())
@example(inputs=OF_EVERY_DTYPE, output=OF_EVERY_DTYPE[0])
def test_other_programs_read_the_recorded_bits(format_: str, inputs: list[np.ndarray], output: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        given_arrays = {f"in{i}": a for i, a in enumerate(inputs)}
        source = one_step(Path(folder, "x.h5"), given_arrays, output)
        report = fr.export(source, Path(folder, "out"), format_)
        found = READERS[format_](report.path)
        expected = {f"{TREE}/inputs/{n}": a for n, a in given_arrays.items()} | {f"{TREE}/outputs/out": output}
        assert set(found) == set(expected)
        assert report.arrays == len(expected)
        for name, array in expected.items():
            assert found[name].shape == array.shape, name
            assert found[name].dtype == array.dtype, name
            assert found[name].tobytes() == array.tobytes(), name


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(inputs=st.lists(arrays(), min_size=1, max_size=4), output=arrays())
def test_a_snapshot_of_a_part_gives_the_same_bits(inputs: list[np.ndarray], output: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = one_step(Path(folder, "x.h5"), {f"in{i}": a for i, a in enumerate(inputs)}, output)
        report = fr.export(source, Path(folder, "y.h5"))
        with fr.open(report.path) as snap:
            step = snap["0:0"]
            for i, array in enumerate(inputs):
                assert step.inputs[i].numpy().tobytes() == array.tobytes()
            assert step.outputs[0].numpy().tobytes() == output.tobytes()


def test_plain_h5_needs_no_plugin_and_shows_values(tmp_path: Path) -> None:
    """Filters of HDF5 itself, and bfloat16 as numbers to whoever asks for numbers."""
    values = np.array([1.5, -2.0, np.inf, 0.0], np.float32).astype(BF16)
    source = one_step(tmp_path / "x.h5", {"A": np.tile(values, 1000)}, values)
    report = fr.export(source, tmp_path / "p.h5", "plain-h5")
    with h5py.File(report.path) as file:
        assert file.userblock_size == 0
        dataset = file[f"{TREE}/inputs/A"]
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        assert filters == [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]
        assert dataset.astype(np.float32)[:4].tolist() == [1.5, -2.0, np.inf, 0.0]
        assert file[TREE].attrs["label"] == "0:0 Odd A -> out"
        assert json.loads(file["losses"][()]) == []
        assert file["sequences/0000_odd/runlist"][0] == b"0 Odd A -> out"


@pytest.mark.parametrize(("compression", "filters"), [("none", []), ("zstd", [2, 32015]), ("gzip", [2, 1])])
def test_plain_h5_compressions(tmp_path: Path, compression: str, filters: list[int]) -> None:
    source = one_step(tmp_path / "x.h5", {"A": np.arange(5000, dtype=np.int32)}, np.zeros(3, np.int8))
    report = fr.export(source, tmp_path / "p.h5", "plain-h5", compression=compression)
    with h5py.File(report.path) as file:
        dataset = file[f"{TREE}/inputs/A"]
        plist = dataset.id.get_create_plist()
        assert [plist.get_filter(i)[0] for i in range(plist.get_nfilters())] == filters
        assert dataset[()].tolist() == list(range(5000))


def test_equal_tensors_are_stored_once_in_plain_h5(tmp_path: Path) -> None:
    same = np.random.default_rng(0).bytes(200_000)
    a = np.frombuffer(same, np.uint8)
    source = one_step(tmp_path / "x.h5", {"A": a, "B": a.copy(), "C": a.copy()}, a.copy())
    report = fr.export(source, tmp_path / "p.h5", "plain-h5", compression="none")
    assert 200_000 < report.bytes < 300_000


def test_npz_is_the_same_file_every_time(tmp_path: Path) -> None:
    source = one_step(tmp_path / "x.h5", {"A": np.arange(10)}, np.arange(3))
    one, two = (fr.export(source, tmp_path / f"{n}.npz", "npz").path for n in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_safetensors_starts_every_array_at_a_multiple_of_its_width(tmp_path: Path) -> None:
    inputs = {"a": np.ones(3, np.int8), "b": np.ones(1, np.float64), "c": np.ones(1, BF16), "d": np.ones(1, np.int32)}
    path = fr.export(one_step(tmp_path / "x.h5", inputs, np.ones(1, bool)), tmp_path / "s", "safetensors").path
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert size % 8 == 0
    del header["__metadata__"]
    widths = {"I8": 1, "F64": 8, "BF16": 2, "I32": 4, "BOOL": 1}
    assert all(entry["data_offsets"][0] % widths[entry["dtype"]] == 0 for entry in header.values())
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(data) - 8 - size


def test_jsonl_describes_steps_by_hand_computed_figures(tmp_path: Path) -> None:
    array = np.array([1.0, -3.0, np.nan, 0.0, np.inf], np.float32)
    path = fr.export(
        one_step(tmp_path / "x.h5", {"A": array}, np.zeros((0, 2), np.int16)), tmp_path / "j", "jsonl"
    ).path
    (line,) = map(json.loads, path.read_text().splitlines())
    a, out = line["arrays"]
    assert a["stats"] == {
        "minimum": -3.0,
        "maximum": 1.0,
        "mean": pytest.approx(-2 / 3),
        "zeros": 1,
        "nans": 1,
        "infs": 1,
        "head": [1.0, -3.0, "NaN", 0.0],
    }
    assert (out["shape"], out["nbytes"], out["stats"]["minimum"]) == ([0, 2], 0, None)


@pytest.mark.parametrize("format_", ["plain-h5", "npz", "safetensors", "jsonl"])
def test_progress_ends_where_all_is_done(tmp_path: Path, format_: str) -> None:
    source = one_step(tmp_path / "x.h5", {"A": np.ones(3), "B": np.ones(2)}, np.ones(1))
    told: list[tuple[int, int]] = []
    fr.export(source, tmp_path / "out", format_, progress=lambda done, of: told.append((done, of)))
    total = 1 if format_ == "jsonl" else 3
    assert told == [(n, total) for n in range(1, total + 1)]
