# SPDX-License-Identifier: Apache-2.0
"""Injected faults: spelling, where they fit, and what exactly each kind does to an honest result."""

from __future__ import annotations

import math
import time
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import UsageError
from fusion_replay.simulator import Fault, HostRuntimeError, parse_fault
from fusion_replay.simulator import operators as ops
from fusion_replay.simulator.faults.catalogue import KINDS

BF16 = ml_dtypes.bfloat16
N = 4096
ADD = ops.ElementwiseAdd(size=N, tile_size=512, num_aie_columns=4)
RELU = ops.ReLU(size=N, num_aie_columns=4, num_channels=1, tile_size=512)
COPY = ops.StridedCopy((64,), (1,), 0, (64,), (1,), 0, 64, 1024, output_offset_parameter="cache_offset")
NORM = ops.RMSNorm(size=N, num_aie_columns=1, num_channels=1, tile_size=512, weighted=False, epsilon=0.7)
TRANSPOSE = ops.Transpose(M=64, N=64, num_aie_columns=1, num_channels=1, m=32, n=32, s=8)

A = (np.arange(N) % 96 + 1).astype(BF16)
B = (np.arange(N) // 64 + 1).astype(BF16)
HONEST = A + B  # small integers: exact on the device too


def add(*faults: Any, calls: int = 1, **options: Any) -> Any:
    """t = a + b, run ``calls`` times; t held -1 before."""
    call = fr.simulate([(ADD, "a", "b", "t")], faults=faults, **options)
    call.get_buffer("a")[...] = A
    call.get_buffer("b")[...] = B
    call.get_buffer("t").fill_(-1)
    for _ in range(calls):
        call()
    return call


def result(call: Any, name: str = "t") -> np.ndarray[Any, Any]:
    return np.array(call.get_buffer(name).numpy())


# --- spelling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("3:412:zeros", Fault("zeros", None, 3, 412)),
        ("GEMV:shift:64", Fault("shift", "GEMV", None, None, (64,))),
        ("0:0:swap-columns:1:3", Fault("swap-columns", None, 0, 0, (1, 3))),
        ("RMSNorm:rounding-leak:floor", Fault("rounding-leak", "RMSNorm", None, None, ("floor",))),
        ("1:2:bitflip:17:9", Fault("bitflip", None, 1, 2, (17, 9))),
    ],
)
def test_spelling_and_back(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault
    assert str(fault) == text


def test_aliases_of_operators_are_understood() -> None:
    assert parse_fault(" elementwise_add:zeros ") == Fault("zeros", "ElementwiseAdd")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "operator '' is unknown"),
        ("zeros", "operator 'zeros' is unknown; known: "),
        ("GEMV", "kind '': expected one of zeros, unwritten"),
        ("GEMV:melt", "kind 'melt': expected one of"),
        ("NoOp:zeros", "operator 'NoOp' is unknown"),
        ("3:zeros", "INVOCATION:STEP:KIND"),
        ("3", "INVOCATION:STEP:KIND"),
        ("3:1", "kind ''"),
        ("GEMV:zeros:1", "expected zeros, without arguments"),
        ("GEMV:shift:x", "expected shift\\[:ELEMENTS\\]"),
        ("GEMV:shift:-3", "expected shift"),
        ("GEMV:shift:1:2", "expected shift"),
        ("GEMV:swap-columns:1", "expected swap-columns\\[:COLUMN:COLUMN\\]"),
        ("GEMV:rounding-leak:up", "floor\\|conv_even"),
    ],
)
def test_misspelt_faults(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_fault(text)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("GEMV:zeros", "matches no step: the runlist has steps 0 to 0 of ElementwiseAdd"),
        ("0:1:zeros", "matches no step"),
        ("0:0:shift:4096", "cannot apply to step 0 \\(ElementwiseAdd\\): cannot shift 4096 elements by 4096"),
        ("0:0:shift:0", "cannot shift 4096 elements by 0"),
        ("0:0:swap-columns:1:1", "columns 1 and 1 cannot be swapped"),
        ("0:0:swap-columns:0:4", "columns 0 to 3"),
        ("ElementwiseAdd:batch", "it has one batch"),
        ("0:0:drop-tile:8", "tiles 0 to 7"),
        ("0:0:truncate-scalar", "no float parameter and no runtime value"),
        ("0:0:stale:2", "it has 2 inputs"),
        ("0:0:bitflip:4096", "elements 0 to 4095"),
        ("0:0:bitflip:0:16", "bits 0 to 15"),
        ("0:0:nan:4096", "elements 0 to 4095"),
        ("0:0:timeout:1", "the address names the invocation already"),
    ],
)
def test_faults_that_do_not_fit(fault: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        add(fault)


def test_faults_that_do_not_fit_other_operators() -> None:
    with pytest.raises(UsageError, match="moves bits and never rounds"):
        fr.simulate([(RELU, "x", "y")], faults=["ReLU:rounding-leak"])
    with pytest.raises(UsageError, match="runs on one column"):
        fr.simulate([(TRANSPOSE, "x", "y")], faults=["Transpose:swap-columns"])
    with pytest.raises(UsageError, match="keeps 1 to 31"):
        fr.simulate([(NORM, "x", "y")], faults=["RMSNorm:truncate-scalar:32"])


def test_every_kind_cites_a_report_and_has_a_summary() -> None:
    assert list(KINDS) == [
        *("zeros", "unwritten", "stale", "shift", "swap-columns", "batch", "drop-tile", "truncate-scalar"),
        *("rounding-leak", "bitflip", "nan", "nondeterministic", "timeout", "hang"),
        *("alias-race", "reset-swallowed", "offset-collision", "dropped-copy", "stale-value"),
    ]
    for name, kind in KINDS.items():
        assert kind.name == name
        assert kind.summary
        assert kind.report.startswith("https://github.com/")
        assert kind.report in (type(kind).__doc__ or ""), name


# --- what each kind does ----------------------------------------------------------------------------------------


def test_no_fault_no_change() -> None:
    call = add()
    assert np.array_equal(result(call), HONEST)
    assert call.injected == ()


def test_zeros() -> None:
    call = add("0:0:zeros")
    assert not result(call).any()
    assert [(i.fault, i.address, i.changed) for i in call.injected] == [("0:0:zeros", "0:0", N)]


def test_unwritten() -> None:
    call = add("0:0:unwritten")
    assert (result(call) == -1).all()
    call()
    assert np.array_equal(result(call), HONEST), "only the addressed dispatch is struck"
    assert len(call.injected) == 1


def test_unwritten_leaves_the_rounding_register_alone() -> None:
    gemm = ops.GEMM(M=256, K=64, N=64, num_aie_columns=1)
    after = ops.ElementwiseAdd(size=64, num_aie_columns=1)
    # 1 + 3 * 2**-9 lies between two bf16 values, nearer to the upper one: the sum tells what the register holds.
    for faults, total in (((), 1 + 2**-7), (("GEMM:unwritten",), 1)):
        call = fr.simulate([(gemm, "m", "k", "n"), (after, "x", "y", "z")], "npu2", faults)
        call.get_buffer("x").fill_(1)
        call.get_buffer("y").fill_(3 * 2**-9)
        call()
        assert (call.get_buffer("z").numpy() == total).all()


def test_shift() -> None:
    assert result(add("0:0:shift:3")).tolist() == [-1] * 3 + HONEST[:-3].tolist()
    assert result(add("ElementwiseAdd:shift")).tolist() == [-1] * 512 + HONEST[:-512].tolist(), "one tile by default"


def test_swap_columns_of_a_streamed_operator() -> None:
    parts = HONEST.reshape(4, 1024)
    assert np.array_equal(result(add("0:0:swap-columns")).reshape(4, 1024), parts[[1, 0, 2, 3]])
    assert np.array_equal(result(add("0:0:swap-columns:0:3")).reshape(4, 1024), parts[[3, 1, 2, 0]])


@pytest.mark.parametrize("c_col_maj", [False, True])
def test_swap_columns_of_a_matmul_swaps_its_dealt_out_blocks(c_col_maj: bool) -> None:
    gemm = ops.GEMM(M=64, K=64, N=128, tile_m=16, tile_k=64, tile_n=16, num_aie_columns=4, c_col_maj=c_col_maj)
    rng = np.random.default_rng(0)
    outputs = []
    for faults in ((), ("GEMM:swap-columns:1:2",)):
        call = fr.simulate([(gemm, "a", "b", "c")], "npu2", faults)
        call.get_buffer("a")[...] = rng.integers(-2, 3, 64 * 64).astype(BF16)
        call.get_buffer("b")[...] = rng.integers(-2, 3, 64 * 128).astype(BF16)
        rng = np.random.default_rng(0)
        call()
        c = result(call, "c")
        outputs.append(c.reshape(128, 64).T if c_col_maj else c.reshape(64, 128))
    good, swapped = outputs
    owner = np.arange(128) // 16 % 4  # which AIE column computes column n of C
    for n in range(128):
        came_from = n + 16 * (owner[n] == 1) - 16 * (owner[n] == 2)
        assert np.array_equal(swapped[:, n], good[:, came_from])


def test_batch() -> None:
    gemv = ops.GEMV(M=32, K=64, num_aie_columns=1, tile_size_input=4, tile_size_output=32, num_batches=3)
    rng = np.random.default_rng(0)
    matrices, vectors = rng.integers(-2, 3, (3, 32, 64)), rng.integers(-2, 3, (3, 64))
    call = fr.simulate([(gemv, "A", "B", "C")], faults=["GEMV:batch"])
    call.get_buffer("A")[...] = matrices.reshape(-1).astype(BF16)
    call.get_buffer("B")[...] = vectors.reshape(-1).astype(BF16)
    call()
    assert result(call, "C").astype(int).reshape(3, 32).tolist() == [(matrices[0] @ vectors[0]).tolist()] * 3


def test_drop_tile() -> None:
    for fault, tile in (("0:0:drop-tile", 7), ("0:0:drop-tile:2", 2)):
        expected = HONEST.copy()
        expected[512 * tile : 512 * (tile + 1)] = -1
        assert np.array_equal(result(add(fault)), expected)


def test_bitflip() -> None:
    flipped = result(add("0:0:bitflip:17:3")).view(np.uint16) ^ HONEST.view(np.uint16)
    assert np.flatnonzero(flipped).tolist() == [17]
    assert flipped[17] == 1 << 3
    by_default = result(add("0:0:bitflip")).view(np.uint16) ^ HONEST.view(np.uint16)
    assert by_default[by_default != 0].tolist() == [1 << 14]


def test_nan() -> None:
    values = result(add("0:0:nan:5"))
    assert np.flatnonzero(np.isnan(values)).tolist() == [5]
    assert np.count_nonzero(np.isnan(result(add("0:0:nan")))) == 1


def test_stale_sees_the_previous_dispatch_of_the_step() -> None:
    runlist = [(RELU, "x", "h"), (ADD, "h", "w", "y")]
    call = fr.simulate(runlist, faults=["ElementwiseAdd:stale"], input_args=["x"])
    call.get_buffer("w")[...] = B
    seen = []
    for i in (1, 2, 3):
        call.get_buffer("x").fill_(i)
        call()
        seen.append(result(call, "y") - B)
    assert [sorted(set(s.astype(int).tolist())) for s in seen] == [[0], [1], [2]], "h is one call old, w is not"
    assert call.injected[0].changed is None


def test_stale_at_one_address_sees_the_dispatch_before_it() -> None:
    runlist = [(RELU, "x", "h"), (ADD, "h", "w", "y")]
    call = fr.simulate(runlist, faults=["2:1:stale"], input_args=["x"])
    seen = []
    for i in (1, 2, 3):
        call.get_buffer("x").fill_(i)
        call()
        seen.append(sorted(set(result(call, "y").astype(int).tolist())))
    assert seen == [[1], [2], [2]]


def test_stale_external_input() -> None:
    call = add("0:0:stale:1")
    assert np.array_equal(result(call), A), "b as it was allocated: zeros"


def test_truncated_float_parameter() -> None:
    """0.7 with the upper 9 bits of its float32 pattern: sign and exponent, that is 0.5."""
    x = np.random.default_rng(0).uniform(-1, 1, N).astype(BF16)
    rows = x.astype(float).reshape(-1, 512)

    def norm(epsilon: float) -> np.ndarray[Any, Any]:
        return rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + epsilon)

    outputs = []
    for faults in ((), ("RMSNorm:truncate-scalar:9",)):
        call = fr.simulate([(NORM, "x", "y")], "npu2", faults)
        call.get_buffer("x")[...] = x
        call()
        outputs.append(result(call, "y").astype(float).reshape(-1, 512))
    assert outputs[0] == pytest.approx(norm(0.7), rel=0.01, abs=1e-4)
    assert outputs[1] == pytest.approx(norm(0.5), rel=0.01, abs=1e-4)
    assert math.isclose(NORM.epsilon, 0.7), "the operator itself is untouched"


