# SPDX-License-Identifier: Apache-2.0
"""GEMM of the software NPU: block floating point, K tiles, layouts, the rounding register."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from core_types import core_types, environment, oldest
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel
from fusion_replay.simulator.kernels.bfp16 import through_bfp16

BF16 = ml_dtypes.bfloat16
NATIVE = {"emulate_bf16_mmul_with_bfp16": False}
ACCURATE = {**NATIVE, "prio_accuracy": True}


def run(core: Core, a: np.ndarray, b: np.ndarray, **params: object) -> np.ndarray:
    n = b.shape[0] if params.get("b_col_maj") else b.shape[1]
    p = SimpleNamespace(M=a.shape[0], K=a.shape[1], N=n, **params)
    return find_kernel("GEMM").run(Dispatch(core, p, [a, b]))[0]


def relative_l2(actual: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(actual.astype(np.float64) - exact) / np.linalg.norm(exact))


# --- bfp16 ---------------------------------------------------------------------------------------


def test_bfp16_hand_values() -> None:
    # Largest 1.x: exponent 0, steps of 2**-6. Negative values go down under floor, ties go to even otherwise.
    block = np.array([1 + 2**-7, -(1 + 2**-7), 3 * 2**-7, 2**-7, -(2**-7), 2**-8, -(2**-20), 0.0])
    step = 2.0**-6
    assert (through_bfp16(block, "floor") / step).tolist() == [64, -65, 1, 0, -1, 0, -1, 0]
    assert (through_bfp16(block, "conv_even") / step).tolist() == [64, -64, 2, 0, 0, 0, 0, 0]


def test_bfp16_edges() -> None:
    top = np.array([1.9921875] + [0] * 7)  # 127.5 steps: nearest would be 128, which a signed byte cannot hold
    assert through_bfp16(top, "conv_even")[0] * 64 == 127
    assert (through_bfp16(np.zeros(8), "floor") == 0).all()
    two = np.array([[np.inf] + [1.0] * 7, [2.0] * 8])
    assert np.isnan(through_bfp16(two, "floor")[0]).all()
    assert (through_bfp16(two, "floor")[1] == 2).all()
    tiny = np.array([2.0**-130] + [0] * 7)  # the exponent field ends at -126: steps of 2**-132
    assert through_bfp16(tiny, "floor")[0] == 2.0**-130
    assert through_bfp16(np.array([2.0**-133] * 8), "floor").tolist() == [0] * 8


def test_bfp16_matches_the_format_definition() -> None:
    """The header that mlir-aie's host code follows: 8 bits of the two's complement mantissa, shifted to the common
    exponent arithmetically. Here on integers, one value at a time."""
    rng = np.random.default_rng(8)
    x = (rng.standard_normal((50, 8)) * np.exp2(rng.integers(-12, 12, (50, 8)))).astype(BF16)
    got = through_bfp16(x.astype(np.float32), "floor")
    for block, values in zip(x.astype(np.float32), got, strict=True):
        bits = [int(v) for v in block.view(np.uint32)]
        exponents = [b >> 23 & 0xFF for b in bits]
        for b, e, value in zip(bits, exponents, values, strict=True):
            mantissa = (b & 0x7FFFFF | 0x800000) * (-1 if b >> 31 else 1)
            byte = (mantissa >> 17) >> (max(exponents) - e)  # Python shifts round down, as the hardware's do
            assert value == byte * 2.0 ** (max(exponents) - 127 - 6)


def test_small_values_beside_a_large_one_are_lost() -> None:
    assert (through_bfp16(np.array([100.0] + [0.25] * 7), "conv_even")[1:] == 0).all()


def test_relative_error_is_the_reported_one() -> None:
    """Xilinx/mlir-aie pull request 3442: 9.83e-3 under floor, 7.42e-3 under conv_even, zero-mean symmetric inputs."""
    rng = np.random.default_rng(3442)
    a, b = rng.uniform(-1, 1, (128, 1024)).astype(BF16), rng.uniform(-1, 1, (1024, 256)).astype(BF16)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    even = relative_l2(run(Core("npu2"), a, b, prio_accuracy=True), exact)
    floor = relative_l2(run(Core("npu2"), a, b, prio_accuracy=True, round_conv_even=False), exact)
    assert even == pytest.approx(7.42e-3, rel=0.15)
    assert floor == pytest.approx(9.83e-3, rel=0.15)
    # The conversion alone, without C's own rounding to bfloat16.
    converted = {
        mode: relative_l2(through_bfp16(a, mode) @ through_bfp16(np.ascontiguousarray(b.T), mode).T, exact)
        for mode in ("floor", "conv_even")
    }
    assert converted["floor"] / converted["conv_even"] == pytest.approx(9.83 / 7.42, rel=0.05)


def test_floor_bias_grows_with_k() -> None:
    """Xilinx/mlir-aie issue 2983: about -0.07 for each element of K, -35 at K=512; inputs there are not stated."""
    rng = np.random.default_rng(2983)
    bias = {}
    for k in (256, 512):
        a, b = rng.uniform(0, 4, (64, k)).astype(BF16), rng.uniform(0, 4, (k, 64)).astype(BF16)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        product = through_bfp16(a, "floor") @ through_bfp16(b.T.astype(np.float64), "floor").T
        bias[k] = float((product - exact).mean())
        even = through_bfp16(a, "conv_even") @ through_bfp16(b.T.astype(np.float64), "conv_even").T
        assert abs(float((even - exact).mean())) < abs(bias[k]) / 10
    assert -0.10 < bias[512] / 512 < -0.03
    assert bias[512] / bias[256] == pytest.approx(2, rel=0.05)


# --- accumulation --------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", ["npu1", "npu2"])
def test_c_is_rounded_between_k_tiles(generation: str) -> None:
    a = np.zeros((64, 128), BF16)
    a[:, 0], a[:, 64] = 1, 2**-8  # half a step of 1, in the second tile of K
    a[:, 65] = 2**-8
    b = np.ones((128, 64), BF16)
    per_tile = run(Core(generation), a, b, **NATIVE)  # second tile: 1 + 2**-7 at once
    assert (per_tile.astype(float) == 1 + 2**-7).all()
    a[:, 65], a[:, 8] = 0, 2**-8  # now half a step in either tile: each rounds back to even
    assert (run(Core(generation), a, b, **NATIVE).astype(float) == 1).all()
    assert (run(Core(generation), a, b, **ACCURATE).astype(float) == 1 + 2**-7).all()
    assert (run(Core(generation), a, b, **NATIVE, tile_k=128).astype(float) == 1 + 2**-7).all()


def test_accumulator_is_float32() -> None:
    a = np.zeros((64, 64), BF16)
    a[:, 0], a[:, 8], a[:, 16] = 2**24, 1, -(2**24)  # three steps of eight: the 1 is half a step of 2**24
    assert (run(Core("npu2"), a, np.ones((64, 64), BF16), **ACCURATE).astype(float) == 0).all()
    a[:, 8], a[:, 1] = 0, 1  # within one step of eight nothing is rounded in between
    a[:, 2] = 1
    assert (run(Core("npu2"), a, np.ones((64, 64), BF16), **ACCURATE).astype(float) == 2).all()


@pytest.mark.parametrize("generation", ["npu1", "npu2"])
@pytest.mark.parametrize("params", [{}, NATIVE, ACCURATE, {"round_conv_even": False}])
def test_layouts_give_the_same_numbers(generation: str, params: dict[str, bool]) -> None:
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((192, 128)).astype(BF16), rng.standard_normal((128, 320)).astype(BF16)
    want = run(Core(generation), a, b, **params).reshape(192, 320)
    transposed = np.ascontiguousarray(b.T)
    np.testing.assert_array_equal(run(Core(generation), a, transposed, b_col_maj=True, **params), want)
    np.testing.assert_array_equal(run(Core(generation), a, b, c_col_maj=True, **params), want.T)
    both = run(Core(generation), a, transposed, b_col_maj=True, c_col_maj=True, **params)
    np.testing.assert_array_equal(both, want.T)


@pytest.mark.parametrize("generation", ["npu1", "npu2"])
def test_magnitudes(generation: str) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((128, 384)).astype(BF16), (rng.standard_normal((384, 256)) * 0.05).astype(BF16)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    rms = float(np.sqrt((exact**2).mean()))
    nearest = exact.astype(np.float32).astype(BF16)
    limits = {"bfp16": ({}, 0.012, 0.08), "native": (NATIVE, 0.004, 0.05), "accurate": (ACCURATE, 0.0018, 0.02)}
    for params, l2, largest in limits.values():
        out = run(Core(generation), a, b, **params)
        if generation == "npu1":
            l2 = min(l2, 0.004)  # there is no block floating point on AIE2
        assert relative_l2(out, exact) < l2
        assert np.abs(out.astype(np.float64) - exact).max() < largest * rms
        assert (out != nearest).any()
    # IRON's test: 0.005 / 0.005 with prio_accuracy and native products.
    out = run(Core(generation), a, b, **ACCURATE).astype(np.float64)
    assert (np.abs(out - exact) < np.maximum(0.005, 0.005 * (np.abs(out) + np.abs(exact)))).all()


# --- the register --------------------------------------------------------------------------------


def test_register() -> None:
    """npu2 sets it and leaves it, to floor too; npu1 borrows conv_even and otherwise takes what it finds."""
    a, b = np.ones((64, 64), BF16), np.ones((64, 64), BF16)
    for before in ("floor", "conv_even"):
        npu2, npu1 = Core("npu2", before), Core("npu1", before)
        run(npu2, a, b)
        run(npu1, a, b)
        assert (npu2.rounding, npu1.rounding) == ("conv_even", before)
        run(npu2, a, b, round_conv_even=False)
        run(npu1, a, b, round_conv_even=False)
        assert (npu2.rounding, npu1.rounding) == ("floor", before)
    a[:, 1:] = 0
    a[:, 1] = BF16(-(2**-20))
    assert (run(Core("npu1"), a, b, round_conv_even=False).astype(float) == 1 - 2**-8).all()
    assert (run(Core("npu1"), a, b).astype(float) == 1).all()


def test_rounding_note() -> None:
    note = find_kernel("GEMM").rounding_note
    assert note(SimpleNamespace(K=384, **ACCURATE), Core("npu2"))
    assert note(SimpleNamespace(K=384, **NATIVE), Core("npu2")) == ""
    assert note(SimpleNamespace(K=384), Core("npu2")) == ""


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_bits_do_not_depend_on_the_hosts_instruction_set(every: bool) -> None:
    """In short this process, whatever its kernels, against a child with the oldest that run here."""
    digests = {"".join(f"{digest}\n" for digest in products())}
    for core_type in core_types() if every else [oldest()]:
        env = {**environment(core_type), "PYTHONPATH": os.pathsep.join(sys.path)}
        found = subprocess.run(
            [sys.executable, __file__], env=env, capture_output=True, text=True, check=True, timeout=60
        )
        digests.add(found.stdout)
    assert len(digests) == 1
    assert len(next(iter(digests)).split()) == 3


def products() -> list[str]:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((128, 256)).astype(BF16), rng.standard_normal((256, 256)).astype(BF16)
    return [
        hashlib.sha256(run(Core("npu2"), a, b, **chosen).tobytes()).hexdigest() for chosen in ({}, NATIVE, ACCURATE)
    ]


if __name__ == "__main__":
    print(*products(), sep="\n")
