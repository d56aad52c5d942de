# SPDX-License-Identifier: Apache-2.0
"""The journal's frames survive truncation at every byte, damage anywhere, and a disk that refuses."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest

from fusion_replay.snapshot.journal import frames
from fusion_replay.snapshot.journal.frames import FRAME_HEADER, JournalFile, ScanResult, scan

PAYLOADS = [b"", b"a", b"bc" * 50, bytes(range(256)) * 3, frames.FRAME_MAGIC * 20]


def journal(path: Path) -> tuple[bytes, list[int]]:
    """The bytes of a journal with :data:`PAYLOADS`, and where each frame ends."""
    file = JournalFile(path)
    ends = []
    for number, payload in enumerate(PAYLOADS):
        cut = len(payload) // 2
        file.append([(number + 1, [payload[:cut], payload[cut:]])])
        ends.append(os.fstat(file.fd).st_size)
    file.close()
    return path.read_bytes(), ends


def read(tmp_path: Path, data: bytes) -> tuple[list[tuple[int, bytes]], ScanResult]:
    path = tmp_path / "copy"
    path.write_bytes(data)
    result = ScanResult()
    with open(path, "rb") as file:
        found = [(frame.kind, frame.payload) for frame in scan(file, result)]
    return found, result


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    data, ends = journal(tmp_path / "j")
    found, result = read(tmp_path, data)
    assert found == [(number + 1, payload) for number, payload in enumerate(PAYLOADS)]
    assert (result.torn, result.damaged, result.end) == (0, [], ends[-1])


def test_cut_anywhere_every_whole_frame_is_there(tmp_path: Path) -> None:
    data, ends = journal(tmp_path / "j")
    for length in range(len(data)):
        found, result = read(tmp_path, data[:length])
        whole = sum(end <= length for end in ends)
        assert [kind for kind, _ in found] == list(range(1, whole + 1)), length
        assert result.torn == length - max([0, *(end for end in ends if end <= length)])
        assert not result.damaged


def test_a_flipped_bit_costs_its_own_frame_and_is_told(tmp_path: Path) -> None:
    data, ends = journal(tmp_path / "j")
    starts = [0, *ends[:-1]]
    rng = random.Random(0)
    for _ in range(400):
        bit = rng.randrange(8 * len(data))
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        found, result = read(tmp_path, bytes(broken))
        hit = next(n for n, end in enumerate(ends) if bit // 8 < end)
        assert [kind for kind, _ in found] == [n + 1 for n in range(len(PAYLOADS)) if n != hit], bit
        if hit == len(PAYLOADS) - 1 and bit // 8 < starts[hit] + FRAME_HEADER:
            assert result.torn  # a broken last header can't be told from a write cut short
        else:
            assert len(result.damaged or []) == 1


def test_payloads_of_one_kind_can_be_passed_over(tmp_path: Path) -> None:
    data, _ = journal(tmp_path / "j")
    found = [(f.kind, f.payload, f.length) for f in scan(io.BufferedReader(io.FileIO(tmp_path / "j")), ScanResult(),
                                                        head_only=4, head=5)]  # fmt: skip
    assert found[3] == (4, PAYLOADS[3][:5], len(PAYLOADS[3]))
    assert found[4][1] == PAYLOADS[4]
    assert data


def test_two_writers_never_share_a_journal(tmp_path: Path) -> None:
    first = JournalFile(tmp_path / "j")
    with pytest.raises(BlockingIOError):
        JournalFile(tmp_path / "j", create=False)
    with pytest.raises(FileExistsError):
        JournalFile(tmp_path / "j")
    first.close()
    JournalFile(tmp_path / "j", create=False).close()


def test_a_refused_append_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = JournalFile(tmp_path / "j")
    rng = random.Random(3)
    real = os.pwritev
    room = 0

    def short(fd: int, buffers: list, offset: int) -> int:
        """Takes what fits into ``room`` bytes, then the disk is full: a short write first, as the kernel does."""
        data = b"".join(bytes(b) for b in buffers)
        if room == 0:
            raise OSError(28, "No space left on device")
        return real(fd, [data[:room]], offset)

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    kept = []
    for number in range(200):
        payload = rng.randbytes(rng.randrange(300))
        if rng.random() < 0.5:
            room = rng.randrange(len(payload) + FRAME_HEADER)
            with monkeypatch.context() as patched:
                patched.setattr(os, "pwritev", short)
                patched.setattr(os, "pwrite", full)
                with pytest.raises(OSError, match="No space"):
                    file.append([(7, [payload])])
        else:
            file.append([(number % 5 + 1, [payload])])
            kept.append((number % 5 + 1, payload))
    file.close()
    found, result = read(tmp_path, (tmp_path / "j").read_bytes())
    assert found == kept
    assert (result.torn, result.damaged) == (0, [])
