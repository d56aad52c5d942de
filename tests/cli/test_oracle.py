# SPDX-License-Identifier: Apache-2.0
"""``oracle map``, ``oracle onnx`` and ``replay --oracle``: what they print, write and exit with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
import small_model as small
from published import PUBLISHED

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small")
    small.record(path / "right.h5")
    held = small.weights()
    held["W_up_1"] = held["W_up_1"].T.copy()
    small.record(path / "wrong.h5", held)
    small.write_oracle(path / "o.safetensors")
    return path


def _kinds(text: str) -> list[str]:
    records = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    for record in records:
        PUBLISHED.validate(record)
    return [record["type"] for record in records]


def test_a_right_runlist_passes(run: Run, folder: Path) -> None:
    found = run("replay", folder / "right.h5", "--oracle", folder / "o.safetensors")
    assert found.status == 0
    assert "the runlist does what the model does" in found.out
    assert "recorded on the software NPU (npu1)" in " ".join(found.out.split())
    assert "layers.2 (x)" in found.out
    assert len(found.out.splitlines()) <= 25


def test_a_wrong_runlist_fails_with_its_stretch_and_cause(run: Run, folder: Path) -> None:
    assert run("replay", folder / "wrong.h5").status == 0  # every step did what it was told
    found = run("replay", folder / "wrong.h5", "--oracle", folder / "o.safetensors", "--all")
    assert found.status == 1
    assert found.out.startswith("layers.1.up (0:4 up): made here, the runlist differs from the model: 1 step")
    assert "proved: W_up_1 is transposed" in " ".join(found.out.split())
    assert "MADE HERE" in found.out
    assert "FAILED" in found.out
    assert "show" in found.out.splitlines()[-1]
    records = run("replay", folder / "wrong.h5", "--oracle", folder / "o.safetensors", "--json").out
    assert _kinds(records) == ["boundary"] * 13 + ["oracle"]
    assert json.loads(records.splitlines()[-1])["first"] == "layers.1.up"


def test_a_map_is_printed_written_and_read(run: Run, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    found = run("oracle", "map", folder / "right.h5", folder / "o.safetensors", "-o", path)
    assert found.status == 0
    assert "13 of 13 tensors have a place" in found.out
    assert "a b -> a/64 b" in found.out
    assert f"--map {path}" in found.out
    again = run("oracle", "map", folder / "right.h5", folder / "o.safetensors", "-o", path)
    assert again.status == 2
    assert str(path) in again.err
    # What was kept of a good run finds its tensors in a bad one.
    assert run("replay", folder / "wrong.h5", "--oracle", folder / "o.safetensors", "--map", path).status == 1
    assert _kinds(run("oracle", "map", folder / "right.h5", folder / "o.safetensors", "--json").out) == ["mapped"] * 13


def test_what_has_no_place_is_no_pass(run: Run, folder: Path, tmp_path: Path) -> None:
    oracle = tmp_path / "o.safetensors"
    fr.oracle.write({**small.model(), "\x1b[31mevil": np.random.default_rng(5).standard_normal((12, 64))}, oracle)
    found = run("replay", folder / "right.h5", "--oracle", oracle)
    assert found.status == 4
    assert "13 of 14 tensors of the model have a place" in found.out
    assert "\x1b" not in found.out
    assert "oracle map" in found.out.splitlines()[-1]
    assert run("oracle", "map", folder / "right.h5", oracle).status == 4
    fr.oracle.write({"few": np.ones(3)}, oracle, if_exists="replace")
    found = run("replay", folder / "right.h5", "--oracle", oracle)
    assert found.status == 4
    assert "few to be found" in found.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--map", "m.json"), "give --oracle too"),
        (("--logits", "l"), "replay --logits: is about an oracle; give --oracle too"),
        (("--oracle", "o", "--attribute"), "leave --attribute out"),
        (("--oracle", "o", "--on", "sim"), "leave --on out"),
        (("--oracle", "o", "--rule", "strict"), "leave --rule out"),
        (("--oracle", "none.safetensors"), "expected an oracle file there, found none"),
        (("--oracle", "FOLDER/right.h5"), "expected a safetensors file"),
    ],
)
def test_bad_input_is_one_line(run: Run, folder: Path, words: tuple[str, ...], said: str) -> None:
    found = run("replay", folder / "right.h5", *(w.replace("FOLDER", str(folder)) for w in words))
    assert found.status == 2
    assert said in found.err
    assert found.err.count("\n") == 1


def test_logits(run: Run, folder: Path) -> None:
    words = ("replay", folder / "wrong.h5", "--oracle", folder / "o.safetensors", "--logits")
    found = run(*words, "layers.2=x")
    assert found.status == 1
    assert "of 12 tokens, top-5 overlap" in " ".join(found.out.split())
    assert _kinds(run(*words, "layers.2=x", "--json").out)[0] == "tokens"
    assert (bad := run(*words, "nope=x")).status == 2
    assert "no tensor 'nope'" in bad.err


def test_onnx(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    found = run("oracle", "onnx", tmp_path / "m.onnx", "--inputs", tmp_path / "i.npz", "-o", tmp_path / "o.safetensors")
    assert found.status == 2
    assert "expected the model's inputs there" in found.err
