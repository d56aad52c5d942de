# SPDX-License-Identifier: Apache-2.0
"""Random faults in a small llama decode: the software NPU writes down where it struck, and diff must name that step."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import UsageError
from fusion_replay.simulator.errors import HostRuntimeError
from fusion_replay.simulator.faults.catalogue import STEP_KINDS
from fusion_replay.simulator.workloads import find

INJECTED = [f"{kind}:1" if kind == "truncate-scalar" else kind for kind in STEP_KINDS if kind != "hang"]
"""A hang never comes back (by its status it is a timeout); this decode's scalars fit the bits that a mild truncation
leaves."""


def decode(path: Path, *faults: str) -> Any:
    """Record two tokens; the callable, which knows what was injected."""
    run = find("llama-decode").build("npu2", faults, {"tokens": 2, "layers": 1, "context": 64})
    with fr.record(path, run.callable, if_exists="replace"), contextlib.suppress(HostRuntimeError):
        run.execute()
    return run.callable


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean") / "clean.h5"
    decode(path)
    return path


def strike(path: Path, kind: str, rng: np.random.Generator, *also: str, after: int = 0) -> str:
    """A fault of this kind at a place drawn at random (behind step ``after``) where the kind can apply."""
    while True:
        where = f"{rng.integers(2)}:{rng.integers(after, 41)}"
        try:
            call = decode(path, *also, f"{where}:{kind}")
        except UsageError as refused:
            if not any(words in str(refused) for words in ("cannot apply", "vector_size=0")):
                raise
            continue
        assert where in {i.address for i in call.injected}
        return where


@pytest.mark.parametrize("kind", INJECTED)
def test_the_first_diverging_step_is_the_one_that_was_struck(clean: Path, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng([7, INJECTED.index(kind)])
    for _ in range(8):  # some change no bit: a bit of what is zero anyway, a column swapped with its like
        where = strike(tmp_path / "b.h5", kind, rng)
        report = fr.diff(clean, tmp_path / "b.h5")
        if not report.equal:
            break
    else:
        pytest.fail(f"eight injections of {kind} changed nothing")
    assert report.first is not None
    assert report.first.address == where
    if kind == "timeout":
        assert report.first.status == ("complete", "failed")


@pytest.mark.parametrize("seed", range(4))
def test_two_faults_at_once_are_both_introduced(clean: Path, tmp_path: Path, seed: int) -> None:
    """A zeroed query projection early on, and one gross fault in a step that sees what came of it."""
    rng = np.random.default_rng([8, seed])
    kind = ("zeros", "shift", "drop-tile", "nan")[seed]
    where = strike(tmp_path / "b.h5", kind, rng, "0:1:zeros", after=30)
    report = fr.diff(clean, tmp_path / "b.h5")
    addresses = [s.address for s in report.introduced]
    assert addresses[0] == "0:1"
    assert where in addresses
