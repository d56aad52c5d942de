# SPDX-License-Identifier: Apache-2.0
"""scripts/gemm_times.py: a line for each product, or that it was not run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "gemm_times.py"
SMALL = "npu2-gemm-M192-K384-N64-c4-m48-k96-n16"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)


@pytest.mark.torch
def test_a_product_on_the_cpu() -> None:
    pytest.importorskip("torch")
    done = run("--device", "cpu", "--only", SMALL)
    assert done.returncode == 0, done.stderr
    line, total = done.stdout.splitlines()
    assert re.fullmatch(rf"{SMALL}: numpy [\d.]+ ms, torch on cpu [\d.]+ ms, \d of 12288 elements differ", line)
    assert total.startswith("all: numpy ")


@pytest.mark.torch
def test_without_a_gpu_it_says_so() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = run()
    assert (done.returncode, done.stdout) == (0, "not run: torch finds no CUDA device here\n")
