# SPDX-License-Identifier: Apache-2.0
"""What is said of recorded steps: earlier contents found in the recording, and what has nothing to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.diverge.evidence import Evidence
from fusion_replay.diverge.explain import diagnose, explain, explain_diff, explain_difference
from fusion_replay.diverge.rounding import rounds
from fusion_replay.errors import UsageError
from fusion_replay.simulator.operators import ElementwiseAdd, ElementwiseMul, ReLU

BF16, SIZE = ml_dtypes.bfloat16, 1024


def run(path: Path, *faults: str, factor: float = 2.0) -> Path:
    """Two invocations of h = relu(x), y = h * w, y = y + h."""
    steps = [
        (ReLU(size=SIZE, num_aie_columns=4, tile_size=128), "x", "h"),
        (ElementwiseMul(size=SIZE, tile_size=64), "h", "w", "y"),
        (ElementwiseAdd(size=SIZE, tile_size=64), "y", "h", "y"),
    ]
    call = fr.simulate(steps, device="npu2", faults=faults, input_args=["x"])
    call.get_buffer("w").fill_(factor)
    with fr.record(path, call, if_exists="replace"):
        for seed in (0, 1):
            with call.get_buffer("x").mutate() as x:
                x[:] = np.abs(np.random.default_rng(seed).standard_normal(SIZE))
            call()
    return path


def flat(tensor: Any) -> Any:
    return tensor.numpy().reshape(-1)


def test_what_a_buffer_held_before_is_found_in_earlier_steps(tmp_path: Path) -> None:
    with fr.open(run(tmp_path / "x.h5")) as snapshot:
        evidence = Evidence(snapshot)
        step = snapshot["1:1"]
        assert np.array_equal(evidence.previous(step, step.outputs[0]), flat(snapshot["0:2"].outputs[0]))
        first = snapshot["0:1"]
        assert not evidence.previous(first, first.outputs[0]).any()


def test_versions_are_named_by_their_step(tmp_path: Path) -> None:
    with fr.open(run(tmp_path / "x.h5")) as snapshot:
        step = snapshot["1:2"]
        found = Evidence(snapshot).versions(step, step.inputs[1])
        assert [v.what for v in found] == ["that of 0:2"]
        assert np.array_equal(found[0].read().reshape(-1), flat(snapshot["0:0"].outputs[0]))


def test_a_right_step_needs_no_explanation(tmp_path: Path) -> None:
    with fr.open(run(tmp_path / "x.h5")) as snapshot:
        assert [explain(s, snapshot) for s in snapshot.steps()] == [None] * 6


def test_the_side_that_breaks_its_rule_is_the_one_explained(tmp_path: Path) -> None:
    good, bad = run(tmp_path / "good.h5"), run(tmp_path / "bad.h5", "1:1:zeros")
    with fr.open(good) as a, fr.open(bad) as b:
        there = explain_difference(a["1:1"], b["1:1"], (a, b))
        back = explain_difference(b["1:1"], a["1:1"], (b, a))
    assert there is not None
    assert back is not None
    assert there.cause == back.cause
    assert there.cause.name == "zeros"


def test_a_fault_on_other_inputs_is_explained_against_its_own_reference(tmp_path: Path) -> None:
    """Two calls on different inputs, the second one struck: its output has nothing to do with the first one's."""
    draw = np.random.default_rng(5)
    call = fr.simulate([(ElementwiseAdd(size=1024), "a", "b", "c")], "npu2", ["1:0:shift"], input_args=["a", "b"])
    with fr.record(tmp_path / "x.h5", call):
        for _ in range(2):
            call.get_buffer("a")[:], call.get_buffer("b")[:] = draw.standard_normal((2, 1024)).astype(BF16)
            call()
    with fr.open(tmp_path / "x.h5") as snapshot:
        told = explain_diff(fr.diff(f"{tmp_path / 'x.h5'}@0", f"{tmp_path / 'x.h5'}@1"), snapshot, snapshot)
    assert told is not None
    assert told.against == "the reference"
    assert told.cause.name == "shifted"


def test_products_by_powers_of_two_show_no_rounding_mode(tmp_path: Path) -> None:
    with fr.open(run(tmp_path / "two.h5", factor=2.0)) as exact, fr.open(run(tmp_path / "x.h5", factor=1.7)) as rounded:
        assert [rounds(exact[f"0:{i}"]) for i in range(3)] == [False, False, True]
        assert rounds(rounded["0:1"])


def test_it_is_json_and_text(tmp_path: Path) -> None:
    with fr.open(run(tmp_path / "bad.h5", "1:1:drop-tile:3")) as snapshot:
        told = explain(snapshot["1:1"], snapshot)
    assert told is not None
    data = json.loads(json.dumps(told.to_dict()))
    assert data["causes"][0]["name"] == "dropped-tile"
    assert data["where"]["confined"] == {"column": 1, "tile": 1}
    head, *rest = str(told).splitlines()
    assert head == "output C of 1:1, against the reference"
    assert rest == told.lines()
    assert told.lines()[0].startswith("cause    dropped-tile, proved")
    assert "in tile 3 of 16" in told.lines()[0]


def test_arrays_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match="actual: expected 4 elements of float32 as in expected, found 3 of float32"):
        diagnose(np.zeros(3, np.float32), np.zeros(4, np.float32))
    with pytest.raises(UsageError, match="previous"):
        diagnose(np.zeros(4), np.ones(4), previous=np.zeros(5))


@pytest.mark.parametrize(
    ("op", "params", "said"),
    [
        ("GELU", {"size": 64, "num_aie_columns": 2, "tile_size": 32}, "column 0 of 2; element 3"),
        ("GELU", {"size": 128}, "the parameters give 128 elements, the array has 64: tiles are equal parts"),
        ("GELU", {"size": 64, "num_aie_columns": 3}, "the parameters do not divide the output into columns and tiles"),
        ("StridedCopy", {}, "no tiling declared: tiles are equal parts"),
        ("", {}, "no tiling declared: tiles are equal parts"),
    ],
)
def test_a_place_in_equal_parts_says_why_it_is_no_column(op: str, params: dict[str, Any], said: str) -> None:
    want = np.ones(64, np.float32)
    got = want.copy()
    got[3] = 5
    told = diagnose(got, want, op, params)
    assert told is not None
    assert said in str(told.where)
    assert bool(told.where.instead) != bool(told.where.source)


def test_arrays_of_ones_own() -> None:
    want = np.arange(64, dtype=np.float32)
    assert diagnose(want, want) is None
    told = diagnose(np.zeros_like(want), want)
    assert told is not None
    assert told.cause.name == "zeros"