def test_truncated_runtime_value() -> None:
    call = fr.simulate([(COPY, "new", "cache")], faults=["StridedCopy:truncate-scalar"])
    call.get_buffer("new").fill_(1)
    call.write_values({"cache_offset": 256 + 64})
    call()
    assert np.flatnonzero(result(call, "cache")).tolist() == list(range(64, 128))


def test_rounding_leak_is_sticky() -> None:
    runlist = [(ADD, "a", "b", "t"), (ADD, "a", "b", "u")]
    below_one = np.full(N, -(2.0**-9), BF16)  # 1 - 2**-9 lies halfway: floor takes the lower, nearest-even takes 1.0
    outputs = {}
    for fault in (None, "0:0:rounding-leak", "0:1:rounding-leak", "0:1:rounding-leak:floor"):
        call = fr.simulate(runlist, "npu2", [fault] if fault else [])
        call.get_buffer("a").fill_(1)
        call.get_buffer("b")[...] = below_one
        call()
        outputs[fault] = [float(result(call, name)[0]) for name in "tu"]
    low = 1 - 2.0**-8
    assert outputs == {
        None: [low, low],
        "0:0:rounding-leak": [1.0, 1.0],
        "0:1:rounding-leak": [low, 1.0],
        "0:1:rounding-leak:floor": [low, low],
    }


