# SPDX-License-Identifier: Apache-2.0
"""Small writes held back in pages, against a file that is written at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_replay.snapshot.journal import pages
from fusion_replay.snapshot.journal.pages import Pages, write_whole
from fusion_replay.system.descriptors import OwnDescriptor

SMALL_PAGE, FEW = 16, 3

writes = st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=0, max_size=70)), max_size=40)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE", SMALL_PAGE)
    monkeypatch.setattr(pages, "HELD", FEW)


@settings(deadline=None)
@given(there=st.binary(max_size=150), pieces=writes, flushes=st.sets(st.integers(0, 40)))
def test_the_file_is_what_the_writes_in_their_order_make_of_it(
    tmp_path_factory: pytest.TempPathFactory, there: bytes, pieces: list[tuple[int, bytes]], flushes: set[int]
) -> None:
    path = tmp_path_factory.mktemp("pages") / "file"
    path.write_bytes(there)
    expected = bytearray(there)
    fd = os.open(path, os.O_RDWR)
    try:
        held = Pages(OwnDescriptor(os.dup(fd), path))
        for number, (offset, data) in enumerate(pieces):
            held.write(offset, memoryview(data))
            if data:
                expected.extend(bytes(max(0, offset + len(data) - len(expected))))
                expected[offset : offset + len(data)] = data
            if number in flushes:
                held.flush()
                assert path.read_bytes() == expected
        held.flush()
    finally:
        os.close(fd)
    assert path.read_bytes() == expected


def test_no_more_pages_are_held_than_allowed(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        held = Pages(OwnDescriptor(os.dup(fd), tmp_path))
        for number in range(FEW):
            held.write(number * SMALL_PAGE, memoryview(b"x"))
        assert os.fstat(fd).st_size == 0, "nothing had to go yet"
        held.write(FEW * SMALL_PAGE, memoryview(b"y"))
        assert os.pread(fd, 1, 0) == b"x", "the page used longest ago went"
        assert os.fstat(fd).st_size == 1
    finally:
        os.close(fd)


def test_bytes_beside_those_written_are_left_to_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * SMALL_PAGE)
    fd = os.open(path, os.O_RDWR)
    try:
        held = Pages(OwnDescriptor(os.dup(fd), tmp_path))
        held.write(2, memoryview(b"bb"))
        os.pwrite(fd, b"c", 0)  # somebody else, before the page goes
        held.flush()
    finally:
        os.close(fd)
    assert path.read_bytes() == b"ca" + b"bb" + b"a" * (SMALL_PAGE - 4)


def test_what_could_not_be_written_is_written_by_the_next_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    real = os.pwrite

    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    try:
        held = Pages(OwnDescriptor(os.dup(fd), tmp_path))
        held.write(0, memoryview(b"abc"))
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="full"):
            held.flush()
        monkeypatch.setattr(os, "pwrite", real)
        held.flush()
        assert os.pread(fd, 10, 0) == b"abc"
    finally:
        os.close(fd)


def test_a_short_write_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    try:
        write_whole(fd, b"0123456789", 5)
        assert os.pread(fd, 20, 0) == bytes(5) + b"0123456789"
    finally:
        os.close(fd)
