# SPDX-License-Identifier: Apache-2.0
"""Distances to the limit: against values worked out by hand, and against what the verdict itself counts."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.replaying.elements import distance, elements, measure
from fusion_replay.replaying.judge import Plan, evaluate_step

BF16 = ml_dtypes.bfloat16


def bf16(*values: float) -> np.ndarray:
    return np.array(values, np.float32).astype(BF16)


def test_strict_by_hand() -> None:
    # The limit of an element is atol + rtol * |expected|: 0.25 + 0.125 * 2 = 0.5, and 0.25 + 0.125 * 4 = 0.75.
    verdict = fr.compare(bf16(2, 2.25, 2.5, 5, 4), bf16(2, 2, 2, 4, 4), "strict", rtol=0.125, atol=0.25)
    found = measure(bf16(2, 2.25, 2.5, 5, 4), bf16(2, 2, 2, 4, 4), verdict)
    assert found.distance.tolist() == pytest.approx([0, 0.5, 1, 1 / 0.75, 0])
    assert found.failing.tolist() == [False, False, False, True, False]
    # bf16 has 128 values from 2 to 4, and as many from 4 to 8: a quarter is 16 of the former, one is 32 of the latter.
    assert found.ulp.tolist() == [0, 16, 32, 32, 0]
    assert [found.failing_at(f) for f in (0.25, 0.75, 1, 2)] == [3, 2, 1, 0]
    assert distance(verdict) >= found.distance.max()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_no_limit_accepts_is_infinitely_far() -> None:
    actual, expected = bf16(math.nan, math.nan, math.inf, -math.inf, 1), bf16(1, math.nan, math.inf, math.inf, 1)
    verdict = fr.compare(actual, expected, "strict", rtol=0.1, atol=0.1)
    found = measure(actual, expected, verdict)
    assert found.distance.tolist() == [math.inf, 0, 0, math.inf, 0]
    assert found.ulp.tolist() == [0] * 5
    assert distance(verdict) == math.inf


def test_the_verdict_has_the_last_word() -> None:
    """Any rule, rounding at the limit included: the elements beyond it are those that it counts."""
    rng = np.random.default_rng(3)
    expected = rng.standard_normal(400).astype(BF16)
    scale = rng.choice([0, 2**-9, 2**-7, 2**-5, 0.5, 2], 400)
    actual = (expected.astype(np.float32) * (1 + scale * rng.standard_normal(400))).astype(BF16)
    for rule in ("auto", "strict", "iron-test", "iron-compare", "aie-verify"):
        verdict = fr.compare(actual, expected, rule)
        found = measure(actual, expected, verdict)
        assert np.count_nonzero(found.failing) == found.failing_at(1) == verdict.stats.n_failing, rule
        assert (found.distance == 0)[actual == expected].all()
        assert 0 < found.failing_at(1) < 400, f"{rule}: the case has both kinds"


def test_of_a_recorded_step(tmp_path: Path) -> None:
    """A sum that is right to the bit may be one bf16 value off: rule auto accepts one ULP."""
    a = bf16(1, 1, 1, 1)
    with fr.record(tmp_path / "x.h5") as rec, rec.step("ElementwiseAdd", {"A": a, "B": a}, {"size": 4}) as s:
        s.outputs["C"] = bf16(2, 2 + 2**-6, 2, 4)
    with fr.open(tmp_path / "x.h5") as snapshot:
        step = snapshot["0:0"]
        verdict = fr.replay(snapshot).steps[0].outputs[0].verdict
        found = elements(step, evaluate_step(step, Plan("auto", "exact")), 0, verdict)
    assert found.expected.tolist() == [2, 2, 2, 2]
    assert found.failing.tolist() == [False, False, False, True]
    assert found.distance.tolist() == [0, 1, 0, 128]
    assert found.ulp.tolist() == [0, 1, 0, 128]
    assert distance(verdict) == 128


def test_where_a_bound_decided_its_word_is_taken() -> None:
    verdict = fr.compare(bf16(1, 2, 3), bf16(1, 2, 4))
    ratio, failing = np.array([0.5, 1.5, 0.25]), np.array([False, False, True])
    found = measure(bf16(1, 2, 3), bf16(1, 2, 4), verdict, (ratio, failing))
    assert found.failing is failing
    assert found.distance.tolist() == [0.5, 1, np.nextafter(1, 2)], "never on another side than it says"


@pytest.mark.parametrize("rule", ["auto", "strict", "iron-test"])
def test_from_figures_alone_it_is_never_less(rule: str) -> None:
    rng = np.random.default_rng(8)
    for scale in (2**-8, 2**-6, 0.5, 4):
        expected = rng.standard_normal(64).astype(BF16)
        actual = (expected.astype(np.float32) * (1 + scale * rng.uniform(-1, 1, 64))).astype(BF16)
        verdict = fr.compare(actual, expected, rule, tolerance=fr.Tolerance(rtol=0.04, atol=1e-6))
        assert distance(verdict) >= measure(actual, expected, verdict).distance.max() * (1 - 1e-9)


def test_equal_bits_are_no_distance() -> None:
    assert distance(fr.compare(bf16(1, math.nan), bf16(1, math.nan))) == 0


def test_a_recorded_step_where_a_bound_decides(run, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    run("record", "--workload", "op:Softmax", "--sim", "npu2", "--fault", "Softmax:shift", "-o", path)
    with fr.open(path) as snapshot:
        report = fr.replay(snapshot)
        judged = report.first_mismatch
        verdict = judged.outputs[0].verdict
        step = snapshot[judged.address]
        assert verdict.decided_by == "bound"
        found = elements(step, evaluate_step(step, Plan(report.rule, report.reference)), 0, verdict)
    assert np.count_nonzero(found.failing) == found.failing_at(1) == verdict.stats.n_failing > 0
