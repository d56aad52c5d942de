# SPDX-License-Identifier: Apache-2.0
"""Which of kernel, reference, tolerance, runlist and host a replay speaks for: a small recording of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.diverge.blame import blame
from fusion_replay.diverge.consistency import Finding
from fusion_replay.diverge.explain import explain_first
from fusion_replay.model.bf16 import BFLOAT16

SIZE = 1024
X = np.random.default_rng(0).standard_normal(SIZE).astype(BFLOAT16)
Y = np.random.default_rng(1).standard_normal(SIZE).astype(BFLOAT16)
W = np.ones(256, BFLOAT16)
Array = np.ndarray


def wide(x: Array) -> Array:
    return x.astype(np.float32)


def right() -> Array:
    return (wide(X) * wide(Y)).astype(BFLOAT16)


def zeros_in_a_row() -> Array:
    out = right()
    out[256:512] = 0
    return out


def added() -> Array:
    return (wide(X) + wide(Y)).astype(BFLOAT16)


def told(tmp_path: Path, outputs: list[Array], op: str = "ElementwiseMul", found: tuple[Finding, ...] = ()) -> str:
    params = {"size": SIZE} if op == "ElementwiseMul" else {"size": SIZE, "tile_size": 256, "weighted": True}
    path = tmp_path / "steps.h5"
    with fr.record(path) as rec:
        for value in outputs:
            with rec.step(op, inputs={"A": X, "B": Y if op == "ElementwiseMul" else W}, params=params) as step:
                step.outputs["C"] = value
    with fr.open(path) as snapshot:
        report = fr.replay(snapshot)
        return blame(report, explain_first(snapshot, report), found)


def padded_mean() -> Array:
    rows = wide(X).reshape(-1, 256)
    return (rows / np.sqrt((rows * rows).sum(1, keepdims=True) / 272 + 1e-5)).astype(BFLOAT16).reshape(-1)


@pytest.mark.parametrize(
    ("outputs", "op", "says"),
    [
        ([right, zeros_in_a_row, right], "ElementwiseMul", "kernel: 1:0 ElementwiseMul (zeros, proved); 2 other"),
        ([added, added], "ElementwiseMul", "kernel or reference: they state ElementwiseMul in two ways (formula"),
        ([padded_mean], "RMSNorm", "tolerance: it accepts 0:0 RMSNorm, which no honest device gives"),
        ([right, right], "ElementwiseMul", "no step: "),
    ],
)
def test_each_is_told_by_its_evidence(tmp_path: Path, outputs: list[Callable[[], Array]], op: str, says: str) -> None:
    assert told(tmp_path, [make() for make in outputs], op).startswith(says)


def test_bytes_that_change_between_steps_are_none_of_theirs(tmp_path: Path) -> None:
    clobbered = Finding("clobbered", "certain", "", ("0:1",), ("hidden",))
    assert told(tmp_path, [right()], found=(clobbered,)) == "runlist or host: clobbered hidden, by no step"
    (tmp_path / "b").mkdir()
    stuck = Finding("same_offset", "suspect", "", ("0:1",), ("cache",))
    assert told(tmp_path / "b", [right()], found=(stuck,)).startswith("host: 1 step right, same offset")
