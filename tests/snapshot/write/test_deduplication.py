# SPDX-License-Identifier: Apache-2.0
"""What is stored as a difference, as parts or not at all comes back bit for bit; and it is stored so."""

from __future__ import annotations

import collections
from pathlib import Path

import h5py
import numpy as np
import pytest

from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import Snapshot, SnapshotWriter, open_snapshot
from fusion_replay.snapshot.encodings import delta
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.schema import CHUNKED, DELTA, DERIVED, DIGEST_ONLY, MAX_DEPTH, PACKED, PARTS
from fusion_replay.snapshot.seal.subset import subset, write_subset
from moving_runlists import Machine, recorded
from snapshot_maker import bits, random_bf16


def encodings(snap: Snapshot) -> collections.Counter[int]:
    """How many contents are kept in which way; whether those with bytes of their own share chunks is left aside."""
    found = snap.index.contents["encoding"]
    return collections.Counter(np.where(found == PACKED, CHUNKED, found).tolist())


def stored_bytes(snap: Snapshot) -> int:
    return int(snap.index.chunks["size"].sum())


@pytest.mark.parametrize(  # a fault rate has three levels by seed; each of them sealed and as a journal
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 12))]
)
@pytest.mark.parametrize("close", [True, False], ids=["sealed", "journal"])
def test_random_runlists_come_back_bit_for_bit(tmp_path: Path, seed: int, close: bool) -> None:
    machine = Machine(seed, fault_rate=0.2 * (seed % 3))
    path = recorded(tmp_path / "t.h5", machine, 5, close=close)
    with open_snapshot(path) as snap:
        assert machine.check(snap) == len(machine.seen)
    with open_snapshot(path, cache_bytes=0) as snap:
        assert machine.check(snap) == len(machine.seen)
    if close:
        assert check(path).ok


def test_all_ways_are_taken_by_some_runlist(tmp_path: Path) -> None:
    found: collections.Counter[int] = collections.Counter()
    for seed in range(6):
        with open_snapshot(recorded(tmp_path / f"{seed}.h5", Machine(seed), 4)) as snap:
            found += encodings(snap)
    assert {CHUNKED, DELTA, PARTS, DERIVED} <= found.keys()


def test_recovered_recordings_keep_their_links(tmp_path: Path) -> None:
    machine = Machine(3)
    recorded(tmp_path / "t.h5", machine, 4, close=False)
    with open_snapshot(tmp_path / "t.h5") as snap:
        before = encodings(snap)
    assert recover(tmp_path / "t.h5").recovered
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert encodings(snap) == before
        assert machine.check(snap) == len(machine.seen)


@pytest.mark.parametrize("seed", [3, 5])
def test_a_journal_cut_anywhere_gives_what_it_has(tmp_path: Path, seed: int) -> None:
    machine = Machine(seed)
    journal = recorded(tmp_path / "t.h5", machine, 3, close=False)
    data = journal.read_bytes()
    compared = []
    for length in (*np.random.default_rng(seed).integers(2000, len(data), 25).tolist(), len(data) - 1):
        journal.write_bytes(data[:length])
        with open_snapshot(journal) as snap:
            compared.append(machine.check(snap, all_there=False))
            for step in snap:
                assert all(tensor.kept for tensor in step.inputs.values())
    assert max(compared) > len(machine.seen) // 2


