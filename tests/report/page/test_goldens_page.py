# SPDX-License-Identifier: Apache-2.0
"""The page of waiting goldens: what the terminal says, as text; and that nothing waits is said."""

from __future__ import annotations

from fusion_replay.report.page.goldens_page import goldens_page
from report.page.test_replay_page import HOSTILE, Parsed


def test_what_waits_is_told() -> None:
    waiting = [
        ("gelu", "", ["gelu: 1 of 2 steps differ", "  0:0 GELU: max_abs 0 -> 3"]),
        (HOSTILE[0], "spoilt", [HOSTILE[1]]),
    ]
    page = Parsed(goldens_page("goldens", waiting))
    data = page.data
    assert data["headline"]["text"] == "2 goldens wait for a review in goldens."
    assert data["headline"]["evidence"] == "1 can't be accepted as they are."
    assert data["headline"]["tone"] == "bad"
    assert [(g["name"], g["problem"], g["lines"][0]) for g in data["goldens"]] == [
        ("gelu", "", "gelu: 1 of 2 steps differ"),
        (HOSTILE[0], "spoilt", HOSTILE[1]),
    ]
    assert not {"img"} & {tag for tag, _ in page.tags}


def test_nothing_waits() -> None:
    data = Parsed(goldens_page("goldens", [])).data
    assert (data["headline"]["text"], data["headline"]["tone"]) == ("Nothing waits in goldens.", "good")
