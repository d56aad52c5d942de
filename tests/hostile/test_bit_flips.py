# SPDX-License-Identifier: Apache-2.0
"""Every single bit of a snapshot, and every length: no damage goes unseen."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from fusion_replay.errors import ForeignFileError, NewerFormatError, SnapshotError
from fusion_replay.snapshot import open_snapshot
from fusion_replay.snapshot.fsck import check, seal_problems
from fusion_replay.snapshot.schema import USER_BLOCK
from snapshot_maker import bits, contents, record

LARGEST = 12 << 10


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = record(tmp_path / "t.h5", 1)
    assert path.stat().st_size <= LARGEST
    return path


def found_by_the_seal(fd: int, path: Path) -> bool:
    try:
        return bool(seal_problems(fd, path)[1])
    except SnapshotError:
        return True


def flip(fd: int, bit: int) -> None:
    (byte,) = os.pread(fd, 1, bit // 8)
    os.pwrite(fd, bytes([byte ^ (1 << bit % 8)]), bit // 8)


def flagged(path: Path) -> bool:
    try:
        return not check(path).ok
    except SnapshotError:
        return True


@pytest.mark.parametrize("one_in", [8, pytest.param(1, marks=pytest.mark.long)])
def test_every_bit_flipped_once_is_found(snapshot: Path, one_in: int) -> None:
    """In the short run one bit in eight, by seed, and every bit of the user block."""
    rng = random.Random(1)
    fd = os.open(snapshot, os.O_RDWR)
    missed, tried = [], 0
    total = 8 * os.fstat(fd).st_size
    assert not found_by_the_seal(fd, snapshot)
    for bit in range(total):
        if one_in > 1 and bit >= 8 * USER_BLOCK and rng.randrange(one_in):
            continue
        tried += 1
        flip(fd, bit)
        if not found_by_the_seal(fd, snapshot):
            missed.append(bit)
        flip(fd, bit)
    assert not found_by_the_seal(fd, snapshot)
    os.close(fd)
    assert total > 75_000
    assert tried > total / one_in / 2
    assert missed == []


def test_fsck_says_so_too(snapshot: Path) -> None:
    """The whole check, tables and tensors read through the damage: on every bit of the user block and every 61st."""
    fd = os.open(snapshot, os.O_RDWR)
    total = 8 * os.fstat(fd).st_size
    for bit in [*range(8 * USER_BLOCK), *range(8 * USER_BLOCK, total, 61)]:
        flip(fd, bit)
        assert flagged(snapshot), bit
        flip(fd, bit)
    os.close(fd)
    assert check(snapshot).ok


@pytest.mark.long
def test_fsck_says_so_for_every_bit(snapshot: Path) -> None:
    fd = os.open(snapshot, os.O_RDWR)
    for bit in range(8 * os.fstat(fd).st_size):
        flip(fd, bit)
        assert flagged(snapshot), bit
        flip(fd, bit)
    os.close(fd)


def test_reading_through_damage_is_right_or_an_error(snapshot: Path) -> None:
    """open() looks at less than fsck does; but what it hands out is never wrong."""
    want = contents(0, 0)
    expected = {"0A": want["W"], "0B": want["x"], "1A": want["y0"], "2A": want["y1"][4:]}
    fd = os.open(snapshot, os.O_RDWR)
    outcomes = {"right": 0, "error": 0}
    for bit in range(5, 8 * os.fstat(fd).st_size, 37):
        flip(fd, bit)
        try:
            with open_snapshot(snapshot) as snap:
                assert len(snap) == 3
                for step in snap:
                    for tensor in step.inputs.values():
                        assert bits(tensor.numpy()) == bits(expected[f"{step.index}{tensor.name}"])
            outcomes["right"] += 1
        except SnapshotError:
            outcomes["error"] += 1
        flip(fd, bit)
    os.close(fd)
    assert min(outcomes.values()) > 100


def test_every_length_is_refused(snapshot: Path) -> None:
    data = snapshot.read_bytes()
    for length in [*range(520), *range(520, len(data), 97), len(data) - 1]:
        snapshot.write_bytes(data[:length])
        assert flagged(snapshot), length
        with pytest.raises(SnapshotError) as caught:
            open_snapshot(snapshot)
        assert "\n" not in str(caught.value)
    for extra in (b"\0", b"x" * 1000):
        snapshot.write_bytes(data + extra)
        assert flagged(snapshot)
        with pytest.raises(SnapshotError, match="something was added"):
            open_snapshot(snapshot)


def test_empty_foreign_and_newer(snapshot: Path) -> None:
    from dataclasses import replace

    from fusion_replay.snapshot.schema import UserBlock

    data = snapshot.read_bytes()
    snapshot.write_bytes(b"")
    with pytest.raises(ForeignFileError, match="empty file"):
        open_snapshot(snapshot)
    block = UserBlock.unpack(data[:USER_BLOCK], "x")
    snapshot.write_bytes(replace(block, major=2).pack() + data[USER_BLOCK:])
    for look in (open_snapshot, check):
        with pytest.raises(NewerFormatError, match=r"format 2\.2 is newer than 1\.2.*upgrade"):
            look(snapshot)
    snapshot.write_bytes(replace(block, minor=9).pack() + data[USER_BLOCK:])  # a newer minor is read
    with open_snapshot(snapshot) as snap:
        assert snap.format_version == (1, 9)
    snapshot.write_bytes(data)
    assert check(snapshot).ok
