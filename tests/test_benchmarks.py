# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, on a workload of a moment; what they measure is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def bench(name: str, tmp_path: Path, *options: str) -> dict:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--tiny", "--rounds", "2", "--folder", str(tmp_path)]
    subprocess.run([*command, "--json", str(out), *options], cwd=ROOT, check=True, capture_output=True, timeout=120)
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("record", ["--no-peers"]),
        *(
            pytest.param(name, [], marks=pytest.mark.long)
            for name in ("replay", "seal", "recover", "size", "token", "show", "off", "reference")
        ),
    ],
)
def test_a_benchmark_tells_of_every_candidate_and_leaves_nothing_behind(
    name: str, options: list[str], tmp_path: Path
) -> None:
    told = bench(name, tmp_path, *options)
    assert told["summary"]
    assert all(len(runs) == 2 and all(run["wall"] > 0 for run in runs) for runs in told["runs"].values())
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
