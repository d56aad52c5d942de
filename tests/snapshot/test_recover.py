# SPDX-License-Identifier: Apache-2.0
"""``fsck --recover`` loses nothing but what is damaged, and removes nothing before the new file is proven."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_replay.errors import DamagedSnapshotError, NewerFormatError, UnsealedError
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.journal import frames
from fusion_replay.snapshot.schema import DELTA, DERIVED, DIGEST_ONLY
from fusion_replay.snapshot.seal import recording as seal_module
from journal_mutants import Left, held_by, kind_of, mutants, whole_frames
from moving_runlists import Machine, recorded
from snapshot_maker import bits, contents, gemv_silu, random_bf16, record, run

USED = 1 << 22  # bytes of a spill file that these recordings use; the rest is room held back


def files_of(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.iterdir():
        with open(path, "rb") as file:
            found[path.name] = file.read(USED)
    return found


def kill(writer: SnapshotWriter) -> Path:
    writer.abandon()
    return writer.target


def gemvs(path: Path) -> Path:
    writer = SnapshotWriter(path)
    sequence = writer.add_sequence(gemv_silu())
    for number, stop in enumerate((6, 3)):
        run(writer, sequence, contents(0, number), stop)
    return kill(writer)


def moves(path: Path) -> Path:
    recorded(path, Machine(3), 2, close=False)
    return path


def moved_to_another_sequence(path: Path) -> Path:
    """The invocation begins as one of a runlist that looks alike, and turns out to be of a longer one."""
    first = gemv_silu()
    last = StepDescription(3, 3, (OperandUse(ArgSpec("A", "inout", (3,)), "x", 0, 6),))
    more = replace(
        first,
        name="longer",
        operators=(*first.operators, OperatorDescription("Last")),
        steps=(*first.steps, last),
    )
    writer = SnapshotWriter(path)
    short, long = writer.add_sequence(first), writer.add_sequence(more)
    for guess in (short, long):
        number = writer.begin_invocation(guess)
        data = contents(0, number)
        writer.begin_step(number, 0, {0: data["W"], 1: data["x"]})
        writer.reassign(number, long)
        writer.end_step(number, 0, {2: data["y0"]})
        writer.begin_step(number, 3, {0: data["x"][:3]})
        writer.end_step(number, 3, {0: data["x"][3:6]})
    return kill(writer)


def waiting_for_verdicts(path: Path) -> Path:
    writer = SnapshotWriter(path, keep="mismatch")
    sequence = writer.add_sequence(gemv_silu())
    for invocation in range(2):
        number, data = writer.begin_invocation(sequence), contents(0, invocation)
        writer.begin_step(number, 0, {0: data["W"], 1: data["x"]})
        writer.end_step(number, 0, {2: data["y0"]}, decide=lambda _, n=number: "as the reference" if n else None)
        writer.begin_step(number, 1, {0: data["y0"]})
    return kill(writer)


def failing(path: Path) -> Path:
    writer = SnapshotWriter(path, provenance={"host": "test"})
    sequence = writer.add_sequence(gemv_silu())
    number, data = writer.begin_invocation(sequence), contents(0, 0)
    writer.begin_step(number, 0, {0: data["W"], 1: data["x"]}, values={"n": 3})
    writer.note_step(number, 0, {"iron": {"max_abs": 1.0}})
    writer.fail_step(number, 0, "RuntimeError: timeout")
    writer.end_invocation(number)
    writer.lose("inputs", "something")
    return kill(writer)


JOURNALS: tuple[Callable[[Path], Path], ...] = (gemvs, moves, moved_to_another_sequence, waiting_for_verdicts, failing)


class Damaged:
    """A killed recording, damaged again and again."""

    def __init__(self, folder: Path, make: Callable[[Path], Path]) -> None:
        self.path = make(folder / "t.h5")
        self.files = files_of(folder)
        self.whole = whole_frames(self.path.with_name(self.path.name + ".journal"))
        with open_snapshot(self.path) as snap:
            self.tensors = held_by(snap)
            self.labels = {(s.invocation, s.index): s.label for s in snap}
        assert set(Left.of(self.whole).tensors()) == set(self.tensors)

    def recovered(self, journal: bytes, left: list[bytes], what: str) -> None:
        """Recover it with this journal, of which these frames can be read: all that they have is there, and right."""
        self.path.unlink(missing_ok=True)
        for name, data in {**self.files, f"{self.path.name}.journal": journal}.items():
            (self.path.parent / name).write_bytes(data)
        nothing = not {frames.START, frames.SEQUENCE} & {kind_of(frame) for frame in left}
        if nothing:
            with pytest.raises(DamagedSnapshotError, match="no recording can be read"):
                recover(self.path)
            return
        report = recover(self.path)
        assert report.ok, (what, report.problems)
        assert [p.name for p in self.path.parent.iterdir()] == [self.path.name], what
        with open_snapshot(self.path) as snap:
            found = {where: data for where, data in held_by(snap).items() if where in self.tensors}
            assert {w: self.tensors[w] for w in Left.of(left).tensors() if w in self.tensors} == found, what
            assert all(self.labels[s.invocation, s.index] == s.label for s in snap), what


@pytest.mark.parametrize("make", JOURNALS, ids=lambda make: make.__name__)
def test_frames_removed_doubled_and_exchanged(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    damaged = Damaged(tmp_path, make)
    cases = [*mutants(damaged.whole)]
    for what, left in random.Random(1).sample(cases, 16):
        damaged.recovered(b"".join(left), left, what)


@pytest.mark.long
@pytest.mark.parametrize("make", JOURNALS, ids=lambda make: make.__name__)
def test_every_frame_removed_doubled_and_exchanged(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    damaged = Damaged(tmp_path, make)
    for what, left in mutants(damaged.whole):
        damaged.recovered(b"".join(left), left, what)


def flipped(damaged: Damaged, bits_: Iterable[int]) -> Iterable[tuple[bytes, list[bytes], str]]:
    """The journal with one bit another; and its frames but for the one that has it."""
    data, ends = b"".join(damaged.whole), np.cumsum([len(frame) for frame in damaged.whole])
    for bit in bits_:
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        hit = int(np.searchsorted(ends, bit // 8, side="right"))
        yield bytes(broken), [f for k, f in enumerate(damaged.whole) if k != hit], f"bit {bit}, in frame {hit}"


@pytest.mark.parametrize("make", JOURNALS, ids=lambda make: make.__name__)
def test_bits_flipped(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    damaged = Damaged(tmp_path, make)
    total = 8 * sum(map(len, damaged.whole))
    for journal, left, what in flipped(damaged, random.Random(2).sample(range(total), 12)):
        damaged.recovered(journal, left, what)


@pytest.mark.long
@pytest.mark.parametrize("make", JOURNALS, ids=lambda make: make.__name__)
def test_every_bit_flipped_costs_its_frame_alone(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """By reading the frames, for every bit of a header and every 7th of the rest; one in each frame is recovered."""
    damaged = Damaged(tmp_path, make)
    journal, at = tmp_path / "broken", 0
    for frame in damaged.whole:
        start, at = 8 * at, at + len(frame)
        head = 8 * frames.FRAME_HEADER
        chosen = [*range(start, start + head), *range(start + head, min(8 * at, start + head + 40_000), 7)]
        for data, left, what in flipped(damaged, chosen):
            journal.write_bytes(data)
            assert whole_frames(journal) == left, what
        journal.unlink()
        for data, left, what in flipped(damaged, [random.Random(at).choice(chosen)]):
            damaged.recovered(data, left, what)


def cache(path: Path, versions: int = 4) -> list[bytes]:
    """Versions of a buffer that differ in a row each: the first is whole, the others are patches."""
    spec = ArgSpec("C", "out", (32 * 1024,))
    sequence = SequenceDescription(
        "cache",
        (OperatorDescription("Unknown"),),
        (BufferDescription("kv", spec.nbytes, "scratch", True),),
        (StepDescription(0, 0, (OperandUse(spec, "kv"),)),),
    )
    rng = np.random.default_rng(0)
    writer, data, kept = SnapshotWriter(path), random_bf16(rng, (32 * 1024,)), []
    number = writer.add_sequence(sequence)
    for version in range(versions):
        invocation = writer.begin_invocation(number)
        writer.begin_step(invocation, 0, {})
        data[version * 32 :][:32] = random_bf16(rng, (32,))
        writer.end_step(invocation, 0, {0: data})
        kept.append(bits(data))
    writer.drain()
    writer.abandon()
    return kept


def test_a_damaged_chunk_of_what_others_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    cache(path)
    with open_snapshot(path) as snap:
        assert (snap.index.contents["encoding"] == DELTA).sum() == 3
    chunks = bytearray((tmp_path / "t.h5.chunks").read_bytes())
    chunks[5000] ^= 1
    (tmp_path / "t.h5.chunks").write_bytes(chunks)
    report = recover(path)
    assert report.ok
    assert any("4 x tensors damaged" in note and "0:0 C, 1:0 C, 2:0 C, 3:0 C" in note for note in report.notes)
    assert check(path).ok
    with open_snapshot(path) as snap:
        assert set(snap.index.contents["encoding"].tolist()) == {DIGEST_ONLY}
        assert len(snap) == 4


def test_a_damaged_patch_costs_what_comes_after_it(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    kept = cache(path)
    journal = tmp_path / "t.h5.journal"
    whole = whole_frames(journal)
    third = [k for k, frame in enumerate(whole) if kind_of(frame) == frames.CONTENT][2]
    journal.write_bytes(b"".join(whole[:third] + whole[third + 1 :]))
    assert recover(path).ok
    with open_snapshot(path) as snap:
        there = {s.invocation: bits(s.outputs["C"].numpy()) for s in snap if s.outputs["C"].kept}
        assert there == {0: kept[0], 1: kept[1]}
        assert any("made of others that are lost" in loss.detail and "3:0 C" in loss.detail for loss in snap.losses)


def repeated(path: Path) -> np.ndarray:
    """A derived output that the next step reads."""
    a, c = ArgSpec("A", "in", (4, 2048)), ArgSpec("C", "out", (8, 2048))
    sequence = SequenceDescription(
        "repeat",
        (OperatorDescription("Repeat", {"rows": 4, "cols": 2048, "repeat": 2}), OperatorDescription("Look")),
        (BufferDescription("a", a.nbytes), BufferDescription("c", c.nbytes)),
        (
            StepDescription(0, 0, (OperandUse(a, "a"), OperandUse(c, "c"))),
            StepDescription(1, 1, (OperandUse(ArgSpec("A", "in", (8, 2048)), "c"),)),
        ),
    )
    data = random_bf16(np.random.default_rng(1), (4, 2048))
    result = np.repeat(data, 2, axis=0)
    writer = SnapshotWriter(path)
    number = writer.begin_invocation(writer.add_sequence(sequence))
    writer.begin_step(number, 0, {0: data})
    writer.end_step(number, 0, {1: result})
    writer.begin_step(number, 1, {0: result})
    writer.end_step(number, 1, {})
    writer.abandon()
    return result


def test_a_lost_end_of_the_step_that_derived_an_output(tmp_path: Path) -> None:
    """What the next step read is still what comes of the first one's inputs."""
    path, journal = tmp_path / "t.h5", tmp_path / "t.h5.journal"
    result = repeated(path)
    whole = whole_frames(journal)
    end = next(k for k, frame in enumerate(whole) if kind_of(frame) == frames.STEP_END)
    at = sum(map(len, whole[:end])) + len(whole[end]) - 3
    data = bytearray(journal.read_bytes())
    data[at] ^= 4
    journal.write_bytes(data)
    with open_snapshot(path) as snap:
        assert bits(snap["0:1"].inputs["A"].numpy()) == bits(result)
    assert recover(path).ok
    with open_snapshot(path) as snap:
        assert [s.status for s in snap] == ["in_flight", "complete"]
        assert DERIVED in snap.index.contents["encoding"]
        assert bits(snap["0:1"].inputs["A"].numpy()) == bits(result)
    assert check(path).ok


