# SPDX-License-Identifier: Apache-2.0
"""Limits that a golden sets for itself: of one step or one operator, and never without the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_replay import refs
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.errors import UsageError
from fusion_replay.golden import fields

if TYPE_CHECKING:
    from fusion_replay.golden.document import GoldenStep

_ADDRESS = re.compile(r"\A\d+:\d+\Z")
_WORDS = {"ulps": "ulps", "rtol": "rtol", "atol": "atol", "range": "range_frac", "errors": "error_rate"}
_NUMBERS = ("rtol", "atol", "error_rate", "range_frac", "ulps")

EXAMPLE = "GEMV=rtol 0.05 atol 1e-3 because its sums cancel"


@dataclass(frozen=True, slots=True)
class StepTolerance:
    """Limits of rule ``auto`` for ``target``: a step's address, or an operator type."""

    target: str
    limits: Tolerance
    why: str

    @property
    def is_step(self) -> bool:
        return bool(_ADDRESS.match(self.target))

    def to_dict(self) -> dict[str, Any]:
        key = "step" if self.is_step else "op"
        return {key: self.target, "limits": limits_to_dict(self.limits), "why": self.why}

    @classmethod
    def from_dict(cls, data: Any) -> StepTolerance:
        entry = fields.mapping(data, "tolerance")
        key = "step" if "step" in entry else "op"
        target = fields.text(entry, key, "tolerance")
        if bool(_ADDRESS.match(target)) != (key == "step"):
            raise ValueError(f"tolerance: {key} {target!r}: a step is INVOCATION:STEP, anything else is an op")
        where = f"tolerance of {target}"
        return cls(target, limits_from_dict(entry.get("limits"), where), fields.text(entry, "why", where))


def limits_to_dict(limits: Tolerance) -> dict[str, Any]:
    """The numbers that are set; none of them is "exact". Where they come from is no part of a golden."""
    numbers = {n: getattr(limits, n) for n in _NUMBERS}
    return {n: v for n, v in numbers.items() if v not in (None, 0.0) or (n == "ulps" and v is not None)}


def limits_from_dict(data: Any, where: str) -> Tolerance:
    given = fields.mapping(data, f"{where}: limits")
    for name, value in given.items():
        kinds = int if name == "ulps" else (int, float)
        if name not in _NUMBERS or isinstance(value, bool) or not isinstance(value, kinds):
            raise ValueError(f"{where}: {name}={value!r}: expected numbers for {', '.join(_NUMBERS)}")
    return Tolerance(**given)


def parse(text: str) -> StepTolerance:
    """``"GEMV=rtol 0.05 atol 1e-3 because its sums cancel"``, or of one step ``"0:3=ulps 2 because ..."``.

    The words are ``rtol``, ``atol``, ``ulps`` (bf16), ``range`` (share of the largest expected magnitude), ``errors``
    (share of elements that may fail), each with a number; or ``exact``.

    Raises:
        UsageError: anything else, or no reason.
    """
    left, because, why = text.partition(" because ")
    target, equals, limits = left.partition("=")
    where = f"tolerance {text!r}"
    if not because or not why.strip():
        raise UsageError(f"{where}: expected its reason, as in {EXAMPLE!r}")
    if not equals or not target.strip():
        raise UsageError(f"{where}: expected OPERATOR=LIMITS or ADDRESS=LIMITS, as in {EXAMPLE!r}")
    words = limits.replace(",", " ").split()
    numbers: dict[str, Any] = {}
    if words != ["exact"]:
        if not words or len(words) % 2:
            raise UsageError(f"{where}: expected pairs such as 'rtol 0.05', or 'exact', found {limits.strip()!r}")
        for word, value in zip(words[::2], words[1::2], strict=True):
            if word not in _WORDS:
                raise UsageError(f"{where}: {word!r}: expected one of {', '.join(_WORDS)}, or exact")
            try:
                numbers[_WORDS[word]] = int(value) if word == "ulps" else float(value)
            except ValueError:
                raise UsageError(f"{where}: {word} {value!r}: expected a number") from None
    return StepTolerance(target.strip(), Tolerance(**numbers), why.strip())


def in_force(tolerances: Iterable[StepTolerance]) -> dict[str, Tolerance]:
    """Limits by address or by operator type, as a replay's plan takes them."""
    return {t.target if t.is_step else canonical(t.target): t.limits for t in tolerances}


def unused(tolerances: Iterable[StepTolerance], steps: Iterable[GoldenStep]) -> list[StepTolerance]:
    """Those that no step has any use for."""
    known = {name for s in steps for name in (s.address, canonical(s.op))}
    return [t for t in tolerances if (t.target if t.is_step else canonical(t.target)) not in known]


def canonical(op: str) -> str:
    """An operator's own name, whatever alias was given."""
    spec = refs.lookup(op)
    return op if spec is None else spec.type


def replaced(old: Iterable[StepTolerance], new: Iterable[StepTolerance]) -> tuple[StepTolerance, ...]:
    """``old`` with the targets of ``new`` set anew."""
    merged: Mapping[str, StepTolerance] = {t.target: t for t in (*old, *new)}
    return tuple(merged.values())


__all__ = [
    "EXAMPLE",
    "StepTolerance",
    "canonical",
    "in_force",
    "limits_from_dict",
    "limits_to_dict",
    "parse",
    "replaced",
    "unused",
]