def test_nondeterminism_moves_with_invocation_and_seed_and_repeats_with_the_seed() -> None:
    def tiles(seed: int) -> list[int]:
        call = add("ElementwiseAdd:nondeterministic", calls=0, seed=seed)
        struck = []
        for _ in range(6):
            call()
            wrong = np.flatnonzero((result(call) != HONEST).reshape(8, 512).any(axis=1))
            assert len(wrong) == 1
            neighbour = HONEST.reshape(8, 512)[(wrong[0] + 1) % 8]
            assert np.array_equal(result(call).reshape(8, 512)[wrong[0]], neighbour)
            struck.append(int(wrong[0]))
        return struck

    assert len(set(tiles(0))) > 1
    assert tiles(0) == tiles(0)
    assert tiles(0) != tiles(1)


def test_random_choices_repeat_with_the_seed() -> None:
    assert result(add("0:0:bitflip")).tobytes() == result(add("0:0:bitflip")).tobytes()
    several = {result(add("0:0:bitflip", seed=seed)).tobytes() for seed in range(4)}
    assert len(several) > 1


def test_timeout_at_invocation_n() -> None:
    call = add("ElementwiseAdd:timeout:2", calls=2)
    with pytest.raises(HostRuntimeError, match="ERT_CMD_STATE_TIMEOUT at 2:0"):
        call()
    call()
    assert [i.address for i in call.injected] == ["2:0"]
    with pytest.raises(HostRuntimeError, match="at 0:0"):
        add("ElementwiseAdd:timeout")


