# SPDX-License-Identifier: Apache-2.0
"""What goldens would catch, by kinds of faults whose effect is known: all of an output, a bit of it, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fusion_replay.golden.score import score

Maker = Callable[..., Path]
SMALL = ["size=256", "num_aie_columns=1", "tile_size=256"]


def test_what_survives_and_what_would_catch_it(make: Maker, goldens: Path) -> None:
    make("three", "op:AXPY", options={"param": [*SMALL, "scalar_factor=3.0"]})
    found = score(goldens)
    outcomes = {s.kind: s.outcome for s in found.scored}
    assert outcomes["zeros"] == outcomes["nan"] == outcomes["timeout"] == "caught"
    assert "hang" not in outcomes
    assert outcomes["truncate-scalar"] == "survives"
    assert outcomes["rounding-leak"] == "exact"
    proposed = {p.kind: (p.exact, p.command) for p in found.proposals}
    assert sorted(proposed) == ["rounding-leak", "truncate-scalar"]
    assert proposed["truncate-scalar"] == (False, "")  # that kernel keeps 16 bits anyway
    assert proposed["rounding-leak"][0]
    assert proposed["rounding-leak"][1].endswith(" --workload op:AXPY --sim npu2")
    make("bad", "op:AXPY", options={"param": [*SMALL, "scalar_factor=1.7"]}, thin=True)
    assert score(goldens).left_out == {"bad": "thin, or no recipe of the software NPU"}
