# SPDX-License-Identifier: Apache-2.0
"""Every cause on outputs spoiled by hand: its name, grade and count, and nothing where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_replay import refs
from fusion_replay.compare.tolerance import relative
from fusion_replay.diverge.causes import NAMES, Case, Cause, Version, find
from fusion_replay.diverge.causes.kernel import Kernel
from fusion_replay.operators import evaluate
from fusion_replay.operators.tiling import Tiling

TILING = Tiling((("batch", 4), ("column", 4), ("tile", 4), ("", 16)), "a design")
SIZE = TILING.size  # 1024
BF16 = ml_dtypes.bfloat16
Array = Any


def drawn(seed: int, size: int = SIZE) -> Array:
    return np.random.default_rng(seed).standard_normal(size).astype(BF16)


EXPECTED, PREVIOUS = drawn(1), drawn(2)


def best(actual: Array, tolerance: Any = None, **more: Any) -> Cause:
    # Against a reference, an honest device adds half a ULP of its own.
    case = Case(np.asarray(actual, BF16), EXPECTED, TILING, tolerance, **{"previous": PREVIOUS, **more})
    found = find(case)
    assert found, "nothing was named"
    assert all(c.name in NAMES for c in found)
    assert found[0].elements <= case.count
    return found[0]


def zeros(x: Array) -> Array:
    return np.zeros_like(x)


def shifted(x: Array) -> Array:
    return np.concatenate([PREVIOUS[:64], x[:-64]])


def ahead(x: Array) -> Array:
    """The start of a block equals expected[i + 134] (Xilinx/mlir-aie pull request 3622, with 1024)."""
    out = x.copy()
    out[256:320] = x[390:454]
    return out


def columns(x: Array) -> Array:
    parts = x.reshape(4, 4, 64).copy()
    parts[:, [1, 2]] = parts[:, [2, 1]]
    return parts.reshape(-1)


def batches(x: Array) -> Array:
    return np.tile(x[:256], 4)


def tile(x: Array) -> Array:
    out = x.copy()
    out[32:48] = PREVIOUS[32:48]
    return out


def neighbour(x: Array) -> Array:
    out = x.copy()
    out[32:48] = x[48:64]
    return out


def halves(x: Array) -> Array:
    return np.concatenate([x[512:], x[:512]])


def transposed(x: Array) -> Array:
    return x.reshape(16, 64).T.reshape(-1)


def nan(x: Array) -> Array:
    out = x.copy()
    out[[3, 700]] = np.nan
    return out


def infinite(x: Array) -> Array:
    out = x.copy()
    out[5:40] = np.inf
    return out


def flip(x: Array) -> Array:
    out = x.copy()
    out.view(np.uint16)[77] ^= 1 << 14
    return out


def sign(x: Array) -> Array:
    out = x.copy()
    out[100:300] = -out[100:300]
    return out


def double(x: Array) -> Array:
    return (x.astype(np.float32) * 2).astype(BF16)


def offset(x: Array) -> Array:
    return (x.astype(np.float32) + 8).astype(BF16)


def clipped(x: Array) -> Array:
    return np.clip(x.astype(np.float32), -0.5, 0.5).astype(BF16)


SPOILED: dict[str, tuple[Callable[[Array], Array], int | None]] = {
    "zeros": (zeros, None),
    "never-written": (lambda x: PREVIOUS, None),
    "shifted": (shifted, None),
    "columns-swapped": (columns, 512),
    "batch-repeated": (batches, None),
    "dropped-tile": (tile, 16),
    "neighbour-data": (neighbour, 16),
    "halves-swapped": (halves, None),
    "transposed": (transposed, None),
    "nan": (nan, 2),
    "inf": (infinite, 35),
    "bit-flip": (flip, 1),
    "sign-flipped": (sign, 200),
    "scaled": (double, None),
    "offset": (offset, None),
    "saturated": (clipped, None),
}


@pytest.mark.parametrize("pattern", SPOILED)
def test_named_against_the_right_bits(pattern: str) -> None:
    spoil, count = SPOILED[pattern]
    found = best(spoil(EXPECTED))
    assert found.name == pattern
    assert found.elements == found.reproduced
    assert count is None or found.elements == count
    assert found.grade == ("consistent" if pattern in ("nan", "inf", "bit-flip") else "proved")


@pytest.mark.parametrize("pattern", SPOILED)
def test_named_against_a_reference(pattern: str) -> None:
    """The device has a rounding error of its own: 1 ULP on every other element."""
    spoil, _ = SPOILED[pattern]
    honest = EXPECTED.copy()
    honest.view(np.uint16)[::2] ^= 1
    found = best(spoil(honest), relative(0.02, 1e-3))
    assert found.name == pattern


def test_elements_from_further_on() -> None:
    found = best(ahead(EXPECTED))
    assert (found.name, found.elements) == ("shifted", 64)
    assert "expected[i + 134]" in found.detail


def test_an_earlier_version_of_the_buffer_is_named() -> None:
    old = drawn(9)
    found = best(
        old, versions=(Version("what 0:3 GEMV wrote", lambda: drawn(8)), Version("what 0:1 wrote", lambda: old))
    )
    assert found.name == "stale-output"
    assert "0:1" in found.detail


def test_zeros_over_zeros_may_be_either() -> None:
    found = best(np.zeros_like(EXPECTED), previous=np.zeros_like(EXPECTED))
    assert (found.name, found.grade, found.rivals) == ("zeros", "proved", ("never-written",))


def kernel(op: str, params: dict[str, Any], *inputs: Array, **more: Any) -> Kernel:
    spec = refs.find(op)
    shapes = [s.shape for s in spec.arg_specs(params) if s.reads]
    return Kernel(spec, params, tuple(x.reshape(s) for x, s in zip(inputs, shapes, strict=True)), **more)


def exact(op: str, params: dict[str, Any], *inputs: Array, **values: Any) -> Array:
    return np.asarray(evaluate(refs.find(op), params, inputs, "exact", values=values)[0][0]).reshape(-1)


def test_a_stale_input_is_found_by_executing_the_operator() -> None:
    params, old, new, other = {"size": SIZE}, drawn(3), drawn(4), drawn(5)
    versions = {0: (Version("what 0:5 GEMV wrote", lambda: old),)}
    k = kernel("ElementwiseAdd", params, new, other, names=("x", "y"), versions=versions)
    right = exact("ElementwiseAdd", params, new, other)
    found = find(Case(exact("ElementwiseAdd", params, old, other), right, TILING, kernel=k))[0]
    assert (found.name, found.detail, found.grade) == ("stale-input", "input x is what 0:5 GEMV wrote", "proved")


def test_a_truncated_scalar_is_found_by_executing_the_operator() -> None:
    params, x, y = {"size": SIZE, "scalar_factor": 1.7}, drawn(3), drawn(4)
    right, wrong = (exact("AXPY", params | {"scalar_factor": f}, x, y) for f in (1.7, 1.5))
    found = find(Case(wrong, right, TILING, kernel=kernel("AXPY", params, x, y)))[0]
    assert found.name == "truncated-scalar"
    assert "1.5" in found.detail


def test_floor_instead_of_nearest() -> None:
    """Executed: the other mode gives each of these bits."""
    params, x, y = {"size": SIZE}, drawn(3), drawn(4)
    exactly = x.astype(np.float32) + y.astype(np.float32)
    floor = (exactly.view(np.uint32) >> 16).astype(np.uint32)
    floor += (exactly < 0) & (exactly.view(np.uint32) & 0xFFFF != 0)
    case = Case(floor.astype(np.uint16).view(BF16), exactly.astype(BF16), TILING,
                kernel=kernel("ElementwiseAdd", params, x, y))  # fmt: skip
    found = find(case)[0]
    assert (found.name, found.grade) == ("rounding", "proved")
    assert "floor" in found.detail
    assert found.chance < 1e-9


def test_two_faults_of_one_size_are_no_rivals_and_neither_is_told_of_the_other() -> None:
    """Tiles 0 to 7 have the other sign, 40 to 47 stand in each other's place."""
    x, y = drawn(8), drawn(9)
    right = exact("ElementwiseMul", {"size": SIZE}, x, y)
    wrong = right.reshape(-1, 16).copy()
    wrong[:8] *= BF16(-1)
    wrong[40:48] = np.roll(wrong[40:48], 1, axis=0)
    tiling = Tiling((("tile", SIZE // 16), ("", 16)))
    tolerance = refs.find("ElementwiseMul").tolerance["*"]
    case = Case(wrong.reshape(-1), right, tiling, tolerance, kernel=kernel("ElementwiseMul", {"size": SIZE}, x, y))
    told = {c.name: (c.grade, f"s {at}, " in c.where, c.rivals)
            for c, at in zip(find(case), (0, 40), strict=True)}  # fmt: skip
    assert told == {"sign-flipped": ("proved", True, ()), "tiles-permuted": ("proved", True, ())}


@pytest.mark.parametrize(("factor", "offset"), [(1.004, 0.0), (1.001, 0.0), (1.0, 1e-3), (0.996, 0.0)])
def test_a_small_factor_or_offset_is_no_rounding_mode(factor: float, offset: float) -> None:
    """A sign test would call all of these a rounding mode."""
    x, y = drawn(6, 8192), drawn(7, 8192)
    tiling, params = Tiling((("tile", 8), ("", 1024))), {"size": 8192}
    spoiled = x.astype(np.float32) * y.astype(np.float32) * np.float32(factor) + np.float32(offset)
    case = Case(spoiled.astype(BF16), exact("ElementwiseMul", params, x, y), tiling,
                kernel=kernel("ElementwiseMul", params, x, y))  # fmt: skip
    found = find(case)[0]
    assert (found.name, found.grade) == ("scaled" if factor != 1 else "offset", "proved")
    number = float(found.detail.split("by ")[1].split(",")[0])
    assert number == pytest.approx(factor if factor != 1 else offset, rel=1e-4 if factor != 1 else 0.1)


def test_repetition_alone_shows_what_is_not_deterministic() -> None:
    found = best(neighbour(EXPECTED), repeats=(EXPECTED,))
    assert found.name == "nondeterministic"


def test_only_the_edges_of_tiles() -> None:
    actual = EXPECTED.copy()
    actual[15::16] = drawn(5)[15::16]
    found = best(actual, previous=None)
    assert (found.name, found.grade) == ("block-edges", "located")


def test_noise_has_no_name() -> None:
    """Random values everywhere: nothing but where they are."""
    for seed in range(10, 30):
        for tolerance in (None, relative(0.02, 1e-3)):
            found = find(Case(drawn(seed), EXPECTED, TILING, tolerance, previous=PREVIOUS))
            assert [c.grade for c in found] == ["located"]


def test_nothing_is_said_of_what_is_within_the_limits() -> None:
    honest = EXPECTED.copy()
    honest.view(np.uint16)[:] ^= 1
    assert find(Case(honest, EXPECTED, TILING, relative(0.02, 1e-3), previous=PREVIOUS)) == ()


def test_integers_have_causes_too() -> None:
    expected = np.arange(64, dtype=np.int32)
    case = Case(np.roll(expected, 1), expected, Tiling((("", 64),)))
    assert find(case)[0].name in ("shifted", "tiles-permuted")
    assert find(Case(np.zeros_like(expected), expected, Tiling((("", 64),))))[0].name == "zeros"


# --- executed from the spec: independent statements of the fault, in float32 -----------------------------------------


def wide(x: Array) -> Array:
    return np.asarray(x).astype(np.float32)


def gemm(a: Array, b: Array) -> Array:
    return (wide(a) @ wide(b)).astype(BF16).reshape(-1)


GEMM = {"M": 64, "K": 256, "N": 256, "tile_m": 16, "tile_k": 64, "tile_n": 32, "num_aie_columns": 4}
A, B = drawn(20, 64 * 256).reshape(64, 256), drawn(21, 256 * 256).reshape(256, 256)
REUSED = np.concatenate([B[:64], B[:64], B[128:]])


@pytest.mark.parametrize(
    ("name", "detail", "spoiled"),
    [
        ("transposed-operand", "b_col_maj True for False", gemm(A, B.T)),
        ("signs-lost", "|A| and |B|", gemm(np.abs(A), np.abs(B))),
        ("part-of-k", "k 192 to 255 of 256 is left out", gemm(A[:, :192], B[:192])),
        ("k-tile-reused", "K tile 1 (of 64) of B is tile 0's", gemm(A, REUSED)),
        ("activation", "ReLU applied to the product", np.maximum(gemm(A, B), BF16(0))),
    ],
)
@pytest.mark.parametrize("rows", [slice(None), slice(0, None, 16)])
def test_a_product_of_something_else(name: str, detail: str, spoiled: Array, rows: slice) -> None:
    """Everywhere, or in every 16th row."""
    right = gemm(A, B).reshape(64, 256)
    actual = right.copy()
    actual[rows] = spoiled.reshape(64, 256)[rows]
    tiling = Tiling((("tile", 64), ("", 256)), "a design")
    case = Case(actual.reshape(-1), right.reshape(-1), tiling, relative(0.05, 0.0, range_frac=0.03), shape=(64, 256),
                kernel=kernel("GEMM", GEMM, A, B))  # fmt: skip
    found = find(case)
    assert (found[0].name, found[0].grade) == (name, "proved"), found
    assert detail in found[0].detail
    assert len(found) == 1
    assert rows == slice(None) or "rows 0, 16, 32, 48" in found[0].where


@pytest.mark.parametrize(
    ("op", "what", "function"),
    [
        ("GELU", "quick GELU", lambda x: x / (1 + np.exp(-1.702 * x))),
        ("GELU", "SiLU", lambda x: x / (1 + np.exp(-x))),
        ("SiLU", "no activation", lambda x: x),
    ],
)
def test_another_activation(op: str, what: str, function: Callable[[Array], Array]) -> None:
    params, x = {"size": 8192}, (drawn(8, 8192).astype(np.float32) * 3).astype(BF16)
    case = Case(function(wide(x)).astype(BF16), exact(op, params, x), Tiling((("tile", 8), ("", 1024))),
                relative(0.05, 0.01), kernel=kernel(op, params, x))  # fmt: skip
    found = find(case)[0]
    assert (found.name, found.grade) == ("activation", "proved")
    assert found.detail.startswith(what)


def test_zeros_of_either_sign_in_every_fourth_row() -> None:
    right = gemm(A, B).reshape(64, 256)
    actual = right.copy()
    actual[::4] = (wide(actual[::4]) * 0).astype(BF16)
    found = find(Case(actual.reshape(-1), right.reshape(-1), Tiling((("tile", 64), ("", 256)), "x"), shape=(64, 256)))
    assert [(c.name, c.grade) for c in found] == [("zeros", "proved")]
    assert "every 4th" in found[0].where


def test_constant_data_is_not_saturated() -> None:
    for values in (np.full(SIZE, 3.0), np.where(np.arange(SIZE) % 3 == 0, 3.0, 3.015625)):
        assert "saturated" not in [c.name for c in find(Case(values.astype(BF16), EXPECTED, TILING))]


def test_nothing_is_said_of_a_buffer_that_nobody_recorded() -> None:
    found = find(Case(np.zeros_like(EXPECTED), EXPECTED, TILING))
    assert "never-written" not in (found[0].name, *found[0].rivals)


def rms(x: Array, epsilon: float) -> Array:
    rows = wide(x).reshape(-1, 128).astype(np.float64)
    return (rows / np.sqrt((rows * rows).mean(1, keepdims=True) + epsilon)).astype(BF16).reshape(-1)


@pytest.mark.parametrize("epsilon", [1e-6, 3.7e-5])
def test_an_epsilon_is_fitted_and_is_no_factor(epsilon: float) -> None:
    """Tiny rows: each is off by a factor of its own, which follows from its mean square."""
    x = (wide(drawn(30, 4096)).reshape(32, 128) * np.geomspace(3e-4, 3e-2, 32)[:, None]).astype(BF16).reshape(-1)
    params, tiling = {"size": 4096, "tile_size": 128}, Tiling((("tile", 32), ("", 128)))
    case = Case(rms(x, epsilon), rms(x, 1e-5), tiling, relative(0.04, 1e-6), shape=(32, 128),
                kernel=kernel("RMSNorm", params, x))  # fmt: skip
    found = find(case)[0]
    assert (found.name, found.grade) == ("parameter", "proved"), found
    assert found.detail.startswith(f"epsilon {epsilon:g}")


def test_rows_with_factors_of_their_own_are_described_and_not_proved() -> None:
    x = drawn(31, 4096)
    factors = np.linspace(0.7, 1.9, 32)[:, None]
    spoiled = (wide(x).reshape(32, 128) * factors).astype(BF16).reshape(-1)
    params = {"size": 4096, "alpha": 1.0}
    case = Case(spoiled, x, Tiling((("tile", 32), ("", 128))), relative(0.01, 0.0), shape=(32, 128),
                kernel=kernel("LeakyReLU", params, x))  # fmt: skip
    found = find(case)[0]
    assert (found.name, found.grade) == ("row-scaled", "consistent"), found


def test_zeros_at_any_stride_are_zeros() -> None:
    for stride in (3, 11):
        wrong = EXPECTED.copy()
        wrong[2::stride] = 0
        found = find(Case(wrong, EXPECTED, TILING, relative(0.02, 1e-3)))
        assert [(c.name, c.grade) for c in found] == [("zeros", "proved")]


def attention(q: Array, k: Array, v: Array, mapping: list[int]) -> Array:
    """Float64, causal, rounded once."""
    out = []
    for head, shared in zip(wide(q).astype(np.float64), mapping, strict=True):
        scores = head @ wide(k)[shared].T / 8
        scores[np.triu_indices(len(scores), 1)] = -np.inf
        power = np.exp(scores - scores.max(1, keepdims=True))
        out.append(power / power.sum(1, keepdims=True) @ wide(v)[shared])
    return np.stack(out).astype(BF16).reshape(-1)


@pytest.mark.parametrize(
    ("told", "mapping"), [("tiled", [0, 1, 0, 1]), ("first", [0, 0, 0, 0]), ("next", [1, 1, 0, 0])]
)
def test_attention_heads_that_read_other_keys(told: str, mapping: list[int]) -> None:
    q, k, v = (drawn(40 + i, n * 64 * 64).reshape(n, 64, 64) for i, n in enumerate((4, 2, 2)))
    params = {"num_heads": 4, "num_KV_heads": 2, "seq_len": 64}
    tiling = Tiling((("batch", 4), ("", 4096)))
    limits, right = relative(0.04, 0.0, range_frac=0.04), attention(q, k, v, [0, 0, 1, 1])
    case = Case(attention(q, k, v, mapping), right, tiling, limits, shape=(4, 64, 64),
                kernel=kernel("MHA", params, q, k, v))  # fmt: skip
    found = find(case)[0]
    assert found.name == "head-mapping"
    assert told in found.detail


WHOLE = {"M": 64, "K": 256, "N": 64, "tile_m": 16, "tile_n": 16, "num_aie_columns": 4, "dtype_in": "i8"}
I8 = np.random.default_rng(50).integers(-128, 128, (64, 256)).astype(np.int8)
J8 = np.random.default_rng(51).integers(-128, 128, (256, 64)).astype(np.int8)
SUMS = I8.astype(np.int64) @ J8.astype(np.int64)


@pytest.mark.parametrize(
    ("name", "told", "out", "spoiled"),
    [
        ("saturated", "16 bits", "i16", np.clip(SUMS, -32768, 32767)),
        ("accumulation", "sums wrap at 16 bits", "i32", SUMS.astype(np.int16)),
        ("signs-lost", "A is read without sign", "i32", I8.view(np.uint8).astype(np.int64) @ J8.astype(np.int64)),
        ("zero-point", "B has 128 taken off", "i32", I8.astype(np.int64) @ (J8.astype(np.int64) - 128)),
        ("scaled", "right by 7 bits, rounded", "i32", np.rint(SUMS / 128)),
    ],
)
def test_integer_products(name: str, told: str, out: str, spoiled: Array) -> None:
    params, dtype = {**WHOLE, "dtype_out": out}, {"i16": np.int16, "i32": np.int32}[out]
    spec = refs.find("GEMM")
    (right,), _ = evaluate(spec, params, [I8, J8], "exact")
    assert np.array_equal(right, SUMS.astype(dtype))
    case = Case(spoiled.astype(dtype).reshape(-1), right.reshape(-1), Tiling((("tile", 64), ("", 64))),
                spec.tolerance_for("npu2", params), shape=(64, 64), kernel=kernel("GEMM", params, I8, J8))  # fmt: skip
    found = find(case)[0]
    assert (found.name, found.grade) == (name, "proved"), found
    assert told in found.detail


def test_zeros_in_two_columns_are_no_data_of_their_neighbours() -> None:
    """Rows end in zeros, and the first two columns are zero: 'two further on' gives them, as anything would."""
    right = drawn(60, 4096).reshape(32, 128)
    right[:, -5:] = 0
    wrong = right.copy()
    wrong[:, :2] = 0
    wrong[:, 2:-5] *= BF16(1.5) + drawn(61, 32 * 121).reshape(32, 121)
    case = Case(wrong.reshape(-1), right.reshape(-1), Tiling((("tile", 32), ("", 128))), relative(0.02, 1e-3),
                shape=(32, 128))  # fmt: skip
    assert not [c for c in find(case) if c.grade == "proved" and c.name != "zeros"]
