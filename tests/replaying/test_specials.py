# SPDX-License-Identifier: Apache-2.0
"""Where NaN and Inf begin: named by a replay, reference agreeing or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fusion_replay as fr
from fusion_replay.model.bf16 import BFLOAT16

N = 64


def bf(x: object) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(x, np.float32).astype(BFLOAT16)


def record(path: Path, *steps: tuple[str, dict[str, np.ndarray], np.ndarray]) -> Path:
    with fr.record(path) as rec:
        for op, inputs, output in steps:
            with rec.step(op, inputs=inputs, params={"size": N}) as step:
                step.outputs["C"] = output
    return path


def add(a: np.ndarray, b: np.ndarray) -> tuple[str, dict[str, np.ndarray], np.ndarray]:
    with np.errstate(all="ignore"):
        return "ElementwiseAdd", {"A": a, "B": b}, bf(a.astype(np.float32) + b.astype(np.float32))


ONE = bf(np.ones(N))
POSITIVE, NEGATIVE = bf(np.full(N, np.inf)), bf(np.full(N, -np.inf))


def test_the_first_nan_is_named_where_the_reference_has_it_too(tmp_path: Path) -> None:
    nan = bf(np.full(N, np.nan))
    path = record(tmp_path / "x.h5", add(ONE, ONE), add(POSITIVE, NEGATIVE), add(nan, ONE))
    report = fr.replay(path)
    assert report.passed
    assert report.first_nan is not None
    assert report.first_nan.address == "1:0"
    words = (
        "first NaN: 1:0 ElementwiseAdd A, B -> C: 64 NaN in its output, none in its inputs; its reference has them too"
    )
    assert words in str(report)
    assert report.first_non_finite is None  # its inputs were infinite
    assert report.to_dict()["first_nan"] == "1:0"


def test_inf_from_finite_inputs_is_named(tmp_path: Path) -> None:
    large = bf(np.full(N, 3e38))
    report = fr.replay(record(tmp_path / "x.h5", add(ONE, POSITIVE), add(large, large), add(POSITIVE, NEGATIVE)))
    assert report.first_non_finite is not None
    assert report.first_non_finite.address == "1:0"
    assert report.first_nan is not None
    assert report.first_nan.address == "2:0"
    assert (
        "first Inf from finite inputs: 1:0 ElementwiseAdd A, B -> C: 64 Inf in its output, none in its inputs"
        in str(report)
    )


def test_nan_that_came_in_is_not_born(tmp_path: Path) -> None:
    nan = bf(np.full(N, np.nan))
    report = fr.replay(record(tmp_path / "x.h5", add(nan, ONE), add(POSITIVE, ONE)))
    assert report.first_nan is None
    assert report.first_non_finite is None
    assert "first NaN" not in str(report)


def test_all_nan_against_numbers_has_no_figure_that_flatters(tmp_path: Path) -> None:
    report = fr.replay(record(tmp_path / "x.h5", ("SiLU", {"A": ONE}, bf(np.full(N, np.nan)))))
    (step,) = report.mismatches
    assert np.isnan(step.stats.cosine)
    assert step.stats.rel_l2 == np.inf
    assert step.stats.n_finite == 0
