# SPDX-License-Identifier: Apache-2.0
"""How far a result may be off: frozen data with constructors that say what they mean.

Words and semantics follow mlir-aie's ``aie.utils.verify.Tolerance`` (Xilinx/mlir-aie ``python/utils/verify.py``);
the element rule that ``relative`` feeds is IRON's test harness's (amd/IRON ``iron/common/test_utils.py``):
an element passes if it is equal or ``|a - b| < max(atol, rtol * (|a| + |b|))``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fusion_replay.errors import UsageError
from fusion_replay.model import serialise


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One element rule and how many elements may break it.

    Attributes:
        rtol, atol: of the element rule above (dimensionless; absolute in the tensor's own unit). Both 0 means equal.
        ulps: if set, elements within this many bf16 ULPs pass too.
        range_frac: if set, elements off by at most this share of the largest finite ``|expected|`` pass too: for sums
            whose terms cancel, where the error follows the terms and not the result (matrix products).
        error_rate: share of elements, 0 to 1, that may break the rule.
        source: where the numbers come from (a URL, a file of IRON or mlir-aie, or "measured on the software NPU").
    """

    rtol: float = 0.0
    atol: float = 0.0
    ulps: int | None = None
    error_rate: float = 0.0
    source: str = ""
    range_frac: float | None = None

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "error_rate", "range_frac"):
            value = getattr(self, name)
            if name == "range_frac" and value is None:
                continue
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"tolerance {name}={value!r}: expected a finite number >= 0")
        if self.error_rate > 1:
            raise UsageError(f"tolerance error_rate={self.error_rate!r}: expected a share between 0 and 1")
        if self.ulps is not None and self.ulps < 0:
            raise UsageError(f"tolerance ulps={self.ulps!r}: expected a count >= 0")

    def from_source(self, source: str) -> Tolerance:
        return replace(self, source=source)

    to_dict = serialise.to_dict

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tolerance:
        """Undo :meth:`to_dict`.

        Raises:
            ValueError: a field is not of its type.
        """
        return serialise.from_dict(cls, data, "tolerance")

    @classmethod
    def of_iron(cls, gate: Mapping[str, Any] | None) -> Tolerance | None:
        """mlir-aie's ``Tolerance`` as a recording has it; None: there is none, or none of that kind."""
        found = gate or {}
        numbers = {k: found.get(k) for k in ("rtol", "atol", "ulps", "range_frac", "max_mismatch_frac")}
        if all(n is None for n in numbers.values()):
            return None
        try:
            return cls(
                rtol=float(numbers["rtol"] or 0),
                atol=float(numbers["atol"] or 0),
                ulps=None if numbers["ulps"] is None else int(numbers["ulps"]),
                error_rate=float(numbers["max_mismatch_frac"] or 0),
                source="IRON's own, as recorded with the operator",
                range_frac=None if numbers["range_frac"] is None else float(numbers["range_frac"]),
            )
        except (TypeError, ValueError, UsageError):
            return None

    def __str__(self) -> str:
        parts = []
        if self.ulps is not None:
            parts.append(f"{self.ulps} bf16 ulp")
        if self.rtol or self.atol:
            parts.append(f"rtol {self.rtol:g} atol {self.atol:g}")
        if self.range_frac is not None:
            parts.append(f"{self.range_frac:g} of the largest expected")
        if self.error_rate:
            parts.append(f"{self.error_rate:.1%} may fail")
        return ", ".join(parts) or "exact"


def exact() -> Tolerance:
    """Equal, element by element (NaN meets NaN, -0 meets +0)."""
    return Tolerance()


def bf16_ulps(n: int) -> Tolerance:
    """Within ``n`` steps on the ordered line of bf16 values."""
    return Tolerance(ulps=n)


def relative(rtol: float, atol: float, error_rate: float = 0.0, *, range_frac: float | None = None) -> Tolerance:
    """IRON's element rule with these limits."""
    return Tolerance(rtol=rtol, atol=atol, error_rate=error_rate, range_frac=range_frac)
