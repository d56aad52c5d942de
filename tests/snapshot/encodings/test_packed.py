# SPDX-License-Identifier: Apache-2.0
"""Small contents that share chunks: read in any order, by several threads, each as it was recorded."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from fusion_replay.errors import DamagedSnapshotError
from fusion_replay.model.runlist import ArgSpec, OperandUse, OperatorDescription, SequenceDescription, StepDescription
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.encodings.packed import height
from fusion_replay.snapshot.schema import PACKED

SHAPES = ((512,), (3, 7), (1,))
COUNT = 300


@pytest.mark.parametrize(
    ("count", "nbytes", "want"),
    [
        (2, 1024, 2),
        (256, 1024, 256),
        (257, 1024, 129),  # two packs, as equal as can be
        (1000, 1024, 250),
        (5, 65535, 3),  # four fit
        (1_000_000, 1, 250_000),
    ],
)
def test_packs_are_as_full_as_the_others(count: int, nbytes: int, want: int) -> None:
    assert height(count, nbytes) == want


def array(kind: int, number: int) -> np.ndarray:
    return np.random.default_rng([kind, number]).integers(0, 99, SHAPES[kind], np.int32) + 100 * number


def recorded(path: Path) -> Path:
    """Steps that read an array of each shape; none has its like."""
    uses = tuple(OperandUse(ArgSpec(f"A{n}", "in", shape, "int32"), f"b{n}") for n, shape in enumerate(SHAPES))
    writer = SnapshotWriter(path)
    sequence = writer.add_sequence(
        SequenceDescription("s", (OperatorDescription("Any"),), (), (StepDescription(0, 0, uses),))
    )
    for number in range(COUNT):
        writer.begin_step(writer.begin_invocation(sequence), 0, {n: array(n, number) for n in range(len(SHAPES))})
    return writer.close().path


def test_read_in_any_order_by_several_threads(tmp_path: Path) -> None:
    wrong: list[int] = []
    with open_snapshot(recorded(tmp_path / "t.h5"), cache_bytes=0) as snap:
        assert set(snap.index.contents["encoding"].tolist()) == {PACKED}
        assert len(snap.index.chunks) == 3 + 1 + 1  # 600 KiB, 25 kB, 1.2 kB

        def look(seed: int) -> None:
            for number in np.random.default_rng(seed).permutation(COUNT).tolist():
                for n, tensor in enumerate(snap[number, 0].inputs.values()):
                    if tensor.numpy().tobytes() != array(n, number).tobytes():
                        wrong.append(number)

        threads = [threading.Thread(target=look, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_damage_costs_those_that_share_the_chunk(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t.h5")
    with open_snapshot(path) as snap:
        row = snap[0, 0].inputs["A1"].row
        offset = int(snap.store.chunks_of(row)[0]["offset"])
    data = bytearray(path.read_bytes())
    data[offset] ^= 1  # no frame of zstd any more
    path.write_bytes(data)
    with open_snapshot(path) as snap:
        for number in (0, 150):
            with pytest.raises(DamagedSnapshotError):
                snap[number, 0].inputs["A1"].numpy()
            assert snap[number, 0].inputs["A0"].numpy().tobytes() == array(0, number).tobytes()
