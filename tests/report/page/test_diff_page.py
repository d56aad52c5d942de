# SPDX-License-Identifier: Apache-2.0
"""The page of a diff, a bisection and an attribution: each step's kind, both sides' bits, the figures of the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from cli.conftest import write_adds
from fusion_replay.diverge.attribution import attribute
from fusion_replay.diverge.explain import explain_diff
from fusion_replay.report.page.diff_page import diff_page
from fusion_replay.report.page.replay_page import replay_page
from report.page.test_replay_page import Parsed


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    folder = tmp_path_factory.mktemp("diff")
    files: list[Path] = [write_adds(folder / "good.h5"), write_adds(folder / "bad.h5", wrong=1)]
    with ExitStack() as stack:
        yield tuple(stack.enter_context(fr.open(f)) for f in files)


def test_each_step_has_its_kind_and_both_sides_bits(pair: tuple[Any, Any]) -> None:
    good, bad = pair
    report = fr.diff(good, bad)
    page = Parsed(diff_page(good, bad, report, why=explain_diff(report, good, bad)))
    data = page.data
    assert data["states"] == [["=", 1], ["d", 1], ["=", 1]]
    assert data["headline"]["address"] == "1:0"
    assert data["headline"]["tone"] == "bad"
    assert [row[:3] for row in data["difference"]["steps"]] == [["1:0", "1:0", "introduced"]]
    (output,) = data["panels"]["1:0"]["outputs"]
    for side, snapshot in (("expected", good), ("actual", bad)):
        held = page.array(output["maps"][side])[:64].view(ml_dtypes.bfloat16)
        assert held.tobytes() == snapshot["1:0"].outputs["C"].numpy().tobytes()
    assert output["failing"] == report.steps[0].verdict.n_failing
    assert list(data["panels"]) == ["1:0"], "what is the same needs no maps"


def test_two_equal_recordings(pair: tuple[Any, Any]) -> None:
    data = Parsed(diff_page(pair[0], pair[0], fr.diff(pair[0], pair[0]))).data
    assert data["states"] == [["=", 3]]
    assert data["headline"]["tone"] == "good"
    assert (data["worst"], data["panels"], data["difference"]["steps"]) == ([], {}, [])


def test_one_invocation_alone_is_compared(pair: tuple[Any, Any]) -> None:
    good, bad = pair
    report = fr.diff(good, bad, invocation=2)
    data = Parsed(diff_page(good, bad, report, invocation=2)).data
    assert data["states"] == [["_", 2], ["=", 1]]


def test_the_curve_and_the_shares_are_the_reports(tmp_path: Path) -> None:
    with fr.open(write_adds(tmp_path / "last.h5", wrong=2)) as snapshot:
        found, shared = fr.bisect(snapshot), attribute(snapshot)
        report = fr.replay(snapshot)
        data = Parsed(replay_page(snapshot, report, bisection=found, attribution=shared)).data
    assert data["headline"]["text"] == f"{found.sentence}."
    assert [k for k, _ in data["bisection"]["points"]] == sorted({e.k for e in found.evaluations} | {found.steps})
    assert data["bisection"]["points"][-1][1] == pytest.approx(found.total, rel=1e-5)
    assert [row[0] for row in data["attribution"]["steps"]] == [s.address for s in shared.steps]
    assert np.isclose(sum(row[4] for row in data["attribution"]["steps"]), 1)