def test_a_damaged_frame_takes_along_what_is_made_of_it_and_nothing_is_wrong(tmp_path: Path) -> None:
    machine = Machine(3)
    journal = recorded(tmp_path / "t.h5", machine, 3, close=False)
    data = journal.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        broken = bytearray(data)
        broken[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        journal.write_bytes(broken)
        with open_snapshot(journal) as snap:
            damaged = [n for n in snap.notes if "damaged" in n]
        report = check(journal)
        assert len(report.problems) > 1 or not damaged
    assert recover(journal).recovered  # the last of them
    with open_snapshot(tmp_path / "t.h5") as snap:
        assert machine.check(snap, all_there=False)


class TestVersionsOfACache:
    ROWS, COLUMNS = 1024, 32  # 64 KiB

    def sequence(self, op: str = "Unknown") -> SequenceDescription:
        spec = ArgSpec("C", "out", (self.ROWS * self.COLUMNS,))
        return SequenceDescription(
            "cache",
            (OperatorDescription(op),),
            (BufferDescription("kv", spec.nbytes, "scratch", True),),
            (StepDescription(0, 0, (OperandUse(spec, "kv"),)),),
        )

    def record(self, path: Path, versions: int) -> list[bytes]:
        """Versions that differ in one row each, of a step whose operator nobody knows."""
        rng = np.random.default_rng(0)
        cache, kept = random_bf16(rng, (self.ROWS * self.COLUMNS,)), []
        with_writer = SnapshotWriter(path)
        sequence = with_writer.add_sequence(self.sequence())
        for version in range(versions):
            number = with_writer.begin_invocation(sequence)
            with_writer.begin_step(number, 0, {}, previous={0: cache})
            cache[version * self.COLUMNS :][: self.COLUMNS] = random_bf16(rng, (self.COLUMNS,))
            with_writer.end_step(number, 0, {0: cache})
            kept.append(bits(cache))
        with_writer.close()
        return kept

    def test_one_in_64_is_whole_and_the_rest_costs_a_row(self, tmp_path: Path) -> None:
        kept = self.record(tmp_path / "t.h5", 150)
        with open_snapshot(tmp_path / "t.h5") as snap:
            # 151 versions: numbers 0, 64 and 128 are whole.
            assert encodings(snap) == {CHUNKED: 3, DELTA: 148}
            assert int(snap.index.contents["depth"].max()) == 63
            sizes = snap.index.chunks["size"][snap.index.contents["first_chunk"]]
            patches = sizes[snap.index.contents["encoding"] == DELTA]
            assert int(patches.mean()) < 300  # a row is 64 bytes
            for version in (149, 0, 63, 64, 65, 127, 128, *range(150)):
                assert bits(snap[version, 0].outputs["C"].numpy()) == kept[version]

    def test_beyond_the_budget_versions_are_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delta, "COPIED_BYTES", 1 << 15)
        kept = self.record(tmp_path / "t.h5", 5)
        with open_snapshot(tmp_path / "t.h5") as snap:
            assert encodings(snap) == {CHUNKED: 6}
            assert [bits(snap[n, 0].outputs["C"].numpy()) for n in range(5)] == kept

    def test_the_file_says_where_to_look(self, tmp_path: Path) -> None:
        self.record(tmp_path / "t.h5", 3)
        with h5py.File(tmp_path / "t.h5") as file:
            assert b"export --as plain-h5" in file["patches"].attrs["note"]


class TestDerived:
    def record(self, path: Path, fault: bool) -> np.ndarray:
        a, c = ArgSpec("A", "in", (4, 2048)), ArgSpec("C", "out", (8, 2048))
        sequence = SequenceDescription(
            "repeat",
            (OperatorDescription("Repeat", {"rows": 4, "cols": 2048, "repeat": 2}),),
            (BufferDescription("a", a.nbytes), BufferDescription("c", c.nbytes)),
            (StepDescription(0, 0, (OperandUse(a, "a"), OperandUse(c, "c"))),),
        )
        data = random_bf16(np.random.default_rng(1), (4, 2048))
        result = np.empty((8, 2048), data.dtype)
        result[0::2], result[1::2] = data, data
        if fault:
            result[5, 7] = 3
        writer = SnapshotWriter(path)
        number = writer.begin_invocation(writer.add_sequence(sequence))
        writer.begin_step(number, 0, {0: data}, watched={1: np.zeros_like(result)})
        writer.end_step(number, 0, {1: result})
        writer.close()
        return result

    @pytest.mark.parametrize("fault", [False, True])
    def test_only_bits_that_the_reference_gives(self, tmp_path: Path, fault: bool) -> None:
        result = self.record(tmp_path / "t.h5", fault)
        with open_snapshot(tmp_path / "t.h5") as snap:
            assert encodings(snap)[DERIVED] == (0 if fault else 1)
            assert bits(snap["0:0"].outputs["C"].numpy()) == bits(result)
            assert (stored_bytes(snap) < 4 * 2048 * 2) != fault


def test_depth_stays_within_the_limit_however_long_the_chain(tmp_path: Path) -> None:
    machine = Machine(3)
    with open_snapshot(recorded(tmp_path / "t.h5", machine, 60)) as snap:
        assert 10 < int(snap.index.contents["depth"].max()) <= MAX_DEPTH
        assert machine.check(snap) == len(machine.seen)


def test_a_subset_needs_nothing_but_itself(tmp_path: Path) -> None:
    machine = Machine(3)
    with open_snapshot(recorded(tmp_path / "t.h5", machine, 6)) as snap:
        steps = [step for step in snap if step.invocation in (2, 4)]
        assert {DELTA, DERIVED} <= {
            int(snap.index.contents["encoding"][t.row]) for s in steps for t in s.outputs.values()
        }
        path = write_subset(subset(snap, steps), tmp_path / "part.h5")
    assert check(path).ok
    with open_snapshot(path) as snap:
        assert len(snap) == len(steps)
        assert {CHUNKED} <= set(encodings(snap)) <= {CHUNKED, DIGEST_ONLY}
        assert machine.check(snap) == sum(1 for key in machine.seen if key[0] in (2, 4))
