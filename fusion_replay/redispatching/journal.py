# SPDX-License-Identifier: Apache-2.0
"""What is tried, on the disk before it is tried: whatever takes the machine down, the next run knows which step did.

One JSON object per line: the plan, ``{"try": ADDRESS}`` before each dispatch, ``{"done": {...}}`` after a step. A try
without its end hung, or took the process with it, and is not tried again while the journal lies there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from fusion_replay.errors import UsageError
from fusion_replay.redispatching.outcome import HUNG, LOST, StepOutcome

_ENDED = "an earlier run ended while it ran"


class TryJournal:
    """The journal of one plan (a digest of all that decides the outcome); ``path`` None: none is kept.

    Attributes:
        done: outcomes of an earlier run of the same plan, by address.
        hung: addresses that an earlier run did not survive, with what is known.

    Raises:
        UsageError: it can't be written there, or is the journal of something else.
    """

    def __init__(self, path: Path | None, plan: str) -> None:
        self.path = path
        self.done: dict[str, StepOutcome] = {}
        self.hung: dict[str, str] = {}
        self._file: IO[str] | None = None
        if path is None:
            return
        try:
            known = path.read_text("utf-8", "replace") if path.exists() else ""
            if known:
                self._read(known.splitlines(), plan)
            self._file = path.open("a", encoding="utf-8")
            if known and not known.endswith("\n"):
                self._file.write("\n")  # the last line of a machine that went down
        except OSError as error:
            raise UsageError(
                f"{path}: the journal of what is tried can't be written ({error.strerror}); give --journal FILE"
            ) from error
        if not known:
            self._write({"plan": plan})

    def trying(self, address: str) -> None:
        self._write({"try": address})

    def finished(self, outcome: StepOutcome) -> None:
        self._write({"done": outcome.to_dict()})

    def close(self, *, keep: bool) -> None:
        """Remove it unless a later run still needs it."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if not keep and self.path is not None:
                self.path.unlink(missing_ok=True)

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())  # a hung NPU may need the power button

    def _read(self, lines: list[str], plan: str) -> None:
        entries = []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        if not entries or not isinstance(entries[0], dict) or entries[0].get("plan") != plan:
            raise UsageError(f"{self.path}: is no journal of this redispatch; move it away, or give --journal FILE")
        trying: str | None = None
        for entry in (e for e in entries[1:] if isinstance(e, dict)):
            if "try" in entry:
                if trying not in (None, str(entry["try"])):
                    self.hung[str(trying)] = _ENDED
                trying = str(entry["try"])
                continue
            trying = None
            try:
                outcome = StepOutcome.from_dict(entry["done"])
            except (KeyError, TypeError, ValueError):
                continue
            if outcome.verdict in (HUNG, LOST):
                self.hung[outcome.address] = f"{outcome.verdict} in an earlier run"
            else:
                self.done[outcome.address] = outcome
        if trying is not None:
            self.hung[trying] = _ENDED


__all__ = ["TryJournal"]
