# SPDX-License-Identifier: Apache-2.0
"""Flavours: whose rounding a reference follows, which form stands in for a missing one, and tables of forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fusion_replay.model.bf16 import Array

Flavour = Literal["pr117", "iron-2026-08", "iron-2026-09", "exact"]
FLAVOURS: tuple[Flavour, ...] = ("pr117", "iron-2026-08", "iron-2026-09", "exact")

FlavourFn = Callable[..., Any]
"""``(call, *inputs) -> array or tuple``. float64 results are rounded to the arg spec's dtype once at the end, so a
flavour rounds explicitly only *before* its last operation; results in a storage dtype pass through bit for bit."""

NEAREST: dict[str, tuple[str, ...]] = {
    "pr117": ("pr117", "iron-2026-08", "iron-2026-09", "exact"),
    "iron-2026-08": ("iron-2026-08", "pr117", "iron-2026-09", "exact"),
    "iron-2026-09": ("iron-2026-09", "iron-2026-08", "exact", "pr117"),
    "exact": ("exact", "iron-2026-09", "iron-2026-08", "pr117"),
}
"""Where an operator has no form of its own for a flavour, the first of these that it has serves."""


def every(form: FlavourFn) -> dict[str, FlavourFn]:
    """One form that serves every flavour."""
    return dict.fromkeys(FLAVOURS, form)


def iron(form: FlavourFn, *, exact: FlavourFn) -> dict[str, FlavourFn]:
    """One form for all of IRON's flavours, another for the true value rounded once."""
    return {**every(form), "exact": exact}


def pointwise(function: Callable[[Any, Array], Array]) -> FlavourFn:
    """A form from a function of the array namespace and one input."""
    return lambda call, a: function(call.xp, a)


__all__ = ["FLAVOURS", "NEAREST", "Flavour", "FlavourFn", "every", "iron", "pointwise"]
