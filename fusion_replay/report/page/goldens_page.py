# SPDX-License-Identifier: Apache-2.0
"""The page of goldens that wait for a review: what would change in each, as the terminal says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusion_replay.report.headline import Headline
from fusion_replay.report.page.chunks import Chunks
from fusion_replay.report.page.document import document
from fusion_replay.report.text import count


def goldens_page(folder: str, waiting: Sequence[tuple[str, str, Sequence[str]]]) -> str:
    """``waiting``: of each golden its name, why it can't be accepted ("" where it can), and what would change."""
    blocked = sum(bool(problem) for _, problem, _ in waiting)
    waits = f"{count(len(waiting), 'golden')} {'wait' if len(waiting) > 1 else 'waits'} for a review in {folder}."
    text = waits if waiting else f"Nothing waits in {folder}."
    tone = "bad" if blocked else "warn" if waiting else "good"
    told = Headline(text, f"{blocked:,} can't be accepted as they are." if blocked else "", "", tone)
    data: dict[str, Any] = {
        "kind": "goldens",
        "title": text,
        "headline": told.to_dict(),
        "under": ["fusion-replay golden accept NAME takes one over, golden reject NAME removes it."] if waiting else [],
        "command": "",
        "columns": [],
        **{name: [] for name in ("sequences", "invocations", "runs", "states", "judged", "marks", "reasons", "worst")},
        "figures": {},
        "panels": {},
        "findings": [],
        "inside": ["No arrays: what a golden keeps is told in words and figures."],
        "goldens": [{"name": name, "problem": problem, "lines": list(lines)} for name, problem, lines in waiting],
    }
    return document(data, Chunks(0))


__all__ = ["goldens_page"]
