# SPDX-License-Identifier: Apache-2.0
"""Slices of a recording, against those worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import fusion_replay as fr
import snapshot_maker as maker
from fusion_replay.export.selection import feeding


@pytest.fixture
def snap(tmp_path: Path) -> fr.Snapshot:
    return fr.open(maker.record(tmp_path / "x.h5", invocations=2))


@pytest.mark.parametrize(
    ("address", "slice_"),
    [
        ("1:0", ["1:0"]),  # reads W and x alone, which no step writes
        ("1:1", ["1:0", "1:1"]),  # SiLU y -> y needs the GEMV that wrote y
        ("1:2", ["1:1", "1:0", "1:2"]),  # half of y, which SiLU wrote whole
    ],
)
def test_slices_are_the_last_writers_of_what_is_read(snap: fr.Snapshot, address: str, slice_: list[str]) -> None:
    assert [step.address for step in feeding(snap, snap[address])] == sorted(slice_)


def test_a_slice_of_a_decode_leaves_out_what_the_step_does_not_need(tmp_path: Path) -> None:
    """K and Q projections of the first layer feed no V projection; its RMSNorm does."""
    from fusion_replay.simulator.workloads import llama_runlist  # noqa: F401 - the decode's runlist is what this relies on

    path = tmp_path / "d.h5"
    from fusion_replay.__main__ import main

    assert main(["record", "-q", "-o", str(path), "--workload", "llama-decode", "--sim", "npu2"]) == 0
    with fr.open(path) as decode:
        gemvs = list(decode.steps(invocation=1, op="GEMV"))[:3]
        norm = next(decode.steps(invocation=1, op="RMSNorm"))
        for gemv in gemvs:
            assert [s.address for s in feeding(decode, gemv)] == [norm.address, gemv.address]
