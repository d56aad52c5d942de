# SPDX-License-Identifier: Apache-2.0
"""RoPE to the bit, against rational arithmetic and torch; both pairings, both ways to share angle rows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bf16_oracle import array, bits_of, finite_bits, nearest, normal, tame_bits, to_torch, value
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import find, reference

ROWS, COLS = 4, 4


def _by_hand(x: list[int], angles: list[int], method: int, angle_rows: int, tiled: bool, narrow: bool) -> list[int]:
    def total(a: Fraction, b: Fraction, c: Fraction, d: Fraction) -> int:
        """a b + c d; ``narrow``: as numpy's float32 has it."""
        if not narrow:
            return nearest(a * b + c * d)
        with np.errstate(all="ignore"):
            return nearest(float(_f32(a) * _f32(b) + _f32(c) * _f32(d)))

    out = [0] * len(x)
    for r in range(ROWS):
        a = r % angle_rows if tiled else r // (ROWS // angle_rows)
        for i in range(COLS // 2):
            first, second = (i, i + COLS // 2) if method == 0 else (2 * i, 2 * i + 1)
            x1, x2 = _value(x[r * COLS + first]), _value(x[r * COLS + second])
            cos, sin = _value(angles[a * COLS + 2 * i]), _value(angles[a * COLS + 2 * i + 1])
            out[r * COLS + first] = total(x1, cos, -x2, sin)
            out[r * COLS + second] = total(x2, cos, x1, sin)
    return out


def _f32(x: Fraction) -> np.float32:
    return np.float32(float(x))  # exact, of a bf16 value


def _value(bits: int) -> Fraction:
    x = value(bits)
    assert isinstance(x, Fraction)
    return x


# 129/128 * 1.5 lies half way between two bf16 values; 2**-100 decides, far below float64's last bit.
_TIE = [0x3F81, 0, 0x0D80, 0] + [0] * 12
_TIE_ANGLES = [0x3FC0, 0x3F80] + [0] * 14


@settings(max_examples=settings().max_examples * 3 // 2)
@given(
    st.lists(finite_bits | tame_bits, min_size=16, max_size=16),
    st.lists(finite_bits | tame_bits, min_size=16, max_size=16),
    st.sampled_from([0, 1]),
    st.sampled_from([1, 2, 4]),
)
@example(_TIE, _TIE_ANGLES, 0, 1)
def test_is_the_correctly_rounded_rotation(x: list[int], angles: list[int], method: int, angle_rows: int) -> None:
    angles = angles[: angle_rows * COLS]
    params = {"rows": ROWS, "cols": COLS, "angle_rows": angle_rows, "method_type": method}
    for flavour in FLAVOURS:
        (c,) = reference("RoPE", params, [array(x), array(angles)], flavour)
        tiled = flavour == "pr117" and method == 0
        want = _by_hand(x, angles, method, angle_rows, tiled, narrow=flavour == "iron-2026-09")
        np.testing.assert_array_equal(_unsigned_zero(bits_of(c)), _unsigned_zero(np.array(want)))


def _unsigned_zero(bits: np.ndarray) -> np.ndarray:
    return np.where(bits == 0x8000, 0, bits)


def test_the_tie_is_broken_by_what_float64_drops() -> None:
    (c,) = reference("RoPE", {"rows": 4, "cols": 4, "angle_rows": 1}, [array(_TIE), array(_TIE_ANGLES[:4])])
    assert value(0x3FC1) < Fraction(129, 128) * Fraction(3, 2) < value(0x3FC2)
    assert bits_of(c)[0] == 0x3FC1  # less 2**-100: towards the odd one; the tie alone would go to even 0x3FC2


def test_the_table_has_one_row_per_row_by_default() -> None:
    spec = find("RoPE")
    shapes = [a.shape for a in spec.arg_specs({"rows": 6, "cols": 32})]
    assert shapes == [(6, 32), (6, 32), (6, 32)]
    assert spec.arg_specs({"rows": 6, "cols": 32, "angle_rows": 2})[1].shape == (2, 32)


def test_non_finite_values_stay_in_their_pair() -> None:
    x = np.ones((1, 4), np.float32)
    x[0, 0] = np.inf
    angles = np.array([[1, 0, 0, 1]], np.float32)
    c = reference("RoPE", {"rows": 1, "cols": 4}, [x, angles])[0].astype(np.float32)[0]
    assert c[0] == np.inf
    assert np.isnan(c[2])  # 1 * 1 + Inf * 0
    assert c[[1, 3]].tolist() == [-1, 1]


@pytest.mark.torch
@pytest.mark.parametrize("method", [0, 1])
@pytest.mark.parametrize("as_torch", [False, True])
def test_is_torchs_float32_form(method: int, as_torch: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    x, angles = normal(rng, (32, 64)), normal(rng, (8, 64))
    table = to_torch(angles).float().repeat_interleave(4, dim=0)
    cos, sin, wide = table[:, 0::2], table[:, 1::2], to_torch(x).float()
    halves = (wide[:, :32], wide[:, 32:]) if method == 0 else (wide[:, 0::2], wide[:, 1::2])
    parts = halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin
    theirs = torch.cat(parts, -1) if method == 0 else torch.stack(parts, -1).reshape(32, 64)
    params = {"rows": 32, "cols": 64, "angle_rows": 8, "method_type": method}
    given = [to_torch(x), to_torch(angles)] if as_torch else [x, angles]
    (c,) = reference("RoPE", params, given, "iron-2026-08")
    assert (bits_of(c) != bits_of(theirs.bfloat16())).mean() <= 1e-3


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"rows": 4, "cols": 3}, "cols 3: expected an even number"),
        ({"rows": 4, "cols": 4, "angle_rows": 3}, "rows 4: expected a multiple of angle_rows, found 3"),
        ({"rows": 4, "cols": 4, "angle_rows": 0}, "multiple of angle_rows, found 0"),
        ({"rows": 4, "cols": 4, "method_type": 2}, "method_type 2"),
    ],
)
def test_what_makes_no_sense_is_refused(params: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find("RoPE").arg_specs(params)


def test_where_irons_reference_was_not_the_device() -> None:
    spec = find("RoPE")
    assert spec.iron_failure({"rows": 8, "cols": 4, "angle_rows": 1}, "pr117") is None
    assert "tiles" in str(spec.iron_failure({"rows": 8, "cols": 4, "angle_rows": 2}, "pr117"))
    assert "halves only" in str(spec.iron_failure({"rows": 8, "cols": 4, "method_type": 1}, "pr117"))
    assert spec.iron_failure({"rows": 8, "cols": 4, "angle_rows": 2}, "iron-2026-08") is None