def test_a_lost_second_begin_of_an_invocation(tmp_path: Path) -> None:
    path, journal = moved_to_another_sequence(tmp_path / "t.h5"), tmp_path / "t.h5.journal"
    whole = whole_frames(journal)
    second = [k for k, frame in enumerate(whole) if kind_of(frame) == frames.INVOCATION_BEGIN][1]
    journal.write_bytes(b"".join(whole[:second] + whole[second + 1 :]))
    report = recover(path)
    assert report.ok
    assert check(path).ok
    with open_snapshot(path) as snap:
        assert [s.address for s in snap] == ["0:0", "0:3", "1:0", "1:3"]
        assert {s.sequence.name for s in snap} == {"longer"}


def test_a_step_at_odds_with_its_runlist_costs_that_step(tmp_path: Path) -> None:
    """Frames that are right by themselves: another recording's step among ours."""
    from fusion_replay.snapshot.journal import payloads

    path, journal = gemvs(tmp_path / "t.h5"), tmp_path / "t.h5.journal"
    file = frames.JournalFile(tmp_path / "odd")
    rows = [(0, 0, 1), (7, 0, 0)]
    file.append([payloads.step_begin_frame((0, 0, 1), rows, {}), payloads.step_begin_frame((1, 0, 99), [], {})])
    file.close()
    journal.write_bytes(journal.read_bytes() + (tmp_path / "odd").read_bytes())
    (tmp_path / "odd").unlink()
    with open_snapshot(path) as snap:
        assert [s.address for s in snap] == ["0:0", "0:2", "1:0", "1:1"]
    report = recover(path)
    assert report.ok
    assert any("step 0:1: its operands are not those" in note for note in report.notes)
    assert any("step 1:99: its sequence has 3 steps" in note for note in report.notes)
    with open_snapshot(path) as snap:
        assert bits(snap["0:2"].inputs["A"].numpy()) == bits(contents(0, 0)["y1"][4:])


