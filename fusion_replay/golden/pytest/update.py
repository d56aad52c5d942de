# SPDX-License-Identifier: Apache-2.0
"""``--fr-update``: propose and accept in one go, by the same steps as a review."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fusion_replay.errors import FusionReplayError
from fusion_replay.golden.check_report import GoldenResult
from fusion_replay.golden.project import Project
from fusion_replay.golden.review import accept, reject, waiting


def accept_at_once(old: GoldenResult, check: Callable[[Path], GoldenResult], folder: Path) -> GoldenResult:
    """The golden's result after what ``check`` proposes in an empty folder was accepted.

    ``old`` comes back, with the reason in its notes, where nothing could be proposed or accepted.
    """
    with tempfile.TemporaryDirectory(prefix="fusion-replay-") as made:
        check(Path(made))
        try:
            if not accept_waiting(Path(made), folder):
                return replace(old, notes=(*old.notes, "not updated: nothing of it can be accepted"))
            found = check(Path(made))
        except FusionReplayError as error:
            return replace(old, notes=(*old.notes, f"not updated: {error}"))
    return replace(found, notes=(*found.notes, "updated"), pending=None)


def accept_waiting(waits: Path, folder: Path) -> int:
    """Accept everything that waits in ``waits`` into ``folder``; how many goldens that were.

    Raises:
        MismatchError: one with mismatches, which need a reason.
        UsageError: as :func:`fusion_replay.golden.review.accept`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pending = waiting(waits, folder)
    for each in pending:
        accept(each, Project.find(folder))
    accepted = {each.name for each in pending}
    for left in waiting(folder):
        if left.name in accepted and left.new is not None and left.problem:  # superseded: nobody can accept it now
            reject(left)
    return len(pending)


__all__ = ["accept_at_once", "accept_waiting"]
