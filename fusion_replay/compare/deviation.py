# SPDX-License-Identifier: Apache-2.0
"""How far ``actual`` is from ``expected``: every statistic of a comparison, measured block by block.

Two families of figures stand side by side:

* IRON's (``max_abs mean_abs max_rel ref_max mismatch``) are computed elementwise in float32 with NaN and Inf treated as
  torch treats them, so that they equal those of IRON's compare mode (amd/IRON ``iron/common/sequence.py``).
* All others are float64 over the pairs that are finite on both sides, ``n_finite`` of them. Where NaN or Inf stands
  against anything but itself, ``rel_l2`` is inf and ``cosine`` NaN: the finite rest is not the tensor.

Sums run in a fixed order made of elementwise additions only: element ``i`` of a block goes to lane ``i % 128``, a lane
adds its elements one after the other, and :func:`math.fsum` joins the lanes. numpy's own ``sum`` and BLAS choose their
order by processor. The same bits go in, the same bits come out, on any machine and with any number of threads.

ULP distances count steps on the ordered line of bf16 values (-0 and +0 are one point), whatever the float dtype: wider
values are rounded to bf16 first. For integer tensors the unit is one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.blocks import BLOCK, Block, Blocks, Mask
from fusion_replay.compare.sums import LANES, fsum
from fusion_replay.model import serialise
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.bf16 import BFLOAT16

IRON_ABS_TOL = 1e-2
IRON_REL_TOL = 0.05
"""IRON's defaults: mismatch where ``max_abs`` is above the first *and* ``max_rel`` above the second, of the tensor."""

ULP_BUCKETS: tuple[str, ...] = ("0", "1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", "65-128", "129-256", ">256")
"""Buckets of the ULP histogram; 128 bf16 ULPs are a factor of two."""
_BUCKET_TOPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)

