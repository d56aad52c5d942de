# SPDX-License-Identifier: Apache-2.0
"""The spill by itself."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from fusion_replay.snapshot.journal.spill import Spill, Task


def test_nobody_waits_for_the_piece_at_which_draining_was_interrupted(tmp_path: Path) -> None:
    sunk: list[int] = []

    def sink(task: Task, chunk: bytes, mask: int) -> None:
        if task.piece == 0:
            raise KeyboardInterrupt
        sunk.append(task.piece)

    spill = Spill(tmp_path / "t.spill", sink, threads=0, slots=4)
    for piece in range(2):
        spill.put(lambda slot, piece=piece: Task(0, piece, slot, 4096, 4096, 1, None), np.zeros(4096, np.uint8))
    with pytest.raises(KeyboardInterrupt):
        spill.drain()
    again = threading.Thread(target=spill.drain, daemon=True)
    again.start()
    again.join(30)
    assert not again.is_alive()
    assert sunk == [1]
    spill.close()
