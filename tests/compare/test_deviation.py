# SPDX-License-Identifier: Apache-2.0
"""Statistics against hand-computed values and a slow oracle in plain Python that shares no code with them."""

from __future__ import annotations

import json
import math
import struct
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_replay.compare.blocks import BLOCK
from fusion_replay.compare.deviation import ULP_BUCKETS
from fusion_replay.compare.verdict import compare, deviation

BF16 = ml_dtypes.bfloat16
NAN, INF = float("nan"), float("inf")


def bf(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32).astype(BF16)


def from_bits(bits: list[int]) -> np.ndarray:
    return np.array(bits, np.uint16).view(BF16)


def as_float(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


LINE = sorted({as_float(b) for b in range(1 << 16) if math.isfinite(as_float(b))})  # both zeros are one entry
PLACE = {v: i for i, v in enumerate(LINE)}


def f32(x: float) -> float:
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(INF, x)


def iron_oracle(actual: list[float], expected: list[float]) -> dict[str, float]:
    """amd/IRON's four figures, one element at a time; float64 rounded to float32 is exact for one +, -, /."""

    def top(xs: list[float]) -> float:
        return NAN if any(x != x for x in xs) else max(xs)

    differences = [abs(f32(a - e)) for a, e in zip(actual, expected, strict=True)]
    guard = f32(1e-6)
    quotients = []
    for d, e in zip(differences, expected, strict=True):
        below = f32(abs(e) + guard)
        quotients.append(NAN if d != d or below != below or (d == below == INF) else f32(d / below))
    return {"max_abs": top(differences), "max_rel": top(quotients), "ref_max": top([abs(e) for e in expected])}


def same(x: float, y: float) -> bool:
    return x == y or (x != x and y != y)


any_bits = st.integers(0, 0xFFFF)
tame = st.sampled_from(
    [0, 0x8000, 1, 0x8001, 0x7F, 0x80, 0x3F80, 0x3F81, 0xBF80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0]
)
pairs = st.lists(st.tuples(any_bits | tame, any_bits | tame), min_size=1, max_size=40)


def every_figure_against_the_oracle(bits: list[tuple[int, int]]) -> None:
    actual, expected = [as_float(a) for a, _ in bits], [as_float(e) for _, e in bits]
    s = deviation(from_bits([a for a, _ in bits]), from_bits([e for _, e in bits]))

    for key, value in iron_oracle(actual, expected).items():
        assert same(getattr(s, key), value), key
    assert s.mismatch is (s.max_abs > 1e-2 and s.max_rel > 0.05)

    finite = [(a, e) for a, e in zip(actual, expected, strict=True) if math.isfinite(a) and math.isfinite(e)]
    steps = [PLACE[a] - PLACE[e] for a, e in finite]
    assert s.ulp_max == max(map(abs, steps), default=0)
    assert s.ulp_mean == (sum(map(abs, steps)) / len(steps) if steps else 0)
    assert s.ulp_signed_mean == (sum(steps) / len(steps) if steps else 0)
    assert sum(s.ulp_histogram) == len(finite)
    for label, count in zip(ULP_BUCKETS, s.ulp_histogram, strict=True):
        low, _, high = label.removeprefix(">").partition("-")
        inside = [d for d in map(abs, steps) if (d > 256 if label[0] == ">" else int(low) <= d <= int(high or low))]
        assert count == len(inside), label

    assert (s.nan_actual, s.nan_expected) == (sum(a != a for a in actual), sum(e != e for e in expected))
    assert (s.inf_actual, s.inf_expected) == (sum(map(math.isinf, actual)), sum(map(math.isinf, expected)))
    assert s.bit_equal is all(a == e for a, e in bits)

    exact = [abs(Fraction(a) - Fraction(e)) for a, e in finite]
    apart = []  # how far each pair is apart; NaN beside NaN and Inf beside the same Inf are together
    for a, e in zip(actual, expected, strict=True):
        both_finite = math.isfinite(a) and math.isfinite(e)
        apart.append(float(abs(Fraction(a) - Fraction(e))) if both_finite else 0.0 if same(a, e) else INF)
    assert s.min_atol == max(apart)
    assert (s.min_rtol == INF) or s.min_atol < INF
    assert s.worst_index == (apart.index(max(apart)),)
    assert same(s.worst_actual, actual[s.worst_index[0]])
    assert same(s.worst_expected, expected[s.worst_index[0]])

    norm_d = math.sqrt(math.fsum(float(d) ** 2 for d in exact))
    norm_a, norm_e = (math.sqrt(math.fsum(x[i] ** 2 for x in finite)) for i in (0, 1))
    assert s.n_finite == len(finite)
    if max(apart) == INF or not finite:  # the finite rest is not the tensor
        assert same(s.rel_l2, INF if max(apart) == INF else NAN)
        assert math.isnan(s.cosine)
        return
    if norm_e:
        assert s.rel_l2 == pytest.approx(norm_d / norm_e, rel=1e-12)
    else:
        assert s.rel_l2 == (INF if norm_d else 0.0)
    if norm_a and norm_e:
        assert s.cosine == pytest.approx(math.fsum(a * e for a, e in finite) / norm_a / norm_e, rel=1e-12, abs=1e-15)
    else:
        assert s.cosine == (1.0 if norm_a == norm_e else 0.0)


test_every_figure_against_the_oracle = settings(max_examples=100)(given(pairs)(every_figure_against_the_oracle))
test_every_figure_of_many_more_pairs = pytest.mark.long(
    settings(max_examples=1000)(given(pairs)(every_figure_against_the_oracle))
)


@settings(max_examples=200, deadline=None)
@given(pairs)
def test_the_smallest_tolerances_pass_and_less_does_not(bits: list[tuple[int, int]]) -> None:
    a, e = (from_bits([b[i] for b in bits]) for i in (0, 1))
    s = deviation(a, e)
    zeroed = not (a != 0).any() and (e != 0).any()  # all zero fails whatever the limits
    if math.isfinite(s.min_rtol):
        assert compare(a, e, rtol=s.min_rtol, atol=0.0).ok is not zeroed
        if s.min_rtol > 0:
            assert not compare(a, e, rtol=s.min_rtol * (1 - 1e-15), atol=0.0)
    if math.isfinite(s.min_atol):
        assert compare(a, e, rtol=0.0, atol=s.min_atol).ok is not zeroed
        if s.min_atol > 0:
            assert not compare(a, e, rtol=0.0, atol=math.nextafter(s.min_atol, 0))


def test_the_smallest_rtol_passes_where_its_quotient_was_rounded_down() -> None:
    rng = np.random.default_rng(2)
    e = rng.uniform(1, 2, 400).astype(np.float32)
    a = (e * rng.uniform(1, 2, 400)).astype(np.float32)
    rounded_down = 0
    for i in range(400):
        here = slice(i, i + 1)
        s = deviation(a[here], e[here])
        difference, scale = abs(float(a[i]) - float(e[i])), float(e[i])
        rounded_down += difference / scale * scale < difference
        assert compare(a[here], e[here], rtol=s.min_rtol, atol=0.0)
        assert s.min_rtol == pytest.approx(difference / scale, rel=1e-15)
    assert rounded_down > 10


# --- IRON's figures by hand -----------------------------------------------------------------------------------------


def test_figures_of_a_small_tensor_by_hand() -> None:
    s = deviation(bf(1.0, 2.5, -4.0), bf(1.0, 2.0, -5.0))
    assert (s.max_abs, s.mean_abs, s.ref_max) == (1.0, 0.5, 5.0)
    assert s.max_rel == float(np.float32(0.5) / (np.float32(2.0) + np.float32(1e-6)))
    assert s.mismatch
    assert s.worst_index == (2,)
    assert (s.worst_actual, s.worst_expected) == (-4.0, -5.0)
    assert s.rel_l2 == math.sqrt(1.25 / 30)
    assert s.cosine == pytest.approx(26 / math.sqrt(23.25 * 30), rel=1e-15)


def test_one_element() -> None:
    s = deviation(bf(3.0), bf(2.0))
    assert (s.n, s.max_abs, s.mean_abs, s.ref_max, s.worst_index) == (1, 1.0, 1.0, 2.0, (0,))
    assert s.max_rel == float(np.float32(1.0) / (np.float32(2.0) + np.float32(1e-6)))


def test_zero_dimensions_and_no_elements() -> None:
    scalar = deviation(np.float32(1.5), np.float32(1.0))
    assert (scalar.n, scalar.worst_index, scalar.max_abs) == (1, (), 0.5)
    empty = deviation(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))
    assert (empty.n, empty.worst_index, empty.worst_actual, empty.max_abs, empty.share_failing) == (0, None, None, 0, 0)
    assert empty.bit_equal
    mixed = deviation(np.zeros(0, BF16), np.zeros(0, np.float32))
    assert (mixed.n, mixed.ulp_mean, mixed.mean_abs, mixed.cosine) == (0, 0.0, 0.0, 1.0)


