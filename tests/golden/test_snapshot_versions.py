# SPDX-License-Identifier: Apache-2.0
"""Files of every format version that was ever written stay readable: one of each lies here, never made anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fusion_replay as fr
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.simulator.operators import ReLU, Repeat, StridedCopy
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import check
from fusion_replay.snapshot.schema import CHUNKED, DELTA, DERIVED, DIGEST_ONLY, PACKED, PARTS
from snapshot_maker import BF16

HERE = Path(__file__).parent

MATRIX = np.arange(0x3F00, 0x3F00 + 64, dtype=np.uint16).view(BF16).reshape(8, 8)
VECTOR = np.array([0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 0x0001, 0x3F80], np.uint16).view(BF16)
RESULT = np.arange(8, dtype=np.float32)
CACHE = np.arange(16, dtype=np.int32)


def make(path: Path) -> None:
    """How the file of the present version was made; run once per version, by hand."""
    specs = (
        ArgSpec("A", "in", (8, 8)),
        ArgSpec("B", "in", (8,)),
        ArgSpec("C", "out", (8,), "float32"),
        ArgSpec("D", "inout", (16,), "int32"),
    )
    buffers = ("W", "x", "y", "kv")
    uses = tuple(OperandUse(s, b) for s, b in zip(specs, buffers, strict=True))
    again = OperandUse(ArgSpec("A", "in", (4, 16)), "W"), OperandUse(ArgSpec("B", "out", (2,), "int32"), "kv", 8, 16)
    sequence = SequenceDescription(
        "golden",
        (OperatorDescription("GEMV", {"M": 8, "K": 8, "eps": 1e-5}, "iron.operators.gemv.op", "gemv0"),
         OperatorDescription("Unknown", {"nested": {"a": [1, None, "ü"]}})),
        tuple(BufferDescription(b, s.nbytes, "scratch", b != "y") for s, b in zip(specs, buffers, strict=True)),
        (StepDescription(0, 0, uses), StepDescription(1, 1, again)),
        ("x",), ("y",), {"variant": "V3", "device": "npu2", "flavour": "iron-2026-09"},
    )  # fmt: skip
    writer = SnapshotWriter(path, provenance={"made": "once"})
    number = writer.add_sequence(sequence)
    first = writer.begin_invocation(number)
    writer.begin_step(first, 0, {0: MATRIX, 1: VECTOR, 3: CACHE}, watched={2: RESULT}, values={"vector_size": 5})
    writer.end_step(first, 0, {2: RESULT, 3: CACHE + 1}, elapsed_ns=1234, state="ERT_CMD_STATE_COMPLETED")
    writer.begin_step(first, 1, {0: MATRIX.reshape(4, 16)}, previous={1: CACHE[2:4]})
    writer.end_step(first, 1, {1: CACHE[4:6]})
    writer.end_invocation(first)
    second = writer.begin_invocation(number)
    writer.begin_step(second, 0, {0: MATRIX, 1: VECTOR, 3: CACHE})
    writer.fail_step(second, 0, "RuntimeError: timeout", state="ERT_CMD_STATE_TIMEOUT")
    third = writer.begin_invocation(number)
    writer.begin_step(third, 0, {0: MATRIX, 1: VECTOR, 3: CACHE})
    writer.lose("inputs", "something", 2)
    writer.close()


def test_version_1_0() -> None:
    path = HERE / "snapshot-1.0.h5"
    assert check(path).ok
    with open_snapshot(path) as snap:
        assert snap.format_version == (1, 0)
        assert [(s.address, s.status) for s in snap] == [
            ("0:0", "complete"), ("0:1", "complete"), ("1:0", "failed"), ("2:0", "in_flight"),
        ]  # fmt: skip
        step, partial, failed, flying = snap
        assert step.label == "0:0 GEMV W, x, kv -> y, kv"
        assert dict(step.op.params) == {"M": 8, "K": 8, "eps": 1e-5}
        assert (step.op.label, step.values, step.elapsed_ns) == ("gemv0", {"vector_size": 5}, 1234)
        assert step.inputs["A"].numpy().tobytes() == MATRIX.tobytes()
        assert step.inputs["B"].numpy().tobytes() == VECTOR.tobytes()
        assert step.outputs["C"].numpy().tolist() == list(range(8))
        assert step.outputs["C"].unchanged is True
        assert step.outputs["D"].numpy().tolist() == list(range(1, 17))
        assert step.outputs["D"].unchanged is False
        assert partial.inputs["A"].shape == (4, 16)
        assert partial.inputs["A"].digest == step.inputs["A"].digest == "05d321ae5c5882941ea8f4525ee814ed"
        assert partial.outputs["B"].buffer == "kv[8:16]"
        assert partial.outputs["B"].previous is not None
        assert partial.outputs["B"].previous.numpy().tolist() == [2, 3]
        assert dict(partial.op.params) == {"nested": {"a": [1, None, "ü"]}}
        assert (failed.error, failed.state) == ("RuntimeError: timeout", "ERT_CMD_STATE_TIMEOUT")
        assert flying.inputs["D"].numpy().tolist() == list(range(16))
        assert [(i.index, i.status) for i in snap.invocations] == [(0, "complete"), (1, "failed"), (2, "in_flight")]
        assert [loss.to_dict() for loss in snap.losses] == [{"kind": "inputs", "detail": "something", "count": 2}]
        assert snap.provenance == {"made": "once"}
        assert snap.sequences[0].origin == {"variant": "V3", "device": "npu2", "flavour": "iron-2026-09"}


def test_it_was_made_as_it_says(tmp_path: Path) -> None:
    make(tmp_path / "again.h5")
    with open_snapshot(tmp_path / "again.h5") as new, open_snapshot(HERE / "snapshot-1.0.h5") as old:
        assert new.sequences == old.sequences
        digests = [[t.digest for s in snap for t in (*s.inputs.values(), *s.outputs.values())] for snap in (new, old)]
        assert digests[0] == digests[1]


ROWS, COLS = 128, 64
FILLED = ((np.arange(ROWS * COLS) * 37) % 251 - 125).astype(BF16)


def token(i: int) -> np.ndarray:
    return np.arange(i, i + COLS).astype(BF16)


def make_1_1(path: Path) -> None:
    """How the file of version 1.1 was made: versions of a cache as patches, a slice as a part, a derived output."""
    copy = StridedCopy(
        input_sizes=(COLS,),
        input_strides=(1,),
        input_offset=0,
        output_sizes=(COLS,),
        output_strides=(1,),
        output_offset=0,
        input_buffer_size=COLS,
        output_buffer_size=ROWS * COLS,
        output_offset_parameter="offset",
    )
    runlist = [
        (copy, "x", "cache"),
        (Repeat(rows=ROWS, cols=COLS, repeat=2), "cache", "wide"),
        (ReLU(size=ROWS * COLS), f"wide[0:{2 * ROWS * COLS}]", "y"),
    ]
    call = fr.simulate(runlist, device="npu2")
    call.get_buffer("cache").numpy_view()[:] = FILLED
    with fr.record(path, call, on_error="raise") as rec:
        rec.recording.writer.set_provenance({"made": "once"})
        for i in range(3):
            call.get_buffer("x").numpy_view()[:] = token(i)
            call.write_values({"offset": i * COLS})
            call()


def check_1_1(path: Path, version: tuple[int, int]) -> None:
    assert check(path).ok
    with open_snapshot(path) as snap:
        assert snap.format_version == version
        derived = snap.index.contents[snap.index.contents["encoding"] == DERIVED]
        assert set(derived["mover"].tolist()) == ({0} if version < (1, 2) else {1})
        own = CHUNKED if version < (1, 2) else PACKED
        assert set(snap.index.contents["encoding"].tolist()) == {own, DELTA, PARTS, DERIVED, DIGEST_ONLY}
        cache = FILLED.copy()
        for i in range(3):
            write, repeat, relu = (snap[i, n] for n in range(3))
            assert write.values["offset"] == i * COLS
            assert write.outputs[0].previous is not None
            assert write.outputs[0].previous.numpy().tobytes() == cache.tobytes()
            cache[i * COLS : (i + 1) * COLS] = token(i)
            assert write.inputs[0].numpy().tobytes() == token(i).tobytes()
            assert write.outputs[0].numpy().tobytes() == repeat.inputs[0].numpy().tobytes() == cache.tobytes()
            wide = repeat.outputs[0].numpy().reshape(-1)
            assert wide.size == 2 * ROWS * COLS
            assert relu.inputs[0].numpy().tobytes() == wide[: ROWS * COLS].tobytes()
            assert relu.outputs[0].numpy().tobytes() == np.maximum(wide[: ROWS * COLS], 0).astype(BF16).tobytes()
    assert fr.replay(path).passed


def test_version_1_1() -> None:
    check_1_1(HERE / "snapshot-1.1.h5", (1, 1))


def test_version_1_1_was_made_as_it_says(tmp_path: Path) -> None:
    make_1_1(tmp_path / "again.h5")
    check_1_1(tmp_path / "again.h5", (1, 2))
