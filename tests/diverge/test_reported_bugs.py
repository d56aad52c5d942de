# SPDX-License-Identifier: Apache-2.0
"""Bugs that users reported, made again on the software NPU: what a replay, or a diff, says of each.

None of it ran on the hardware of the report; the faults are shaped after what the threads describe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.diverge.diff import diff
from fusion_replay.diverge.explain import diagnose, explain, explain_difference, explain_first
from fusion_replay.diverge.explanation import Explanation
from fusion_replay.simulator.errors import HostRuntimeError
from fusion_replay.simulator.operators import ElementwiseAdd, ReLU
from fusion_replay.simulator.workloads import find


def record(path: Path, run: Any) -> Path:
    with fr.record(path, run.callable, if_exists="replace"):
        run.execute()
    return path


def operator(path: Path, op: str, faults: Sequence[str] = (), calls: int = 2, **params: Any) -> Path:
    options = {"param": tuple(f"{k}={v}" for k, v in params.items()), "calls": calls}
    return record(path, find(f"op:{op}").build("npu2", faults, options))


def decode(path: Path, faults: Sequence[str] = (), tokens: int = 2, position: int = 5) -> Path:
    options = {"config": "tiny", "context": 64, "layers": 1, "tokens": tokens, "position": position}
    return record(path, find("llama-decode").build("npu2", faults, options))


def why(path: Path) -> Explanation:
    """What ``replay`` says of the first mismatch."""
    with fr.open(path) as snapshot:
        told = explain_first(snapshot, fr.replay(snapshot))
    assert told is not None
    assert told.cause.grade != "located"
    return told


def name(told: Explanation) -> str:
    return told.cause.name


def test_zero_output_for_some_tilings(tmp_path: Path) -> None:
    """https://github.com/Xilinx/llvm-aie/issues/1056: a kernel of some shapes gives zeros."""
    good = operator(tmp_path / "good.h5", "GEMV", M=64, K=256)
    bad = operator(tmp_path / "bad.h5", "GEMV", ["GEMV:zeros"], M=64, K=256, tile_size_output=4)
    assert fr.replay(good).passed
    told = why(bad)
    assert (told.address, name(told)) == ("0:0", "zeros")


def test_wrong_from_the_second_dispatch_on(tmp_path: Path) -> None:
    """https://github.com/amd/Triton-XDNA/issues/99, https://github.com/Xilinx/mlir-aie/pull/3622: right on the first
    dispatch, shifted by one block on every later one."""
    path = operator(tmp_path / "chain.h5", "GELU", ["1:0:shift:1024", "2:0:shift:1024"], calls=3)
    report = fr.replay(path)
    assert [s.address for s in report.mismatches] == ["1:0", "2:0"]
    told = why(path)
    assert (told.address, name(told)) == ("1:0", "shifted")
    assert "1024 further on" in told.cause.detail


def test_elements_equal_to_want_of_i_plus_1024() -> None:
    """https://github.com/Xilinx/mlir-aie/pull/3622: wrong at the start of a block, equal to ``want[i + 1024]``."""
    want = np.random.default_rng(0).standard_normal(4096).astype("bfloat16")
    got = want.copy()
    got[:300] = want[1024:1324]
    told = diagnose(got, want, "GELU", {"size": 4096, "num_aie_columns": 2, "tile_size": 1024})
    assert told is not None
    assert name(told) == "shifted"
    assert "expected[i + 1024]" in told.cause.detail
    assert told.where.confined == {"column": 0, "tile": 0}


def test_stale_sub_buffer(tmp_path: Path) -> None:
    """https://github.com/amd/IRON/issues/138, https://github.com/Xilinx/mlir-aie/pull/3415: a step reads what its input
    held one token ago. Step 0:33 is the first residual, 1:33 the same for the second token."""
    told = why(decode(tmp_path / "stale.h5", ["1:31:stale"]))
    assert (told.address, name(told)) == ("1:31", "stale-input")
    assert "0:" in told.cause.detail, "which earlier contents, by the step that had them"


def test_stale_slice(tmp_path: Path) -> None:
    """https://github.com/Xilinx/mlir-aie/pull/3420: stale data behind a sub-buffer's own coherence flag: a transposed
    head (a slice of a buffer) is that of one token ago."""
    told = why(decode(tmp_path / "slice.h5", ["1:20:stale"]))
    assert told.address == "1:20"
    assert "stale-input" in (told.cause.name, *told.cause.rivals)


def test_scalar_truncated(tmp_path: Path) -> None:
    """https://github.com/Xilinx/mlir-aie/issues/3599: ``saxpy`` gets its scalar with too few bits."""
    told = why(operator(tmp_path / "axpy.h5", "AXPY", ["AXPY:truncate-scalar:10"], scalar_factor=1.9))
    assert "truncated-scalar" in (told.cause.name, *told.cause.rivals)


