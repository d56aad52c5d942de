# SPDX-License-Identifier: Apache-2.0
"""Softmax and its mask, against 60-digit arithmetic and torch."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import array, bits_of, exactly, nearest, normal, tame_bits, to_torch, ulps, value
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import find, reference


def _row(bits: list[int], valid: int) -> list[int]:
    def share(x: mpmath.mpf, *all_of_them: mpmath.mpf) -> mpmath.mpf:
        return mpmath.exp(x) / mpmath.fsum(mpmath.exp(v) for v in all_of_them)

    values: list[Fraction] = [value(b) for b in bits[:valid]]  # type: ignore[misc]
    return [nearest(exactly(share, x, *values)) for x in values] + [0] * (len(bits) - valid)


@settings(max_examples=50)
@given(st.lists(tame_bits, min_size=16, max_size=16), st.integers(1, 8))
def test_is_the_true_share_of_the_valid_part(bits: list[int], valid: int) -> None:
    want = _row(bits[:8], valid) + _row(bits[8:], valid)
    for flavour in FLAVOURS:
        (c,) = reference("Softmax", {"rows": 2, "cols": 8}, [array(bits)], flavour, values={"vector_size": valid})
        assert ulps(c, array(want)).max() <= 1  # a power of two is a tie that float64's last bit decides
        assert (bits_of(c) != want).sum() <= 1


def test_equal_elements_share_equally() -> None:
    (c,) = reference("Softmax", {"rows": 1, "cols": 8}, [np.full(8, 3.0, np.float32)])
    assert c.astype(np.float32).tolist() == [0.125] * 8


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_where_the_mask_length_comes_from(flavour: str) -> None:
    x = np.ones(8, np.float32)

    def valid(values: dict[str, int] | None = None, **params: object) -> int:
        given = {"rows": 1, "cols": 8, **params}
        (c,) = reference("Softmax", given, [x], flavour, values=values)
        return int((c.astype(np.float32) == np.float32(1 / (c != 0).sum())).sum())

    assert valid() == 8
    assert valid(rtp_vector_size=4) == 4
    assert valid({"vector_size": 2}, rtp_vector_size=4) == 2
    assert valid({"softmax_vector_size": 1}, vector_size_parameter="softmax_vector_size") == 1
    assert valid({"softmax_vector_size": 1}) == 8  # nobody named that symbol
    assert valid({"vector_size": 99}) == 8


def test_large_scores_do_not_overflow_and_non_finite_ones_show() -> None:
    rows = np.array([[3e38, -3e38, 0, 0], [np.inf, 0, 0, 0], [np.nan, 0, 0, 0], [-np.inf, 0, 0, -np.inf]], np.float32)
    c = reference("Softmax", {"rows": 4, "cols": 4}, [rows])[0].astype(np.float32).reshape(4, 4)
    assert c[0].tolist() == [1, 0, 0, 0]
    assert np.isnan(c[1]).any()
    assert np.isnan(c[2]).all()
    assert c[3].tolist() == [0, 0.5, 0.5, 0]


def test_what_lies_behind_the_mask_cannot_matter() -> None:
    x = np.array([1, 2, np.nan, np.inf], np.float32)
    (c,) = reference("Softmax", {"rows": 1, "cols": 4}, [x], values={"vector_size": 2})
    (alone,) = reference("Softmax", {"rows": 1, "cols": 2}, [x[:2]])
    np.testing.assert_array_equal(bits_of(c), [*bits_of(alone), 0, 0])


def test_septembers_fill_counts_where_all_scores_are_the_lowest() -> None:
    lowest = array([0xFF7F] * 4)
    mask = {"vector_size": 2}
    assert reference("Softmax", {"rows": 1, "cols": 4}, [lowest], "exact", values=mask)[0].tolist() == [0.5, 0.5, 0, 0]
    september = reference("Softmax", {"rows": 1, "cols": 4}, [lowest], "iron-2026-09", values=mask)[0]
    assert september.tolist() == [0.25] * 4


@pytest.mark.parametrize("size", [0, -3])
def test_an_empty_mask_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"vector_size {size}"):
        reference("Softmax", {"rows": 1, "cols": 4}, [np.zeros(4, np.float32)], values={"vector_size": size})


@pytest.mark.torch
@pytest.mark.parametrize("as_torch", [False, True])
def test_is_torchs(as_torch: bool) -> None:
    torch = pytest.importorskip("torch")
    x = normal(np.random.default_rng(2), (32, 256), 3.0)
    (c,) = reference("Softmax", {"rows": 32, "cols": 256}, [to_torch(x) if as_torch else x], "pr117")
    off = ulps(c, torch.softmax(to_torch(x), dim=-1))
    assert off.max() <= 1
    assert (off > 0).mean() <= 1e-3


def test_iron_could_not_pass_a_masked_step() -> None:
    spec, params = find("Softmax"), {"rows": 16, "cols": 64, "vector_size_parameter": "n"}
    assert "mask" in str(spec.iron_failure(params, "pr117", {"n": 5}))
    assert spec.iron_failure(params, "pr117", {"n": 64}) is None
    assert spec.iron_failure(params, "iron-2026-09", {"n": 5}) is None


def test_the_floor_follows_the_row_length() -> None:
    spec = find("Softmax")
    assert spec.tolerance_for("npu2", {"rows": 16, "cols": 2048}).atol == pytest.approx(0.1 / 2048)
    assert spec.tolerance_for("npu2").rtol == 0.04
    assert spec.tolerance_for("npu1").rtol == 0.128
