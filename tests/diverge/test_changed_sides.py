# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from fusion_replay.compare.tolerance import bf16_ulps, relative
from fusion_replay.diverge.changed_sides import StepFacts, moved
from fusion_replay.diverge.environment import Change, environment_changes, in_one_line

OLD = StepFacts(
    inputs={"A": "a", "B": "b"},
    outputs={"C": "c"},
    expected={"C": "e"},
    tolerance=bf16_ulps(2),
    verdict=True,
    step="GEMV A, B -> C",
    environment={"packages": {"llvm-aie": "1", "numpy": "2"}, "time": "yesterday", "command": ["a"]},
)


def test_nothing_moved() -> None:
    same = replace(OLD, environment={**OLD.environment, "time": "today", "command": ["b"]})
    found = moved(OLD, same)
    assert not found
    assert (found.what, found.sentence) == ((), "nothing moved")


@pytest.mark.parametrize("sides", list(product([False, True], repeat=5)))
def test_every_combination_of_sides_is_told_apart(sides: tuple[bool, ...]) -> None:
    """Digests that follow from other inputs are no move of their own; everything else is named."""
    inputs, npu, reference, tolerance, environment = sides
    new = replace(
        OLD,
        inputs={"A": "a", "B": "other"} if inputs else OLD.inputs,
        outputs={"C": "other"} if npu else OLD.outputs,
        expected={"C": "other"} if reference else OLD.expected,
        tolerance=relative(0.1, 0) if tolerance else bf16_ulps(2).from_source("somewhere else"),
        environment={"packages": {"llvm-aie": "9", "numpy": "2"}} if environment else OLD.environment,
    )
    found = moved(OLD, new)
    want = {"inputs": inputs, "npu": npu and not inputs, "reference": reference and not inputs}
    want |= {"tolerance": tolerance, "environment": environment}
    assert found.what == tuple(side for side, is_so in want.items() if is_so)
    assert set(found.changes) == set(found.what)
    assert ("llvm-aie 1 -> 9" in found.sentence) == environment


def test_another_step_explains_everything_else() -> None:
    found = moved(OLD, replace(OLD, step="ReLU A -> C", outputs={"C": "x"}, inputs={}))
    assert found.what == ("runlist",)
    assert "GEMV A, B -> C" in found.sentence


def test_a_verdict_that_flips_is_said_and_never_left_without_a_reason() -> None:
    assert moved(OLD, replace(OLD, verdict=False, outputs={"C": "x"})).sentence == (
        "newly wrong: the NPU's output moved on the same inputs (C)"
    )
    unknown = moved(OLD, replace(OLD, verdict=False))
    assert unknown.what == ("environment",)
    assert unknown.sentence == "newly wrong, and nothing that was written down moved"
    assert moved(replace(OLD, verdict=False), OLD).sentence.startswith("newly right")
    assert not moved(OLD, replace(OLD, verdict=None))


def test_what_one_side_never_asked_did_not_move() -> None:
    assert not moved(OLD, replace(OLD, expected={}, tolerance=None, environment={}))


def test_environment_in_one_line() -> None:
    old = {
        "packages": {"numpy": "2.3", "llvm-aie": "2026082101", "h5py": "3.8"},
        "devices": [{"fw": "1.5"}],
        "driver": "a",
    }
    new = {
        "packages": {"numpy": "2.4", "llvm-aie": "2026082401", "torch": "2.9"},
        "devices": [{"fw": "1.6"}],
        "driver": "a",
    }
    old["environment"] = {"FUSION_REPLAY_OUT": "a.h5", "NPU_CACHE_HOME": "/a"}
    new["environment"] = {"FUSION_REPLAY_OUT": "b.h5", "NPU_CACHE_HOME": "/a"}
    changes = environment_changes(old, new)
    assert set(changes) == {
        Change("numpy", "2.3", "2.4"),
        Change("llvm-aie", "2026082101", "2026082401"),
        Change("h5py", "3.8", None),
        Change("torch", None, "2.9"),
        Change("devices.0.fw", "1.5", "1.6"),
    }
    assert in_one_line(changes).startswith("llvm-aie 2026082101 -> 2026082401; ")
    assert in_one_line(changes).endswith("; and 2 more")
    assert in_one_line(changes[:1]) == "devices.0.fw 1.5 -> 1.6"
    assert in_one_line([Change("torch", None, "2.9")]) == "torch new (2.9)"
    assert in_one_line([]) == ""