def test_rounding_state_leaks_between_kernels(tmp_path: Path) -> None:
    """https://github.com/Xilinx/mlir-aie/issues/3726: another kernel leaves its rounding mode behind. No step breaks
    its tolerance; the bits of a good recording tell."""
    good, bad = decode(tmp_path / "good.h5"), decode(tmp_path / "bad.h5", ["1:33:rounding-leak:floor"])
    assert fr.replay(bad).passed
    report = diff(good, bad)
    assert report.first is not None
    with fr.open(good) as a, fr.open(bad) as b:
        told = explain_difference(a[report.first.address], b[report.first.address], (a, b))
    assert told is not None
    assert name(told) == "rounding"
    assert told.leak is not None
    assert (told.leak.affected, told.leak.leaking) == ("1:33", "1:32")


def test_timeout_at_token_seven(tmp_path: Path) -> None:
    """https://github.com/amd/IRON/issues/43: ERT_CMD_STATE_TIMEOUT; the steps before are kept and right."""
    path = tmp_path / "timeout.h5"
    with pytest.raises(HostRuntimeError, match="TIMEOUT"):
        decode(path, ["7:12:timeout"], tokens=9, position=0)
    report = fr.replay(path)
    assert not report.mismatches
    (failed,) = report.skips
    assert (failed.address, failed.kind) == ("7:12", "failed")
    assert "ERT_CMD_STATE_TIMEOUT" in failed.reason


def test_silent_no_op(tmp_path: Path) -> None:
    """https://github.com/1bit-MONSTER/1bit-MONSTER/issues/2002: COMPLETED, and no byte of the output was written."""
    told = why(operator(tmp_path / "noop.h5", "SiLU", ["1:0:unwritten"]))
    assert (told.address, name(told)) == ("1:0", "never-written")


def test_batch_beyond_the_first(tmp_path: Path) -> None:
    """https://github.com/amd/IRON/issues/83: partitions beyond the first are wrong, unnoticed by the tests."""
    told = why(operator(tmp_path / "batch.h5", "GEMV", ["GEMV:batch"], M=64, K=256, num_batches=4))
    assert name(told) == "batch-repeated"
    batch = told.where.level("batch")
    assert batch is not None
    assert {p.index for p in batch.parts} == {1, 2, 3}


def test_same_inputs_other_outputs(tmp_path: Path) -> None:
    """https://github.com/Xilinx/mlir-aie/issues/3656: state COMPLETED, another output in every run."""
    paths = []
    for seed in (0, 1):
        run = find("op:GELU").build("npu2", ["GELU:nondeterministic"], {"param": ("tile_size=512",)})
        run.callable.npu.seed = seed
        paths.append(record(tmp_path / f"run{seed}.h5", run))
    with fr.open(paths[0]) as first, fr.open(paths[1]) as second:
        alone = explain(first["0:0"], first)
        told = explain(first["0:0"], first, repeats=(second["0:0"],))
    assert alone is not None
    assert told is not None
    assert (name(alone), name(told)) == ("neighbour-data", "nondeterministic")


def test_nan_that_compare_mode_lets_pass(tmp_path: Path) -> None:
    """https://github.com/amd/IRON/pull/117: NaN is no mismatch there; here it is one, born in this step."""
    path = operator(tmp_path / "nan.h5", "RMSNorm", ["1:0:nan:700"], num_aie_columns=2)
    told = why(path)
    assert (told.address, name(told)) == ("1:0", "nan")
    assert told.where.confined["column"] == 0
    assert fr.replay(path, rule="iron-compare").passed


def test_columns_in_each_others_place(tmp_path: Path) -> None:
    """https://github.com/Xilinx/mlir-air/issues/1429: tiles bit-identical, in the wrong order."""
    told = why(operator(tmp_path / "swap.h5", "ElementwiseMul", ["1:0:swap-columns:2:5"], tile_size=256))
    assert name(told) == "columns-swapped"
    assert "columns 2 and 5" in told.cause.detail


def test_the_last_block_of_each_loop(tmp_path: Path) -> None:
    """https://github.com/Xilinx/mlir-aie/issues/2446: the last tile is never written back."""
    told = why(operator(tmp_path / "drop.h5", "ReLU", ["1:0:drop-tile"], num_aie_columns=4, tile_size=256))
    assert name(told) == "dropped-tile"
    assert told.where.confined == {"column": 3, "tile": 3}


def test_a_chain_of_operators_of_ones_own(tmp_path: Path) -> None:
    """The same through ``fr.simulate``: the pattern does not depend on a workload."""
    chain = [(ReLU(size=1024, num_aie_columns=4, tile_size=128), "x", "h"), (ElementwiseAdd(size=1024), "h", "x", "y")]
    call = fr.simulate(chain, device="npu2", faults=["1:1:unwritten"], input_args=["x"])
    with fr.record(tmp_path / "own.h5", call):
        for seed in (0, 1):
            call.get_buffer("x").numpy_view()[:] = np.random.default_rng(seed).standard_normal(1024)
            call.get_buffer("x").to("npu")
            call()
    assert name(why(tmp_path / "own.h5")) == "never-written"