def test_all_zero_expected() -> None:
    s = deviation(bf(0.5, 0.0), bf(0.0, 0.0))
    assert s.max_rel == float(np.float32(0.5) / np.float32(1e-6))
    assert (s.ref_max, s.rel_l2, s.cosine, s.min_rtol) == (0.0, INF, 0.0, INF)


@pytest.mark.parametrize(
    ("actual", "expected", "max_abs", "max_rel", "ref_max", "mean_abs"),
    [
        ([NAN, 1], [1, 1], NAN, NAN, 1.0, NAN),
        ([1, 1], [NAN, 1], NAN, NAN, NAN, NAN),
        ([NAN, 9], [NAN, 1], NAN, NAN, NAN, NAN),
        ([INF, 1], [1, 1], INF, INF, 1.0, INF),
        ([-INF, 1], [1, 1], INF, INF, 1.0, INF),
        ([INF, 1], [INF, 1], NAN, NAN, INF, NAN),  # inf - inf
        ([INF, 1], [-INF, 1], INF, NAN, INF, INF),  # inf / inf
        ([3, 1], [INF, 1], INF, NAN, INF, INF),
    ],
)
def test_non_finite_values_as_torch_treats_them(
    actual: list[float], expected: list[float], max_abs: float, max_rel: float, ref_max: float, mean_abs: float
) -> None:
    s = deviation(bf(*actual), bf(*expected))
    for found, hoped in ((s.max_abs, max_abs), (s.max_rel, max_rel), (s.ref_max, ref_max), (s.mean_abs, mean_abs)):
        assert same(found, hoped)
    if max_abs == max_abs and max_rel == max_rel:
        assert s.mismatch is (max_abs > 0.01 and max_rel > 0.05)
    else:
        assert s.mismatch is False


