# SPDX-License-Identifier: Apache-2.0
"""Which device model a recording's kernels fit, on recordings whose mode is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import fusion_replay as fr
from fusion_replay.model.bf16 import narrow
from fusion_replay.replaying.models import KernelModel, kernel_models
from fusion_replay.simulator.operators import ElementwiseMul, ReLU, RMSNorm


def recorded(path: Path, faults: tuple[str, ...] = ()) -> Path:
    """Mul under floor, a norm that sets conv_even, Mul again, Mul again."""
    mul = ElementwiseMul(size=512, tile_size=64, num_aie_columns=4)
    norm = RMSNorm(size=512, tile_size=64, num_aie_columns=1)
    runlist = [(mul, "a", "b", "c"), (norm, "c", "d"), (mul, "d", "b", "e"), (mul, "a", "e", "f")]
    call = fr.simulate(
        [*runlist, (ReLU(size=512, tile_size=64, num_aie_columns=1), "f", "g")], device="npu1", faults=faults
    )
    r = np.random.default_rng(0)
    with fr.record(path, call):
        for name in ("a", "b"):
            call.get_buffer(name)[:] = narrow(r.standard_normal(512))
        call()
    return path


def models(path: Path) -> dict[str, KernelModel]:
    with fr.open(path) as snapshot:
        return {m.op: m for m in kernel_models(snapshot.steps())}


def test_the_model_of_most_steps_and_what_leaves_it(tmp_path: Path) -> None:
    found = models(recorded(tmp_path / "x.h5"))
    assert found["ElementwiseMul"] == KernelModel("ElementwiseMul", "npu1, conv_even", 2, ("0:0",))
    assert found["RMSNorm"] == KernelModel("RMSNorm", "npu1, conv_even", 1, ())
    assert str(found["ElementwiseMul"]) == "ElementwiseMul: 2 of 3 as npu1, conv_even, 1 not, first 0:0"


def test_a_wrong_step_fits_nothing(tmp_path: Path) -> None:
    found = models(recorded(tmp_path / "x.h5", ("0:1:zeros",)))
    assert found["RMSNorm"].fits == 0
    assert str(found["RMSNorm"]) == "RMSNorm: none of 1 step as any"


def test_the_verb_prints_them(tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.h5")
    words = [sys.executable, "-m", "fusion_replay", "replay", str(path), "--models"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "  - ElementwiseMul: 2 of 3 as npu1, conv_even, 1 not, first 0:0" in text
    lines = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout.splitlines()
    records = [r for r in map(json.loads, lines) if r["type"] == "kernel_model"]
    assert records[0] == {
        "type": "kernel_model", "op": "ElementwiseMul", "model": "npu1, conv_even", "fits": 2, "leaves": ["0:0"],
    }  # fmt: skip
