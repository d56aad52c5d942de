# SPDX-License-Identifier: Apache-2.0
"""``record --keep mismatch`` and ``--against``: what is said, the exit status, what to type next."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import fusion_replay as fr

LLAMA = ("record", "--workload", "llama-decode", "--sim", "npu2", "--layers", "1")


@pytest.fixture
def earlier(run, tmp_path: Path) -> Path:
    path = tmp_path / "earlier.h5"
    assert run(*LLAMA, "-o", path).status == 0
    return path


def kept(path: Path) -> list[str]:
    with fr.open(path) as snap:
        return [s.address for s in snap if s.withheld is None]


def test_against_a_clean_recording(run, tmp_path: Path, earlier: Path) -> None:
    path = tmp_path / "bad.h5"
    how = ("--fault", "1:12:zeros", "--keep", "mismatch", "--against", earlier, "--max-steps", "2")
    done = run(*LLAMA, *how, "-o", path)
    assert done.status == 0
    last = done.out.splitlines()[-1]
    said = r"; \d+ of \d+ steps deviate from earlier\.h5, first 1:12 Softmax; left out: steps as in earlier\.h5; "
    assert re.search(said, last), last
    assert last.endswith(f"next: fusion-replay diff {earlier} {path}")
    assert kept(path)[0] == "1:12"
    assert len(kept(path)) == 2
    shown = run("show", path)
    assert "contents of deviating steps alone: " in shown.out
    assert "loss: left out: steps as in earlier.h5; their digests are kept" in shown.out
    assert "contents  not kept, digests alone: as in earlier.h5" in run("show", path, "0:3").out
    rows = [json.loads(line) for line in run("show", path, "0:3", "--json").out.splitlines()]
    assert rows[0]["withheld"] == "as in earlier.h5"
    compared = run("diff", earlier, path)
    assert compared.status == 1
    assert "first: 1:12 Softmax" in compared.out
    assert "recording.deviating" not in compared.out


def test_by_the_references(run, tmp_path: Path) -> None:
    path = tmp_path / "bad.h5"
    done = run(*LLAMA, "--fault", "1:12:zeros", "--keep", "mismatch", "-o", path)
    last = done.out.splitlines()[-1]
    assert (done.status, kept(path)) == (0, ["1:12"])
    assert "; 1 of 82 steps deviates from the reference, first 1:12 Softmax; left out: steps as the reference; " in last
    assert last.endswith(f"next: fusion-replay replay {path}")
    assert run("replay", path).status == 1


def test_nothing_deviates(run, tmp_path: Path, earlier: Path) -> None:
    path = tmp_path / "same.h5"
    done = run(*LLAMA, "--keep", "mismatch", "--against", earlier, "-o", path)
    assert (done.status, kept(path)) == (0, [])
    assert "none of 82 steps deviates from earlier.h5" in done.out
    assert done.out.splitlines()[-1].endswith(f"next: fusion-replay show {path}")
    done = run("replay", path)
    assert done.status == 4
    assert "none of its 82 steps deviated when it was recorded (all as in earlier.h5)" in done.err
    assert "PASSED" not in done.out + done.err


def test_help_says_what_it_costs(run) -> None:
    said = " ".join(run("record", "--help").out.split())
    assert "--keep [all|mismatch]" in said
    assert "computed at every step" in said
    assert "--against EARLIER.h5" in said
    assert "_KEEP, _AGAINST" in said
