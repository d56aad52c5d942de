# SPDX-License-Identifier: Apache-2.0
"""Small recordings to run commands on."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.record import record
from fusion_replay.recording.options import Level


def write_adds(
    path: Path, *, wrong: int | None = None, steps: int = 3, op: str = "ElementwiseAdd", level: Level = "full"
) -> Path:
    """A recording of ``steps`` additions, one invocation each; step ``wrong`` has an output of zeros."""
    rng = np.random.default_rng(7)
    with record(path, level=level) as rec:
        for i in range(steps):
            a, b = (rng.standard_normal(64).astype(ml_dtypes.bfloat16) for _ in "ab")
            with rec.step(op, inputs={"A": a, "B": b}, params={"size": 64}) as step:
                step.outputs["C"] = np.zeros_like(a) if i == wrong else a + b
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_adds(tmp_path / "good.h5")


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Step 1:0 is wrong."""
    return write_adds(tmp_path / "bad.h5", wrong=1)


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """Of an operator nobody knows."""
    return write_adds(tmp_path / "unknown.h5", op="Frobnicate")
