# SPDX-License-Identifier: Apache-2.0
"""Float8, float4 and four-bit integers are recorded and shown; what can't be is an error where it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.__main__ import main
from fusion_replay.errors import UsageError

BF16 = ml_dtypes.bfloat16
KINDS = [n for n in dir(ml_dtypes) if n.startswith("float8") or n in ("float4_e2m1fn", "int4", "uint4")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_comes_back(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dtype: Any = getattr(ml_dtypes, kind)
    bits = np.arange(16 if "4" in kind.split("_")[0][-1:] else 256, dtype=np.uint8)
    x = bits.view(dtype)
    path = tmp_path / "a.h5"
    with fr.record(path) as rec, rec.step("Quantise", inputs={"A": x}) as step:
        step.outputs["C"] = x[::-1].copy()
        step.outputs["scale"] = np.ones(1, BF16)
    assert main(["fsck", str(path)]) == 0, "it was sealed"
    with fr.open(path) as snapshot:
        found = snapshot["0:0"]
        assert found.status == "complete"
        back = found.outputs["C"].numpy()
        assert back.dtype == dtype
        assert np.array_equal(back.view(np.uint8), bits[::-1])
        assert np.array_equal(found.inputs["A"].numpy().view(np.uint8), bits)
    assert main(["show", str(path), "0:0"]) == 0
    assert kind in capsys.readouterr().out


def test_an_unsupported_dtype_is_an_error_of_the_call_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with fr.record(path) as rec:
        with pytest.raises(UsageError, match="A of step Fft: dtype complex128 cannot be recorded"):
            rec.step("Fft", inputs={"A": np.zeros(4, np.complex128)})
        with rec.step("Fft", inputs={"A": np.zeros(4, BF16)}) as step:
            step.outputs["size"] = np.ones(2, np.float32)
            with pytest.raises(UsageError, match="C of step Fft: dtype complex64 cannot be recorded"):
                step.outputs["C"] = np.zeros(4, np.complex64)
    with fr.open(path) as snapshot:
        assert [s.status for s in snapshot.steps()] == ["complete"]
        assert np.array_equal(snapshot["0:0"].outputs["size"].numpy(), np.ones(2, np.float32))


def test_two_recordings_differ_in_values(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        with fr.record(tmp_path / f"{name}.h5") as rec, rec.step("Quantise", inputs={"A": np.zeros(4, BF16)}) as step:
            step.outputs["C"] = np.full(4, value, ml_dtypes.float8_e4m3fn)
    assert main(["diff", str(tmp_path / "a.h5"), str(tmp_path / "a.h5")]) == 0
    assert main(["diff", str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]) == 1
