# SPDX-License-Identifier: Apache-2.0
"""Compare two arrays: statistics, a rule, a verdict that says in words what is wrong and which limit decided."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare import metrics
from fusion_replay.compare.deviation import ULP_BUCKETS, Measured, Stats, measure
from fusion_replay.compare.rules import OURS, RULES, Rule, rule_for
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.compare.within import Within
from fusion_replay.errors import MismatchError, UsageError
from fusion_replay.model import serialise
from fusion_replay.model.arrays import from_torch, native
from fusion_replay.model.bf16 import BFLOAT16, is_torch
from fusion_replay.model.runlist import SMALL


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of one comparison; truthy when it matches.

    Attributes:
        ok: whether actual matches expected under the rule.
        rule: its name, one of :data:`RULES`.
        stats: the deviation.
        n_failing: elements that break the rule (a share of them may be allowed to).
        detail: one line for a person: what is wrong and where, or how close it is.
        tolerance: the hand-set limits in force.
        within: the output against its bound, where one could be computed; it decided where it says so.
        unbound: why there is no bound, where the rule asked for one; else empty.
    """

    ok: bool
    rule: str
    stats: Stats
    n_failing: int
    detail: str
    tolerance: Tolerance
    within: Within | None = None
    unbound: str = ""

    def __bool__(self) -> bool:
        return self.ok

    @property
    def decided_by(self) -> str:
        """Which limit decided: "bound" or "tolerance"."""
        return "bound" if self.within is not None and self.within.decides else "tolerance"

    @property
    def outside(self) -> bool:
        """It matches by its tolerance, and its bound says that no honest device gives this."""
        return self.ok and self.within is not None and self.within.n_outside > 0

    def to_dict(self) -> dict[str, Any]:
        limits = {
            **serialise.pick(self, "ok", "rule", "decided_by", "tolerance"),
            "bound": serialise.json_data(self.within),
        }
        return limits | serialise.pick(self, "unbound", "n_failing", "detail", "stats")

    def __str__(self) -> str:
        return f"{'match' if self.ok else 'MISMATCH'} ({self.limits}): {self.detail}"

    @property
    def limits(self) -> str:
        """``auto: rtol 0.04 atol 1e-06``, or ``auto, by the bound: accepts 3 bf16 values; ...``."""
        if self.within is not None and self.within.decides:
            return f"{self.rule}, by the bound: {self.within}"
        beside = "" if self.within is None else f"; bound: {self.within}"
        return f"{self.rule}: {self.tolerance}{beside}"


@dataclass(frozen=True, slots=True)
class IronVerdict:
    """What IRON's own compare mode says: ``ok`` is None where it would have raised; ``note`` says what it overlooks."""

    ok: bool | None
    note: str = ""

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        word = {True: "ok", False: "fails", None: "no verdict"}[self.ok]
        return f"{word}, {self.note}" if self.note else word


def deviation(actual: Any, expected: Any) -> Stats:
    """Statistics alone; ``n_failing`` counts by the ``strict`` rule. Arguments and errors as :func:`compare`."""
    a, e = _pair(actual, expected)
    return measure(a, e, rule_for("strict", a, e).failing).stats


def compare(
    actual: Any,
    expected: Any,
    rule: str = "strict",
    rtol: float | None = None,
    atol: float | None = None,
    *,
    tolerance: Tolerance | None = None,
    unchanged: bool | None = None,
    exact_bits: bool = False,
    within: Within | None = None,
) -> Verdict:
    """Judge ``actual`` against ``expected``.

    Args:
        actual, expected: arrays of equal shape: bf16 (ml_dtypes or torch), float32, other floats or integers, in any
            mix; torch tensors on any device. Integers are compared exactly unless limits are given.
        rule: one of :data:`RULES`; their formulas stand in :mod:`fusion_replay.compare.rules`.
        rtol, atol: limits in the rule's formula; one given alone leaves the other at the rule's default.
        tolerance: limits as data, instead of rtol and atol.
        unchanged: rules of :data:`OURS` only: the output kept its old contents bit for bit. Where they break the rule,
            the detail says that nothing was written; where they keep it, an earlier call may have left them.
        exact_bits: likewise: any difference in bits fails (operators that only move data).
        within: likewise: ``actual`` against the bound of the step it comes from; decides where it says so.

    Raises:
        UsageError: shapes differ, a dtype is not numeric, or the rule and its limits don't fit.
    """
    a, e = _pair(actual, expected)
    chosen = rule_for(rule, a, e, rtol=rtol, atol=atol, tolerance=tolerance)
    measured = measure(a, e, chosen.failing)
    if within is not None and within.n_edge:
        measured = _without_edges(measured, within.n_edge)
    if own := metrics.measured(a, e):
        measured = replace(measured, stats=replace(measured.stats, metrics=own))
    pattern = _pattern(rule, measured, exact_bits)
    if pattern == _ALL_ZERO and within is not None and not (within.n_outside or within.n_unbounded):
        pattern = None  # an honest device may give zero for each of them
    if within is not None and within.decides:
        ok = not within.n_outside
        share = within.n_outside / measured.stats.n if measured.stats.n else 0.0
        stats = replace(measured.stats, n_failing=within.n_outside, share_failing=share)
        measured = replace(measured, stats=stats)
        pattern = None if ok else pattern
    else:
        ok = pattern is None and chosen.passes(measured)
    if not ok and unchanged and rule in OURS:
        pattern = _as_before(measured)
    detail = _detail(chosen, measured, ok, pattern, within)
    return Verdict(ok, rule, measured.stats, measured.stats.n_failing, detail, chosen.tolerance, within)


