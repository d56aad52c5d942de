# SPDX-License-Identifier: Apache-2.0
"""Faults injected into whole models: the step, the pattern and the place are named. ``scripts/injections.py`` does it
for as many as one likes; here one of each kind into a small decode, and (long) 500 into llama and the encoder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fusion_replay as fr
from fusion_replay.diverge.explain import explain
from fusion_replay.operators import FLAVOURS
from fusion_replay.replaying.judge import Plan
from fusion_replay.simulator.faults.catalogue import STEP_KINDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("injections", ROOT / "scripts" / "injections.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["injections"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return script.Model("tiny", tmp_path_factory.mktemp("injections"))


# Step 6 writes the key cache, 10 multiplies scores batch by batch, 33 adds, 38 is the feed-forward's product.
CASES = (
    "1:38:zeros",
    "1:38:unwritten",
    "1:38:stale",
    "1:38:shift",
    "1:38:shift:7",
    "1:38:swap-columns:2:5",
    "1:10:batch",
    "1:38:drop-tile:3",
    "1:6:truncate-scalar:8",
    "1:38:rounding-leak",
    "1:38:bitflip:100:13",
    "1:38:nan:77",
    "1:38:nondeterministic",
    "1:38:timeout",
    "1:38:hang",
)


def test_every_kind_is_here(script: ModuleType) -> None:
    assert {c.split(":")[2] for c in CASES} == set(STEP_KINDS)
    assert set(script.EXPECTED) | set(script.STATUS) == set(STEP_KINDS)


@pytest.mark.parametrize("fault", CASES)
def test_each_kind_is_named(tiny: Any, fault: str) -> None:
    invocation, step, kind, *_ = fault.split(":")
    o = tiny.inject(fault, kind, f"{invocation}:{step}")
    assert o.counted
    assert o.first == f"{invocation}:{step}"
    assert o.diff_named
    assert o.verdict == "right", o
    assert o.place is not False, o
    assert o.leak is not False, o
    if kind in ("zeros", "unwritten", "stale", "shift", "swap-columns", "batch", "drop-tile", "nan"):
        assert o.beyond
        assert o.replay_verdict in ("right", "rival"), o


def test_a_clean_recording_has_no_cause(tiny: Any) -> None:
    told = [explain(step, tiny.clean) for step in tiny.clean.steps()]
    assert len(told) == len(tiny.clean)
    assert not any(told)


def matrix() -> list[Path]:
    return sorted((ROOT / "snapshots").rglob("*.h5"))


@pytest.mark.long
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_clean_recordings_of_the_matrix_have_no_cause(flavour: str) -> None:
    """Nor have they one against a flavour that they were not made like."""
    recordings = wrong = 0
    for path in matrix():
        with fr.open(path) as snapshot:
            steps = [s for s in snapshot.steps() if all(t.kept for t in (*s.inputs.values(), *s.outputs.values()))]
            told = [explain(step, snapshot, plan=Plan(reference=flavour)) for step in steps]
            recordings += bool(steps)
            wrong += any(c.grade != "located" for t in told if t is not None for c in t.causes)
    assert recordings >= 100
    assert wrong == 0


@pytest.mark.long
@pytest.mark.parametrize("model", ["llama", pytest.param("minilm", marks=pytest.mark.minilm)])
def test_hundreds(script: ModuleType, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = script.run(300 if model == "llama" else 200, 1, [model], tmp_path)
    with capsys.disabled():
        print("\n" + script.report(outcomes, 0.0), file=sys.stderr)
    counted = [o for o in outcomes if o.counted]
    assert all(o.step_named and o.diff_named for o in counted)
    assert all(o.beyond is not False for o in counted if o.changed), "replay names what is beyond the tolerance"
    assert sum(o.verdict in ("right", "rival") for o in counted) >= 0.95 * len(counted)
    gross = [o for o in counted if o.kind in script.GROSS and o.beyond is not None]
    assert sum(bool(o.beyond) for o in gross) >= 0.95 * len(gross)
    assert all(o.place for o in counted if o.place is not None)
    assert all(o.leak for o in counted if o.leak is not None)