_ABS, _SQUARE, _ACTUAL, _EXPECTED, _CROSS, _SUM_A, _SUM_E = range(7)  # rows of summands


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one comparison.

    Attributes:
        max_abs, mean_abs, max_rel, ref_max: IRON's, float32: largest and mean ``|a - e|``, largest
            ``|a - e| / (|e| + 1e-6)``, largest ``|e|``. ``mean_abs`` is inf where its float32 sum overflows.
        mismatch: IRON's own rule on them: ``max_abs > 1e-2 and max_rel > 0.05``.
        n: elements compared.
        pcc: Pearson's correlation of actual and expected; NaN where non-finite values disagree, or one of the two is
            constant and they are not the same. Shown, never a rule: a constant factor leaves it at 1.
        metrics: (name, value) of each figure of the user's own (:mod:`.metrics`).
        n_failing, share_failing: elements that break the rule in force (``strict`` for a bare deviation).
        worst_index: of the largest absolute deviation, first of ties; where non-finite values disagree, the first such
            element. None for an empty tensor. ``worst_actual`` and ``worst_expected`` are the values there.
        ulp_max, ulp_mean, ulp_signed_mean: bf16 ULPs; signed is actual minus expected (floor rounding shows as -0.5).
        ulp_histogram: finite pairs by ULP distance, one count per entry of :data:`ULP_BUCKETS`.
        n_finite: pairs that are finite on both sides; the figures from ``ulp_max`` on are over these.
        rel_l2: ``|a - e| / |e|`` in the Euclidean norm; inf where only the denominator is zero or non-finite values
            disagree, NaN where no pair is finite.
        cosine: of actual and expected as vectors; 1 where both are zero, 0 where one is; NaN where non-finite values
            disagree or no pair is finite.
        nan_actual, nan_expected, inf_actual, inf_expected: counts.
        bit_equal: same bits everywhere (for different dtypes: the same values, signs of zeros included).
        min_rtol, min_atol: smallest ``rtol`` (with atol 0) and ``atol`` (with rtol 0) that pass the ``strict`` rule;
            inf where none does.
    """

    max_abs: float
    mean_abs: float
    max_rel: float
    ref_max: float
    mismatch: bool
    n: int
    n_failing: int
    share_failing: float
    worst_index: tuple[int, ...] | None
    worst_actual: float | None
    worst_expected: float | None
    ulp_max: int
    ulp_mean: float
    ulp_signed_mean: float
    ulp_histogram: tuple[int, ...]
    n_finite: int
    rel_l2: float
    cosine: float
    nan_actual: int
    nan_expected: int
    inf_actual: int
    inf_expected: int
    bit_equal: bool
    min_rtol: float
    min_atol: float
    pcc: float = math.nan
    metrics: tuple[tuple[str, float], ...] = ()

    @property
    def nrmse(self) -> float:
        """Root of the mean squared error over the reference's root mean square: the same number as ``rel_l2``."""
        return self.rel_l2

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise in dB: ``20 log10(|e| / |a - e|)``; inf where nothing differs."""
        if not self.rel_l2:
            return math.inf
        return -20 * math.log10(self.rel_l2) if math.isfinite(self.rel_l2) else -self.rel_l2

    def to_dict(self) -> dict[str, Any]:
        """JSON data; non-finite numbers as "NaN", "Infinity", "-Infinity", the histogram by bucket label."""
        own = {name: serialise.json_data(value) for name, value in self.metrics}
        return {
            **serialise.to_dict(self),
            "ulp_histogram": dict(zip(ULP_BUCKETS, self.ulp_histogram, strict=True)),
            **serialise.pick(self, "nrmse", "sqnr"),
            "metrics": own,
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """Statistics, and what rules and their words need besides.

    ``first_failing`` is the index of the first element that breaks the rule, with the values there.
    """

    stats: Stats
    n_disagree: int
    actual_all_zero: bool
    first_failing: tuple[tuple[int, ...], float, float] | None = None
    shape: tuple[int, ...] = ()


Failing = Callable[[Block], Mask]


def measure(actual: npt.NDArray[Any], expected: npt.NDArray[Any], failing: Failing) -> Measured:
    """Compare two arrays of equal shape; ``failing`` marks the elements of a block that break the rule in force."""
    same = _same_bits(actual, expected)
    if same:
        ref_max = _largest_if_finite(expected)
        if ref_max is not None:
            return Measured(_no_deviation(expected, ref_max), 0, ref_max == 0, shape=actual.shape)
    tally = _Tally(actual.size)
    view = Blocks(actual, expected)
    with np.errstate(all="ignore"):  # NaN, Inf and overflow are figures here
        for start in range(0, view.n, BLOCK):
            tally.add(start, view.block(start), failing)
    return tally.finish(actual, expected, bit_equal=same or view.bit_equal)


# --- the fast road: nothing differs ---------------------------------------------------------------------------------


def _same_bits(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    if actual.dtype != expected.dtype:
        return False
    a = flat_bytes(actual)
    e = flat_bytes(expected)
    words = a.size // 8 * 8
    for start in range(0, words, 8 * BLOCK):
        stop = min(start + 8 * BLOCK, words)
        if not (a[start:stop].view(np.uint64) == e[start:stop].view(np.uint64)).all():
            return False
    return bool((a[words:] == e[words:]).all())


def _largest_if_finite(x: npt.NDArray[Any]) -> np.float32 | None:
    """Largest magnitude as float32, or None where a value is not finite."""
    if not x.size:
        return np.float32(0)
    if x.dtype == BFLOAT16:  # two reductions over bits, no temporary
        bits = np.ascontiguousarray(x).view(np.uint16)
        positive = max(int(bits.view(np.int16).max()), 0)
        negative = max(int(bits.max()) - 0x8000, 0)
        largest: np.float32 = (np.array([max(positive, negative)], np.uint32) << np.uint32(16)).view(np.float32)[0]
    else:
        largest = np.abs(np.array([x.max(), x.min()]).astype(np.float32)).max()
    return largest if np.isfinite(largest) else None


def _no_deviation(x: npt.NDArray[Any], ref_max: np.float32) -> Stats:
    at = (0,) * x.ndim if x.size else None
    value = None if at is None else _scalar(x[at])
    return Stats(
        max_abs=0.0,
        mean_abs=0.0,
        max_rel=0.0,
        ref_max=float(ref_max),
        mismatch=False,
        n=x.size,
        n_failing=0,
        share_failing=0.0,
        worst_index=at,
        worst_actual=value,
        worst_expected=value,
        ulp_max=0,
        ulp_mean=0.0,
        ulp_signed_mean=0.0,
        ulp_histogram=(x.size, *[0] * (len(ULP_BUCKETS) - 1)),
        n_finite=x.size,
        rel_l2=0.0,
        cosine=1.0,
        nan_actual=0,
        nan_expected=0,
        inf_actual=0,
        inf_expected=0,
        bit_equal=True,
        min_rtol=0.0,
        min_atol=0.0,
        pcc=1.0,
    )


# --- adding blocks up -----------------------------------------------------------------------------------------------


class _Tally:
    """Running figures of one comparison."""

    def __init__(self, size: int) -> None:
        self.sums = np.zeros((7, min(size, LANES)))  # lanes beyond the last element hold nothing
        self.rows = np.zeros((7, min(size, BLOCK) + -size % LANES))
        self.max_abs = self.max_rel = self.ref_max = np.float32(0)
        self.worst = -1.0
        self.worst_at: int | None = None
        self.first_failing: int | None = None
        self.min_rtol = 0.0
        self.ulp_max = self.ulp_sum = self.ulp_signed = 0
        self.n_above = [0] * len(_BUCKET_TOPS)
        self.n = self.n_finite = self.n_failing = self.n_disagree = 0
        self.any_actual = False
        self.specials = [0, 0, 0, 0]

    def add(self, start: int, block: Block, failing: Failing) -> None:
        m = block.actual.size
        self.n += m
        self.n_finite += m if block.finite is None else int(np.count_nonzero(block.finite))
        failed = failing(block)
        n_failed = int(np.count_nonzero(failed))
        if n_failed and not self.n_failing:
            self.first_failing = start + int(failed.argmax())
        self.n_failing += n_failed
        self.specials = [x + y for x, y in zip(self.specials, block.specials, strict=True)]
        self.any_actual = self.any_actual or bool(block.actual.any()) or any(block.specials)
        self._iron(block)
        self._worst(start, block)
        self._ulp(block)
        self._sums(block, m)

    def _iron(self, block: Block) -> None:
        self.max_abs = np.maximum(self.max_abs, block.difference32.max())  # NaN wins, as in torch
        self.max_rel = np.maximum(self.max_rel, block.relative32.max())
        self.ref_max = np.maximum(self.ref_max, np.abs([block.expected32.max(), block.expected32.min()]).max())

    def _worst(self, start: int, block: Block) -> None:
        largest = float(block.difference.max())
        if block.disagree is not None and block.disagree.any():
            self.n_disagree += int(np.count_nonzero(block.disagree))
            self.min_rtol = math.inf
            if self.worst < math.inf:
                self.worst, self.worst_at = math.inf, start + int(block.disagree.argmax())
        elif largest > self.worst:
            self.worst, self.worst_at = largest, start + int(block.difference.argmax())
        if largest > 0 and self.min_rtol < math.inf:
            self.min_rtol = _smallest_rtol(block, self.min_rtol)

    def _ulp(self, block: Block) -> None:
        largest = int(block.ulp.max())
        self.ulp_max = max(self.ulp_max, largest)
        self.ulp_signed += block.ulp_signed
        if largest:
            self.ulp_sum += int(block.ulp.sum(dtype=np.uint32 if block.ulp.dtype == np.uint16 else np.uint64))
        for i, top in enumerate(_BUCKET_TOPS):
            if largest <= top:
                break
            self.n_above[i] += int(np.count_nonzero(block.ulp > top))

    def _sums(self, block: Block, m: int) -> None:
        lanes = self.sums.shape[1]
        rows = self.rows[:, : -(-m // lanes) * lanes]
        rows[:, m:] = 0.0
        rows[_ABS, :m] = block.difference
        np.multiply(block.difference, block.difference, out=rows[_SQUARE, :m])
        np.multiply(block.actual, block.actual, out=rows[_ACTUAL, :m])
        np.multiply(block.expected, block.expected, out=rows[_EXPECTED, :m])
        np.multiply(block.actual, block.expected, out=rows[_CROSS, :m])
        rows[_SUM_A, :m], rows[_SUM_E, :m] = block.actual, block.expected
        self.sums += rows.reshape(7, -1, lanes).sum(axis=1)

    def finish(self, actual: npt.NDArray[Any], expected: npt.NDArray[Any], *, bit_equal: bool) -> Measured:
        n = self.n
        total = [fsum(lanes.tolist()) for lanes in self.sums]
        nan_actual, nan_expected, inf_actual, inf_expected = self.specials
        max_abs, max_rel = float(self.max_abs), float(self.max_rel)
        above = [self.n_finite, *self.n_above, 0]
        at = _index(self.worst_at, actual.shape)
        first = _index(self.first_failing, actual.shape)
        rel_l2, cosine, pcc = math.inf, math.nan, math.nan
        if n and not self.n_finite:
            rel_l2 = math.inf if self.n_disagree else math.nan
        elif not self.n_disagree:
            rel_l2 = _ratio(math.sqrt(total[_SQUARE]), math.sqrt(total[_EXPECTED]))
            cosine = _cosine(total[_ACTUAL], total[_EXPECTED], total[_CROSS])
            pcc = 1.0 if bit_equal else _pcc(total, self.n_finite)
        stats = Stats(
            max_abs=max_abs,
            mean_abs=_iron_mean(total[_ABS], max_abs, n),
            max_rel=max_rel,
            ref_max=float(self.ref_max),
            mismatch=max_abs > IRON_ABS_TOL and max_rel > IRON_REL_TOL,
            n=n,
            n_failing=self.n_failing,
            share_failing=self.n_failing / n if n else 0.0,
            worst_index=at,
            worst_actual=None if at is None else _scalar(actual[at]),
            worst_expected=None if at is None else _scalar(expected[at]),
            ulp_max=self.ulp_max,
            ulp_mean=self.ulp_sum / self.n_finite if self.n_finite else 0.0,
            ulp_signed_mean=self.ulp_signed / self.n_finite if self.n_finite else 0.0,
            ulp_histogram=tuple(low - high for low, high in itertools.pairwise(above)),
            n_finite=self.n_finite,
            rel_l2=rel_l2,
            cosine=cosine,
            nan_actual=nan_actual,
            nan_expected=nan_expected,
            inf_actual=inf_actual,
            inf_expected=inf_expected,
            bit_equal=bit_equal,
            min_rtol=self.min_rtol,
            min_atol=max(self.worst, 0.0),
            pcc=pcc,
        )
        failing = None if first is None else (first, _scalar(actual[first]), _scalar(expected[first]))
        return Measured(stats, self.n_disagree, not self.any_actual, failing, actual.shape)


def _smallest_rtol(block: Block, floor: float) -> float:
    """The larger of ``floor`` and the smallest rtol under which ``difference <= rtol * |expected|`` as computed."""
    scale = np.abs(block.expected)
    quotient = block.difference / scale
    top = float(np.fmax.reduce(quotient))  # 0 / 0 is NaN and needs nothing
    if top < floor or top == math.inf:
        return max(top, floor)
    at = quotient == top
    if (top * scale[at] < block.difference[at]).any():  # the quotient was rounded down
        top = math.nextafter(top, math.inf)
    return top


def _iron_mean(total: float, max_abs: float, n: int) -> float:
    """``mean(|a - e|)`` as float32 arithmetic ends up: inf where the sum overflows, NaN where a difference is NaN."""
    if not math.isfinite(max_abs):
        return max_abs
    with np.errstate(over="ignore"):
        return float(np.float32(total) / np.float32(n)) if n else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 0.0


def _cosine(actual: float, expected: float, cross: float) -> float:
    if not (actual and expected):
        return 0.0 if actual or expected else 1.0
    return max(-1.0, min(1.0, cross / math.sqrt(actual * expected)))


def _pcc(total: list[float], n: int) -> float:
    """Of the sums; NaN where one of the two does not vary (beyond the rounding of the sums themselves)."""
    if not n:
        return math.nan
    actual, expected = total[_SUM_A] / n, total[_SUM_E] / n
    varies = (total[_ACTUAL] - n * actual * actual, total[_EXPECTED] - n * expected * expected)
    if not all(v > 1e-12 * whole for v, whole in zip(varies, (total[_ACTUAL], total[_EXPECTED]), strict=True)):
        return math.nan
    together = total[_CROSS] - n * actual * expected
    return max(-1.0, min(1.0, together / math.sqrt(varies[0]) / math.sqrt(varies[1])))


def _index(flat: int | None, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return None if flat is None else tuple(int(i) for i in np.unravel_index(flat, shape))


def _scalar(x: Any) -> float:
    return int(x) if np.asarray(x).dtype.kind in "iub" else float(x)
