# SPDX-License-Identifier: Apache-2.0
"""Steps with folded operators on the software NPU: each link's own kernel, on what the double of a device saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fusion_replay as fr
from autumn_maker import build, recorded
from fusion_replay.errors import MissingError
from iron_doubles import machine
from iron_doubles.autumn import GEMV, ElementwiseMul, Link, RMSNorm, SiLU

M, K = 64, 64
TILES = {"num_aie_columns": 1, "tile_size_input": 4, "tile_size_output": 64, "kernel_vector_size": 64}
NORM = Link(RMSNorm(rows=1, tile_size=K, weighted=True))
FOLDED = {
    "finish": (GEMV(M=M, K=K, finish=(Link(SiLU(size=M)),), **TILES), "A", "B", "C"),
    "binary": (GEMV(M=M, K=K, finish=(Link(SiLU(size=M)), Link(ElementwiseMul(size=M), 1)), **TILES), *"ABCm"),
    "prologue": (GEMV(M=M, K=K, prepare=(NORM,), **TILES), *"ABCw"),
    "both": (
        GEMV(M=M, K=K, prepare=(NORM,), finish=(Link(SiLU(size=M)), Link(ElementwiseMul(size=M))), **TILES),
        *"ABCwm",
    ),
}


@pytest.fixture(autouse=True)
def npu() -> machine.Machine:
    machine.MACHINE.__init__()  # type: ignore[misc]
    return machine.MACHINE


@pytest.mark.parametrize("entry", FOLDED.values(), ids=FOLDED)
def test_every_link_is_run(tmp_path: Path, entry: Any) -> None:
    """Judged by references that share no code with the kernels: the sums differ, what was left out would be far off."""
    report = fr.redispatch(recorded(tmp_path, build(*entry)), on="sim", device="npu2")
    assert report
    assert len(report.steps) == 1


def test_a_link_that_the_software_npu_has_no_kernel_of(tmp_path: Path) -> None:
    op = GEMV(M=M, K=K, finish=(Link(SiLU(size=M)),), **{**TILES, "tile_size_output": 5})
    with pytest.raises(MissingError, match="GEMV: "):
        fr.redispatch(recorded(tmp_path, build(op, *"ABC")), on="sim", device="npu2")