def test_the_mean_overflows_where_a_float32_sum_does() -> None:
    largest = as_float(0x7F7F)
    one = deviation(bf(largest), bf(0.0))
    assert one.mean_abs == largest
    two = deviation(bf(largest, largest), bf(0.0, 0.0))
    assert (two.max_abs, two.mean_abs) == (largest, INF)
    twice = deviation(bf(largest), bf(-largest))  # already the difference overflows
    assert (twice.max_abs, twice.mean_abs, twice.ref_max) == (INF, INF, largest)
    assert math.isfinite(twice.min_atol)


def test_worst_is_decided_in_float64_where_float32_differences_tie() -> None:
    tiny = as_float(1)
    s = deviation(bf(256.0, 256.0), np.array([2e-9, -tiny], np.float32))
    assert s.max_abs == 256.0
    assert s.worst_index == (1,)


def test_floor_rounding_shows_as_minus_a_half() -> None:
    rng = np.random.default_rng(7)
    true = rng.standard_normal(20_000) * 3
    nearest = true.astype(np.float32).astype(BF16)
    bits = nearest.view(np.uint16).astype(np.int64)
    above = nearest.astype(np.float64) > true  # one step down where rounding went up
    floor = (bits + np.where(above, np.where(bits & 0x8000, 1, -1), 0)).astype(np.uint16).view(BF16)
    s = deviation(floor, nearest)
    assert s.ulp_max == 1
    assert s.ulp_signed_mean == pytest.approx(-0.5, abs=0.02)
    assert s.ulp_mean == -s.ulp_signed_mean


# --- dtypes, shapes, blocks -----------------------------------------------------------------------------------------


def test_ulp_of_wider_types_is_counted_on_the_bf16_line() -> None:
    expected = np.array([1.0, 1 + 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-9], np.float32)
    s = deviation(bf(1.0, 1.0, 1.0, -1.0), expected)
    assert s.ulp_histogram[:3] == (3, 1, 0)  # the tie goes to even, what is above it goes up
    double = deviation(bf(1.0), np.array([1 + 2**-8 + 2**-40]))  # twice rounded it would be 1.0
    assert double.ulp_max == 1


def test_mixed_types_with_the_same_values_are_bit_equal() -> None:
    x = bf(1.0, -0.0, 3.5, INF)
    assert deviation(x, x.astype(np.float32)).bit_equal
    assert not deviation(bf(0.0), np.array([-0.0], np.float32)).bit_equal
    assert deviation(bf(0.0), bf(-0.0)).bit_equal is False
    assert deviation(bf(0.0), bf(-0.0)).ulp_max == 0


def test_integers_are_exact_beyond_what_floats_hold() -> None:
    a = np.array([2**62 + 1, -5, 0], np.int64)
    e = np.array([2**62, -5, 0], np.int64)
    s = deviation(a, e)
    assert (s.n_failing, s.ulp_max, s.ulp_histogram[:2], s.bit_equal) == (1, 1, (2, 1), False)
    assert not compare(a, e)
    assert compare(a, e, atol=1.0, rtol=0.0)
    extremes = deviation(np.array([127], np.int8), np.array([-128], np.int8))
    assert (extremes.ulp_max, extremes.ulp_signed_mean) == (255, 255.0)
    widest = deviation(np.array([2**63 - 1]), np.array([-(2**63)]))
    assert widest.ulp_max == 2**64 - 1
    assert (extremes.worst_actual, extremes.worst_expected) == (127, -128)


def test_a_large_int32_beside_floats_keeps_its_value() -> None:
    assert deviation(np.array([2**24 + 1], np.int32), np.array([2.0**24])).min_atol == 1.0


