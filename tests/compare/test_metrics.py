# SPDX-License-Identifier: Apache-2.0
"""Figures of one's own appear wherever ours do, and ours say what the textbooks say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.__main__ import main
from fusion_replay.errors import UsageError

BF16 = ml_dtypes.bfloat16


@pytest.mark.parametrize("seed", range(4))
def test_nrmse_pcc_and_sqnr_against_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    e = (rng.standard_normal(3000) + seed).astype(np.float32)
    a = (e * 1.1 + 0.01 * rng.standard_normal(3000)).astype(np.float32)
    s = fr.compare(a, e).stats
    a, e = a.astype(np.float64), e.astype(np.float64)
    rmse = math.sqrt(np.mean((a - e) ** 2))
    assert s.nrmse == pytest.approx(rmse / math.sqrt(np.mean(e**2)), rel=1e-12)
    assert s.pcc == pytest.approx(np.corrcoef(a, e)[0, 1], rel=1e-9)
    assert s.sqnr == pytest.approx(10 * math.log10(np.sum(e**2) / np.sum((a - e) ** 2)), rel=1e-9)


def test_where_there_is_no_such_figure() -> None:
    x, c = np.arange(4, dtype=np.float32), np.full(4, 3, np.float32)
    same, constant = fr.compare(x, x).stats, fr.compare(x, c).stats
    assert (same.pcc, same.sqnr, same.nrmse) == (1.0, math.inf, 0.0)
    assert math.isnan(constant.pcc)
    nan = fr.compare(np.where(x == 1, np.nan, x), x).stats
    assert math.isnan(nan.pcc)
    assert nan.sqnr == -math.inf
    assert json.dumps(nan.to_dict())


@pytest.fixture
def own(registry: None) -> None:
    @fr.metric("mid")
    def mid(actual: np.ndarray, expected: np.ndarray) -> float:
        assert actual.dtype == expected.dtype == np.float64
        return float(np.median(np.abs(actual - expected)))


@pytest.mark.usefixtures("own")
def test_a_figure_of_ones_own_appears_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, a = tmp_path / "x.h5", np.ones(8, BF16)
    with fr.record(path) as rec, rec.step("ElementwiseAdd", {"A": a, "B": a}, {"size": 8}) as step:
        step.outputs["C"] = a * np.asarray(2.5, BF16)
    assert dict(fr.compare(a, a).stats.metrics) == {"mid": 0.0}
    report = fr.replay(path)
    assert dict(report.steps[0].stats.metrics) == {"mid": 0.5}
    assert report.steps[0].to_dict()["outputs"][0]["verdict"]["stats"]["metrics"] == {"mid": 0.5}
    if _has_pandas():
        assert report.to_dataframe().loc["0:0", "mid"] == 0.5
    assert main(["replay", str(path), "--all"]) == 1
    out = capsys.readouterr().out
    assert "yours    mid 0.5" in out
    assert out.splitlines()[2].split()[6] == "mid"


def _has_pandas() -> bool:
    from importlib.util import find_spec

    return find_spec("pandas") is not None


@pytest.mark.usefixtures("registry")
def test_a_file_of_metrics_can_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "import fusion_replay as fr\n@fr.metric('first')\ndef first(a, e):\n    return a.flat[0]\n"
    )
    a = np.ones(8, BF16)
    with fr.record(tmp_path / "x.h5") as rec, rec.step("ElementwiseAdd", {"A": a, "B": a}, {"size": 8}) as step:
        step.outputs["C"] = a + a
    assert main(["replay", str(tmp_path / "x.h5"), "--json", "--import", str(tmp_path / "mine.py")]) == 0
    step_record = json.loads(capsys.readouterr().out.splitlines()[1])
    assert step_record["outputs"][0]["verdict"]["stats"]["metrics"] == {"first": 2.0}


@pytest.mark.usefixtures("registry")
def test_bad_metrics() -> None:
    with pytest.raises(UsageError, match="expected a name"):
        fr.metric("no name")

    @fr.metric("broken")
    def broken(a: np.ndarray, e: np.ndarray) -> float:
        raise ZeroDivisionError("by me")

    with pytest.raises(UsageError, match=r"metric broken \(.*\): raised ZeroDivisionError: by me"):
        fr.compare(np.ones(2), np.ones(2))
    with pytest.raises(UsageError, match="choose another one"):

        @fr.metric("broken")
        def other(a: np.ndarray, e: np.ndarray) -> float:
            return 0.0
