# SPDX-License-Identifier: Apache-2.0
"""Results as JSON data and back, by hand-written JSON; what is no such result is refused with the place."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from fusion_replay.model import serialise


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    box: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        return len(self.box)

    to_dict = serialise.to_dict


@dataclass(frozen=True)
class Whole:
    error: float
    kind: Literal["good", "bad"]
    part: Part | None
    parts: tuple[Part, ...]
    figures: dict[str, float]
    exact: bool = True
    anything: Any = None


WHOLE = Whole(math.inf, "bad", None, (Part("a", ((1, 2), (3, 4))), Part("b")), {"x": math.nan, "y": 0.5})
TEXT = (
    '{"error": "Infinity", "kind": "bad", "part": null, "parts": [{"name": "a", "box": [[1, 2], [3, 4]]}, '
    '{"name": "b", "box": []}], "figures": {"x": "NaN", "y": 0.5}, "exact": true, "anything": null}'
)


def test_by_fields_in_their_order() -> None:
    assert json.dumps(serialise.to_dict(WHOLE)) == TEXT
    assert WHOLE.parts[0].to_dict() == {"name": "a", "box": [[1, 2], [3, 4]]}


def test_chosen_names_properties_too() -> None:
    assert list(serialise.pick(WHOLE.parts[0], "size", "name").items()) == [("size", 2), ("name", "a")]


def test_values_without_fields() -> None:
    assert serialise.json_data([-math.inf, Path("a/b"), np.float64("nan"), True, 3]) == [
        "-Infinity",
        "a/b",
        "NaN",
        True,
        3,
    ]
    strange = object()
    assert serialise.json_data(strange) is strange


def test_back_again() -> None:
    found = serialise.from_dict(Whole, json.loads(TEXT) | {"later": "added"}, "whole")
    assert repr(found) == repr(WHOLE)
    assert repr(serialise.from_dict(Part, {"name": "b"}, "part")) == repr(Part("b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"error": "a lot"}, "whole: error: expected a number, found a text"),
        ({"error": True}, "whole: error: expected a number, found True"),
        ({"exact": 1}, "whole: exact: expected true or false, found 1"),
        ({"kind": "ugly"}, "whole: kind: expected one of good, bad, found 'ugly'"),
        ({"part": []}, "whole: part: expected an object, found a list"),
        ({"parts": None}, "whole: parts: expected a list, found nothing"),
        ({"parts": [{"box": []}]}, r"whole: parts\[0\]: name: expected a text, found nothing"),
        ({"parts": [{"name": "a", "box": [[1]]}]}, r"parts\[0\]: box\[0\]: expected 2 entries, found 1"),
        ({"parts": [{"name": "a", "box": [[1, True]]}]}, r"box\[0\]\[1\]: expected a whole number, found True"),
        ({"figures": {"x": None}}, "whole: figures: x: expected a number, found nothing"),
    ],
)
def test_what_it_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serialise.from_dict(Whole, json.loads(TEXT) | change, "whole")
    with pytest.raises(ValueError, match="whole: expected an object, found a text"):
        serialise.from_dict(Whole, "text", "whole")
