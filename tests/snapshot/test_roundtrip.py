# SPDX-License-Identifier: Apache-2.0
"""What the writer was given is what the reader gives: from the running recording, its journal and the sealed file."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import SnapshotError, UsageError
from fusion_replay.model.runlist import (
    DTYPE_BYTES,
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import Snapshot, SnapshotWriter, open_snapshot
from fusion_replay.snapshot.journal.spill import RESERVE
from fusion_replay.snapshot.write import writer as writer_module
from snapshot_maker import BF16, bits, contents, gemv_silu, random_bf16, record, run


def one_step(*args: ArgSpec) -> SequenceDescription:
    """A sequence of one step of operator Any, each argument in a buffer of its own."""
    uses = tuple(OperandUse(arg, arg.name.lower()) for arg in args)
    buffers = tuple(BufferDescription(arg.name.lower(), arg.nbytes) for arg in args)
    return SequenceDescription("one", (OperatorDescription("Any"),), buffers, (StepDescription(0, 0, uses),))


@pytest.fixture(params=["running", "abandoned", "sealed"])
def snapshot(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Snapshot]:
    """Two whole invocations and one that stopped inside its second step."""
    writer = SnapshotWriter(tmp_path / "t.h5", provenance={"host": "test", "nested": {"a": [1, None]}})
    sequence = writer.add_sequence(gemv_silu())
    for number, stop in ((0, 6), (1, 6), (2, 3)):
        run(writer, sequence, contents(0, number), stop)
    writer.lose("inputs", "lost on purpose", 3)
    if request.param == "sealed":
        writer.close()
    elif request.param == "abandoned":
        writer.abandon()
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert snap.sealed == (request.param == "sealed")
        yield snap
    writer.abandon()


def test_every_tensor_comes_back_bit_for_bit(snapshot: Snapshot) -> None:
    for number in range(2):
        data = contents(0, number)
        gemv, silu, bump = snapshot.steps(invocation=number)
        assert bits(gemv.inputs["A"].numpy()) == bits(data["W"])
        assert bits(gemv.inputs["B"].numpy()) == bits(data["x"])
        assert bits(gemv.outputs["C"].numpy()) == bits(data["y0"])
        assert bits(silu.inputs[0].numpy()) == bits(data["y0"])
        assert bits(silu.outputs[0].numpy()) == bits(data["y1"])
        assert bits(bump.inputs["A"].numpy()) == bits(data["y1"][4:])
        assert bits(bump.outputs["A"].numpy()) == bits(data["y2"])
        assert gemv.inputs["A"].numpy().dtype == BF16
        assert gemv.inputs["A"].numpy().shape == (8, 16)


def test_steps_say_what_they_are(snapshot: Snapshot) -> None:
    assert len(snapshot) == 8
    step = snapshot["1:0"]
    assert (step.address, step.index, step.invocation, step.status) == ("1:0", 0, 1, "complete")
    assert (step.op.type, dict(step.op.params), step.op.module) == ("GEMV", {"M": 8, "K": 16}, "iron.operators.gemv.op")
    assert step.label == "1:0 GEMV W, x -> y"
    assert (step.values, step.elapsed_ns, step.state, step.error) == ({"n": 1}, 1001, "COMPLETED", None)
    assert snapshot[1, 2].label == "1:2 Bump y[8:16] -> y[8:16]"
    assert snapshot[1, 2].inputs[0].buffer == "y[8:16]"
    assert (snapshot[1, 2].values, snapshot[1, 2].elapsed_ns, snapshot[1, 2].state) == ({}, None, None)
    assert list(step.inputs) == ["A", "B"]
    assert [t.position for t in step.inputs.values()] == [0, 1]
    assert (step.outputs[0].position, step.outputs[0].direction, step.outputs[0].nbytes) == (2, "out", 16)


def test_the_rest_of_the_recording(snapshot: Snapshot) -> None:
    assert snapshot.provenance == {"host": "test", "nested": {"a": [1, None]}}
    assert snapshot.sequences == (gemv_silu(),)
    assert [(i.index, i.sequence, i.status, i.steps_recorded) for i in snapshot.invocations] == [
        (0, 0, "complete", 3),
        (1, 0, "complete", 3),
        (2, 0, "in_flight", 2),
    ]
    assert [(loss.kind, loss.detail, loss.count) for loss in snapshot.losses] == [("inputs", "lost on purpose", 3)]
    assert bool(snapshot.notes) != snapshot.sealed
    assert snapshot.format_version == (1, 2)


def test_the_step_in_flight_has_its_inputs_and_no_outputs(snapshot: Snapshot) -> None:
    step = snapshot["2:1"]
    assert step.status == "in_flight"
    assert bits(step.inputs[0].numpy()) == bits(contents(0, 2)["y0"])
    output = step.outputs["B"]
    assert (output.kept, output.digest, output.unchanged) == (False, None, None)
    with pytest.raises(SnapshotError, match=r"2:1 SiLU, output B .* was not recorded"):
        output.numpy()


def test_old_contents(snapshot: Snapshot) -> None:
    watched = snapshot["0:0"].outputs[0]
    assert watched.unchanged is False
    assert watched.previous is None  # only its digest was asked for
    inout = snapshot["0:2"].outputs[0]
    assert inout.previous is not None
    assert bits(inout.previous.numpy()) == bits(contents(0, 0)["y1"][4:])


def test_equal_contents_have_one_digest_and_are_read_only(snapshot: Snapshot) -> None:
    assert snapshot["0:0"].inputs["A"].digest == snapshot["1:0"].inputs["A"].digest
    assert snapshot["0:0"].inputs["B"].digest != snapshot["1:0"].inputs["B"].digest
    with pytest.raises(ValueError):
        snapshot["0:0"].inputs["A"].numpy()[0, 0] = 0


def test_filters(snapshot: Snapshot) -> None:
    def found(**by: Any) -> list[str]:
        return [step.address for step in snapshot.steps(**by)]

    assert found() == ["0:0", "0:1", "0:2", "1:0", "1:1", "1:2", "2:0", "2:1"]
    assert found(op="gemv") == found(op="GEMV") == ["0:0", "1:0", "2:0"]
    assert found(op="silu", invocation=1) == ["1:1"]
    assert found(op="bump") == ["0:2", "1:2"]  # of an operator nobody knows
    assert found(buffer="x") == ["0:0", "1:0", "2:0"]
    assert found(buffer="y[0:8]") == ["0:0", "0:1", "1:0", "1:1", "2:0", "2:1"]
    assert found(buffer="y[6:10]", invocation=0) == ["0:0", "0:1", "0:2"]
    assert found(step=1) == found(step="1") == ["0:1", "1:1", "2:1"]
    assert found(step="1:2") == ["1:2"]
    assert found(step="1:2", invocation=0) == found(op="Softmax") == found(buffer="W_q") == found(invocation=9) == []
    with pytest.raises(UsageError, match="step 'x'"):
        found(step="x")


def test_wrong_keys_say_what_there_is(snapshot: Snapshot) -> None:
    with pytest.raises(UsageError, match=r"no step 7:0; it has 8 steps of 3 invocations, 0:0 to 2:1$"):
        snapshot["7:0"]
    with pytest.raises(UsageError, match=r"no step 1:99; invocation 1 has 3 steps, 1:0 to 1:2$"):
        snapshot["1:99"]
    with pytest.raises(UsageError, match="expected INVOCATION:STEP"):
        snapshot["seven"]
    with pytest.raises(KeyError, match="step 0:0 inputs has no 'Z'; it has A, B"):
        snapshot["0:0"].inputs["Z"]
    with pytest.raises(KeyError):
        snapshot["0:0"].inputs[2]
    assert "Z" not in snapshot["0:0"].inputs
    assert snapshot["0:0"].inputs.get("Z") is None


def test_a_whole_run_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    path = record(tmp_path / "t.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]
    assert path == tmp_path / "t.h5"


@pytest.mark.parametrize("dtype", sorted(DTYPE_BYTES))
def test_every_element_type_keeps_its_bits(tmp_path: Path, dtype: str) -> None:
    if dtype.startswith("float") and not hasattr(ml_dtypes, dtype) and not hasattr(np, dtype):
        pytest.skip(f"ml_dtypes {ml_dtypes.__version__} has no {dtype}")
    raw = np.random.default_rng(0).integers(0, 256, (3, 5, DTYPE_BYTES[dtype]), dtype=np.uint8)
    kind = BF16 if dtype == "bfloat16" else np.dtype(dtype)
    if dtype == "bool":
        raw &= 1
    array = raw.view(kind)[..., 0]
    writer = SnapshotWriter(tmp_path / "t.h5")
    invocation = writer.begin_invocation(writer.add_sequence(one_step(ArgSpec("A", "in", (3, 5), dtype))))
    writer.begin_step(invocation, 0, {0: array})
    writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        back = snap["0:0"].inputs["A"].numpy()
        assert back.dtype == kind
        assert bits(back) == raw.tobytes()


@pytest.mark.parametrize("sealed", [False, True])
def test_all_65536_bf16_patterns_survive(tmp_path: Path, sealed: bool) -> None:
    array = np.arange(65536, dtype=np.uint16).view(BF16)
    writer = SnapshotWriter(tmp_path / "t.h5")
    invocation = writer.begin_invocation(writer.add_sequence(one_step(ArgSpec("A", "in", (256, 256)))))
    writer.begin_step(invocation, 0, {0: array.reshape(256, 256)})
    if sealed:
        writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert snap["0:0"].inputs[0].numpy().view(np.uint16).reshape(-1).tolist() == list(range(65536))
    writer.abandon()


def test_scalars_and_nothing_at_all(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    spec = ArgSpec("A", "in", (), "float32"), ArgSpec("B", "in", (0, 3), "int32")
    invocation = writer.begin_invocation(writer.add_sequence(one_step(*spec)))
    writer.begin_step(invocation, 0, {0: np.float32(4.5).reshape(()), 1: np.zeros((0, 3), np.int32)})
    writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        inputs = snap["0:0"].inputs
        assert (inputs["A"].numpy().shape, float(inputs["A"].numpy())) == ((), 4.5)
        assert inputs["B"].numpy().shape == (0, 3)


def test_views_may_die_when_the_call_returns(tmp_path: Path) -> None:
    for size in (1000, 1_500_000):  # inside the journal, and in the spill file
        array = random_bf16(np.random.default_rng(size), (size,))
        before = bits(array)
        writer = SnapshotWriter(tmp_path / "t.h5", if_exists="replace")
        invocation = writer.begin_invocation(writer.add_sequence(one_step(ArgSpec("A", "inout", (size,)))))
        writer.begin_step(invocation, 0, {0: array})
        array[:] = 0
        writer.end_step(invocation, 0, {0: array})
        array[:] = 1
        writer.close()
        with open_snapshot(tmp_path / "t.h5") as snap:
            assert bits(snap["0:0"].inputs[0].numpy()) == before
            assert not snap["0:0"].outputs[0].numpy().any()


def test_a_tensor_larger_than_the_whole_spill_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SPILL_SLOTS", 2)
    array = random_bf16(np.random.default_rng(0), (9, 500_000))
    writer = SnapshotWriter(tmp_path / "t.h5")
    invocation = writer.begin_invocation(writer.add_sequence(one_step(ArgSpec("A", "in", (9, 500_000)))))
    writer.begin_step(invocation, 0, {0: array})
    assert (tmp_path / "t.h5.spill").stat().st_size <= (2 << 20) + RESERVE
    with open_snapshot(tmp_path / "t.h5") as live:
        assert bits(live["0:0"].inputs[0].numpy()) == bits(array)
    writer.close()
    with open_snapshot(tmp_path / "t.h5", cache_bytes=0) as snap:
        assert bits(snap["0:0"].inputs[0].numpy()) == bits(array)


def test_a_snapshot_opened_while_slots_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The reader's table says "slot 0"; by the time it reads, another tensor lies there.
    monkeypatch.setattr(writer_module, "SPILL_SLOTS", 1)
    rng = np.random.default_rng(0)
    arrays = [random_bf16(rng, (200_000,)) for _ in range(4)]
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(one_step(ArgSpec("A", "in", (200_000,))))
    snapshots = []
    for array in arrays:
        writer.begin_step(writer.begin_invocation(sequence), 0, {0: array})
        snapshots.append(open_snapshot(tmp_path / "t.h5"))
    writer.drain()
    for number, snap in enumerate(snapshots):
        for earlier, array in enumerate(arrays[: number + 1]):
            assert bits(snap[earlier, 0].inputs[0].numpy()) == bits(array)
    writer.close()
    for snap in snapshots:  # sealed and unlinked meanwhile: what was opened still reads
        assert bits(snap[0, 0].inputs[0].numpy()) == bits(arrays[0])
        snap.close()


def test_equal_bytes_are_stored_once(tmp_path: Path) -> None:
    few = record(tmp_path / "few.h5", 1, columns=40_000).stat().st_size
    writer = SnapshotWriter(tmp_path / "many.h5")
    sequence = writer.add_sequence(gemv_silu(8, 40_000))
    for _ in range(20):
        run(writer, sequence, contents(0, 0, 8, 40_000))
    report = writer.close()
    assert report.file_bytes == report.path.stat().st_size < few + 60_000
    assert report.bytes_seen > 18 * report.bytes_unique
    assert (report.steps, report.invocations, report.losses) == (60, 20, ())


def test_the_same_bytes_as_another_type_and_shape(tmp_path: Path) -> None:
    words = np.arange(24, dtype=np.uint16)
    specs = [ArgSpec("A", "in", (24,), "uint16"), ArgSpec("B", "in", (4, 6), "int16"), ArgSpec("C", "in", (2, 12))]
    writer = SnapshotWriter(tmp_path / "t.h5")
    invocation = writer.begin_invocation(writer.add_sequence(one_step(*specs)))
    arrays = {0: words, 1: words.view(np.int16).reshape(4, 6), 2: words.view(BF16).reshape(2, 12)}
    writer.begin_step(invocation, 0, arrays)
    writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        for position, array in arrays.items():
            back = snap["0:0"].inputs[position].numpy()
            assert (back.dtype, back.shape, bits(back)) == (array.dtype, array.shape, bits(array))


def test_partial_writers_keep_what_was_there(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    specs = ArgSpec("A", "in", (4,), "int32"), ArgSpec("B", "out", (8,), "int32")
    sequence = writer.add_sequence(one_step(*specs))
    old, new = np.arange(8, dtype=np.int32), np.arange(8, dtype=np.int32)
    new[2] = 77
    for after in (new, old):
        invocation = writer.begin_invocation(sequence)
        writer.begin_step(invocation, 0, {0: np.arange(4, dtype=np.int32)}, previous={1: old})
        writer.end_step(invocation, 0, {1: after})
    writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        written, untouched = snap["0:0"].outputs["B"], snap["1:0"].outputs["B"]
        assert written.previous is not None
        assert written.previous.numpy().tolist() == list(range(8))
        assert (written.unchanged, untouched.unchanged) == (False, True)
        assert "B" not in snap["0:0"].inputs


def test_failed_steps(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    invocation = writer.begin_invocation(writer.add_sequence(gemv_silu()))
    data = contents(0, 0)
    writer.begin_step(invocation, 0, {0: data["W"], 1: data["x"]})
    writer.fail_step(invocation, 0, "RuntimeError: Kernel returned TIMEOUT", state="ERT_CMD_STATE_TIMEOUT")
    writer.end_invocation(invocation)
    writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        step = snap["0:0"]
        assert (step.status, step.error, step.state) == (
            "failed",
            "RuntimeError: Kernel returned TIMEOUT",
            "ERT_CMD_STATE_TIMEOUT",
        )
        assert bits(step.inputs["B"].numpy()) == bits(data["x"])
        assert snap.invocations[0].status == "failed"


def test_an_invocation_may_turn_out_to_be_of_another_sequence(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    first = ArgSpec("A", "in", (4,), "int32")
    guess = writer.add_sequence(one_step(first))
    invocation = writer.begin_invocation(guess)
    writer.begin_step(invocation, 0, {0: np.arange(4, dtype=np.int32)})
    writer.reassign(invocation, writer.add_sequence(one_step(first, ArgSpec("C", "out", (2,), "int32"))))
    writer.end_step(invocation, 0, {1: np.array([8, 9], np.int32)})
    writer.end_invocation(invocation)
    writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert snap["0:0"].outputs["C"].numpy().tolist() == [8, 9]
        assert snap["0:0"].inputs["A"].numpy().tolist() == [0, 1, 2, 3]
        assert [(i.sequence, i.status) for i in snap.invocations] == [(1, "complete")]


def test_arrays_that_do_not_fit_the_runlist_are_refused(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    sequence = writer.add_sequence(gemv_silu())
    invocation = writer.begin_invocation(sequence)
    with pytest.raises(UsageError, match=r"step 0:0 A: 4 bytes given, but \(8, 16\) of bfloat16 has 256"):
        writer.begin_step(invocation, 0, {0: np.zeros(2, BF16)})
    with pytest.raises(UsageError, match="operand 3 of 3"):
        writer.begin_step(invocation, 0, {3: np.zeros(2, BF16)})
    with pytest.raises(UsageError, match="its sequence has 3 steps"):
        writer.begin_step(invocation, 3, {0: np.zeros(2, BF16)})
    with pytest.raises(UsageError, match="never begun"):
        writer.begin_step(5, 0, {0: np.zeros(2, BF16)})
    writer.abandon()


def test_nothing_recorded_is_still_a_snapshot(tmp_path: Path) -> None:
    report = SnapshotWriter(tmp_path / "t.h5").close()
    assert (report.steps, report.invocations) == (0, 0)
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert (len(snap), snap.invocations, snap.sequences, list(snap.steps(op="GEMV"))) == (0, (), (), [])


def test_close_twice_and_after_abandon(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5")
    assert writer.close() is writer.close()
    writer.begin_invocation(0)  # after the end nothing is written, and nothing raised into the run
    other = SnapshotWriter(tmp_path / "u.h5")
    other.abandon()
    with pytest.raises(UsageError, match="abandoned"):
        other.close()


def test_provenance_can_be_replaced_and_holds_odd_things(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5", provenance={"old": 1})
    writer.set_provenance(
        {"n": np.int64(3), "p": Path("/x"), "a": np.arange(2), "t": (1, 2), "s": {"b", "a"}, "ü": "ß"}
    )
    writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert snap.provenance == {"n": 3, "p": "/x", "a": [0, 1], "t": [1, 2], "s": ["a", "b"], "ü": "ß"}


def test_more_provenance_takes_nothing_away(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "t.h5", provenance={"command": ["x"], "recording": {"level": "full"}})
    writer.add_provenance({"recipe": {"workload": "op:GELU"}})
    writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert snap.provenance == {
            "command": ["x"], "recording": {"level": "full"}, "recipe": {"workload": "op:GELU"},
        }  # fmt: skip


def test_the_cache_is_bounded_and_damage_in_it_is_not_possible(tmp_path: Path) -> None:
    record(tmp_path / "t.h5", 3, columns=1000)
    seen: dict[int, weakref.ref[Any]] = {}
    with open_snapshot(tmp_path / "t.h5", cache_bytes=20_000) as snap:
        for _ in range(3):
            for step in snap:
                for tensor in (*step.inputs.values(), *step.outputs.values()):
                    read = tensor.numpy()
                    while isinstance(read.base, np.ndarray):
                        read = read.base
                    seen[id(read)] = weakref.ref(read)
                    del read
                    alive = [array.nbytes for known in seen.values() if (array := known()) is not None]
                    assert 0 < sum(alive) <= 20_000
        assert len(seen) > len(alive)
        first = snap["0:0"].inputs["A"]
        assert np.shares_memory(first.numpy(), first.numpy())


def test_many_threads_read_the_same_things(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    record(tmp_path / "t.h5", 4, columns=2000)
    with open_snapshot(tmp_path / "t.h5", cache_bytes=50_000) as snap, ThreadPoolExecutor(8) as pool:
        want = [bits(contents(0, n % 4, 8, 2000)["x"]) for n in range(200)]
        got = list(pool.map(lambda n: bits(snap[n % 4, 0].inputs["B"].numpy()), range(200)))
        assert got == want


@pytest.mark.torch
def test_torch_tensors_have_the_same_bits(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    array = np.arange(65536, dtype=np.uint16).view(BF16)
    writer = SnapshotWriter(tmp_path / "t.h5")
    specs = ArgSpec("A", "in", (256, 256)), ArgSpec("B", "in", (4,), "int32")
    invocation = writer.begin_invocation(writer.add_sequence(one_step(*specs)))
    writer.begin_step(invocation, 0, {0: array.reshape(256, 256), 1: np.arange(4, dtype=np.int32)})
    writer.close()
    with open_snapshot(tmp_path / "t.h5") as snap:
        tensor = snap["0:0"].inputs["A"].torch()
        assert (tensor.dtype, tuple(tensor.shape)) == (torch.bfloat16, (256, 256))
        assert tensor.view(torch.int16).numpy().view(np.uint16).reshape(-1).tolist() == list(range(65536))
        tensor.fill_(0)  # a copy: the snapshot's own array is not touched
        assert snap["0:0"].inputs["A"].numpy().view(np.uint16)[1, 0] == 256
        assert snap["0:0"].inputs["B"].torch().tolist() == [0, 1, 2, 3]
