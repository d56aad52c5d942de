# SPDX-License-Identifier: Apache-2.0
"""``412``, ``10-20``, ``3:412``, ``3:400-412``: what each takes, by counting."""

from __future__ import annotations

import pytest

from fusion_replay.errors import UsageError
from fusion_replay.model.step_filter import StepFilter


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("2", {(0, 2), (1, 2)}),
        ("0-1", {(0, 0), (0, 1), (1, 0), (1, 1)}),
        ("1:2", {(1, 2)}),
        ("1:0-1", {(1, 0), (1, 1)}),
        (" 1:0 , 2 ", {(1, 0), (0, 2), (1, 2)}),
        ("7", set()),
    ],
)
def test_what_is_taken(text: str, taken: set[tuple[int, int]]) -> None:
    wanted = StepFilter.parse(text)
    assert {(i, s) for i in range(2) for s in range(3) if wanted.takes(i, s)} == taken


@pytest.mark.parametrize("text", ["", "a", "1:", ":1", "2-1", "1:2-", "1-2:3", "-1", "1:2:3", "1,,2", "\u0661"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="step"):
        StepFilter.parse(text)