def test_hang_never_returns_but_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        add("0:0:hang")
    assert len(naps) == 3


# --- where they strike ------------------------------------------------------------------------------------------


def test_an_operator_fault_strikes_every_dispatch_it_can_and_no_other() -> None:
    one = ops.ReLU(size=512, num_aie_columns=1, num_channels=1, tile_size=512)
    runlist = [(RELU, "x", "y"), (one, "z[0:1024]", "v"), (RELU, "y", "w"), (ADD, "w", "y", "u")]
    call = fr.simulate(runlist, faults=["ReLU:swap-columns"], buffer_sizes={"z": 1024})
    call.get_buffer("x")[...] = A
    call()
    assert [i.address for i in call.injected] == ["0:0", "0:2"], "the one-column ReLU cannot swap columns"
    assert np.array_equal(result(call, "w"), A), "swapped twice"


def test_several_faults_act_in_the_order_given() -> None:
    values = result(add("0:0:zeros", "0:0:nan:0"))
    assert np.isnan(values[0])
    assert not values[1:].any()
    assert not result(add("0:0:nan:0", "0:0:zeros")).any()


def test_partial_writers_keep_their_old_contents_under_a_shift() -> None:
    call = fr.simulate([(COPY, "new", "cache")], faults=["0:0:shift:64"])
    call.get_buffer("new").fill_(1)
    call.get_buffer("cache").fill_(5)
    call.write_values({"cache_offset": 0})
    call()
    assert result(call, "cache").astype(int).tolist() == [5] * 64 + [1] * 64 + [5] * 896


