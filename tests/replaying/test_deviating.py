# SPDX-License-Identifier: Apache-2.0
"""Does a step that has just run deviate? The same answers as a replay of a recording would give afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_replay.model.runlist import ArgSpec, OperandUse, OperatorDescription, SequenceDescription, StepDescription
from fusion_replay.replaying.deviating import DeviationCheck, FinishedStep, StepInMemory
from fusion_replay.snapshot import RecordedStep, Snapshot, SnapshotWriter, open_snapshot
from fusion_replay.snapshot.schema import INPUT, OUTPUT, PREVIOUS, WATCHED, digest_of
from snapshot_maker import BF16, bits, contents, gemv_silu, record, run


def just_ran(step: RecordedStep) -> tuple[FinishedStep, dict[tuple[int, int], bytes]]:
    """What the recorder would have handed over of a recorded step: made of what the recording says, by its names."""
    arrays: dict[tuple[int, int], Any] = {}
    digests: dict[tuple[int, int], bytes] = {}
    for tensor in step.inputs.values():
        arrays[INPUT, tensor.position] = tensor.numpy()
    for tensor in step.outputs.values():
        arrays[OUTPUT, tensor.position] = tensor.numpy()
        if tensor.direction == "inout":
            continue  # its old contents are its input
        if tensor.previous is not None:
            arrays[PREVIOUS, tensor.position] = tensor.previous.numpy()
        elif tensor.previous_digest is not None:
            digests[WATCHED, tensor.position] = bytes.fromhex(tensor.previous_digest)
    digests |= {spot: digest_of(bits(array)) for spot, array in arrays.items()}
    return FinishedStep(step.sequence, step.invocation, step.index, step.values, arrays), digests


@pytest.fixture
def tiny(tmp_path: Path) -> Snapshot:
    return open_snapshot(record(tmp_path / "a.h5"))


def test_a_step_in_memory_is_the_step_of_a_snapshot(tiny: Snapshot) -> None:
    for step in tiny:
        made = StepInMemory(*just_ran(step))
        assert made.status == "complete"
        assert made.values == step.values
        assert made.op == step.op
        assert made.withheld is None
        for side, other in ((step.inputs, made.inputs), (step.outputs, made.outputs)):
            assert list(side) == list(other)
            for name, tensor in side.items():
                twin = other[name]
                assert (twin.digest, twin.unchanged, twin.buffer) == (tensor.digest, tensor.unchanged, tensor.buffer)
                assert bits(twin.numpy()) == bits(tensor.numpy())
                assert (twin.previous is None) == (tensor.previous is None)


def test_what_was_not_read_is_not_kept(tiny: Snapshot) -> None:
    ran, digests = just_ran(tiny["0:0"])
    made = StepInMemory(FinishedStep(ran.sequence, 0, 0, {}, {}), digests)
    assert [t.kept for _, t in made.tensors()] == [False] * 3
    with pytest.raises(Exception, match="its contents were not read"):
        made.inputs["A"].numpy()


# --- an earlier snapshot ----------------------------------------------------------------------------------------


def test_bit_for_bit_by_role_and_position(tmp_path: Path, tiny: Snapshot) -> None:
    decider = DeviationCheck(tmp_path / "a.h5")
    assert not decider.reads
    for step in tiny:
        ran, digests = just_ran(step)
        assert decider.decide(ran, digests) == "as in a.h5"
        for spot in digests:
            other = {**digests, spot: bytes(16)}
            assert decider.decide(ran, other) is None, spot
    found = decider.found
    changed = sum(len(just_ran(s)[1]) for s in tiny)
    assert (found.looked_at, found.deviating, found.first) == (len(tiny) + changed, changed, "0:0 GEMV")


def test_old_contents_that_only_one_side_looked_at_say_nothing(tmp_path: Path, tiny: Snapshot) -> None:
    """Kept old contents are the same fact as watched ones; where nobody looked then, there is nothing to differ."""
    decider = DeviationCheck(tmp_path / "a.h5")
    ran, digests = just_ran(tiny["0:0"])
    old = digests.pop((WATCHED, 2))
    assert decider.decide(ran, digests) == "as in a.h5"
    assert decider.decide(ran, {**digests, (PREVIOUS, 2): old}) == "as in a.h5"
    assert decider.decide(ran, {**digests, (PREVIOUS, 2): bytes(16)}) is None
    ran, digests = just_ran(tiny["0:1"])
    assert decider.decide(ran, {**digests, (WATCHED, 1): bytes(16)}) == "as in a.h5"


def test_no_counterpart(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "short.h5")
    sequence = writer.add_sequence(gemv_silu())
    run(writer, sequence, contents(0, 0), stop_after=3)  # 0:1 is in flight
    writer.close()
    decider = DeviationCheck(tmp_path / "short.h5")
    with open_snapshot(record(tmp_path / "a.h5")) as snap:
        said = [decider.decide(*just_ran(step)) for step in snap]
    assert said == ["as in short.h5", None, None, None, None, None]
    assert (decider.found.alone, decider.found.first_alone) == (5, "0:1 SiLU: there it is in_flight")
    assert str(decider.found) == (
        "none of 6 steps deviates from short.h5; 5 without a counterpart there, kept, first 0:1 SiLU: there it is "
        "in_flight"
    )


# --- the references ---------------------------------------------------------------------------------------------


def test_what_fails_in_here_keeps_the_step(tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    decider = DeviationCheck(None)
    assert decider.reads

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("fusion_replay.replaying.deviating.evaluate_step", broken)
    assert decider.decide(*just_ran(tiny["0:0"])) is None
    assert decider.found.unjudged == 1
    assert "ZeroDivisionError: a bug" in str(decider.found)


def test_an_operator_nobody_knows_is_kept(tiny: Snapshot) -> None:
    decider = DeviationCheck(None)
    assert decider.decide(*just_ran(tiny["0:2"])) is None
    assert "1 that could not be judged, kept, first 0:2 Bump: no reference for operator Bump" in str(decider.found)


def test_what_is_right_was_written_whatever_was_there_before() -> None:
    unary = ArgSpec("A", "in", (2,)), ArgSpec("B", "out", (2,))
    steps = (StepDescription(0, 0, (OperandUse(unary[0], "x"), OperandUse(unary[1], "y"))),)
    kinds = (OperatorDescription("SiLU", {"size": 2}),)
    sequence = SequenceDescription("s", kinds, (), steps, ("x",), ("y",), {"device": "npu2", "flavour": "exact"})
    x = np.array([1.0, -2.0], BF16)
    y = np.array([0.734375, -0.2392578125], BF16)  # silu(1) = 0.731..., one bf16 step off; silu(-2) = -0.238...
    wrong = np.array([0.5, -0.2392578125], BF16)
    check = DeviationCheck(None)

    def ran(written: np.ndarray, old: np.ndarray) -> str | None:
        contents = {(INPUT, 0): x, (OUTPUT, 1): written}
        digests = {spot: digest_of(bits(array)) for spot, array in contents.items()}
        return check.decide(FinishedStep(sequence, 0, 0, {}, contents), {**digests, (WATCHED, 1): digest_of(bits(old))})

    assert ran(y, y) == "as the reference", "an earlier call may have left it"
    assert ran(y, np.zeros(2, BF16)) == "as the reference"
    assert ran(wrong, y) is None
    assert ran(wrong, wrong) is None
