# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from fusion_replay.compare.tolerance import Tolerance, bf16_ulps, exact, relative
from fusion_replay.errors import UsageError


def test_a_tolerance_survives_json() -> None:
    for t in (exact(), bf16_ulps(3), relative(0.04, 1e-6, 0.005, range_frac=0.01).from_source("a file")):
        assert Tolerance.from_dict(json.loads(json.dumps(t.to_dict()))) == t
    assert Tolerance.from_dict({"rtol": 0.5, "note": "from a newer version"}) == relative(0.5, 0.0)


def test_it_says_its_limits() -> None:
    assert str(exact()) == "exact"
    assert str(bf16_ulps(2)) == "2 bf16 ulp"
    assert str(relative(0.04, 0.15, 0.005)) == "rtol 0.04 atol 0.15, 0.5% may fail"
    assert str(relative(0.05, 0.5, range_frac=0.01)) == "rtol 0.05 atol 0.5, 0.01 of the largest expected"


@pytest.mark.parametrize(
    "bad",
    [
        {"rtol": -1.0},
        {"atol": float("nan")},
        {"rtol": float("inf")},
        {"range_frac": -0.1},
        {"error_rate": 1.5},
        {"ulps": -1},
    ],
)
def test_absurd_limits_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Tolerance(**bad)  # type: ignore[arg-type]
