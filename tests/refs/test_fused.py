# SPDX-License-Identifier: Apache-2.0
"""Operators that do in one kernel what others do in several: rational and 60-digit arithmetic, layouts by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import any_bits, array, bits_of, exactly, nearest, nearest_values, tame_bits, value
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import find, reference

pairs = st.lists(st.tuples(tame_bits, tame_bits), min_size=1, max_size=12)


def same(got: Any, want: list[int]) -> bool:
    """To the bit, but for the sign of zero."""
    return all(g == w or (g & 0x7FFF, w & 0x7FFF) == (0, 0) for g, w in zip(bits_of(got).tolist(), want, strict=True))


def silu(x: Fraction) -> Fraction:
    return Fraction(exactly(lambda v: v / (1 + mpmath.exp(-v)), x))


def quarters(x: np.ndarray) -> np.ndarray:
    return array([nearest(Fraction(int(v), 4)) for v in x.reshape(-1)], x.shape)


@settings(deadline=None, max_examples=40)
@given(pairs)
def test_silu_mul_rounds_its_activation(drawn: list[tuple[int, int]]) -> None:
    a, b = zip(*drawn, strict=True)
    for flavour in FLAVOURS:
        (c,) = reference("SiLUMul", {"size": len(drawn)}, [array(a), array(b)], flavour)
        once = (lambda x: x) if flavour == "exact" else nearest_values
        assert same(c, [nearest(once(silu(value(x))) * value(y)) for x, y in drawn])  # type: ignore[arg-type, operator]


def test_silu_mul_of_what_float32_cannot_raise_e_to() -> None:
    a, b = array([0xC2C8]), array([0x7E00])  # -100, 4.2535e37
    (newest,), (exact,) = (reference("SiLUMul", {"size": 1}, [a, b], f) for f in ("iron-2026-09", "exact"))
    assert newest.astype(float)[0] == 0
    assert exact.astype(float)[0] == pytest.approx(-100 * np.exp(-100) * 4.2535e37, rel=0.01)


def _gelu(x: Fraction) -> Fraction:
    inner = lambda v: mpmath.sqrt(2 / mpmath.pi) * (v + mpmath.mpf("0.044715") * v**3)  # noqa: E731
    return Fraction(exactly(lambda v: v / 2 * (1 + mpmath.tanh(inner(v))), x))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(tame_bits.filter(lambda b: abs(value(b)) < 4), tame_bits), min_size=1, max_size=12))
def test_pointwise_is_what_its_mode_says(drawn: list[tuple[int, int]]) -> None:
    a, b = zip(*drawn, strict=True)
    of_mode = {"add": lambda x, y: x + y, "mul": lambda x, y: x * y, "gelu": lambda x, y: _gelu(x)}
    for mode, want in of_mode.items():
        for flavour in FLAVOURS:
            (c,) = reference("Pointwise", {"size": len(drawn), "mode": mode}, [array(a), array(b)], flavour)
            assert same(c, [nearest(want(value(x), value(y))) for x, y in drawn])


@given(st.lists(any_bits, min_size=3, max_size=3))
def test_pointwise_gelu_ignores_its_second_input(second: list[int]) -> None:
    a = array([0x3F80, 0xBF80, 0x7F80])
    given_, zero = (reference("Pointwise", {"size": 3, "mode": "gelu"}, [a, array(b)])[0] for b in (second, [0] * 3))
    assert bits_of(given_).tolist() == bits_of(zero).tolist()


def test_fused_qkv_stacks_the_three_matrices() -> None:
    rng = np.random.default_rng(4)
    parts, x = [rng.integers(-9, 10, (rows, 6)) for rows in (3, 2, 1)], rng.integers(-9, 10, 6)
    params = {"embedding_dim": 6, "q_dim": 3, "k_dim": 2, "v_dim": 1}
    for flavour in FLAVOURS:
        (c,) = reference("FusedQKVProj", params, [quarters(np.concatenate(parts)), quarters(x)], flavour)
        assert same(c, [nearest(Fraction(int(n), 16)) for part in parts for n in part @ x])


@settings(deadline=None, max_examples=20)
@given(columns=st.sampled_from([1, 2]), tile=st.integers(1, 3), groups=st.integers(1, 3), seed=st.integers(0, 99))
def test_dequantised_rows_lie_tile_by_tile_scales_behind_each(columns: int, tile: int, groups: int, seed: int) -> None:
    size, m, k = 4, columns * tile * 2, 4 * groups
    rng = np.random.default_rng(seed)
    nibbles = rng.integers(0, 16, (m, k))
    scales = [[nearest(Fraction(int(n), 300)) for n in row] for row in rng.integers(1, 999, (m, groups))]
    packed: list[int] = []
    for first in range(0, m, tile):
        for row in nibbles[first : first + tile]:
            packed += [int(row[i]) | int(row[i + 1]) << 4 for i in range(0, k, 2)]
        for each in scales[first : first + tile]:
            packed += [byte for scale in each for byte in (scale & 255, scale >> 8)]
    x = rng.integers(-9, 10, k)
    params = {"M": m, "K": k, "num_aie_columns": columns, "tile_size_input": tile, "group_size": size}
    for flavour in FLAVOURS:
        (c,) = reference("FusedDequantGEMV", params, [np.array(packed, np.uint8), quarters(x)], flavour)
        once = (lambda v: v) if flavour == "exact" else nearest_values
        want = []
        for r in range(m):
            weights = [once(int(nibbles[r, i]) * value(scales[r][i // size])) for i in range(k)]  # type: ignore[operator]
            want.append(nearest(sum(w * Fraction(int(v), 4) for w, v in zip(weights, x, strict=True))))
        assert same(c, want)


@pytest.mark.parametrize("columns", [1, 2])
def test_swiglu_in_one_design_gives_a_partial_for_each_column(columns: int) -> None:
    e, h = 5, 4
    rng = np.random.default_rng(columns)
    gate, up, down, x = (rng.integers(-3, 4, s) for s in ((h, e), (h, e), (e, h), (e,)))
    share = h // columns
    weights: list[np.ndarray] = []
    for c in range(columns):
        rows = slice(c * share, (c + 1) * share)
        weights += [gate[rows], up[rows]]
    weights += [down[:, c * share : (c + 1) * share] for c in range(columns)]
    stored = quarters(np.concatenate([w.reshape(-1) for w in weights]))
    params = {"embedding_dim": e, "hidden_dim": h, "num_aie_columns": columns}
    for flavour in FLAVOURS:
        (got,) = reference("SwiGLUFusedDecode", params, [stored, quarters(x)], flavour)
        once = (lambda v: v) if flavour == "exact" else nearest_values
        left, right = ([once(Fraction(int(n), 16)) for n in w @ x] for w in (gate, up))
        hidden = [once(once(silu(a)) * b) for a, b in zip(left, right, strict=True)]
        want = []
        for c in range(columns):
            for row in down:
                terms = (Fraction(int(row[i]), 4) * hidden[i] for i in range(c * share, (c + 1) * share))
                want.append(nearest(sum(terms, Fraction(0))))
        assert same(got, want)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_flowkv_is_attention_of_the_rotated_queries(flavour: str) -> None:
    rng = np.random.default_rng(8)
    kv_heads, group, positions, d = 2, 2, 3, 4
    cache, queries = (rng.integers(-6, 7, (kv_heads, n, m, d)) for n, m in ((positions, 2), (1, group + 1)))
    params = {"num_heads": 4, "num_kv_heads": kv_heads, "head_dim": d, "seq_len": positions}
    (got,) = reference("FlowKVDecode", params, [quarters(cache), quarters(queries)], flavour)
    once = (lambda v: v) if flavour == "exact" else nearest_values
    want: list[int] = []
    for g in range(kv_heads):
        angles = [Fraction(int(n), 4) for n in queries[g, 0, group]]
        for h in range(group):
            q = [Fraction(int(n), 4) for n in queries[g, 0, h]]
            turned = [q[i] * angles[2 * i] - q[i + 2] * angles[2 * i + 1] for i in range(2)]
            turned += [q[i + 2] * angles[2 * i] + q[i] * angles[2 * i + 1] for i in range(2)]
            turned = [once(t) for t in turned]
            k, v = ([[Fraction(int(n), 4) for n in cache[g, p, i]] for p in range(positions)] for i in (0, 1))
            scores = [sum(a * b for a, b in zip(turned, row, strict=True)) / 2 for row in k]
            powers = [Fraction(exactly(mpmath.exp, s)) for s in scores]
            for i in range(d):
                want.append(nearest(sum(w * row[i] for w, row in zip(powers, v, strict=True)) / sum(powers)))
    assert same(got, want)


@pytest.mark.parametrize(
    ("op", "params", "words"),
    [
        ("Pointwise", {"size": 4, "mode": "sub"}, "mode 'sub': expected 'add', 'mul' or 'gelu'"),
        ("FusedDequantGEMV", {"M": 4, "K": 48}, "K 48: expected a multiple of group_size, found 32"),
        ("FusedDequantGEMV", {"M": 6, "K": 32}, "M 6: expected a multiple of num_aie_columns"),
        ("SwiGLUFusedDecode", {"embedding_dim": 4, "hidden_dim": 6}, "hidden_dim 6: expected a multiple of num_aie"),
        (
            "SwiGLUFusedDecode",
            {"embedding_dim": 4, "hidden_dim": 8, "m_output_stage1": 1},
            "m_output_stage1 1: expected hidden_dim / num_aie_columns = 2",
        ),
        (
            "FlowKVDecode",
            {"num_heads": 6, "num_kv_heads": 4, "head_dim": 64, "seq_len": 8},
            "num_heads 6: expected a multiple of num_kv_heads, found 4",
        ),
        ("FlowKVDecode", {"num_heads": 4, "num_kv_heads": 4, "head_dim": 3, "seq_len": 8}, "head_dim 3: expected an"),
    ],
)
def test_parameters_that_do_not_fit(op: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"{op}: {words}"):
        find(op).arg_specs(params)