@pytest.mark.parametrize("n", [1, 127, 128, 129, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77])
def test_figures_do_not_depend_on_where_blocks_end(n: int) -> None:
    rng = np.random.default_rng(n)
    e = rng.standard_normal(n).astype(np.float32)
    a = (e + rng.standard_normal(n).astype(np.float32) * 1e-2).astype(np.float32)
    a[n // 2] = e[n // 2] + 5
    s = deviation(a, e)
    d = np.abs(a.astype(np.float64) - e)
    assert s.worst_index == (n // 2,)
    assert s.min_atol == d.max()
    assert s.max_abs == np.abs(a - e).max()
    assert s.mean_abs == pytest.approx(math.fsum(d) / n, rel=2e-7)
    assert s.rel_l2 == pytest.approx(math.sqrt(math.fsum(d**2)) / math.sqrt(math.fsum(e.astype(float) ** 2)), rel=1e-13)


def test_the_first_of_ties_wins_across_blocks() -> None:
    e = np.zeros(3 * BLOCK, np.float32)
    a = e.copy()
    a[[BLOCK + 5, 2 * BLOCK + 1]] = 2.0
    assert deviation(a, e).worst_index == (BLOCK + 5,)
    a[[BLOCK + 7, 2 * BLOCK]] = NAN
    assert deviation(a, e).worst_index == (BLOCK + 7,)


def test_sums_follow_the_published_order() -> None:
    """Lane i % 128, one after the other, fsum over the lanes: the order that makes reports equal everywhere."""
    n = 2 * BLOCK + 300
    rng = np.random.default_rng(3)
    e = rng.standard_normal(n) * 10.0 ** rng.integers(-6, 6, n)
    total = 0.0
    lanes = [0.0] * 128
    for start in range(0, n, BLOCK):
        part = [0.0] * 128
        for i, x in enumerate(e[start : start + BLOCK].tolist()):
            part[i % 128] += x * x
        lanes = [x + y for x, y in zip(lanes, part, strict=True)]
    total = math.fsum(lanes)
    s = deviation(e + 1.0, e)
    d = [0.0] * 128
    for start in range(0, n, BLOCK):
        part = [0.0] * 128
        for i, x in enumerate(e[start : start + BLOCK].tolist()):
            part[i % 128] += ((x + 1.0) - x) * ((x + 1.0) - x)
        d = [x + y for x, y in zip(d, part, strict=True)]
    assert s.rel_l2 == math.sqrt(math.fsum(d)) / math.sqrt(total)


def test_shape_and_memory_order_do_not_matter() -> None:
    e = np.arange(24, dtype=np.float32).reshape(4, 6)
    a = e.copy()
    a[2, 3] += 1
    assert deviation(a, e).worst_index == (2, 3)
    assert deviation(np.asfortranarray(a), e) == deviation(a, e)
    assert deviation(a[:, ::2], e[:, ::2]).worst_index is not None
    assert deviation(a.astype(">f4"), e) == deviation(a, e)


def test_to_dict_is_strict_json() -> None:
    s = deviation(bf(NAN, 1, -INF), bf(1, 1, 1))
    data = json.loads(json.dumps(s.to_dict(), allow_nan=False))
    assert data["max_abs"] == "NaN"
    assert data["min_rtol"] == "Infinity"
    assert data["worst_actual"] == "NaN"
    assert list(data["ulp_histogram"]) == list(ULP_BUCKETS)
    assert data["worst_index"] == [0]


# --- against torch --------------------------------------------------------------------------------------------------


@pytest.mark.torch
@settings(max_examples=150, deadline=None)
@given(pairs)
def test_iron_figures_equal_torchs_to_the_bit(bits: list[tuple[int, int]]) -> None:
    torch = pytest.importorskip("torch")
    a, e = (
        torch.from_numpy(np.array([b[i] for b in bits], np.uint16).view(np.int16)).view(torch.bfloat16) for i in (0, 1)
    )
    npu, ref = a.float(), e.float()
    diff = (npu - ref).abs()
    hoped = {
        "max_abs": diff.max().item(),
        "max_rel": (diff / (ref.abs() + 1e-6)).max().item(),
        "ref_max": ref.abs().max().item(),
    }
    s = deviation(a, e)
    for key, value in hoped.items():
        assert same(getattr(s, key), value), key
    mean = diff.mean().item()
    assert same(s.mean_abs, mean) or s.mean_abs == pytest.approx(mean, rel=1e-6)


@pytest.mark.torch
def test_torch_tensors_go_by_their_bits() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([[1.0, float("nan")]], dtype=torch.bfloat16)
    assert deviation(x, x.clone()).bit_equal
    assert deviation(x, x.float()).nan_expected == 1
    assert deviation(torch.ones(3, 2).T, torch.ones(2, 3)).bit_equal
