# SPDX-License-Identifier: Apache-2.0
"""The rules: which elements of a block fail, and whether the tensor passes.

``tolerance``     ours: the element rule of ``iron-test`` with the operator's tolerance; non-finite values must agree;
                  an output that is all zero against a non-zero reference fails
``bound``         ours: each element inside the bound that follows from the step's inputs and the kernel's arithmetic
                  (:mod:`fusion_replay.compare.numerics`); as ``tolerance`` where no bound is known
``auto``          ours: ``bound`` where nothing in the bound is assumed and on the software NPU, else ``tolerance``
``iron-compare``  IRON's compare mode, V1 to V4 (amd/IRON ``iron/common/sequence.py``): the whole tensor mismatches
                  where ``max_abs > atol and max_rel > rtol``; a NaN makes neither true and so passes
``iron-test``     IRON's test harness (amd/IRON ``iron/common/test_utils.py``): an element passes if it is equal or
                  ``|a - e| < max(atol, rtol * (|a| + |e|))``; NaN never passes
``aie-verify``    mlir-aie's ``aie.utils.verify.compare``: exact, bf16 ULPs, or the same formula in float32, and a floor
                  in shares of the range; non-finite values must agree
``strict``        torch.testing: an element passes if ``|a - e| <= atol + rtol * |e|``; NaN only meets NaN, Inf the same
                  Inf; all zero against non-zero fails
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.blocks import Block, Mask
from fusion_replay.compare.deviation import IRON_ABS_TOL, IRON_REL_TOL, Measured
from fusion_replay.compare.tolerance import Tolerance, exact, relative
from fusion_replay.errors import UsageError

OURS = ("auto", "bound", "tolerance")
"""Rules with an operator's own limits. Two arrays alone have no bound: there all three are ``tolerance``."""

RULES: tuple[str, ...] = (*OURS, "iron-compare", "iron-test", "aie-verify", "strict")

_F32_MAX = float(np.finfo(np.float32).max)
_F32_TINY = float(np.finfo(np.float32).tiny)

