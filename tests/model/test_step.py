# SPDX-License-Identifier: Apache-2.0
"""Steps as those who judge, compare and export see them: of a snapshot, and with something replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion_replay.model.replaced_step import ReplacedStep
from fusion_replay.model.runlist import ArgSpec, OperandUse, OperatorDescription, SequenceDescription, StepDescription
from fusion_replay.model.step import RecordedTensor, Step
from fusion_replay.snapshot import Snapshot, SnapshotWriter, open_snapshot
from snapshot_maker import BF16, bits, record


@pytest.fixture
def tiny(tmp_path: Path) -> Snapshot:
    return open_snapshot(record(tmp_path / "a.h5"))


def seen(step: Step) -> list[tuple[str, str, bytes]]:
    return [(side, t.name, bits(t.numpy())) for side, t in step.tensors()]


def test_with_nothing_replaced_it_is_the_step_itself(tiny: Snapshot) -> None:
    for step in tiny:
        same = ReplacedStep(step)
        names = "invocation sequence description status error withheld state elapsed_ns index address op label values"
        assert [getattr(same, n) for n in names.split()] == [getattr(step, n) for n in names.split()]
        assert seen(same) == seen(step)


def test_contents_are_replaced_before_the_kernel_and_stay_after_it(tiny: Snapshot) -> None:
    asked: list[str] = []

    def minus(tensor: RecordedTensor) -> np.ndarray:
        asked.append(tensor.what)
        return -tensor.numpy()

    step = tiny["0:2"]  # in place: its input is what its output held
    other = ReplacedStep(step, read=minus)
    assert bits(other.inputs["A"].numpy()) == bits(-step.inputs["A"].numpy())
    assert bits(other.outputs["A"].numpy()) == bits(step.outputs["A"].numpy())
    old, was = other.outputs["A"].previous, step.outputs["A"].previous
    assert old is not None
    assert was is not None
    assert bits(old.numpy()) == bits(-was.numpy())
    assert len(asked) == 2, "nothing is read before it is asked for"
    assert other.inputs["A"].kept
    assert (other.inputs["A"].shape, other.inputs["A"].dtype) == (step.inputs["A"].shape, "bfloat16")


def test_parameters_and_values_are_replaced_by_name(tiny: Snapshot) -> None:
    step = tiny["0:2"]
    other = ReplacedStep(step, params={"by": 2.0}, values={"n": 3})
    assert other.op.params == {**step.op.params, "by": 2.0}
    assert (other.op.type, other.label) == (step.op.type, step.label)
    assert other.values == {**step.values, "n": 3}
    assert step.op.params["by"] == 1.5
    assert seen(other) == seen(step)


def test_operands_of_one_name_all_come(tmp_path: Path) -> None:
    spec = ArgSpec("A", "in", (2,))
    uses = (OperandUse(spec, "x"), OperandUse(spec, "y"), OperandUse(ArgSpec("C", "out", (2,)), "z"))
    runlist = SequenceDescription("s", (OperatorDescription("Mine"),), (), (StepDescription(0, 0, uses),))
    writer = SnapshotWriter(tmp_path / "a.h5")
    invocation = writer.begin_invocation(writer.add_sequence(runlist))
    contents = [np.full(2, value, BF16) for value in (1, 2, 3)]
    writer.begin_step(invocation, 0, dict(enumerate(contents[:2])))
    writer.end_step(invocation, 0, {2: contents[2]})
    writer.end_invocation(invocation)
    writer.close()
    with open_snapshot(tmp_path / "a.h5") as snapshot:
        assert [data for _, _, data in seen(snapshot["0:0"])] == list(map(bits, contents))
        assert [t.position for t in snapshot["0:0"].inputs.in_order()] == [0, 1]
