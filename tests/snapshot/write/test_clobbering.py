# SPDX-License-Identifier: Apache-2.0
"""Who wrote what a step reads, and is it still that?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
    static_buffers,
)
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.write.clobbering import producers

N = 64  # elements of a buffer


def read(buffer: str, start: int = 0, count: int = N, name: str = "A") -> OperandUse:
    return OperandUse(ArgSpec(name, "in", (count,), "uint16"), buffer, 2 * start)


def write(buffer: str, start: int = 0, count: int = N, name: str = "C") -> OperandUse:
    return OperandUse(ArgSpec(name, "out", (count,), "uint16"), buffer, 2 * start)


def sequence(*steps: tuple[OperandUse, ...]) -> SequenceDescription:
    return SequenceDescription(
        name="flow",
        operators=(OperatorDescription("Op", {}),),
        buffers=tuple(
            BufferDescription(b, 2 * N) for b in sorted({use.buffer for operands in steps for use in operands})
        ),
        steps=tuple(StepDescription(n, 0, operands) for n, operands in enumerate(steps)),
    )


def test_the_last_writer_of_exactly_these_bytes() -> None:
    found = producers(
        sequence(
            (read("x"), write("y")),
            (read("y"), write("y")),  # in place: reads what step 0 wrote
            (read("y"), write("z")),
            (read("y", 0, 32), write("z", 0, 32)),  # other bytes than anybody wrote as a whole
            (read("z"), write("x")),  # step 3 wrote into what step 2 wrote
            (read("z", 0, 32), write("x")),
        )
    )
    assert found == {(1, 0): (0, 1), (2, 0): (1, 1), (5, 0): (3, 1)}


def chain() -> SequenceDescription:
    return sequence((read("x"), write("y")), (read("y"), write("z")))


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 16, N, dtype=np.uint16)


@pytest.mark.parametrize("level", ["full", "digest"])
def test_an_input_that_is_not_what_was_written_is_told_with_both_versions(tmp_path: Path, level: str) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5", level=level)  # type: ignore[arg-type]
    number = writer.add_sequence(chain())
    for clobber in (False, True, False):
        invocation = writer.begin_invocation(number)
        writer.begin_step(invocation, 0, {0: values(1)})
        writer.end_step(invocation, 0, {1: values(2)})
        writer.begin_step(invocation, 1, {0: values(3) if clobber else values(2)})
        writer.end_step(invocation, 1, {1: values(4)})
        writer.end_invocation(invocation)
    report = writer.close()
    assert report.notes == ("inputs clobbered between steps: 1, first at 1:1 A of y",)
    assert not report.losses
    with open_snapshot(report.path) as snap:
        assert [step.noticed for step in snap] == [{}, {}, {}, {"clobbered": {"A": [0, "C"]}}, {}, {}]
        assert snap[1, 1].inputs["A"].kept == (level == "full")
        if level == "full":
            assert snap[1, 0].outputs["C"].numpy().tobytes() == values(2).tobytes()
            assert snap[1, 1].inputs["A"].numpy().tobytes() == values(3).tobytes()


def test_a_step_that_failed_wrote_nothing_to_compare_with(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    invocation = writer.begin_invocation(writer.add_sequence(chain()))
    writer.begin_step(invocation, 0, {0: values(1)})
    writer.fail_step(invocation, 0, "no")
    writer.begin_step(invocation, 1, {0: values(3)})
    assert writer.close().notes == ()


def test_what_another_invocation_wrote_is_none_of_this_ones(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    number = writer.add_sequence(chain())
    first, second = writer.begin_invocation(number), writer.begin_invocation(number)
    for invocation in (first, second):
        writer.begin_step(invocation, 0, {0: values(1)})
        writer.end_step(invocation, 0, {1: values(invocation)})
    for invocation in (first, second):
        writer.begin_step(invocation, 1, {0: values(invocation)})
    assert writer.close().notes == ()


def test_digest_level_keeps_no_bytes(tmp_path: Path) -> None:
    big = ArgSpec("A", "in", (500_000,), "uint16")
    writer = SnapshotWriter(tmp_path / "t.h5", level="digest")
    made = sequence((OperandUse(big, "x"), write("y")))
    invocation = writer.begin_invocation(writer.add_sequence(made))
    contents = np.random.default_rng(0).integers(0, 1 << 16, 500_000, dtype=np.uint16)
    kept = writer.begin_step(invocation, 0, {0: contents})
    writer.end_step(invocation, 0, {1: values(2)})
    assert list(kept) == [0]
    report = writer.close()
    assert report.file_bytes < 50_000
    assert report.bytes_seen == 2 * (500_000 + N)
    with open_snapshot(report.path) as snap:
        import xxhash

        assert snap[0, 0].inputs["A"].digest == xxhash.xxh3_128_hexdigest(contents)
        assert not snap[0, 0].inputs["A"].kept


def test_an_unknown_level_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="level 'all': expected 'full' or 'digest'"):
        SnapshotWriter(tmp_path / "t.h5", level="all")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_which_buffers_are_static() -> None:
    step = (read("W", name="A"), read("x", name="B"), read("s", name="D"), write("y"), read("k", name="E"), write("k"))
    made = SequenceDescription(
        name="s",
        operators=(OperatorDescription("Op", {}),),
        buffers=(
            BufferDescription("W", 1 << 16, external=True),
            BufferDescription("x", 1 << 20, external=True),  # an input of the call
            BufferDescription("r", 1 << 20, "input", True),
            BufferDescription("s", (1 << 16) - 1, external=True),  # small: looking costs nothing
            BufferDescription("y", 1 << 20),
            BufferDescription("k", 1 << 20, external=True),  # a cache: a step writes it
        ),
        steps=(StepDescription(0, 0, step),),
        input_args=("x",),
    )
    assert static_buffers(made) == {"W"}