_IRON_TEST = relative(0.04, 1e-6).from_source("amd/IRON iron/common/test_utils.py, run_test defaults")
_IRON_COMPARE = Tolerance(IRON_REL_TOL, IRON_ABS_TOL).from_source("amd/IRON iron/common/sequence.py, CompareDispatch")
_VERIFY = "Xilinx/mlir-aie python/utils/verify.py, Tolerance.default_for"
_TORCH = "torch.testing.assert_close defaults"
_DEFAULTS: Mapping[str, Mapping[str, Tolerance]] = {
    "auto": {"float": _IRON_TEST},
    "iron-test": {"float": _IRON_TEST, "integer": _IRON_TEST},
    "iron-compare": {"float": _IRON_COMPARE, "integer": _IRON_COMPARE},
    "aie-verify": {
        "bfloat16": relative(0.128, _F32_TINY).from_source(_VERIFY),
        "float16": relative(1e-2, _F32_TINY).from_source(_VERIFY),
        "float": relative(1e-4, _F32_TINY).from_source(_VERIFY),
    },
    "strict": {
        "bfloat16": relative(1.6e-2, 1e-5).from_source(_TORCH),
        "float16": relative(1e-3, 1e-5).from_source(_TORCH),
        "float32": relative(1.3e-6, 1e-5).from_source(_TORCH),
        "float64": relative(1e-7, 1e-7).from_source(_TORCH),
    },
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule's name with the limits in force.

    Attributes:
        name: one of :data:`RULES`.
        tolerance: the limits.
        floor: absolute slack from ``tolerance.range_frac`` and the reference's range; 0 without.
        narrow: the actual tensor is bf16 (``aie-verify`` rounds the expected one to it).
    """

    name: str
    tolerance: Tolerance
    floor: float = 0.0
    narrow: bool = True

    def failing(self, block: Block) -> Mask:
        """Elements of the block that break the rule; for ``iron-compare`` those beyond both limits at once."""
        t = self.tolerance
        if self.name == "iron-compare":
            both: Mask = (block.difference32 > t.atol) & (block.relative32 > t.rtol)
            return both
        near = self._near(block)
        bad = ~near
        if block.disagree is not None and block.finite is not None:
            bad &= block.finite
            bad |= ~_equal32(block) & ~block.finite if self.name == "iron-test" else block.disagree
        return bad

    def _near(self, block: Block) -> Mask:
        """Elements within the limits; what is said of non-finite pairs does not count."""
        t, d = self.tolerance, block.difference
        if t == exact() or not (t.rtol or t.atol or t.ulps or self.floor):
            return self._equal(block)
        if self.name == "strict":
            near: Mask = d <= t.atol + t.rtol * np.abs(block.expected)
        elif self.name == "aie-verify" and block.unequal is None:
            near = self._near_verify(block)
        else:
            sums = np.abs(block.actual)
            sums += np.abs(block.expected)
            np.minimum(sums, _F32_MAX, out=sums)
            sums *= t.rtol
            np.maximum(sums, t.atol, out=sums)
            near = (d < sums) | self._equal(block)
        if t.ulps is not None:
            near |= block.ulp <= t.ulps
        if t.range_frac is not None:
            near |= d <= self.floor
        return near

    def _near_verify(self, block: Block) -> Mask:
        """mlir-aie's element test, in float32 as there."""
        t = self.tolerance
        if t.ulps is not None:
            close: Mask = block.difference < t.atol
            return close
        norm = np.abs(block.actual32) + np.abs(block.expected32)
        limit = np.maximum(np.float32(t.atol), np.float32(t.rtol) * np.minimum(norm, np.float32(_F32_MAX)))
        return np.asarray((block.actual32 == block.expected32) | (block.difference32 < limit))

    def _equal(self, block: Block) -> Mask:
        if block.unequal is not None:
            return ~block.unequal
        if self.name == "aie-verify" and self.narrow:
            return np.asarray(block.ulp == 0)
        return np.asarray(block.difference == 0.0)

    def passes(self, m: Measured) -> bool:
        """Whether the tensor as a whole keeps the rule (before what ``auto`` and ``strict`` add)."""
        if self.name == "iron-compare":
            return not (m.stats.max_abs > self.tolerance.atol and m.stats.max_rel > self.tolerance.rtol)
        if self.name != "iron-test" and m.n_disagree:
            return False  # the share that may fail is for finite values
        return m.stats.n_failing <= int(m.stats.n * self.tolerance.error_rate)


def rule_for(
    name: str,
    actual: npt.NDArray[np.generic],
    expected: npt.NDArray[np.generic],
    *,
    rtol: float | None = None,
    atol: float | None = None,
    tolerance: Tolerance | None = None,
) -> Rule:
    """The rule with its limits: those given, else the rule's own for these dtypes.

    ``rtol`` or ``atol`` given alone leaves the other at the rule's default.

    Raises:
        UsageError: unknown rule, both kinds of limits at once, or limits the rule has no use for.
    """
    if name not in RULES:
        raise UsageError(f"rule {name!r}: expected one of {', '.join(RULES)}")
    if tolerance is not None and not (rtol is None and atol is None):
        raise UsageError(f"rule {name}: give tolerance or rtol and atol, not both")
    if tolerance is not None and name == "iron-compare" and tolerance.ulps is not None:
        raise UsageError("rule iron-compare knows rtol and atol only; use rule auto for a tolerance in ULPs")
    limits = tolerance or _default(name, actual.dtype, expected.dtype)
    if not (rtol is None and atol is None):
        limits = relative(limits.rtol if rtol is None else rtol, limits.atol if atol is None else atol)
    floor = 0.0
    if limits.range_frac is not None:
        floor = limits.range_frac * _range(expected)
    return Rule(name, limits, floor, narrow=str(actual.dtype) == "bfloat16")


def _default(rule: str, *dtypes: np.dtype[np.generic]) -> Tolerance:
    """The rule's own limits; of two dtypes the looser, as torch.testing does."""
    found = [_default_of(rule, d) for d in dtypes[: 1 if rule == "aie-verify" else 2]]
    return max(found, key=lambda t: (t.rtol, t.atol))


def _default_of(rule: str, dtype: np.dtype[np.generic]) -> Tolerance:
    table = _DEFAULTS["auto" if rule in OURS else rule]
    kind = "integer" if dtype.kind in "iub" else "float"
    return table.get(str(dtype)) or table.get(kind) or exact()


def _range(expected: npt.NDArray[np.generic]) -> float:
    """Largest finite magnitude."""
    from fusion_replay.model.bf16 import wide

    flat, largest = np.ascontiguousarray(expected).reshape(-1), 0.0
    for start in range(0, flat.size, 1 << 16):
        block = np.abs(wide(flat[start : start + (1 << 16)]))
        largest = max(largest, float(block.max(where=np.isfinite(block), initial=0.0)))
    return largest


def _equal32(block: Block) -> Mask:
    return np.asarray(block.actual32 == block.expected32)


__all__ = ["RULES", "Rule", "rule_for"]
