# SPDX-License-Identifier: Apache-2.0
"""Contents that wait for a verdict: kept as in a full recording, dropped to their digests, never lost before it."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_replay.model.runlist import ArgSpec, OperandUse, OperatorDescription, SequenceDescription, StepDescription
from fusion_replay.snapshot import Snapshot, SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.journal.frames import KEPT_FREE, JournalFile
from fusion_replay.snapshot.journal.spill import Spill
from fusion_replay.snapshot.schema import INPUT, OUTPUT, WATCHED, digest_of
from fusion_replay.snapshot.write import writer as writer_module
from snapshot_maker import bits, contents, file_size_limit, gemv_silu, run

Address = tuple[int, int]
LARGE = 20_000  # columns: W has 320 kB and x 40 kB
ROWS = 40_000  # where y is large as well: 80 kB


class Judged(SnapshotWriter):
    """A writer whose steps deviate where the test says so."""

    deviating: frozenset[Address] = frozenset()

    def end_step(self, invocation: int, step: int, outputs: Any, **more: Any) -> None:
        def decide(digests: Mapping[tuple[int, int], bytes]) -> str | None:
            self.asked = dict(digests)
            return None if (invocation, step) in self.deviating else "as in good.h5"

        super().end_step(invocation, step, outputs, **more, decide=decide)


def held(path: Path, deviating: set[Address] | frozenset[Address] = frozenset(), **options: Any) -> Judged:
    writer = Judged(path, keep="mismatch", **options)
    writer.deviating = frozenset(deviating)
    return writer


def tensors(snap: Snapshot) -> dict[tuple[str, str, str], tuple[str | None, bytes | None]]:
    """By address, side and name: the digest, and the bytes where they are kept."""
    return {
        (step.address, side, t.name): (t.digest, bits(t.numpy()) if t.kept else None)
        for step in snap
        for side, t in step.tensors()
    }


def record(writer: SnapshotWriter, calls: int, rows: int = 8, columns: int = 16) -> None:
    sequence = writer.add_sequence(gemv_silu(rows, columns))
    for number in range(calls):
        run(writer, sequence, contents(0, number % 3, rows, columns))  # every third call computes the same


# --- what is kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (8, LARGE), (ROWS, 16)])
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(deviating=st.frozensets(st.tuples(st.integers(0, 4), st.integers(0, 2))))
def test_what_is_kept_is_a_full_recording_of_the_steps_that_deviate(
    rows: int, columns: int, deviating: frozenset[Address]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        full = SnapshotWriter(Path(folder) / "full.h5")
        record(full, 5, rows, columns)
        full.close()
        some = held(Path(folder) / "some.h5", deviating)
        record(some, 5, rows, columns)
        report = some.close()
        assert check(report.path).ok
        with open_snapshot(report.path) as snap, open_snapshot(Path(folder) / "full.h5") as whole:
            want, found = tensors(whole), tensors(snap)
            assert {k: digest for k, (digest, _) in found.items()} == {k: digest for k, (digest, _) in want.items()}
            theirs = {f"{i}:{s}" for i, s in deviating}
            kept = {k: value for k, (_, value) in found.items() if k[0] in theirs}
            assert kept == {k: value for k, (_, value) in want.items() if k[0] in theirs}
            known = {digest for k, (digest, _) in want.items() if k[0] in theirs}  # equal bytes are stored once
            assert {digest for digest, value in found.values() if value is not None} == known
            assert {s.address for s in snap if s.withheld is None} == theirs
            assert {s.withheld for s in snap} - {None} <= {"as in good.h5"}
        assert sum(loss.count for loss in report.losses) == 15 - len(deviating)


def test_the_verdict_is_asked_with_the_digests_of_all_that_was_seen(tmp_path: Path) -> None:
    writer = held(tmp_path / "a.h5")
    sequence = writer.add_sequence(gemv_silu())
    data = contents(0, 0)
    run(writer, sequence, data, stop_after=2)
    want = {(INPUT, 0): data["W"], (INPUT, 1): data["x"], (OUTPUT, 2): data["y0"]}
    digests = {spot: digest_of(bits(array)) for spot, array in want.items()}
    assert writer.asked == {**digests, (WATCHED, 2): digest_of(bytes(16))}


def test_without_a_verdict_a_step_is_kept(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "a.h5", keep="mismatch")
    record(writer, 2, 8, LARGE)
    report = writer.close()
    assert report.losses == ()
    with open_snapshot(report.path) as snap:
        assert all(value is not None for _, value in tensors(snap).values())


def test_a_step_that_failed_and_the_step_in_flight_are_kept(tmp_path: Path) -> None:
    writer = held(tmp_path / "a.h5")
    sequence = writer.add_sequence(gemv_silu(8, LARGE))
    data = contents(0, 0, 8, LARGE)
    run(writer, sequence, data, stop_after=1)
    writer.fail_step(0, 0, "it hung")
    run(writer, sequence, data)
    other = contents(0, 1, 8, LARGE)
    run(writer, sequence, other, stop_after=1)
    report = writer.close()
    with open_snapshot(report.path) as snap:
        assert [(s.address, s.status) for s in snap if s.status != "complete"] == [
            ("0:0", "failed"),
            ("2:0", "in_flight"),
        ]
        for address, x in (("0:0", data["x"]), ("2:0", other["x"])):
            assert bits(snap[address].inputs["B"].numpy()) == bits(x)
            assert bits(snap[address].inputs["A"].numpy()) == bits(data["W"])
        assert not snap["1:0"].outputs["C"].kept


@pytest.mark.parametrize("columns", [16, LARGE])
def test_a_step_in_flight_alone_has_the_constants_that_it_read(tmp_path: Path, columns: int) -> None:
    writer = held(tmp_path / "a.h5")
    sequence = writer.add_sequence(gemv_silu(8, columns))
    data = contents(0, 1, 8, columns)
    run(writer, sequence, contents(0, 0, 8, columns))
    invocation = writer.begin_invocation(sequence)
    writer.begin_step(invocation, 0, {0: data["W"], 1: data["x"]})
    with open_snapshot(writer.close().path) as snap:
        assert bits(snap["1:0"].inputs["A"].numpy()) == bits(data["W"])
        assert bits(snap["1:0"].inputs["B"].numpy()) == bits(data["x"])
        assert not snap["0:0"].inputs["B"].kept


@pytest.mark.parametrize("how", ["ends", "fails", "in flight"])
def test_a_filter_leaves_out_whatever_the_verdict(tmp_path: Path, how: str) -> None:
    writer = held(tmp_path / "a.h5", {(0, 0)})
    invocation = writer.begin_invocation(writer.add_sequence(gemv_silu()))
    data = contents(0, 0)
    writer.begin_step(invocation, 0, {0: data["W"], 1: data["x"]}, withheld="outside the filter")
    if how == "ends":
        writer.end_step(invocation, 0, {2: data["y0"]})
        assert set(writer.asked) == {(INPUT, 0), (INPUT, 1), (OUTPUT, 2)}, "it is told all the same"
    elif how == "fails":
        writer.fail_step(invocation, 0, "it hung")
    with open_snapshot(writer.close().path) as snap:
        assert snap["0:0"].withheld == "outside the filter"
        assert not any(t.kept for _, t in snap["0:0"].tensors())
        assert [(x.detail, x.count) for x in snap.losses] == [("steps outside the filter; their digests are kept", 1)]


def test_limits_count_what_deviates(tmp_path: Path) -> None:
    """x and y0 of one call fit, W comes on top: then digests alone."""
    writer = held(tmp_path / "a.h5", {(1, 0), (2, 0)}, max_bytes=2 * 16 + 2 * 8 + 2 * 8 * 16)
    record(writer, 3)
    report = writer.close()
    assert writer.full
    with open_snapshot(report.path) as snap:
        assert all(t.kept for _, t in snap["1:0"].tensors())
        kept = {t.name: t.kept for _, t in snap["2:0"].tensors()}
        assert kept == {"A": True, "B": False, "C": False}  # W is there already
        assert snap["2:0"].withheld == f"beyond max_bytes {2 * 16 + 2 * 8 + 2 * 8 * 16}"
    assert {x.detail: x.count for x in report.losses if "max_bytes" in x.detail} != {}


def test_a_step_that_fails_beyond_the_limit_is_the_last_one_kept(tmp_path: Path) -> None:
    writer = held(tmp_path / "a.h5", max_bytes=250_000)
    sequence = writer.add_sequence(_chain(100_000))
    for number in range(3):
        assert not writer.full  # whoever asks for more leaves out what begins from then on
        invocation = writer.begin_invocation(sequence)
        writer.begin_step(invocation, 0, {0: np.full(100_000, number, np.uint8)})
        writer.fail_step(invocation, 0, "it hung")
    assert writer.full
    with open_snapshot(writer.close().path) as snap:
        assert [s.inputs["A"].kept for s in snap] == [True] * 3


# --- constants --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [16, LARGE])
def test_a_weight_is_kept_for_whoever_needs_it_and_dropped_at_the_end(tmp_path: Path, columns: int) -> None:
    for name, deviating in (("none", set()), ("one", {(2, 0)}), ("other", {(2, 1)})):
        writer = held(tmp_path / f"{name}.h5", deviating)
        sequence = writer.add_sequence(gemv_silu(8, columns))
        ids = []
        for number in range(4):
            data = contents(0, number, 8, columns)
            invocation = writer.begin_invocation(sequence)
            assumed = {0: ids[0]} if ids else {}  # as the recorder does: looked at once
            fed = {1: data["x"]} if ids else {0: data["W"], 1: data["x"]}
            got = writer.begin_step(invocation, 0, fed, assumed=assumed)
            ids += [] if ids else [got[0]]
            assert writer.holds(ids[0])
            writer.end_step(invocation, 0, {2: data["y0"]})
            writer.begin_step(invocation, 1, {0: data["y0"]})
            writer.end_step(invocation, 1, {1: data["y1"]})
        report = writer.close()
        with open_snapshot(report.path) as snap:
            assert snap["2:0"].inputs["A"].kept == (name == "one")
            if name == "one":
                assert bits(snap["2:0"].inputs["A"].numpy()) == bits(contents(0, 0, 8, columns)["W"])
                assert snap["2:0"].noticed["assumed"] == ["A"]
            stored = sum(t.nbytes for t in {t.digest: t for s in snap for _, t in s.tensors() if t.kept}.values())
            assert stored == report.bytes_unique
        assert check(report.path).ok


def test_a_constant_that_changes_is_no_constant(tmp_path: Path) -> None:
    """A program that fills a buffer anew for every call, which no runlist tells: the files don't grow."""
    spec = ArgSpec("A", "in", (100_000,), "uint8"), ArgSpec("B", "out", (8,), "uint8")
    step = StepDescription(0, 0, (OperandUse(spec[0], "refilled"), OperandUse(spec[1], "y")))
    sequence = SequenceDescription("s", (OperatorDescription("Op", {}),), (), (step,), output_args=("y",))
    writer = held(tmp_path / "a.h5", {(1, 0)})
    number = writer.add_sequence(sequence)
    arrays = [np.full(100_000, i, np.uint8) for i in range(30)]
    for array in arrays:
        invocation = writer.begin_invocation(number)
        (content,) = writer.begin_step(invocation, 0, {0: array}).values()
        writer.end_step(invocation, 0, {1: np.zeros(8, np.uint8)})
        assert writer.holds(content) == (invocation in (0, 1))  # what was dropped is looked at again
    writer.drain()
    assert size(tmp_path / "a.h5.spill") <= 4 * (100_000 + 4096) + (1 << 16)  # 3 MB went through
    with open_snapshot(writer.close().path) as snap:
        assert [s.invocation for s in snap if s.inputs["A"].kept] == [1]
        assert bits(snap["1:0"].inputs["A"].numpy()) == bits(arrays[1])


