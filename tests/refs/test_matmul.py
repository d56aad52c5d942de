# SPDX-License-Identifier: Apache-2.0
"""GEMV and GEMM against integer and rational arithmetic and torch; layouts, batches, epilogue, blocks, memory."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import (
    any_bits,
    array,
    bits_of,
    exactly,
    nearest,
    nearest_values,
    normal,
    tame_bits,
    to_torch,
    ulps,
    value,
)
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import find, reference
from fusion_replay.refs.arithmetic import products


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-8, 9, shape)


def stored(x: np.ndarray) -> np.ndarray:
    return array([nearest(Fraction(int(v))) for v in x.reshape(-1)], x.shape)


def rounded(x: np.ndarray) -> list[int]:
    return [nearest(Fraction(int(v))) for v in x.reshape(-1)]


@pytest.mark.parametrize("b_col_maj", [False, True])
@pytest.mark.parametrize("c_col_maj", [False, True])
def test_gemm_layouts_in_integers(b_col_maj: bool, c_col_maj: bool) -> None:
    a, b = integers(np.random.default_rng(1), 5, 7), integers(np.random.default_rng(2), 7, 3)
    want = (a @ b).T if c_col_maj else a @ b
    params = {"M": 5, "K": 7, "N": 3, "b_col_maj": b_col_maj, "c_col_maj": c_col_maj}
    for flavour in FLAVOURS:
        (c,) = reference("GEMM", params, [stored(a), stored(b.T if b_col_maj else b)], flavour)
        assert c.shape == want.shape
        assert c.flags.c_contiguous
        assert bits_of(c).tolist() == rounded(want)


@pytest.mark.parametrize(("batches", "repeat"), [(1, 1), (4, 1), (4, 2), (3, 3)])
def test_gemv_batches_in_integers(batches: int, repeat: int) -> None:
    rng = np.random.default_rng(batches)
    a, b = integers(rng, batches // repeat, 5, 7), integers(rng, batches, 7)
    want = np.stack([a[i // repeat] @ b[i] for i in range(batches)])
    params = {"M": 5, "K": 7, "num_batches": batches, "repeat": repeat}
    shapes = [s.shape for s in find("GEMV").arg_specs(params)]
    assert shapes[2] == ((5,) if batches == 1 else (batches, 5))
    for flavour in FLAVOURS:
        (c,) = reference("GEMV", params, [stored(a), stored(b)], flavour)
        assert c.shape == shapes[2]
        assert bits_of(c).tolist() == rounded(want)


@settings(max_examples=40)
@given(st.lists(tame_bits, min_size=60, max_size=60))
def test_products_are_the_true_sums_rounded_once(bits: list[int]) -> None:
    a, b = bits[:40], bits[40:50]
    want = [nearest(sum(value(x) * value(y) for x, y in zip(a[i : i + 10], b, strict=True))) for i in range(0, 40, 10)]
    for op, params in (("GEMV", {"M": 4, "K": 10}), ("GEMM", {"M": 4, "K": 10, "N": 1})):
        (c,) = reference(op, params, [array(a), array(b)])
        # Products of these magnitudes and their sums are exact in float64.
        np.testing.assert_array_equal(c.reshape(-1).astype(np.float64), array(want).astype(np.float64))


def test_long_sums_of_all_magnitudes() -> None:
    rng = np.random.default_rng(11)
    a = array(rng.integers(0x2000, 0x5000, 64 * 300) | (rng.integers(0, 2, 64 * 300) << 15), (64, 300))
    b = normal(rng, 300)
    (c,) = reference("GEMV", {"M": 64, "K": 300}, [a, b])
    exact = [[value(int(x)) for x in row] for row in bits_of(a).reshape(64, 300)]
    vector = [value(int(x)) for x in bits_of(b)]
    want = array([nearest(sum(x * y for x, y in zip(row, vector, strict=True))) for row in exact])
    assert ulps(c, want).max() == 0


@settings(max_examples=60)
@given(st.lists(any_bits, min_size=12, max_size=12), st.lists(any_bits, min_size=4, max_size=4))
def test_non_finite_values_reach_their_rows_and_no_other(a: list[int], b: list[int]) -> None:
    (c,) = reference("GEMV", {"M": 3, "K": 4}, [array(a), array(b)])
    (d,) = reference("GEMM", {"M": 3, "K": 4, "N": 1}, [array(a), array(b)])
    for i in range(3):
        total = 0.0
        for x, y in zip(a[4 * i : 4 * i + 4], b, strict=True):
            total += float(value(x)) * float(value(y))
        for result in (c, d):
            got = float(result.reshape(-1)[i])
            assert np.isnan(got) == np.isnan(total)
            if np.isinf(total):
                assert got == total


def test_zero_times_infinity_is_not_skipped() -> None:
    a = np.zeros((2, 64), np.float32)
    a[1, 5] = np.inf
    b = np.zeros(64, np.float32)
    (c,) = reference("GEMV", {"M": 2, "K": 64}, [a, b])
    assert float(c[0]) == 0
    assert np.isnan(float(c[1]))
    (c,) = reference("GEMM", {"M": 2, "K": 64, "N": 3}, [a, np.zeros((64, 3), np.float32)])
    assert np.isnan(c[1].astype(np.float32)).all()


@pytest.mark.parametrize("op", ["GEMV", "GEMM"])
def test_blocks_join(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    a, b = integers(rng, 37, 9), integers(rng, 9, 11 if op == "GEMM" else 1)
    params = {"M": 37, "K": 9, **({"N": 11} if op == "GEMM" else {})}
    monkeypatch.setattr(products, "VECTOR_BLOCK", 30)
    monkeypatch.setattr(products, "MATRIX_BLOCK", 40)
    (c,) = reference(op, params, [stored(a), stored(b)])
    assert bits_of(c).tolist() == rounded(a @ b)


def test_a_large_matrix_is_never_widened_whole() -> None:
    a, b = np.zeros((4096, 2048), np.uint16).view(array([0]).dtype), normal(np.random.default_rng(0), 2048)
    tracemalloc.start()
    reference("GEMV", {"M": 4096, "K": 2048}, [a, b])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < a.nbytes  # whole in float64 it would be four times that


@pytest.mark.parametrize(("op", "params"), [("GEMV", {"M": 3, "K": 2}), ("GEMM", {"M": 3, "K": 2, "N": 1})])
def test_gelu_epilogue(op: str, params: dict[str, object]) -> None:
    a, b = array([0x3F81, 0x3F8D, 0xBF9A, 0x3F80, 0xC040, 0x3E80], (3, 2)), array([0x3F8B, 0x3DCD])
    products = [
        sum(value(int(x)) * value(int(y)) for x, y in zip(row, bits_of(b), strict=True))
        for row in bits_of(a).reshape(3, 2)
    ]

    def gelu(x: mpmath.mpf) -> mpmath.mpf:
        u = mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)
        return x / 2 * (1 + mpmath.tanh(u))

    given = params | {"epilogue": "gelu"}
    for flavour in FLAVOURS:
        (c,) = reference(op, given, [a, b], flavour)
        taken = products if flavour == "exact" else [nearest_values(x) for x in products]
        assert bits_of(c).tolist() == [nearest(exactly(gelu, x)) for x in taken]
    plain = reference(op, params, [a, b])[0]
    assert bits_of(plain).tolist() == [nearest(x) for x in products]


def test_gemm_stores_float32_where_the_design_does() -> None:
    a, b = integers(np.random.default_rng(1), 4, 600), integers(np.random.default_rng(2), 600, 2)
    (c,) = reference("GEMM", {"M": 4, "K": 600, "N": 2, "dtype_out": "f32"}, [stored(a), stored(b)])
    assert c.dtype == np.float32
    assert c.tolist() == (a @ b).tolist()


@pytest.mark.torch
@pytest.mark.parametrize("as_torch", [False, True])
def test_torchs_bf16_products(as_torch: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    a, b, v, batch, vectors = (normal(rng, s) for s in ((96, 256), (256, 64), 256, (8, 64, 32), (8, 32)))
    as_given = to_torch if as_torch else (lambda x: x)
    theirs = (
        to_torch(a) @ to_torch(b),
        to_torch(a) @ to_torch(v),
        torch.bmm(to_torch(batch), to_torch(vectors)[..., None])[..., 0],
    )
    mine = (
        reference("GEMM", {"M": 96, "K": 256, "N": 64}, [as_given(a), as_given(b)], "pr117")[0],
        reference("GEMV", {"M": 96, "K": 256}, [as_given(a), as_given(v)], "pr117")[0],
        reference("GEMV", {"M": 64, "K": 32, "num_batches": 8}, [as_given(batch), as_given(vectors)], "pr117")[0],
    )
    off = np.concatenate([ulps(x, y) for x, y in zip(mine, theirs, strict=True)])
    assert off.max() <= 1
    assert (off > 0).mean() <= 1e-3


@pytest.mark.parametrize(
    ("op", "params", "words"),
    [
        ("GEMV", {"M": 2, "K": 2, "epilogue": "relu"}, "GEMV: epilogue 'relu'"),
        ("GEMM", {"M": 2, "K": 2, "N": 2, "epilogue": "relu"}, "GEMM: epilogue 'relu'"),
        (
            "GEMV",
            {"M": 2, "K": 2, "num_batches": 3, "repeat": 2},
            "num_batches 3: expected a multiple of repeat, found 2",
        ),
        ("GEMM", {"M": 2, "K": 2, "N": 2, "partition_N": 0}, "GEMM: partition_N 0: expected at least 1"),
        ("GEMM", {"M": 2, "K": 2, "N": 2, "dtype_in": "i16", "dtype_out": "i8"}, "dtype_in int16"),
        ("GEMM", {"M": 2, "K": 2, "N": 2, "dtype_out": "decimal"}, "dtype 'decimal'"),
    ],
)
def test_what_has_no_reference_is_refused(op: str, params: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find(op).arg_specs(params)


def test_where_irons_gemv_reference_raises_or_lies() -> None:
    spec = find("GEMV")
    assert "num_batches" in str(spec.iron_failure({"M": 4, "K": 4, "num_batches": 2}, "pr117"))
    assert "epilogue" in str(spec.iron_failure({"M": 4, "K": 4, "epilogue": "gelu"}, "iron-2026-08"))
    assert spec.iron_failure({"M": 4, "K": 4, "num_batches": 2, "epilogue": "gelu"}, "iron-2026-09") is None
    assert spec.iron_failure({"M": 4, "K": 4}, "pr117") is None


def test_gemm_limits_follow_what_the_design_rounds() -> None:
    def limits(device: str, **design: object) -> float:
        share = find("GEMM").tolerance_for(device, {"M": 64, "K": 1536, "N": 64, **design}).range_frac
        assert share is not None
        return share

    native = {"emulate_bf16_mmul_with_bfp16": False}
    assert limits("npu1") == limits("npu1", **native)  # only AIE2P has bfp16
    assert limits("npu2", **native, prio_accuracy=True) < limits("npu2", **native) < limits("npu2")
    assert limits("npu2") < limits("npu2", round_conv_even=False)
    assert limits("npu2", tile_k=1536) < limits("npu2", tile_k=32)