@pytest.mark.parametrize("in_place", [True, False])
def test_nothing_is_removed_unless_the_new_file_is_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    path = tmp_path / "t.h5"
    kept = cache(path) if in_place else None
    if not in_place:
        gemvs(path)
    before = files_of(tmp_path)
    real = seal_module.write_sealed

    def wrong(made: Path, *rest: Any) -> int:
        size = real(made, *rest)
        data = bytearray(made.read_bytes())
        data[-5] ^= 1  # behind the chunks
        made.write_bytes(data)
        return size

    with monkeypatch.context() as patched:
        patched.setattr(seal_module, "write_sealed", wrong)
        with pytest.raises(UnsealedError, match=r"not what had been recorded.*nothing was removed"):
            recover(path)
    after = files_of(tmp_path)
    assert after.keys() == before.keys()
    assert all(after[name][4096:] == before[name][4096:] for name in before)  # where HDF5's head is to stand
    assert recover(path).ok
    with open_snapshot(path) as snap:
        if kept is not None:
            assert [bits(s.outputs["C"].numpy()) for s in snap] == kept


def test_a_journal_of_a_newer_version_is_left_to_it(tmp_path: Path) -> None:
    path, journal = gemvs(tmp_path / "t.h5"), tmp_path / "t.h5.journal"
    whole = whole_frames(journal)
    file = frames.JournalFile(tmp_path / "start")
    file.append([(frames.START, [b'{"format":[1,200],"recording":"x"}'])])
    file.close()
    journal.write_bytes((tmp_path / "start").read_bytes() + b"".join(whole[1:]))
    (tmp_path / "start").unlink()
    before = files_of(tmp_path)
    with pytest.raises(NewerFormatError, match=r"format 1\.200 is newer.*then recover it"):
        recover(path)
    assert files_of(tmp_path) == before
    with open_snapshot(path) as snap:
        assert len(snap) == 5


def test_what_lies_under_the_name_already_stays_where_it_is_damaged(tmp_path: Path) -> None:
    path = record(tmp_path / "t.h5")
    shutil.copy(path, tmp_path / "sealed")
    path.unlink()
    gemvs(path)
    shutil.copy(tmp_path / "sealed", path)
    before = files_of(tmp_path)
    with pytest.raises(Exception, match="holds another recording"):
        recover(path)
    assert files_of(tmp_path) == before