def test_what_is_computed_can_be_what_a_constant_is(tmp_path: Path) -> None:
    """An output that has a weight's bytes needs them, though the step that read the weight was dropped."""
    writer = held(tmp_path / "a.h5", {(0, 1)})
    invocation = writer.begin_invocation(writer.add_sequence(gemv_silu(8, 8)))
    weight = contents(0, 0, 8, 8)["W"]
    writer.begin_step(invocation, 0, {0: weight, 1: weight[0]})
    writer.end_step(invocation, 0, {2: weight[1]})
    small = held(tmp_path / "b.h5", {(0, 1)})
    sequence = small.add_sequence(_copy())
    first = small.begin_invocation(sequence)
    small.begin_step(first, 0, {0: weight[0]})
    small.end_step(first, 0, {1: weight[1]})
    small.begin_step(first, 1, {0: weight[1]})
    small.end_step(first, 1, {1: weight[0]})
    writer.abandon()
    with open_snapshot(small.close().path) as snap:
        assert bits(snap["0:1"].outputs["B"].numpy()) == bits(weight[0])


@pytest.mark.parametrize("constant_first", [False, True])
def test_what_is_held_and_a_constant_that_are_the_same(tmp_path: Path, constant_first: bool) -> None:
    """Two steps at a time: one that is kept was handed what the other, which is dropped, reads of a constant."""
    writer = held(tmp_path / "a.h5", {(0, 1)})
    sequence = writer.add_sequence(_copy())
    same, y, z = contents(0, 0, 8, 8)["W"][:3]
    calls = [writer.begin_invocation(sequence) for _ in range(2)]
    for constant in (constant_first, not constant_first):
        writer.begin_step(calls[constant], 1 - constant, {0: same})
    writer.end_step(0, 1, {1: z})
    writer.end_step(1, 0, {1: y})
    report = writer.close()
    with open_snapshot(report.path) as snap:
        assert bits(snap["0:1"].inputs["A"].numpy()) == bits(same)
        assert snap["1:0"].withheld == "as in good.h5"
    assert report.bytes_unique == same.nbytes + z.nbytes
    assert check(report.path).ok


