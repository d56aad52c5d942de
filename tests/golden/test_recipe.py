# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash

import fusion_replay as fr
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.golden.recipe import Recipe, differences, recipe_of
from fusion_replay.workloads import find

BF16 = ml_dtypes.bfloat16


def recording(path: Path, name: str, *faults: str, device: str = "npu2", **options: Any) -> Path:
    run = find(name).build(device, faults, options)
    with fr.record(path, run.callable, if_exists="replace"):
        run.execute()
    return path


def recipe(path: Path, name: str = "golden") -> Recipe:
    with fr.open(path) as snap:
        return recipe_of(snap, name, {"why": "a test"})


def digest(array: np.ndarray[Any, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).tobytes())


def test_digests_are_those_of_the_bytes(tmp_path: Path) -> None:
    """ElementwiseAdd of bf16 values: the reference is the float32 sum, exact here or correctly rounded, as bf16."""
    path = recording(tmp_path / "add.h5", "op:ElementwiseAdd")
    with fr.open(path) as snap:
        a, b = (snap["0:0"].inputs[n].numpy() for n in "AB")
        c = snap["0:0"].outputs["C"].numpy()
    truth = (a.astype(np.float32) + b.astype(np.float32)).astype(BF16)
    (step,) = recipe(path).steps
    assert step.inputs == {"A": digest(a), "B": digest(b)}
    assert step.outputs == {"C": digest(c)}
    assert step.expected == {"C": digest(truth)}, "npu2 floors: some sums are an ULP low"
    assert step.stats["C"]["ulp_max"] == 1
    assert -1 < step.stats["C"]["ulp_signed_mean"] < 0
    assert (step.address, step.step) == ("0:0", "ElementwiseAdd A, B -> C")


def test_a_step_that_agrees_says_nothing_of_the_reference(tmp_path: Path) -> None:
    (step,) = recipe(recording(tmp_path / "t.h5", "op:Transpose")).steps
    assert step.expected == step.stats == {}


def test_only_contents_from_outside_are_inputs(tmp_path: Path) -> None:
    made = recipe(recording(tmp_path / "d.h5", "llama-decode", tokens=1, layers=1))
    norm, query = made.steps[:2]
    assert len(norm.inputs) == 2, "x and its weights"
    assert len(query.inputs) == 1, "the weights; the other operand is what the norm wrote"
    silu = next(s for s in made.steps if s.step.startswith("SiLU"))
    assert silu.inputs == {}


def test_written_and_read_back_it_is_the_same(tmp_path: Path) -> None:
    made = recipe(recording(tmp_path / "d.h5", "llama-decode", tokens=1, layers=1))
    text = made.to_json()
    (tmp_path / "d.recipe.json").write_text(text)
    assert Recipe.read(tmp_path / "d.recipe.json") == made
    assert len(text.splitlines()) == len(made.steps) + 2, "one step per line"
    data = json.loads(text)
    assert data["made_from"] == {"why": "a test"}
    assert all(list(s) == sorted(s) for s in data["steps"])
    again = recipe(recording(tmp_path / "again.h5", "llama-decode", tokens=1, layers=1))
    assert again.to_json() == text


def test_the_same_recording_does_not_differ(tmp_path: Path) -> None:
    old = recipe(recording(tmp_path / "1.h5", "op:GELU"))
    assert differences(old, recipe(recording(tmp_path / "2.h5", "op:GELU"))) == ()


def test_a_moved_device_is_told_from_a_moved_reference_and_moved_inputs(tmp_path: Path) -> None:
    old = recipe(recording(tmp_path / "1.h5", "op:GELU"))
    (found,) = differences(old, recipe(recording(tmp_path / "2.h5", "op:GELU", "0:0:bitflip")))
    assert found.startswith("0:0 GELU A -> C: output C: the software NPU moved (digest ")
    assert old.steps[0].outputs["C"] in found
    moved = replace(old, steps=(replace(old.steps[0], expected={"C": "0" * 32}),))
    (found,) = differences(old, moved)
    assert found.startswith("0:0 GELU A -> C: output C: the reference moved (digest " + "0" * 32)
    (found,) = differences(old, recipe(recording(tmp_path / "3.h5", "op:GELU", seed=1)))
    assert found.startswith("0:0 GELU A -> C: input A: the seeded inputs moved")


def test_the_first_step_that_differs_is_taken_apart_and_the_rest_counted(tmp_path: Path) -> None:
    clean = recipe(recording(tmp_path / "1.h5", "llama-decode", tokens=1, layers=1))
    found = differences(clean, recipe(recording(tmp_path / "2.h5", "llama-decode", "0:1:zeros", tokens=1, layers=1)))
    assert found[0].startswith("0:1 GEMV W_attn_query_0, x_norm -> queries: output ")
    assert "the software NPU moved" in found[0]
    assert "later steps differ too" in found[-1]


def test_other_steps_are_a_difference(tmp_path: Path) -> None:
    one, two = (recipe(recording(tmp_path / f"{n}.h5", "op:GELU", calls=n)) for n in (1, 2))
    assert differences(one, two) == ("golden: 2 steps were recorded, the recipe has 1",)
    other = replace(one, steps=(replace(one.steps[0], step="ReLU A -> C"),))
    assert differences(other, one) == ("0:0 GELU A -> C: the recipe has ReLU A -> C here",)


def test_mismatches_are_named(tmp_path: Path) -> None:
    assert recipe(recording(tmp_path / "1.h5", "op:GELU")).mismatches == ()
    (label,) = recipe(recording(tmp_path / "2.h5", "op:GELU", "0:0:zeros")).mismatches
    assert label.startswith("0:0 GELU")


def test_what_has_no_reference_is_no_golden(tmp_path: Path) -> None:
    with fr.record(tmp_path / "x.h5") as recorder, recorder.step("Nobodys", {"A": np.ones(4, BF16)}) as step:
        step.outputs["C"] = np.ones(4, BF16)
    with pytest.raises(MissingError, match=r"golden: 0:0 Nobodys .* cannot be part of a golden"):
        recipe(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no recipe: JSONDecodeError"),
        ("[]", "no recipe: TypeError"),
        ("{}", "no recipe: KeyError: 'format'"),
        ('{"format": "fusion-replay.recipe/9"}', "format 'fusion-replay.recipe/9': expected fusion-replay.recipe/1"),
        ('{"format": "fusion-replay.recipe/1", "name": "x", "made_from": {}, "steps": [3]}', "no recipe: TypeError"),
        ('{"format": "fusion-replay.recipe/1", "name": "x", "made_from": {}, "steps": [{}]}', "KeyError: 'address'"),
        (None, "no recipe: FileNotFoundError"),
    ],
)
def test_what_is_no_recipe(text: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "x.recipe.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=r"x\.recipe\.json: .*" + why.replace("(", r"\(")):
        Recipe.read(path)
