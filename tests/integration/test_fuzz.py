# SPDX-License-Identifier: Apache-2.0
"""Mutants of our files through every verb, as ``scripts/fuzz.py`` asks: a share, thousands with ``long``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"

COUNTS = [(4, 1), pytest.param(5000, 2, marks=pytest.mark.long)]


@pytest.mark.parametrize(("count", "seed"), COUNTS)
@pytest.mark.parametrize("mode", ["sealed", "journal", "golden"])
def test_mutants(mode: str, count: int, seed: int) -> None:
    if mode == "golden" and count > 1000:
        count = 1000
    words = ["--mode", mode, "--seed", str(seed), "--count", str(count)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"{mode}, seed {seed}: {count} mutants" in done.stdout


def test_the_oracle_can_say_no(tmp_path: Path) -> None:
    """With a verb that ends in an internal error, and one that leaves a file behind."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); sys.argv[0] = {str(SCRIPT)!r}\n"
        "import fuzz\n"
        "real = fuzz.run\n"
        "def run(words):\n"
        "    if words[:1] == ['show']:\n"
        "        open('stray', 'w').close()\n"
        "    return 70 if words[:1] == ['fsck'] else real(words)\n"
        "fuzz.run = run\n"
        "sys.exit(fuzz.main())\n"
    )
    words = ["--mode", "sealed", "--seed", "1", "--count", "2"]
    done = subprocess.run([sys.executable, str(broken), *words], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "2 with problems" in done.stdout
    assert "exit 70: fsck" in done.stdout
    assert "STRAY: ['stray']" in done.stdout
