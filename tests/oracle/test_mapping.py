# SPDX-License-Identifier: Apache-2.0
"""Which tensor is which buffer: found by contents in every layout, ambiguous ones left open, and maps by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
import small_model as small
from fusion_replay.errors import UsageError
from fusion_replay.oracle.file import open_oracle
from fusion_replay.oracle.judge import judge_against, mapping_of
from fusion_replay.oracle.map_file import write_map
from fusion_replay.oracle.mapping import Mapping
from fusion_replay.snapshot import open_snapshot


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small")
    small.record(path / "f.h5")
    small.write_oracle(path / "o.safetensors")
    return path


def _mapping(recording: Path, oracle: Path) -> Mapping:
    with open_snapshot(recording) as snapshot:
        return mapping_of(snapshot, oracle)


def test_every_tensor_is_found_where_it_is(folder: Path) -> None:
    found = _mapping(folder / "f.h5", folder / "o.safetensors")
    assert not found.unmapped
    places = {b.name: (b.place.address, b.place.buffer) for b in found.boundaries}
    assert places == {
        "embedded": ("0:0", "x"),
        **{
            f"layers.{i}{part}": (f"0:{4 * i + step}", buffer)
            for i in range(small.LAYERS)
            for part, step, buffer in ((".up", 0, "up"), (".act", 1, "act"), (".down", 2, "down"), ("", 3, "x"))
        },
    }
    assert {str(b.layout) for b in found.boundaries} == {"a b -> a/64 b"}
    assert all("NRMSE" in b.evidence for b in found.boundaries)


RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 48)).astype(np.float32)


@pytest.mark.parametrize(
    ("held", "layout"),
    [
        (X, "a b -> a b"),
        (np.pad(X, ((0, 4), (0, 0))), "a b -> a/16 b"),
        (np.pad(X, ((0, 4), (0, 16))), "a b -> a/16 b/64"),
        (X.T, "a b -> b a"),
        (X.reshape(12, 4, 12).transpose(1, 0, 2), "a (b=4 c) -> b a c"),
        (X.reshape(12, 2, 24).transpose(0, 2, 1), "a (b=2 c) -> a c b"),
        (X[:, :24], "a b@0+24 -> a b"),
        (np.hstack([RNG.standard_normal((12, 48)), X]), "a b -> a b@48/96"),
        (-X, "a b -> a b"),
        (X * 8, "a b -> a b"),
    ],
)
def test_the_same_values_in_another_layout(tmp_path: Path, held: Any, layout: str) -> None:
    other = RNG.standard_normal(held.shape)
    with fr.record(tmp_path / "f.h5") as rec:
        for values in (other, held, other * 2):
            with rec.step("Mine", {"A": np.ones(4, np.float32)}) as step:
                step.outputs["C"] = np.ascontiguousarray(values).astype(ml_dtypes.bfloat16)
    fr.oracle.write({"t": X[None]}, tmp_path / "o.safetensors")
    found = _mapping(tmp_path / "f.h5", tmp_path / "o.safetensors")
    assert [(b.name, b.place.address, str(b.layout)) for b in found.boundaries] == [("t", "1:0", layout)]
    factor = -1 if held is not X and np.array_equal(held, -X) else 8 if np.array_equal(held, X * 8) else None
    assert ("times" in found.boundaries[0].evidence) == (factor is not None)


def test_what_could_be_two_buffers_is_none(tmp_path: Path) -> None:
    with fr.record(tmp_path / "f.h5") as rec:
        for _ in range(2):
            with rec.step("Mine", {"A": np.ones(4, np.float32)}) as step:
                near = X + 0.05 * RNG.standard_normal(X.shape)
                step.outputs["C"] = near.astype(ml_dtypes.bfloat16)
    tensors = {
        "t": X,
        "one": np.ones((12, 48)),
        "few": np.ones(3),
        "nan": np.where(X > 1, np.nan, X),
        "z": X[::-1] ** 3,
    }
    fr.oracle.write(tensors, tmp_path / "o.safetensors")
    found = _mapping(tmp_path / "f.h5", tmp_path / "o.safetensors")
    assert not found.boundaries
    why = {u.tensor.name: (u.why, len(u.places)) for u in found.unmapped}
    assert why == {
        "t": ("several contents resemble it as much", 2),
        "one": ("holds one value alone", 0),
        "few": ("has 3 elements, too few to be found by their values", 0),
        "nan": ("has values that are not finite", 0),
        "z": ("no content of the recording resembles it", 0),
    }


def test_where_values_say_nothing_one_name_does(tmp_path: Path) -> None:
    held = small.weights()
    held["W_up_0"], held["W_up_2"] = held["W_up_2"], held["W_up_0"]  # from the first step on nothing resembles
    small.record(tmp_path / "f.h5", held)
    found = _mapping(tmp_path / "f.h5", small.write_oracle(tmp_path / "o.safetensors"))
    named = {b.name: b.place.address for b in found.boundaries if b.evidence == "by its name alone"}
    assert named == {
        f"layers.{i}.{part}": f"0:{4 * i + k}" for i in range(3) for k, part in enumerate(("up", "act", "down"))
    }
    with open_snapshot(tmp_path / "f.h5") as snapshot:
        report = judge_against(snapshot, tmp_path / "o.safetensors")
    assert report.first is not None
    assert [c.text for c in report.first.causes] == ["W_up_0 should hold what W_up_2 holds"]


def test_a_map_that_was_found_is_a_map_that_can_be_given(folder: Path, tmp_path: Path) -> None:
    found = _mapping(folder / "f.h5", folder / "o.safetensors")
    path = write_map(found, tmp_path / "map.json")
    with open_snapshot(folder / "f.h5") as snapshot:
        by_map = judge_against(snapshot, folder / "o.safetensors", map_path=path)
        by_contents = judge_against(snapshot, folder / "o.safetensors")
    assert [b.figures for b in by_map.boundaries] == [b.figures for b in by_contents.boundaries]


def _given(folder: Path, tmp_path: Path, *entries: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"format": "fusion-replay.oracle-map/1", "tensors": list(entries)}))
    with open_snapshot(folder / "f.h5") as snapshot:
        report = judge_against(snapshot, folder / "o.safetensors", map_path=path)
    return {b.name: (b.address, b.buffer, b.layout) for b in report.boundaries}


def test_patterns_with_layer_numbers(folder: Path, tmp_path: Path) -> None:
    found = _given(
        folder,
        tmp_path,
        {"tensor": "layers.{n}.down", "buffer": "down", "after": "W_down_{n}"},
        {"tensor": "layers.*.up", "buffer": "up", "after": "W_up_*"},
        {"tensor": "layers.1", "buffer": "x", "write": 1},
        {"tensor": "embedded", "step": "0:0", "buffer": "x", "layout": "a b -> a/64 b"},
    )
    plain = "a b -> a/64 b"
    assert found == {
        "embedded": ("0:0", "x", plain),
        "layers.1": ("0:7", "x", plain),
        **{f"layers.{i}.up": (f"0:{4 * i}", "up", plain) for i in range(3)},
        **{f"layers.{i}.down": (f"0:{4 * i + 2}", "down", plain) for i in range(3)},
    }


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"tensor": "layers.0.upp", "step": "0:0"}, r"no tensor 'layers\.0\.upp'; nearest: layers\.0\.up"),
        ({"tensor": "layer.{n}", "buffer": "x"}, "no tensor of .* has such a name"),
        ({"tensor": "layers.0.up", "step": "0:99"}, "step 0:99 has no contents of it"),
        ({"tensor": "layers.0.up", "step": "0:1", "buffer": "up"}, "step 0:1 has act; expected one of them"),
        ({"tensor": "layers.0.up", "buffer": "up", "write": 9}, "write 9 of 'up': the recording has 3"),
        ({"tensor": "layers.0.up", "buffer": "up", "after": "W_up_9"}, "no step touches 'W_up_9'"),
        ({"tensor": "layers.0.up", "step": "0:0", "layout": "a b -> a b"}, "is of a buffer of 768 elements"),
        ({"step": "0:0"}, "tensor: expected a text, found nothing"),
    ],
)
def test_entries_that_fit_nothing(folder: Path, tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        _given(folder, tmp_path, entry)
    assert "\n" not in str(caught.value)


def test_shapes_that_fit_in_two_ways_are_asked_for(tmp_path: Path) -> None:
    square = RNG.standard_normal((4, 4)).astype(np.float32)
    with fr.record(tmp_path / "f.h5") as rec, rec.step("Mine", {"A": np.ones(4, np.float32)}) as step:
        step.outputs["C"] = np.zeros(24, np.float32)
    fr.oracle.write({"t": square}, tmp_path / "o.safetensors")
    path = tmp_path / "map.json"
    path.write_text(
        json.dumps({"format": "fusion-replay.oracle-map/1", "tensors": [{"tensor": "t", "step": "0:0", "buffer": "C"}]})
    )
    with (
        open_snapshot(tmp_path / "f.h5") as snapshot,
        pytest.raises(UsageError, match=r"in a b -> a/6 b, a b -> a b/6; say which"),
    ):
        judge_against(snapshot, tmp_path / "o.safetensors", map_path=path)


def test_maps_that_are_none(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    with open_snapshot(folder / "f.h5") as snapshot:
        for text, said in (
            (None, "found none"),
            ("{", "no map of tensors"),
            ('{"format": 1}', "expected a map of format"),
        ):
            if text is not None:
                path.write_text(text)
            with pytest.raises(UsageError, match=said):
                judge_against(snapshot, folder / "o.safetensors", map_path=path)
    with open_oracle(folder / "o.safetensors") as oracle:
        assert oracle.made_by == ""
