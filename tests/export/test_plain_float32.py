# SPDX-License-Identifier: Apache-2.0
"""``plain-h5 --float32``: what viewers without bfloat16 read is what was recorded, value for value."""

from __future__ import annotations

from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.__main__ import main
from fusion_replay.errors import UsageError


def test_every_value_as_a_type_that_every_viewer_knows(tmp_path: Path) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)  # NaN of all kinds among them
    eighth = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    whole = np.arange(5, dtype=np.int32)
    with fr.record(tmp_path / "x.h5") as rec, rec.step("Nobody", {"A": every, "B": eighth, "N": whole}) as step:
        step.outputs["C"] = every
    words = ["export", str(tmp_path / "x.h5"), "--as", "plain-h5", "--float32", "-o", str(tmp_path / "p.h5")]
    assert main(words) == 0
    with h5py.File(tmp_path / "p.h5") as file:
        inputs = file["invocation_0000/step_0000_Nobody/inputs"]
        assert {inputs[n].dtype.str for n in "AB"} == {"<f4"}
        assert inputs["N"].dtype == np.int32
        wanted = (every.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        found = inputs["A"][()]
        finite = ~np.isnan(wanted)
        assert (np.isnan(found) == ~finite).all()
        assert (found[finite].view(np.uint32) == wanted[finite].view(np.uint32)).all()
        narrow = inputs["B"][()].astype(ml_dtypes.float8_e4m3fn)
        assert (narrow.view(np.uint8) == eighth.view(np.uint8)).all()
        assert inputs.attrs["dtype of A"] == "bfloat16"
        assert inputs.attrs["dtype of B"] == "float8_e4m3fn"


def test_other_formats_keep_their_dtypes(tmp_path: Path) -> None:
    with fr.record(tmp_path / "x.h5") as rec, rec.step("Nobody", {"A": np.ones(2, np.float32)}) as step:
        step.outputs["C"] = np.ones(2, np.float32)
    with pytest.raises(UsageError, match="float32: plain-h5 takes it"):
        fr.export(tmp_path / "x.h5", tmp_path / "o.npz", "npz", float32=True)
