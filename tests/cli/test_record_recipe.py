# SPDX-License-Identifier: Apache-2.0
"""What ``record --workload`` says of how it was made comes on top of what the recorder says, not in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fusion_replay as fr
from commands import Command


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


def test_the_environment_says_where_and_what_is_typed_wins(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("record", "--workload", "op:GELU", "--sim", "npu2", "--param", "size=256")
    monkeypatch.setenv("FUSION_REPLAY_OUT", str(tmp_path / "said.h5"))
    assert run(*words).status == 0
    assert "said.h5 exists already" in run(*words).err
    monkeypatch.setenv("FUSION_REPLAY_IF_EXISTS", "number")
    assert run(*words).status == 0
    assert run(*words, "--if-exists", "replace").status == 0
    assert run(*words, "-o", tmp_path / "typed.h5", "--if-exists", "error").status == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["said-001.h5", "said.h5", "typed.h5"]