# --- where columns and batches lie in the operators that name them otherwise ------------------------------------------


def spoiled(op: Any, device: str, fault: str, **inputs: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """The output without and with the fault, of one call on the same inputs, by the op's shape."""
    shape = next(a.shape for a in op.arg_specs() if a.writes)
    outs = []
    for faults in ((), (fault,)):
        call = fr.simulate([(op, *inputs, "out")], device, faults)
        for name, values in inputs.items():
            call.get_buffer(name)[...] = values.reshape(-1)
        call()
        outs.append(result(call, "out").reshape(shape))
    return outs[0], outs[1]


def qkv(rows: int, interleaved: bool) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    shape = (rows, 2, 64) if interleaved else (2, rows, 64)
    return {name: rng.standard_normal(shape).astype(BF16) for name in "qkv"}


def test_batch_of_an_attention_is_a_head() -> None:
    for interleaved in (False, True):
        op = ops.MHA(num_heads=2, seq_len=64, heads_interleaved=interleaved)
        good, bad = spoiled(op, "npu2", "0:0:batch", **qkv(64, interleaved))
        first, second = (np.s_[:, 0], np.s_[:, 1]) if interleaved else (np.s_[0], np.s_[1])
        assert bad[first].tobytes() == bad[second].tobytes() == good[first].tobytes() != good[second].tobytes()


def test_columns_of_an_attention_deal_out_blocks_of_64_rows() -> None:
    for interleaved in (False, True):
        op = ops.MHA(num_heads=2, seq_len=256, num_pipelines=2, heads_interleaved=interleaved)
        good, bad = spoiled(op, "npu2", "0:0:swap-columns:0:1", **qkv(256, interleaved))
        blocks = good.reshape(4, 64, 2, 64) if interleaved else good.reshape(2, 4, 64, 64).swapaxes(0, 1)
        found = bad.reshape(4, 64, 2, 64) if interleaved else bad.reshape(2, 4, 64, 64).swapaxes(0, 1)
        np.testing.assert_array_equal(found[[1, 0, 3, 2]].astype(np.float32), blocks.astype(np.float32))


def test_groups_of_a_context_are_batches_and_columns() -> None:
    op = ops.GQAContext(groups=3, heads_per_group=2, seq_len=64)
    rng = np.random.default_rng(1)
    inputs = {"cache": rng.standard_normal((3, 64, 64)).astype(BF16), "weights": rng.random((3, 2, 64)).astype(BF16)}
    good, bad = spoiled(op, "npu1", "0:0:batch", **inputs)
    np.testing.assert_array_equal(bad.astype(np.float32), np.stack([good[0]] * 3).astype(np.float32))
    good, bad = spoiled(op, "npu1", "0:0:swap-columns:0:2", **inputs)
    np.testing.assert_array_equal(bad[[2, 1, 0]].astype(np.float32), good.astype(np.float32))
    assert not np.array_equal(good[0], good[2])


def test_columns_of_a_batched_operator_are_columns_of_every_batch() -> None:
    op = ops.Transpose(M=64, N=64, num_aie_columns=2, num_channels=1, m=32, n=32, s=8, num_batches=2)
    x = np.arange(2 * 64 * 64, dtype=np.uint16)
    good, bad = spoiled(op, "npu1", "0:0:swap-columns:0:1", x=x.view(BF16))
    want = good.view(np.uint16).reshape(2, 2, 2048)[:, ::-1]
    np.testing.assert_array_equal(bad.view(np.uint16).reshape(2, 2, 2048), want)
