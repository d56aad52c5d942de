# SPDX-License-Identifier: Apache-2.0
"""Weights are read once and taken for unchanged, which the snapshot says; --verify-static looks every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.simulator import operators as sim
from fusion_replay.sources.iron.source import LiveIronStep

BF16 = np.dtype(ml_dtypes.bfloat16)


def made() -> Any:
    """Two GEMVs by one weight of 128 KiB."""
    gemv = sim.GEMV(M=256, K=256, num_aie_columns=4, tile_size_input=4, tile_size_output=64)
    call = fr.simulate([(gemv, "W", "x", "h"), (gemv, "W", "h", "y")], "npu2", input_args=["x"], output_args=["y"])
    put(call, "W", 0)
    return call


def put(call: Any, name: str, seed: int) -> None:
    buffer = call.get_buffer(name)
    with buffer.overwrite() as array:
        array[:] = (np.random.default_rng(seed).standard_normal(array.shape) / 16).astype(np.float32).astype(BF16)
    buffer.to("npu")


def record(path: Path, *, rewrite: bool = False, **how: Any) -> tuple[Any, list[int]]:
    call, reads = made(), []
    read = LiveIronStep.read

    def counting(self: LiveIronStep, position: int) -> Any:
        reads.append(position)
        return read(self, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveIronStep, "read", counting)
        with fr.record(path, call, **how) as rec:
            for i in range(3):
                put(call, "x", 10 + i)
                if rewrite and i == 1:
                    put(call, "W", 5)
                call()
    return rec.report, reads


def test_weights_are_read_once_and_the_snapshot_says_so(tmp_path: Path) -> None:
    report, reads = record(tmp_path / "a.h5")
    assert reads.count(0) == 1  # position 0 is the weight
    assert reads.count(1) == 6
    assert report.notes == ()
    with fr.open(report.path) as snap:
        assert snap.provenance["recording"] == {"level": "full", "static": "assumed"}
        assert [step.noticed for step in snap] == [{}] + [{"assumed": ["A"]}] * 5
        first = snap[0, 0].inputs["A"].digest
        assert {step.inputs["A"].digest for step in snap} == {first}
        assert snap[2, 1].inputs["A"].kept
    assert fr.replay(report.path).passed


@pytest.mark.parametrize("level", ["full", "digest"])
def test_verify_static_tells_of_a_weight_that_changed(tmp_path: Path, level: str) -> None:
    report, reads = record(tmp_path / "a.h5", rewrite=True, verify_static=True, level=level)
    assert reads.count(0) == 6
    assert report.notes == ("buffers taken for static that changed: 1, first at 1:0 GEMV A of W",)
    with fr.open(report.path) as snap:
        assert snap.provenance["recording"] == {"level": level, "static": "verified"}
        assert [step.noticed for step in snap] == [{}, {}, {"rewritten": ["A"]}, {}, {}, {}]
        digests = [snap[i, 0].inputs["A"].digest for i in range(3)]
        assert digests[0] != digests[1] == digests[2]


def test_small_buffers_and_inputs_are_always_read(tmp_path: Path) -> None:
    report, _ = record(tmp_path / "a.h5")
    with fr.open(report.path) as snap:
        assert len({snap[i, 0].inputs["B"].digest for i in range(3)}) == 3


def test_digest_level_knows_what_full_knows(tmp_path: Path) -> None:
    full, _ = record(tmp_path / "full.h5")
    digest, _ = record(tmp_path / "digest.h5", level="digest")
    assert digest.file_bytes < full.file_bytes / 2
    with fr.open(full.path) as a, fr.open(digest.path) as b:
        for one, other in zip(a, b, strict=True):
            for side in ("inputs", "outputs"):
                assert [t.digest for t in getattr(one, side).values()] == [
                    t.digest for t in getattr(other, side).values()
                ]
