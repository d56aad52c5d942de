# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import xxhash

import fusion_replay as fr
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.errors import MissingError
from fusion_replay.golden.add import golden_of
from fusion_replay.golden.document import Golden
from golden_maker import record_workload

BF16 = ml_dtypes.bfloat16


def golden(path: Path) -> Golden:
    with fr.open(path) as snap:
        return golden_of(snap, "golden")


def digest(array: np.ndarray) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).tobytes())


def test_digests_are_those_of_the_bytes(tmp_path: Path) -> None:
    """ElementwiseAdd of bf16 values: the reference is the float32 sum, exact here or correctly rounded, as bf16."""
    path = record_workload(tmp_path / "add.h5", "op:ElementwiseAdd")
    with fr.open(path) as snap:
        a, b = (snap["0:0"].inputs[n].numpy() for n in "AB")
        c = snap["0:0"].outputs["C"].numpy()
    truth = (a.astype(np.float32) + b.astype(np.float32)).astype(BF16)
    (step,) = golden(path).steps
    assert step.inputs == {"A": digest(a), "B": digest(b)}
    assert step.outputs == {"C": digest(c)}
    assert step.expected == {"C": digest(truth)}, "npu2 floors: some sums are an ULP low"
    assert step.stats["C"]["ulp_max"] == 1
    assert -1 < step.stats["C"]["ulp_signed_mean"] < 0
    assert (step.address, step.op, step.flow, step.verdict) == ("0:0", "ElementwiseAdd", "A, B -> C", "match")


def test_a_step_that_agrees_says_nothing_of_the_reference(tmp_path: Path) -> None:
    (step,) = golden(record_workload(tmp_path / "t.h5", "op:Transpose")).steps
    assert step.expected == step.stats == {}
    assert step.limits == Tolerance(), "moved bits are the same bits"


def test_only_contents_from_outside_are_inputs(tmp_path: Path) -> None:
    made = golden(record_workload(tmp_path / "d.h5", "llama-decode", tokens=1, layers=1))
    norm, query = made.steps[:2]
    assert len(norm.inputs) == 2, "x and its weights"
    assert len(query.inputs) == 1, "the weights; the other operand is what the norm wrote"
    silu = next(s for s in made.steps if s.op == "SiLU")
    assert silu.inputs == {}


def test_mismatches_are_named(tmp_path: Path) -> None:
    assert golden(record_workload(tmp_path / "1.h5", "op:GELU")).mismatches == ()
    (label,) = golden(record_workload(tmp_path / "2.h5", "op:GELU", "0:0:zeros")).mismatches
    assert label.startswith("0:0 GELU")


def test_what_has_no_reference_is_no_golden(tmp_path: Path) -> None:
    with fr.record(tmp_path / "x.h5") as recorder, recorder.step("Nobodys", {"A": np.ones(4, BF16)}) as step:
        step.outputs["C"] = np.ones(4, BF16)
    with pytest.raises(MissingError, match=r"x\.h5: 0:0 Nobodys .* cannot be part of a golden: no reference"):
        golden(tmp_path / "x.h5")
