# SPDX-License-Identifier: Apache-2.0
"""What an honest kernel makes of inherited nonsense is no fault of its own; a fault is one all the same."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.compare.tolerance import bf16_ulps, relative
from fusion_replay.diverge.propagated import EXTREME, excuse
from fusion_replay.simulator.workloads import find

BF16 = ml_dtypes.bfloat16
ONE = np.ones(4, BF16)
LIMITS = relative(0.01, 0.0, range_frac=0.01)


def told(actual: list[float], expected: list[float], *inputs: list[float], usual: list[float] | None = None) -> str:
    arrays = [np.array(x, BF16) for x in (actual, expected, expected if usual is None else usual)]
    return excuse(*arrays, [np.array(x, BF16) for x in inputs], "auto", LIMITS)


def test_extreme_values_excuse_what_is_not_finite() -> None:
    inf, nan = float("inf"), float("nan")
    assert "2**59" in told([1, inf], [1, 2], [EXTREME, 1])
    assert "2**59" in told([1, nan], [1, 2], [1, -inf])
    assert told([1, inf], [1, 2], [EXTREME / 2, 1]) == "", "no extreme value came in"
    assert told([1.5, inf], [1, 2], [EXTREME, 1]) == "", "a finite element is wrong as well"
    assert told([1.5, 2], [1, 2], [EXTREME, 1]) == "", "all is finite, and wrong"
    assert told([0, 0, inf], [1, 1, 2], [EXTREME]) == "", "zeros"


def test_terms_that_cancel_excuse_what_they_are_off_by() -> None:
    assert "cancel" in told([0.5, 0.25], [0.25, 0.25], [1], usual=[50, 1])
    assert told([0.5, 0.25], [0.25, 0.25], [1], usual=[10, 1]) == "", "0.1 would be its share"
    assert told([0, 0], [0.25, 0.25], [1], usual=[50, 1]) == "", "zeros are no rounding"
    arrays = (np.array([0.5], BF16), np.array([0.25], BF16), np.array([50], BF16))
    assert excuse(*arrays, [ONE], "auto", bf16_ulps(2)) == "", "no share of the range"
    assert excuse(*arrays, [ONE], "strict", None) == ""


def decode(path: Path, *faults: str) -> Path:
    run = find("llama-decode").build("npu2", faults, {"tokens": 2, "layers": 2, "context": 64, "position": 5})
    with fr.record(path, run.callable):
        run.execute()
    return path


@pytest.mark.parametrize("struck", ["0:4", "0:20", "0:37"])
def test_one_flip_of_the_highest_bits_is_one_fault(struck: str, tmp_path: Path) -> None:
    """Bit 14 of an element below 2 makes it 2**128 times as large."""
    clean, flipped = decode(tmp_path / "a.h5"), decode(tmp_path / "b.h5", f"{struck}:bitflip:7:14")
    report = fr.diff(clean, flipped)
    assert [s.address for s in report.introduced] == [struck]
    assert not report.suspects
    both = decode(tmp_path / "c.h5", f"{struck}:bitflip:7:14", "1:38:zeros")
    assert [s.address for s in fr.diff(clean, both).introduced] == [struck, "1:38"]
