# SPDX-License-Identifier: Apache-2.0
"""Part of a recording as a snapshot of its own: what was taken is there bit for bit, what was not is said."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
import snapshot_maker as maker
from fusion_replay.errors import TargetExistsError
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.binaries import KernelFiles
from fusion_replay.snapshot.fsck import check
from fusion_replay.snapshot.seal.subset import subset, write_subset


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return maker.record(tmp_path / "x.h5", invocations=4)


def test_steps_keep_address_contents_and_details(tmp_path: Path, source: Path) -> None:
    with open_snapshot(source) as snap:
        path = write_subset(subset(snap, [snap["2:0"], snap["2:2"]]), tmp_path / "y.h5")
    data = maker.contents(0, 2)
    with open_snapshot(path) as part:
        assert [step.address for step in part] == ["2:0", "2:2"]
        assert [(i.index, i.steps_recorded) for i in part.invocations] == [(2, 2)]
        gemv = part["2:0"]
        assert gemv.label == "2:0 GEMV W, x -> y"
        assert (gemv.values, gemv.elapsed_ns, gemv.state) == ({"n": 2}, 1002, "COMPLETED")
        assert maker.bits(gemv.inputs["A"].numpy()) == maker.bits(data["W"])
        assert maker.bits(gemv.inputs["B"].numpy()) == maker.bits(data["x"])
        assert maker.bits(gemv.outputs["C"].numpy()) == maker.bits(data["y0"])
        assert gemv.outputs["C"].unchanged is False  # the old contents' digest came along
        assert maker.bits(part["2:2"].outputs[0].numpy()) == maker.bits(data["y2"])
        assert part.sequences == open_snapshot(source).sequences
        assert [(loss.kind, loss.count) for loss in part.losses] == [("export", 10)]
        assert part.provenance["host"] == "test"
    assert check(path).ok
    assert (check(path).steps, check(path).invocations) == (2, 1)


def test_dropped_contents_keep_their_digest(tmp_path: Path, source: Path) -> None:
    with open_snapshot(source) as snap:
        weight = snap["0:0"].inputs["A"]
        path = write_subset(subset(snap, [snap["0:0"]], drop=[weight.row]), tmp_path / "y.h5")
        digest = weight.digest
    assert maker.bits(maker.contents(0, 0)["W"]) not in path.read_bytes()
    with open_snapshot(path) as part:
        assert (part["0:0"].inputs["A"].digest, part["0:0"].inputs["A"].kept) == (digest, False)
        assert part["0:0"].inputs["B"].kept
        assert any("left out of the export on request" in loss.detail for loss in part.losses)


def test_large_tensors_are_cut_as_before(tmp_path: Path) -> None:
    source = maker.record(tmp_path / "x.h5", invocations=2, rows=1500, columns=1001)  # W: 3 MB in several pieces
    with open_snapshot(source) as snap:
        path = write_subset(subset(snap, [snap["1:0"]]), tmp_path / "y.h5")
    with open_snapshot(path) as part:
        expected = maker.contents(0, 1, 1500, 1001)["W"]
        assert maker.bits(part["1:0"].inputs["A"].numpy()) == maker.bits(expected)
    assert check(path).ok


def test_contents_first_seen_in_another_shape_are_cut_anew(tmp_path: Path) -> None:
    """Stored along the shape of a step that is left behind; the step that is taken sees the same bytes otherwise."""
    wide = np.random.default_rng(1).standard_normal((3, 300_000)).astype(np.float32)
    with fr.record(tmp_path / "x.h5") as rec:
        for shape in (wide.shape, (300_000, 3)):
            with rec.step("Mine", {"A": wide.reshape(shape)}) as step:
                step.outputs["B"] = np.ones(2, ml_dtypes.bfloat16)
    with open_snapshot(tmp_path / "x.h5") as snap:
        path = write_subset(subset(snap, [snap["1:0"]]), tmp_path / "y.h5")
    with open_snapshot(path) as part:
        found = part["1:0"].inputs["A"].numpy()
        assert found.shape == (300_000, 3)
        assert found.tobytes() == wide.tobytes()
    assert check(path).ok


def test_a_recording_that_was_killed_gives_the_step_in_flight(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "k.h5")
    sequence = writer.add_sequence(maker.gemv_silu())
    data = maker.contents(0, 0)
    maker.run(writer, sequence, data, stop_after=3)
    writer.abandon()
    with open_snapshot(tmp_path / "k.h5") as snap:
        path = write_subset(subset(snap, [snap["0:1"]]), tmp_path / "y.h5")
    with open_snapshot(path) as part:
        assert part["0:1"].status == "in_flight"
        assert maker.bits(part["0:1"].inputs[0].numpy()) == maker.bits(data["y0"])


def test_nothing_is_overwritten(tmp_path: Path, source: Path) -> None:
    (tmp_path / "y.h5").write_bytes(b"mine")
    with open_snapshot(source) as snap, pytest.raises(TargetExistsError):
        write_subset(subset(snap, [snap["0:0"]]), tmp_path / "y.h5")
    assert (tmp_path / "y.h5").read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.h5", "y.h5"]


def test_device_files_come_along_with_the_operators_that_ran(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "x.h5")
    sequence = writer.add_sequence(maker.gemv_silu())
    xclbin, streams = ("all.xclbin", b"xclbin2" * 99), [(f"op{i}.bin", bytes([i]) * 40) for i in range(3)]
    writer.add_binaries(sequence, [KernelFiles(i, f"k{i}", xclbin, streams[i]) for i in range(3)])
    maker.run(writer, sequence, maker.contents(0, 0))
    writer.close()
    with open_snapshot(tmp_path / "x.h5") as snap:
        path = write_subset(subset(snap, [snap["0:1"]]), tmp_path / "y.h5")
        bare = write_subset(subset(snap, [snap["0:1"]], binaries=False), tmp_path / "z.h5")
    with open_snapshot(path) as part:
        (kernel,) = part.binaries
        assert (kernel.operator, kernel.kernel) == (1, "k1")
        assert kernel.xclbin is not None
        assert kernel.instructions is not None
        assert (kernel.xclbin.read(), kernel.instructions.read()) == (xclbin[1], streams[1][1])
    assert bytes([2]) * 40 not in path.read_bytes()
    assert open_snapshot(bare).binaries == ()
    assert check(path).ok
