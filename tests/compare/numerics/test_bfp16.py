# SPDX-License-Identifier: Apache-2.0
"""Block floating point against fractions: what is kept of eight values that share an exponent."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from fusion_replay.compare.numerics.bfp16 import bfp16, bfp16_error, square_errors
from fusion_replay.compare.numerics.intervals import even_bf16

blocks = st.lists(st.floats(-1e4, 1e4, width=32), min_size=8, max_size=8)


def by_hand(values: list[float], mode: str) -> list[Fraction]:
    largest = max(abs(v) for v in values)
    exponent = max(-126, math.frexp(largest)[1] - 1) if largest else -126
    step = Fraction(2) ** (exponent - 6)
    out = []
    for v in values:
        q = Fraction(v) / step
        m = math.floor(q) if mode == "floor" else round(q)  # Python rounds ties to even
        out.append(min(max(m, -128), 127) * step)
    return out


@given(blocks, st.sampled_from(["floor", "conv_even"]))
def test_conversion_keeps_what_the_format_holds(values: list[float], mode: str) -> None:
    given_ = even_bf16(np.array(values, np.float32))
    found = bfp16(given_.astype(np.float64)[None], mode)[0]
    assert [Fraction(float(v)) for v in found] == by_hand([float(v) for v in given_], mode)


@given(blocks)
@example([*[0.0] * 6, 64.0, -1.018277344090818e-14])
def test_errors_cover_both_modes(values: list[float]) -> None:
    x = even_bf16(np.array(values, np.float32)).astype(np.float64)
    error = bfp16_error(x[None])[0]
    for mode in ("floor", "conv_even"):
        kept = by_hand(list(x), mode)
        for v, k, e in zip(x, kept, error, strict=True):  # itself a difference, rounded once to float64
            assert abs(Fraction(v) - k) <= Fraction(float(e)) * (1 + Fraction(1, 2**52))


@given(blocks)
def test_squares_of_values_and_of_what_the_nearest_leaves_off(values: list[float]) -> None:
    x = even_bf16(np.array(values, np.float32))
    squares, scale, norm = square_errors(x[None])
    kept = [float(k) for k in by_hand([float(v) for v in x], "conv_even")]
    expected = np.concatenate([x.astype(float) ** 2, (x.astype(float) - kept) ** 2]) / scale[0] ** 2
    assert np.allclose(squares[0], expected, rtol=1e-6, atol=1e-30)
    assert norm[0] >= math.sqrt(math.fsum(x.astype(float) ** 2)) * (1 - 1e-12)
