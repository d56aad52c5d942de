# SPDX-License-Identifier: Apache-2.0
"""The five rules and what a verdict says, by hand and against element-at-a-time oracles."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusion_replay as package
from fusion_replay.compare.tolerance import Tolerance, bf16_ulps, exact, relative
from fusion_replay.compare.verdict import RULES, assert_close, compare, deviation, iron_verdict
from fusion_replay.errors import MismatchError, UsageError

BF16 = ml_dtypes.bfloat16
NAN, INF = float("nan"), float("inf")


def bf(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32).astype(BF16)


def from_bits(bits: list[int]) -> np.ndarray:
    return np.array(bits, np.uint16).view(BF16)


any_bits = st.integers(0, 0xFFFF)
near_one = st.integers(0x3F70, 0x3F90)
special = st.sampled_from([0, 0x8000, 1, 0x7F80, 0xFF80, 0x7FC0, 0x7F7F])
value = any_bits | near_one | special
pairs = st.lists(st.tuples(value, value), min_size=1, max_size=20)


# --- each rule against an oracle of its source ----------------------------------------------------------------------


def iron_test_oracle(a: float, b: float, rel_tol: float, abs_tol: float) -> bool:
    """amd/IRON iron/common/test_utils.py, nearly_equal: float64, one pair."""
    if a == b:
        return True
    norm = min(abs(a) + abs(b), float(np.finfo(np.float32).max))
    return abs(a - b) < max(abs_tol, rel_tol * norm)


@settings(max_examples=200, deadline=None)
@given(pairs, st.sampled_from([(0.04, 1e-6), (0.0, 0.0), (0.128, 0.0), (0.005, 0.5)]))
def test_iron_test_is_its_element_rule(bits: list[tuple[int, int]], limits: tuple[float, float]) -> None:
    a, e = (from_bits([b[i] for b in bits]) for i in (0, 1))
    hoped = [iron_test_oracle(float(x), float(y), *limits) for x, y in zip(a, e, strict=True)]
    v = compare(a, e, "iron-test", *limits)
    assert v.n_failing == hoped.count(False)
    assert v.ok is all(hoped)


@settings(max_examples=200, deadline=None)
@given(pairs)
def test_auto_is_iron_test_with_non_finite_agreement(bits: list[tuple[int, int]]) -> None:
    a, e = (from_bits([b[i] for b in bits]) for i in (0, 1))
    hoped = [
        math.isnan(x) == math.isnan(y) and (iron_test_oracle(x, y, 0.04, 1e-6) or math.isnan(x))
        for x, y in zip(map(float, a), map(float, e), strict=True)
    ]
    v = compare(a, e, "auto")
    assert v.n_failing == hoped.count(False)
    all_zero = not any(x != 0 for x in map(float, a)) and any(y != 0 for y in map(float, e))
    assert v.ok is (all(hoped) and not all_zero)


@settings(max_examples=200, deadline=None)
@given(pairs, st.sampled_from([exact(), bf16_ulps(1), relative(0.128, 0.0), relative(0.05, 0.5, range_frac=0.01)]))
def test_aie_verify_as_its_source_reads(bits: list[tuple[int, int]], t: Tolerance) -> None:
    a, e = (from_bits([b[i] for b in bits]) for i in (0, 1))
    a32, e32 = a.astype(np.float32), e.astype(np.float32)
    with np.errstate(all="ignore"):
        apart = np.abs(a32 - e32)
        limit = np.maximum(np.float32(t.atol), np.float32(t.rtol) * np.minimum(np.abs(a32) + np.abs(e32), 3.4028235e38))
        if t.ulps is not None:
            order = [x.view(np.uint16).astype(int) for x in (a, e)]
            order = [np.where(o & 0x8000, 0x8000 - o, o) for o in order]
            close = np.abs(order[0] - order[1]) <= t.ulps
        elif t == exact():
            close = a32 == e32
        else:
            close = (a32 == e32) | (apart < limit.astype(np.float32))
            if t.range_frac is not None:
                finite = np.abs(e32[np.isfinite(e32)]).astype(float)
                close |= np.abs(a32.astype(float) - e32) <= t.range_frac * finite.max(initial=0.0)
    both_finite = np.isfinite(a32) & np.isfinite(e32)
    agree = (np.isnan(a32) & np.isnan(e32)) | (a32 == e32)
    good = np.where(both_finite, close, agree)
    v = compare(a, e, "aie-verify", tolerance=t)
    assert v.n_failing == int((~good).sum())
    assert v.ok is bool(good.all())


@settings(max_examples=200, deadline=None)
@given(pairs, st.sampled_from([(None, None), (0.0, 0.0), (0.5, 0.0), (0.0, 1.0)]))
def test_strict_is_torchs_formula(bits: list[tuple[int, int]], limits: tuple[float | None, float | None]) -> None:
    a, e = (from_bits([b[i] for b in bits]) for i in (0, 1))
    rtol, atol = (1.6e-2, 1e-5) if limits[0] is None else limits
    good = np.isclose(a.astype(float), e.astype(float), rtol=rtol, atol=atol, equal_nan=True)
    v = compare(a, e, "strict", *limits)
    assert v.n_failing == int((~good).sum())
    all_zero = not (a != 0).any() and bool((e != 0).any())
    assert v.ok is (bool(good.all()) and not all_zero)


# --- IRON's whole-tensor rule and its holes --------------------------------------------------------------------------


def test_iron_compare_takes_its_two_maxima_from_different_elements() -> None:
    a, e = bf(101.0, 3e-5), bf(100.0, 1e-5)  # large but 1 %, and twice too large but tiny
    v = compare(a, e, "iron-compare")
    assert not v
    assert v.n_failing == 0  # no element breaks both limits
    assert v.stats.mismatch
    assert compare(a[:1], e[:1], "iron-compare")
    assert compare(a[1:], e[1:], "iron-compare")


@pytest.mark.parametrize(
    ("actual", "expected", "ok", "note"),
    [
        ([NAN, NAN], [1, 2], True, "NaN passes its rule"),
        ([NAN, 500], [1, 2], True, "NaN passes its rule"),
        ([INF, 2], [1, 2], False, ""),
        ([-INF, 2], [1, 2], False, ""),
        ([INF, 2], [INF, 2], True, "Inf passes its rule"),
        ([INF, 2], [-INF, 2], True, "Inf passes its rule"),  # the opposite infinity
        ([INF, 500], [INF, 2], True, "Inf passes its rule"),  # and real errors beside it
        ([0, 0], [0.009, -0.009], True, ""),  # all zero against small values
        ([0, 0], [1, 2], False, ""),
        ([1, 2], [1, 2], True, ""),
        ([0, 0], [0, 0], True, ""),
    ],
)
def test_irons_verdict(actual: list[float], expected: list[float], ok: bool, note: str) -> None:
    a, e = bf(*actual), bf(*expected)
    assert compare(a, e, "iron-compare").ok is ok
    found = iron_verdict(deviation(a, e))
    assert (found.ok, found.note) == (ok, note)


def test_irons_limits_are_exclusive() -> None:
    a, e = np.array([1.0], np.float32), np.array([0.5], np.float32)
    s = deviation(a, e)
    assert not compare(a, e, "iron-compare", rtol=s.max_rel * 0.99, atol=0.49)
    assert compare(a, e, "iron-compare", rtol=s.max_rel, atol=0.49)
    assert compare(a, e, "iron-compare", rtol=0.0, atol=0.5)


def test_where_iron_raises_there_is_no_verdict() -> None:
    v = iron_verdict(deviation(bf(1), bf(1)), "no reference() for StridedCopy")
    assert v.ok is None
    assert str(v) == "no verdict, no reference() for StridedCopy"
    assert v.to_dict() == {"ok": None, "note": "no reference() for StridedCopy"}
    assert str(iron_verdict(deviation(bf(NAN), bf(1)))) == "ok, NaN passes its rule"


# --- what auto and strict add ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["auto", "strict"])
def test_all_zero_against_non_zero_fails(rule: str) -> None:
    small = bf(1e-9, -1e-9)  # far inside every absolute limit
    assert not compare(bf(0, -0.0), small, rule)
    assert compare(bf(0, -1e-9), small, rule)
    assert compare(bf(0, 0), bf(0, -0.0), rule)
    assert "all zero" in compare(bf(0, 0), small, rule).detail
    assert compare(bf(0, -0.0), small, "iron-test")


def test_a_wrong_output_that_kept_its_old_contents_is_called_never_written() -> None:
    a, e = bf(1.0, 2.0), bf(1.0, 2.015625)
    assert compare(a, e, "auto", unchanged=True), "right is right, whoever wrote it"
    assert "never written" not in compare(a, e, "auto", unchanged=True).detail
    assert compare(bf(0.0), bf(-0.0), "auto", unchanged=True)
    v = compare(bf(1.0, 3.0), e, "auto", unchanged=True)
    assert (v.ok, v.n_failing) == (False, 1)
    assert v.detail.startswith("never written: the output kept its old contents bit for bit; 1 of 2 elements fail")
    assert "never written" in compare(bf(NAN), bf(1.0), "auto", unchanged=True).detail
    assert "never written" in compare(a, e, "auto", unchanged=True, exact_bits=True).detail
    zeros = compare(bf(0.0), bf(1.0), "auto", unchanged=True)
    assert zeros.detail.startswith("all zero, expected is not (as it was before: zeros or nothing was written)")
    assert "never" not in compare(bf(9.0, 9.0), e, "strict", unchanged=True).detail  # only auto looks at it


def test_movement_operators_must_keep_every_bit() -> None:
    assert compare(bf(0.0), bf(-0.0), "auto", tolerance=exact())
    assert not compare(bf(0.0), bf(-0.0), "auto", tolerance=exact(), exact_bits=True)
    nan_a, nan_b = from_bits([0x7FC0]), from_bits([0x7FC1])
    assert compare(nan_a, nan_b, "auto")
    assert not compare(nan_a, nan_b, "auto", exact_bits=True)
    assert compare(nan_a, nan_a, "auto", exact_bits=True)


def test_the_share_that_may_fail_is_for_finite_values() -> None:
    a, e = bf(*[1.0] * 99, 9.0), bf(*[1.0] * 100)
    t = relative(0.04, 1e-6, error_rate=0.01)
    assert compare(a, e, "auto", tolerance=t)
    assert compare(a, e, "auto", tolerance=t).n_failing == 1
    assert not compare(a, e, "auto", tolerance=relative(0.04, 1e-6, error_rate=0.0099))
    a[99] = NAN
    assert not compare(a, e, "auto", tolerance=t)
    assert not compare(a, e, "aie-verify", tolerance=t)
    assert compare(a, e, "iron-test", tolerance=t)  # IRON's harness counts NaN like any other


def test_range_frac_is_a_floor_under_cancelled_sums() -> None:
    a, e = bf(34.0, 0.25), bf(34.0, 0.0)
    assert not compare(a, e, "auto", tolerance=relative(0.04, 1e-6))
    assert compare(a, e, "auto", tolerance=relative(0.04, 1e-6, range_frac=0.01))
    assert not compare(a * BF16(1000), e, "auto", tolerance=relative(0.04, 1e-6, range_frac=0.01))
    assert not compare(a, bf(INF, 0.0), "auto", tolerance=relative(0.0, 0.0, range_frac=0.5))


def test_ulps_as_a_tolerance() -> None:
    a, e = from_bits([0x3F80, 0x0001]), from_bits([0x3F82, 0x8001])
    assert compare(a, e, tolerance=bf16_ulps(2))
    assert not compare(a, e, tolerance=bf16_ulps(1))
    assert compare(a, e, "auto", tolerance=bf16_ulps(2))
    assert compare(a, e, "aie-verify", tolerance=bf16_ulps(2))


# --- limits, dtypes, words ------------------------------------------------------------------------------------------


def test_limits_by_dtype_are_torch_testings() -> None:
    for dtype, rtol in ((BF16, 1.6e-2), (np.float16, 1e-3), (np.float32, 1.3e-6), (np.float64, 1e-7)):
        x = np.ones(2, dtype)
        assert compare(x, x).tolerance.rtol == rtol
    assert compare(np.ones(1, BF16), np.ones(1, np.float32)).tolerance.rtol == 1.6e-2
    assert compare(np.ones(1, np.int32), np.ones(1, np.int32)).tolerance == exact()
    assert compare(np.ones(1, BF16), np.ones(1, BF16), rtol=0.5).tolerance.atol == 1e-5


def test_integers_are_exact_unless_limits_are_given() -> None:
    a, e = np.array([5, 6], np.uint8), np.array([5, 7], np.uint8)
    for rule in ("auto", "strict", "aie-verify"):
        assert not compare(a, e, rule)
        assert compare(a, e, rule, tolerance=relative(0.0, 1.5))
    assert compare(np.array([True, False]), np.array([True, False]))
    assert not compare(np.array([True, False]), np.array([True, True]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compare(bf(1), bf(1, 2)), "shape (1,)"),
        (lambda: compare(bf(1), bf(1), "loose"), "expected one of auto, bound, tolerance, iron-compare"),
        (lambda: compare(bf(1), bf(1), rtol=0.1, tolerance=exact()), "not both"),
        (lambda: compare(bf(1), bf(1), "iron-compare", tolerance=bf16_ulps(1)), "rtol and atol only"),
        (lambda: compare(np.array(["a"]), np.array(["a"])), "dtype <U1"),
        (lambda: compare(np.ones(1, complex), np.ones(1, complex)), "complex128"),
        (lambda: compare(bf(1), bf(1), rtol=-1.0), "rtol"),
        (lambda: compare(bf(1), bf(1), rtol=NAN, atol=0.0), "rtol"),
    ],
)
def test_bad_arguments(call: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()  # type: ignore[operator]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mismatch_says_where_and_how_much() -> None:
    a = np.ones((4, 1024), np.float32).astype(BF16)
    e = a.copy()
    a[3, 5] = 1.5
    v = compare(a, e)
    assert v.detail == "1 of 4,096 elements fail (0.02%); largest deviation 0.5 at (3, 5) actual 1.5, expected 1"
    assert str(v).startswith("MISMATCH (strict: rtol 0.016 atol 1e-05): 1 of 4,096")
    a[3, 7] = 1.25
    first = "2 of 4,096 elements fail (0.05%); largest deviation 0.5 at (3, 5)"
    assert compare(a, e).detail.startswith(first)  # where the first to fail is the worst, it is named once
    a[3, 9] = 8.0
    assert ", first at (3, 5) actual 1.5, expected 1; largest deviation 7 at (3, 9)" in compare(a, e).detail
    a[0, 0] = NAN
    assert "non-finite values disagree in 1 element (1 NaN in actual)" in compare(a, e).detail
    assert str(compare(e, e)) == "match (strict: rtol 0.016 atol 1e-05): bit for bit"
    assert compare(bf(), bf()).detail == "no elements"


def test_verdicts_are_data() -> None:
    for rule in RULES:
        data = json.loads(json.dumps(compare(bf(1, NAN), bf(1, 2), rule).to_dict(), allow_nan=False))
        assert data["rule"] == rule
        assert data["stats"]["nan_actual"] == 1
        members = {"ok", "rule", "decided_by", "tolerance", "bound", "unbound", "n_failing", "detail", "stats"}
        assert set(data) == members


def test_assert_close_speaks_as_torch_testing_does() -> None:
    assert_close(bf(1, 2), bf(1, 2))
    with pytest.raises(AssertionError) as caught:
        assert_close(bf(1, 2.5, 3), bf(1, 2, 3))
    text = str(caught.value)
    assert isinstance(caught.value, MismatchError)
    assert "Tensor-likes are not close!" in text
    assert "Mismatched elements: 1 / 3 (33.3%)" in text
    assert "Greatest absolute difference: 0.5 at index (1,) (up to 1e-05 allowed)" in text
    assert "Greatest relative difference: 0.25 at index (1,) (up to 0.016 allowed)" in text
    with pytest.raises(AssertionError, match="'shape' do not match"):
        assert_close(bf(1, 2), bf(1))
    with pytest.raises(AssertionError, match="nan at index"):
        assert_close(bf(NAN), bf(1))
    assert_close(bf(NAN), bf(NAN))
    assert_close(bf(1), bf(1.5), rtol=0.5, atol=0)


@pytest.mark.torch
def test_torch_testing_agrees_on_what_passes() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    for _ in range(50):
        e = rng.standard_normal(3).astype(np.float32)
        a = (e * (1 + rng.choice([0, 1e-6, 2e-6, 1.0], 3))).astype(np.float32)
        try:
            torch.testing.assert_close(torch.from_numpy(a), torch.from_numpy(e))
            hoped = True
        except AssertionError:
            hoped = False
        assert compare(torch.from_numpy(a), e).ok is hoped


def test_public_names() -> None:
    assert package.compare is compare
    assert package.assert_close is assert_close
    assert package.compare(bf(1), bf(1)).rule == "strict"
