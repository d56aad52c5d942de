# SPDX-License-Identifier: Apache-2.0
"""Tables of forms, which form answers where one is missing, and the times when IRON had no reference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fusion_replay.compare.tolerance import exact
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import FLAVOURS, Call, OperatorSpec, every, iron, pointwise


def one(call: Call, a: Any) -> Any:
    return a


def other(call: Call, a: Any) -> Any:
    return -a


def made_up(**given: Any) -> OperatorSpec:
    arg = ArgSpec("A", "in", (2,))
    base: dict[str, Any] = {"flavours": every(one), "tolerance": {"*": exact()}}
    return OperatorSpec(type="Mine", args=lambda p: (arg,), params=(), **base | given)


def test_one_form_serves_every_flavour() -> None:
    spec = made_up(flavours=every(one))
    assert [spec.flavour(name) for name in FLAVOURS] == [(name, one) for name in FLAVOURS]
    assert spec.forms() == [("pr117", list(FLAVOURS))]


def test_irons_form_and_the_true_value() -> None:
    spec = made_up(flavours=iron(one, exact=other))
    assert spec.forms() == [("pr117", ["pr117", "iron-2026-08", "iron-2026-09"]), ("exact", ["exact"])]
    assert spec.flavour("exact") == ("exact", other)


@pytest.mark.parametrize(
    ("has", "asked", "answers"),
    [
        (("iron-2026-09", "exact"), "pr117", "iron-2026-09"),
        (("iron-2026-08", "exact"), "iron-2026-09", "iron-2026-08"),
        (("pr117", "exact"), "iron-2026-09", "exact"),
        (("pr117",), "exact", "pr117"),
    ],
)
def test_the_nearest_form_answers(has: tuple[str, ...], asked: str, answers: str) -> None:
    assert made_up(flavours=dict.fromkeys(has, one)).flavour(asked)[0] == answers


def test_a_pointwise_form_hands_over_the_namespace() -> None:
    form = pointwise(lambda xp, a: xp.abs(a))
    assert form(SimpleNamespace(xp=np), np.array([-2.0, 1.0])).tolist() == [2.0, 1.0]


def test_no_reference_is_told_for_its_flavours_alone() -> None:
    spec = made_up(no_reference=("pr117",), iron_fails=lambda p, flavour: f"else, {flavour}")
    told = spec.iron_failure({}, "pr117")
    assert told == "IRON's Mine of pull request 117 has no reference(): compare mode skips the step or raises"
    assert spec.iron_failure({}, "iron-2026-08") == "else, iron-2026-08"
    assert made_up(no_reference=("pr117",)).iron_failure({}, "exact") is None