def _copy() -> SequenceDescription:
    """constant -> y, then y -> z."""
    read, write = ArgSpec("A", "in", (8,)), ArgSpec("B", "out", (8,))
    uses = (("constant", "y"), ("y", "z"))
    steps = tuple(StepDescription(n, 0, (OperandUse(read, a), OperandUse(write, b))) for n, (a, b) in enumerate(uses))
    return SequenceDescription("c", (OperatorDescription("Op", {}),), (), steps, output_args=("z",))


# --- at every moment --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.25, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Copies of the files before and after each of their writes and before each slot is given back."""
    path, rng, seen = tmp_path / "a.h5", random.Random(1), 0
    deviating = frozenset({(1, 0), (2, 1)})
    writer = held(path, deviating)
    sequence = writer.add_sequence(gemv_silu(ROWS, LARGE // 100))
    moments = 0

    def look() -> None:
        nonlocal moments, seen
        moments += 1
        if rng.random() >= share:
            return
        seen += 1
        folder = tmp_path / str(moments)
        folder.mkdir()
        for suffix in (".journal", ".spill", ".chunks"):
            _copy_sparse(Path(f"{path}{suffix}"), folder / f"a.h5{suffix}")
        with open_snapshot(folder / "a.h5") as snap:
            for step in snap:
                for side, tensor in step.tensors():
                    if tensor.kept:
                        assert digest_of(bits(tensor.numpy())).hex() == tensor.digest
                    if side == "inputs" and step.status == "in_flight":
                        assert tensor.kept, (step.address, tensor.name)
                    if (step.invocation, step.index) in deviating:
                        assert tensor.kept or tensor.digest is None
        shutil.rmtree(folder)

    def around(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any) -> Any:
            look()
            result = real(*args)
            look()
            return result

        monkeypatch.setattr(owner, name, call)

    around(JournalFile, "append")
    around(Spill, "hold")
    around(Spill, "free")
    for number in range(3):
        run(writer, sequence, contents(0, number, ROWS, LARGE // 100))
    assert moments > 50
    assert seen >= moments * share / 2
    writer.abandon()
    assert recover(path).ok


def test_an_interrupt_while_a_step_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was queued by then is not queued again at the end: its slot may have other bytes in it."""
    deviating = {(0, 0), (1, 0)}
    writer = held(tmp_path / "a.h5", deviating)
    sequence = writer.add_sequence(_chain(100_000))
    first, second = (np.full((3, 100_000), n, np.uint8) for n in (1, 2))
    invocation = writer.begin_invocation(sequence)
    writer.begin_step(invocation, 0, {0: first[0]})
    queue = Spill.queue

    def interrupted(spill: Spill, tasks: Any) -> None:
        queue(spill, tasks)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Spill, "queue", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.end_step(invocation, 0, {1: first[1]})
    writer.drain()
    other = writer.begin_invocation(sequence)
    writer.begin_step(other, 0, {0: second[0]})  # into the slot that came free
    report = writer.close()
    assert check(report.path).ok
    with open_snapshot(report.path) as snap:
        assert [s.status for s in snap] == ["in_flight", "in_flight"]
        for step, array in zip(snap, (first, second), strict=True):
            assert bits(step.inputs["A"].numpy()) == bits(array[0])


def _chain(nbytes: int) -> SequenceDescription:
    """x -> y; x is written by nobody, but it is an input of the call: no constant."""
    read, write = ArgSpec("A", "in", (nbytes,), "uint8"), ArgSpec("B", "out", (nbytes,), "uint8")
    step = StepDescription(0, 0, (OperandUse(read, "x"), OperandUse(write, "y")))
    return SequenceDescription("s", (OperatorDescription("Op", {}),), (), (step,), ("x",), ("y",))


def _copy_sparse(source: Path, target: Path) -> None:
    with open(source, "rb") as old, open(target, "wb") as new:
        end, at = os.fstat(old.fileno()).st_size, 0
        while at < end:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            stop = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            new.seek(at)
            new.write(os.pread(old.fileno(), stop - at, at))
            at = stop
        new.truncate(end)


def test_cut_at_every_byte_of_the_end_of_a_step_that_is_dropped(tmp_path: Path) -> None:
    """A write cut short leaves the step in flight with its inputs, or ended; never ended halves."""
    path = tmp_path / "a.h5"
    writer = held(path)
    sequence = writer.add_sequence(gemv_silu())
    data = contents(0, 0)
    run(writer, sequence, data, stop_after=1)
    before = os.path.getsize(f"{path}.journal")
    spill = (tmp_path / "before.spill", Path(f"{path}.spill"))
    _copy_sparse(spill[1], spill[0])
    writer.end_step(0, 0, {2: data["y0"]})
    whole = Path(f"{path}.journal").read_bytes()
    writer.abandon()
    ended = 0
    for size_ in range(before, len(whole) + 1):
        Path(f"{path}.journal").write_bytes(whole[:size_])
        with open_snapshot(path) as snap:
            step = snap["0:0"]
            ended += step.status == "complete"
            if step.status == "in_flight":
                assert bits(step.inputs["B"].numpy()) == bits(data["x"])
            else:
                assert step.withheld == "as in good.h5"
                assert step.inputs["B"].kept == (size_ < len(whole))
    assert 1 < ended < len(whole) - before


# --- sizes ------------------------------------------------------------------------------------------------------


def size(path: Path) -> int:
    """Bytes on the disk: the spill file has holes."""
    return path.stat().st_blocks * 512


def test_a_long_run_in_which_nothing_deviates_grows_by_its_digests_alone(tmp_path: Path) -> None:
    sizes: dict[int, dict[str, int]] = {}
    for columns in (256, 64 * 256):
        writer = held(tmp_path / f"{columns}.h5")
        sequence = writer.add_sequence(gemv_silu(columns, 16))
        for number in range(120):
            run(writer, sequence, contents(0, number, columns, 16))
            if number in (19, 119):
                files = {s: tmp_path / f"{columns}.h5.{s}" for s in ("spill", "chunks", "journal")}
                writer.drain()
                now = {s: f.stat().st_size if s == "journal" else size(f) for s, f in files.items()}
                sizes.setdefault(columns, now)
        grown = {s: now[s] - sizes[columns][s] for s in now}
        assert grown["spill"] == grown["chunks"] == 0
        sizes[-columns] = grown
        assert writer.close().bytes_unique == 0
    assert sizes[-256]["journal"] == sizes[-64 * 256]["journal"]  # whatever the size of the tensors
    assert sizes[-256]["journal"] <= 100 * 3 * 600


def test_more_is_held_than_may_wait_for_compression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that are held don't count: several steps in flight, each larger than the limit."""
    monkeypatch.setattr(writer_module, "SPILL_SLOTS", 2)
    spec = ArgSpec("A", "inout", (9, 500_000))
    sequence = SequenceDescription(
        "s",
        (OperatorDescription("Op", {}),),
        (),
        (StepDescription(0, 0, (OperandUse(spec, "x"),)),),
        input_args=("x",),
    )
    writer = held(tmp_path / "a.h5", {(1, 0)})
    number = writer.add_sequence(sequence)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 1 << 16, (9, 500_000), dtype=np.uint16).view("V2").view(np.uint16) for _ in range(4)]
    calls = [writer.begin_invocation(number) for _ in arrays[:3]]
    for call, array in zip(calls, arrays, strict=False):
        writer.begin_step(call, 0, {0: array})
    with open_snapshot(tmp_path / "a.h5") as live:
        assert [bits(s.inputs[0].numpy()) == bits(a) for s, a in zip(live, arrays, strict=False)] == [True] * 3
    writer.end_step(0, 0, {0: arrays[3]})
    writer.end_step(1, 0, {0: arrays[3]})
    used = size(tmp_path / "a.h5.spill")
    assert used <= (3 * 9 + 2) * (1 << 20) + (1 << 16)
    report = writer.close()
    assert {x.kind for x in report.losses} == {"left out"}
    with open_snapshot(report.path, cache_bytes=0) as snap:
        assert not snap["0:0"].inputs[0].kept
        assert bits(snap["1:0"].inputs[0].numpy()) == bits(arrays[1])
        assert bits(snap["1:0"].outputs[0].numpy()) == bits(arrays[3])
        assert bits(snap["2:0"].inputs[0].numpy()) == bits(arrays[2])  # in flight


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("deviating", [{(0, 0)}, {(1, 0)}, {(0, 0), (1, 0)}, set()])
@pytest.mark.parametrize("columns", [16, 100_000])
def test_two_steps_at_a_time_that_hold_the_same(
    tmp_path: Path, first: int, deviating: set[Address], columns: int
) -> None:
    writer = held(tmp_path / "a.h5", deviating)
    sequence = writer.add_sequence(gemv_silu(8, columns))
    data = contents(0, 0, 8, columns)
    for _ in range(2):
        run(writer, sequence, data, stop_after=1)
    for call in (first, 1 - first):
        writer.end_step(call, 0, {2: data["y0"]})
    report = writer.close()
    assert check(report.path).ok
    with open_snapshot(report.path) as snap:
        for call in range(2):
            assert (snap[call, 0].withheld is None) == ((call, 0) in deviating)
            for name in ("A", "B"):
                tensor = snap[call, 0].inputs[name]
                assert tensor.kept == bool(deviating)
                assert not tensor.kept or bits(tensor.numpy()) == bits(data["W" if name == "A" else "x"])
    assert report.bytes_unique == (sum(data[k].nbytes for k in ("W", "x", "y0")) if deviating else 0)


def test_a_reader_that_comes_between_is_never_given_other_bytes(tmp_path: Path) -> None:
    writer = held(tmp_path / "a.h5")
    sequence = writer.add_sequence(gemv_silu())
    run(writer, sequence, contents(0, 0), stop_after=1)
    with open_snapshot(tmp_path / "a.h5") as live:
        writer.end_step(0, 0, {2: contents(0, 0)["y0"]})
        run(writer, sequence, contents(0, 1), stop_after=1)  # x of this call lies where the other one lay
        assert live["0:0"].inputs["B"].kept  # as far as the table goes
        with pytest.raises(Exception, match="not kept, only their digest"):
            live["0:0"].inputs["B"].numpy()
    writer.abandon()


# --- a full disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [16, 100_000])
def test_the_disk_fills_up(tmp_path: Path, columns: int) -> None:
    deviating = frozenset((n, s) for n in range(16) for s in range(3) if (n + s) % 2)
    writer = held(tmp_path / "a.h5", deviating)
    sequence = writer.add_sequence(gemv_silu(8, columns))
    run(writer, sequence, contents(0, 0, 8, columns))
    writer.drain()
    with file_size_limit((tmp_path / "a.h5.journal").stat().st_size + 900 + KEPT_FREE):
        for number in range(1, 16):
            run(writer, sequence, contents(0, number, 8, columns))  # raises nothing
        writer.drain()
    assert writer.write_error is not None
    report = writer.close()
    assert check(report.path).ok
    assert sum(x.count for x in report.losses if x.kind != "left out") > 0
    with open_snapshot(report.path) as snap:
        for step in snap:
            data = contents(0, step.invocation, 8, columns)
            want = {"0A": data["W"], "0B": data["x"], "0C": data["y0"], "1A": data["y0"], "1B": data["y1"]}
            for _, tensor in step.tensors():
                expected = want.get(f"{step.index}{tensor.name}")
                if tensor.kept and expected is not None:
                    assert bits(tensor.numpy()) == bits(expected)
        assert all(t.kept for _, t in snap["0:1"].tensors())


def test_a_drop_that_can_not_be_written_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal would lead to bytes of another step: its slots are not used again."""
    writer = held(tmp_path / "a.h5")
    sequence = writer.add_sequence(gemv_silu(8, 100_000))
    first = contents(0, 0, 8, 100_000)
    run(writer, sequence, first, stop_after=1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "append", full)
        writer.end_step(0, 0, {2: first["y0"]})
    run(writer, sequence, contents(0, 1, 8, 100_000))
    for number in (2, 3, 4):  # at a time: every slot that is free is used
        run(writer, sequence, contents(0, number, 8, 100_000), stop_after=1)
    for number in (2, 3, 4):
        writer.end_step(number, 0, {2: contents(0, number, 8, 100_000)["y0"]})
    report = writer.close()
    with open_snapshot(report.path) as snap:
        assert snap["0:0"].status == "in_flight"
        assert bits(snap["0:0"].inputs["B"].numpy()) == bits(first["x"])
        assert bits(snap["0:0"].inputs["A"].numpy()) == bits(first["W"])
        assert not snap["1:0"].inputs["B"].kept
    assert {x.kind: x.count for x in report.losses} == {"outputs": 1, "left out": 6}
