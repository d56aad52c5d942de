# SPDX-License-Identifier: Apache-2.0
"""DualGEMVSiLUMul against row-by-row arithmetic in integers and 60 digits, rounding where torch does."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import array, bits_of, exactly, nearest, nearest_values, normal, to_torch, ulps
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import reference


def _silu(x: Fraction) -> Fraction:
    return Fraction(exactly(lambda v: v / (1 + mpmath.exp(-v)), x))


def _want(left: int, right: int, *, rounded: bool) -> int:
    if not rounded:
        return nearest(_silu(Fraction(left, 16)) * Fraction(right, 16))
    gate, up = nearest_values(Fraction(left, 16)), nearest_values(Fraction(right, 16))
    return nearest(nearest_values(_silu(gate)) * up)


def stored(x: np.ndarray) -> np.ndarray:
    return array([nearest(Fraction(int(v), 4)) for v in x.reshape(-1)], x.shape)


@settings(deadline=None, max_examples=25)
@given(columns=st.sampled_from([1, 2, 4]), blocks=st.integers(1, 2), rows=st.integers(1, 3), seed=st.integers(0, 99))
def test_rows_are_interleaved_block_by_block(columns: int, blocks: int, rows: int, seed: int) -> None:
    m, k = columns * blocks * rows, 6
    rng = np.random.default_rng(seed)
    first, second, vector = rng.integers(-9, 10, (m, k)), rng.integers(-9, 10, (m, k)), rng.integers(-9, 10, k)
    both = np.concatenate([np.concatenate([first[i : i + rows], second[i : i + rows]]) for i in range(0, m, rows)])
    params = {"M": m, "K": k, "num_aie_columns": columns, "tile_size_output": rows}
    if blocks == 1:
        params.pop("tile_size_output")
    for flavour in FLAVOURS:
        (c,) = reference("DualGEMVSiLUMul", params, [stored(both), stored(vector)], flavour)
        pairs = zip(first @ vector, second @ vector, strict=True)
        want = [_want(int(a), int(b), rounded=flavour != "exact") for a, b in pairs]
        for got, expected in zip(bits_of(c).tolist(), want, strict=True):
            assert got == expected or (got & 0x7FFF, expected & 0x7FFF) == (0, 0)


@pytest.mark.torch
def test_torchs_golden_generator() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    first, second, x = normal(rng, (64, 32)), normal(rng, (64, 32)), normal(rng, 32)
    left, right = (to_torch(w).double() @ to_torch(x).double() for w in (first, second))
    theirs = torch.nn.functional.silu(left.bfloat16()) * right.bfloat16()
    both = np.stack([first.reshape(4, 16, 32), second.reshape(4, 16, 32)], axis=1)
    (mine,) = reference("DualGEMVSiLUMul", {"M": 64, "K": 32}, [both, x], "pr117")
    assert ulps(mine, theirs).max() <= 1
    assert (ulps(mine, theirs) > 0).mean() <= 0.02  # torch's silu is float32 inside


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"M": 6}, "M 6: expected a multiple of num_aie_columns, found 4"),
        ({"M": 8, "tile_size_output": 3}, "tile_size_output 3: expected a divisor of M / num_aie_columns = 2"),
        ({"M": 8, "num_aie_columns": 0}, "num_aie_columns, found 0"),
    ],
)
def test_blocks_that_do_not_divide(params: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=f"DualGEMVSiLUMul: .*{words}|DualGEMVSiLUMul: {words}"):
        reference("DualGEMVSiLUMul", {"K": 2} | params, [array([0] * 4), array([0] * 2)])