def _without_edges(m: Measured, n: int) -> Measured:
    """Inf against the largest finite value, where the bound holds both: a rounding, no disagreement."""
    left = max(m.stats.n_failing - n, 0)
    stats = replace(m.stats, n_failing=left, share_failing=left / m.stats.n)
    return replace(m, stats=stats, n_disagree=max(m.n_disagree - n, 0))


def assert_close(
    actual: Any,
    expected: Any,
    rule: str = "strict",
    rtol: float | None = None,
    atol: float | None = None,
    *,
    tolerance: Tolerance | None = None,
) -> None:
    """Nothing if :func:`compare` matches, else an AssertionError in the words of ``torch.testing.assert_close``.

    Raises:
        MismatchError: (an AssertionError) values or shapes differ.
        UsageError: as :func:`compare`.
    """
    shapes = [tuple(np.shape(x)) for x in (actual, expected)]
    if shapes[0] != shapes[1]:
        raise MismatchError(
            f"The values for attribute 'shape' do not match: {shapes[0]} (actual) != {shapes[1]} (expected)."
        )
    verdict = compare(actual, expected, rule, rtol, atol, tolerance=tolerance)
    if not verdict:
        raise MismatchError(_torch_words(verdict, *_pair(actual, expected)))


def iron_verdict(stats: Stats, fails: str | None = None) -> IronVerdict:
    """IRON's verdict for these figures; ``fails``: why its compare would have raised instead of judging."""
    if fails:
        return IronVerdict(None, fails)
    note = ""
    if not stats.mismatch and (stats.max_abs != stats.max_abs or stats.max_rel != stats.max_rel):
        note = f"{'NaN' if stats.nan_actual or stats.nan_expected else 'Inf'} passes its rule"
    return IronVerdict(not stats.mismatch, note)


# --- arrays in ------------------------------------------------------------------------------------------------------


def as_numpy(x: Any) -> npt.NDArray[Any]:
    """A numpy array of the same values; torch is touched only if ``x`` is a torch tensor.

    Raises:
        UsageError: a dtype that is not numeric.
    """
    array = from_torch(x) if is_torch(x) else np.asarray(x)
    if array.dtype.name in SMALL:  # each of their values is one of these
        array = array.astype(np.int8 if "int" in array.dtype.name else np.float32)
    if not (array.dtype == BFLOAT16 or array.dtype.kind in "fiub"):
        raise UsageError(f"dtype {array.dtype}: expected a float or integer type to compare")
    return native(array)


