# SPDX-License-Identifier: Apache-2.0
"""What ``record --workload`` says of how it was made comes on top of what the recorder says, not in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fusion_replay as fr
from cli.conftest import Command


def test_the_recipe_takes_nothing_away(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    words = ("record", "-o", path, "--workload", "op:GELU", "--sim", "npu2", "--param", "size=256", "--calls", 2)
    assert run(*words, "--verify-static").status == 0
    with fr.record(tmp_path / "plain.h5") as recorder, recorder.step("Any", {}) as step:
        step.outputs["C"] = np.ones(1, np.float32)
    with fr.open(path) as snap, fr.open(tmp_path / "plain.h5") as plain:
        assert set(snap.provenance) == {*plain.provenance, "recipe"}
        assert snap.provenance["recording"] == {"level": "full", "static": "verified"}
        assert snap.provenance["packages"] == plain.provenance["packages"]
        assert snap.provenance["recipe"] == {
            "workload": "op:GELU",
            "device": "npu2",
            "faults": [],
            "options": {"param": ["size=256"], "calls": 2},
        }
        assert {s.origin["device"] for s in snap.sequences} == {"npu2"}
        assert len(snap) == 2
