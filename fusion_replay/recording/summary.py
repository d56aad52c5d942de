# SPDX-License-Identifier: Apache-2.0
"""What is told on stderr of a recording that ended: what is missing from it, and what was noticed.

Tested in tests/recording/test_recorder.py and test_retention.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_replay.model.withheld import BEYOND, BEYOND_BUDGET
from fusion_replay.system.messages import say

if TYPE_CHECKING:
    from fusion_replay.snapshot import WriteReport
    from fusion_replay.snapshot.schema import Loss


def tell(path: Path, report: WriteReport, *, told: bool) -> None:
    """``told``: a failure stands on stderr already."""
    if report.steps == 0:
        why = "no watched callable ran inside the block and no step was given"
        if report.losses:
            why = "the reason was told above" if told else in_short(report.losses)
        say(f"nothing was recorded in {path}: {why}")
    elif (lost := [x for x in report.losses if not x.asked_for]) and not told:
        say(f"{path} is incomplete: {in_short(lost)}")
    elif limits := [x for x in report.losses if x.asked_for and (BEYOND in x.detail or BEYOND_BUDGET in x.detail)]:
        say(f"{path}: a limit was reached: {in_short(limits)}")
    for note in report.notes:
        say(f"{path}: {note}")


def in_short(losses: Iterable[Loss]) -> str:
    """The first few losses, and how many more there are."""
    shown = [f"{loss.kind}: {loss.detail} ({loss.count})" for loss in losses]
    more = [f"and {len(shown) - 5} more, see fusion-replay show"] if len(shown) > 5 else []
    return "; ".join(shown[:5] + more)


__all__ = ["in_short", "tell"]
