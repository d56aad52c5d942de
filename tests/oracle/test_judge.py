# SPDX-License-Identifier: Apache-2.0
"""Made here, amplified or rounding: on a right runlist, a wrong one, a wrong kernel, and on bad oracles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
import small_model as small
from fusion_replay.errors import NothingComparedError
from fusion_replay.oracle.judge import OracleReplay, judge_against
from fusion_replay.simulator import operators
from fusion_replay.snapshot import open_snapshot


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_oracle(tmp_path_factory.mktemp("oracle") / "o.safetensors")


def _judged(recording: Path, oracle: Path, **options: Any) -> OracleReplay:
    with open_snapshot(recording) as snapshot:
        return judge_against(snapshot, oracle, **options)


def test_a_right_runlist_agrees_and_its_figures_are_those_of_its_arrays(tmp_path: Path, oracle: Path) -> None:
    report = _judged(small.record(tmp_path / "f.h5"), oracle)
    assert report
    assert not report.unmapped
    model = small.model()
    with fr.open(tmp_path / "f.h5") as snapshot:
        for b in report.boundaries[1:]:
            found = snapshot[b.address].outputs[0].numpy().astype(np.float64).reshape(64, 64)[:12]
            wanted = model[b.name][0].astype(np.float64)
            error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
            assert b.figures.nrmse == pytest.approx(error, rel=1e-5)
            assert b.figures.max_abs == pytest.approx(np.abs(found - wanted).max(), rel=1e-5)
            assert b.control is not None
            assert b.control < 1e-3  # the model's weights are the buffers'
            assert b.rounding is not None
            assert b.rounding < 2 * error
    assert "the runlist does what the model does" in report.sentence


def _exchanged() -> dict[str, Any]:
    held = small.weights()
    held["W_up_1"], held["W_up_2"] = held["W_up_2"], held["W_up_1"]
    return held


def _turned() -> dict[str, Any]:
    held = small.weights()
    held["W_down_1"] = held["W_down_1"].T.copy()
    return held


def _times() -> dict[str, Any]:
    held = small.weights()
    held["W_up_1"] = (held["W_up_1"].astype(np.float32) * 4).astype(ml_dtypes.bfloat16)
    return held


def _without_residual(steps: list[Any]) -> list[Any]:
    gemm, _, weight, _ = steps[6]
    return [*steps[:6], (gemm, "act", weight, "x"), *steps[8:]]


def _other_activation(steps: list[Any]) -> list[Any]:
    silu = operators.SiLU(size=64 * 64, num_aie_columns=4, tile_size=64)
    return [*steps[:5], (silu, *steps[5][1:]), *steps[6:]]


@pytest.mark.parametrize(
    ("held", "steps", "first", "cause"),
    [
        (_exchanged, None, "layers.1.up", "W_up_1 should hold what W_up_2 holds"),
        (_turned, None, "layers.1.down", "W_down_1 is transposed"),
        (_times, None, "layers.1.up", "W_up_1 should be 0.25 times what it is"),
        (small.weights, _other_activation, "layers.1.act", "0:5 SiLU should be GELU"),
    ],
)
def test_a_wrong_runlist_whose_steps_all_match(
    tmp_path: Path, oracle: Path, held: Any, steps: Any, first: str, cause: str
) -> None:
    path = small.record(tmp_path / "f.h5", held(), steps or (lambda s: s))
    assert not fr.replay(path).mismatches
    report = _judged(path, oracle)
    assert not report
    assert report.first is not None
    assert report.first.name == first
    assert [(c.grade, c.text) for c in report.first.causes] == [("proved", cause)]
    assert not report.first.wrong
    assert "made here, the runlist differs from the model" in report.sentence
    made = [b.name for b in report.made]
    assert made == ([first, "layers.2.up"] if held is _exchanged else [first])  # what follows only inherits


def test_a_missing_residual(tmp_path: Path, oracle: Path) -> None:
    report = _judged(small.record(tmp_path / "f.h5", steps=_without_residual), oracle)
    assert report.first is not None
    assert report.first.name == "layers.2.up"  # no step is left that writes layers.1
    assert report.unmapped == ("layers.1: its layer has no step like 0:3 x",)
    assert [c.text for c in report.first.causes] == ["a residual is missing: x of 0:3 (layers.0) is added nowhere"]


def test_a_kernel_fault_is_the_kernels(tmp_path: Path, oracle: Path) -> None:
    report = _judged(small.record(tmp_path / "f.h5", faults=("0:6:shift:32",)), oracle)
    assert report.first is not None
    assert report.first.name == "layers.1.down"
    assert report.first.wrong
    assert report.first.wrong[0].startswith("0:6 GEMM")
    assert report.first.control is not None
    assert report.first.control < 1e-3
    assert "made here by 0:6 GEMM" in report.sentence
    assert len(report.made) == 1


def test_an_error_that_is_only_handed_on_is_amplified_not_made(tmp_path: Path) -> None:
    """x + 100, minus 100 again: exact in the model, coarse in bf16, and the second step's error is the first one's."""
    x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    size, params = 1024, {"size": 1024}
    hundred = np.full(size, 100, ml_dtypes.bfloat16)
    with fr.record(tmp_path / "f.h5") as rec:
        with rec.step("ElementwiseAdd", {"A": x.astype(ml_dtypes.bfloat16).reshape(-1), "B": hundred}, params) as step:
            high = (x.astype(ml_dtypes.bfloat16).astype(np.float32).reshape(-1) + 100).astype(ml_dtypes.bfloat16)
            step.outputs["C"] = high
        with rec.step("ElementwiseAdd", {"A": high, "B": -hundred}, params) as step:
            step.outputs["C"] = (high.astype(np.float32) - 100).astype(ml_dtypes.bfloat16)
    exact = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    fr.oracle.write({"high": exact + 100, "low": exact.copy()}, tmp_path / "o.safetensors")
    text = (
        '{"format": "fusion-replay.oracle-map/1", "tensors": [{"tensor": "high", "step": "0:0", "buffer": "C"},'
        ' {"tensor": "low", "step": "1:0", "buffer": "C"}]}'
    )
    (tmp_path / "map.json").write_text(text)
    report = _judged(tmp_path / "f.h5", tmp_path / "o.safetensors", map_path=tmp_path / "map.json")
    high_at, low_at = report.boundaries
    assert report
    assert low_at.sources == ("high",)
    assert low_at.control == pytest.approx(0, abs=1e-6)  # on the model's own input the step is right
    assert low_at.factor is not None
    assert low_at.factor > 50
    # All of it is what a bf16 buffer between the two explains.
    assert low_at.rounding == pytest.approx(low_at.figures.nrmse, rel=1e-3)
    assert low_at.origin == high_at.origin == "rounding"


def test_an_oracle_of_another_input_is_told_from_the_first_boundary(tmp_path: Path) -> None:
    path = small.record(tmp_path / "f.h5")
    names = {"embedded": ("0:0", "x"), "layers.0.up": ("0:0", "up"), "layers.0": ("0:3", "x"), "layers.1": ("0:7", "x")}
    model = small.model()
    other = np.random.default_rng(9)
    fr.oracle.write({n: other.permuted(model[n], axis=1).astype(np.float32) for n in names}, tmp_path / "o.safetensors")
    report = _judged(path, tmp_path / "o.safetensors", explain=False)
    assert [b.name for b in report.boundaries] == ["layers.0.up"]  # found by its name
    assert report.another_input is not None
    assert len(report.unmapped) == 3
    fr.oracle.write({"strange": model["layers.1"][:, ::-1] ** 3}, tmp_path / "p.safetensors")
    with pytest.raises(NothingComparedError, match="is it an oracle of another input"):
        _judged(path, tmp_path / "p.safetensors")
    entries = ", ".join(f'{{"tensor": "{n}", "step": "{s}", "buffer": "{b}"}}' for n, (s, b) in names.items())
    (tmp_path / "map.json").write_text(f'{{"format": "fusion-replay.oracle-map/1", "tensors": [{entries}]}}')
    report = _judged(path, tmp_path / "o.safetensors", map_path=tmp_path / "map.json", explain=False)
    assert report.another_input is not None
    assert "already the first boundary, embedded" in report.another_input
    assert not report


def test_tensors_without_a_place_are_no_pass(tmp_path: Path) -> None:
    path = small.record(tmp_path / "f.h5")
    strange = np.random.default_rng(1).standard_normal((12, 64))
    fr.oracle.write({**small.model(), "strange": strange, "ids": np.arange(40)}, tmp_path / "o.safetensors")
    report = _judged(path, tmp_path / "o.safetensors")
    assert not report
    assert not report.made
    assert report.unmapped == ("strange: no content of the recording resembles it",)
    assert report.ignored == ("ids",)
    assert report.sentence.startswith("13 of 14 tensors of the model have a place, and agree there")
