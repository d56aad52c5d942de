# SPDX-License-Identifier: Apache-2.0
"""What a redispatch tried: outcomes that stand, and steps that an earlier run did not survive."""

from __future__ import annotations

from pathlib import Path

from fusion_replay.replaying.redispatch.outcome import HUNG, LOST, NOT_RUN, StepOutcome
from fusion_replay.system.attempts import Attempts


class TryJournal:
    """:class:`~fusion_replay.system.attempts.Attempts` by step address; a try without its end is not made again.

    Attributes:
        path: where it lies; None: none is kept.
        done: outcomes of an earlier run of the same plan, by address.
        hung: addresses that an earlier run did not survive, with what is known.

    Raises:
        UsageError: it can't be written there, or is the journal of something else.
    """

    def __init__(self, path: Path | None, plan: str) -> None:
        self.path = path
        self._attempts = Attempts(path, plan)
        self.done: dict[str, StepOutcome] = {}
        self.hung = dict.fromkeys(self._attempts.unfinished, "an earlier run ended while it ran")
        for address, value in self._attempts.done.items():
            try:
                outcome = StepOutcome.from_dict(dict(value))
            except (KeyError, TypeError, ValueError):
                continue  # tried again
            if outcome.verdict in (HUNG, LOST):
                self.hung[address] = f"{outcome.verdict} in an earlier run"
            elif outcome.verdict != NOT_RUN:  # what was missing may be here now
                self.done[address] = outcome

    def trying(self, address: str) -> None:
        self._attempts.begin(address)

    def finished(self, outcome: StepOutcome) -> None:
        self._attempts.end(outcome.address, outcome.to_dict())

    def close(self, *, keep: bool) -> None:
        """Remove it unless a later run still needs it."""
        self._attempts.close(keep=keep)


__all__ = ["TryJournal"]
