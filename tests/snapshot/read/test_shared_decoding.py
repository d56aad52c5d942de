# SPDX-License-Identifier: Apache-2.0
"""Large contents are decoded by two threads: the same bytes, and damage in any piece is found."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import DamagedSnapshotError
from fusion_replay.snapshot.read import store

N = 5 << 19  # float32 elements: ten pieces of 1 MiB
VALUES = np.random.default_rng(0).standard_normal(N).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "SHARED_FROM", 4)
    with fr.record(tmp_path / "a.h5") as rec, rec.step("Mine", {"A": VALUES}) as s:
        s.outputs["C"] = VALUES[:8]
    return tmp_path / "a.h5"


def test_the_same_bytes_by_two_threads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    decode, both = store.decode, threading.Barrier(2, timeout=60)

    def watched(*args: object) -> None:
        name = threading.current_thread().name
        if name not in seen:
            seen.add(name)
            both.wait()
        decode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "decode", watched)
    with fr.open(path) as snap:
        np.testing.assert_array_equal(snap["0:0"].inputs["A"].numpy(), VALUES)
    assert len(seen) == 2


@pytest.mark.parametrize("piece", [0, 5, 9])
def test_damage_in_any_piece_is_found(path: Path, piece: int) -> None:
    with fr.open(path) as snap:
        row = snap["0:0"].inputs["A"].row
        assert row is not None
        offset, size, _ = snap.store.chunks_of(row).tolist()[piece]
    with path.open("r+b") as file:
        file.seek(offset + size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with fr.open(path) as snap, pytest.raises(DamagedSnapshotError):
        snap["0:0"].inputs["A"].numpy()


def test_where_no_second_thread_can_be_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*task: object) -> None:  # what the pool says where its first thread can't be started
        asked.append(task)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    with fr.open(path) as snap:
        np.testing.assert_array_equal(snap["0:0"].inputs["A"].numpy(), VALUES)
    assert len(asked) == 1