def _pair(actual: Any, expected: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    a, e = as_numpy(actual), as_numpy(expected)
    if a.shape != e.shape:
        raise UsageError(f"actual has shape {a.shape}, expected has shape {e.shape}; compare needs equal shapes")
    return a, e


# --- words ----------------------------------------------------------------------------------------------------------

_ALL_ZERO = "all zero, expected is not"


def _pattern(rule: str, m: Measured, exact_bits: bool) -> str | None:
    """What fails a tensor beyond its elements' limits."""
    s = m.stats
    ours = rule in OURS
    if not (ours or rule == "strict") or s.bit_equal:
        return None
    if m.actual_all_zero and s.ref_max != 0:
        return _ALL_ZERO
    if ours and exact_bits:
        return "bits differ, and this operator only moves data"
    return None


def _as_before(m: Measured) -> str:
    """What a wrong output that kept its old contents is called."""
    if m.actual_all_zero and m.stats.ref_max != 0:
        return f"{_ALL_ZERO} (as it was before: zeros or nothing was written)"
    return "never written: the output kept its old contents bit for bit"


def _detail(rule: Rule, m: Measured, ok: bool, pattern: str | None, within: Within | None = None) -> str:
    s = m.stats
    if s.n == 0:
        return "no elements"
    if s.bit_equal and ok:
        return "bit for bit"
    parts = [pattern] if pattern else []
    if pattern == _ALL_ZERO and not s.n_failing:
        parts = [f"{_ALL_ZERO}: each element is inside its limit, and an output of zeros alone fails all the same"]
    if m.n_disagree:
        parts.append(_non_finite(s, m.n_disagree))
    if rule.name == "iron-compare":
        parts.append(f"max_abs {s.max_abs:.4g} (limit {rule.tolerance.atol:g}), ")
        parts[-1] += f"max_rel {s.max_rel:.4g} (limit {rule.tolerance.rtol:g})"
    elif within is not None and within.n_outside:
        parts.append(_outside(within, m))
    elif s.n_failing:
        allowed = f", {rule.tolerance.error_rate:.1%} may" if rule.tolerance.error_rate else ""
        share = f"{s.share_failing:.2%}" if s.share_failing >= 1e-4 else f"{s.share_failing:.1e}"
        first, here, there = m.first_failing or (None, 0, 0)
        where = "" if first == s.worst_index else f", first at {_index(first)} actual {here:.6g}, expected {there:.6g}"
        parts.append(f"{s.n_failing:,} of {s.n:,} elements fail ({share}{allowed}){where}")
    where = f"at {_index(s.worst_index)} actual {s.worst_actual:.6g}, expected {s.worst_expected:.6g}"
    parts.append(f"largest deviation {s.min_atol:.4g} {where}")
    return "; ".join(parts)


def _outside(within: Within, m: Measured) -> str:
    n, share = m.stats.n, within.n_outside / m.stats.n
    text = f"{share:.2%}" if share >= 1e-4 else f"{share:.1e}"
    assert within.first is not None
    at, value, low, high = within.first
    index = tuple(int(i) for i in np.unravel_index(at, m.shape))
    due = f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
    where = f"first at {_index(index)} actual {value:.6g}, an honest device gives {due}"
    return f"{within.n_outside:,} of {n:,} elements outside the bound ({text}), {where}"


def _non_finite(s: Stats, n: int) -> str:
    kinds = [
        f"{count:,} {kind} in {side}"
        for kind, side, count in (
            ("NaN", "actual", s.nan_actual),
            ("NaN", "expected", s.nan_expected),
            ("Inf", "actual", s.inf_actual),
            ("Inf", "expected", s.inf_expected),
        )
        if count
    ]
    return f"non-finite values disagree in {n:,} element{'' if n == 1 else 's'} ({', '.join(kinds)})"


def _index(index: tuple[int, ...] | None) -> str:
    return "()" if not index else f"({', '.join(map(str, index))}{',' if len(index) == 1 else ''})"


def _torch_words(v: Verdict, actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> str:
    s, t = v.stats, v.tolerance
    lines = [
        "Tensor-likes are not close!",
        "",
        f"Mismatched elements: {s.n_failing} / {s.n} ({s.share_failing:.1%})",
        f"Greatest absolute difference: {s.min_atol:g} at index {_index(s.worst_index)} (up to {t.atol:g} allowed)",
        f"Greatest relative difference: {_greatest_relative(actual, expected)} (up to {t.rtol:g} allowed)",
        f"Rule {v.rule} ({t}): {v.detail}",
    ]
    return "\n".join(lines)


def _greatest_relative(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> str:
    a, e = (x.astype(np.float64).reshape(-1) for x in (actual, expected))
    with np.errstate(all="ignore"):
        quotient = np.where(a == e, 0.0, np.abs(a - e) / np.abs(e))
    at = int(np.argmax(quotient))  # NaN counts as the greatest
    index = tuple(int(i) for i in np.unravel_index(at, actual.shape))
    return f"{quotient[at]:g} at index {_index(index)}"


__all__ = [
    "RULES",
    "ULP_BUCKETS",
    "IronVerdict",
    "Stats",
    "Verdict",
    "assert_close",
    "compare",
    "deviation",
    "iron_verdict",
]
