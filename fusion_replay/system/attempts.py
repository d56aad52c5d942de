# SPDX-License-Identifier: Apache-2.0
"""A journal of attempts, each on the disk before it is made: the next run knows which one hung or crashed.

One JSON object per line: the plan, ``{"try": KEY}`` before, ``{"done": KEY, "value": ...}`` after. A try without its
end hung, or took the process with it; the reader of the journal decides whether it is tried again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from fusion_replay.errors import UsageError


class Attempts:
    """The journal of one plan (a text that names all that decides the outcome); ``path`` None: none is kept.

    Attributes:
        done: values of an earlier run of the same plan, by key.
        unfinished: keys that an earlier run began and did not end, with how often.

    Raises:
        UsageError: it can't be written there, or is the journal of something else.
    """

    def __init__(self, path: Path | None, plan: str) -> None:
        self.path = path
        self.done: dict[str, Any] = {}
        self.unfinished: dict[str, int] = {}
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

    def begin(self, key: str) -> None:
        self._write({"try": key})

    def end(self, key: str, value: Any) -> None:
        """``value`` is JSON data."""
        self.done[key] = value
        self._write({"done": key, "value": value})

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
            raise UsageError(f"{self.path}: is the journal of something else; move it away, or give --journal FILE")
        for entry in (e for e in entries[1:] if isinstance(e, dict)):
            if "try" in entry:
                self.unfinished[str(entry["try"])] = self.unfinished.get(str(entry["try"]), 0) + 1
            elif "done" in entry and "value" in entry:
                self.done[str(entry["done"])] = entry["value"]
        self.unfinished = {key: n for key, n in self.unfinished.items() if key not in self.done}


__all__ = ["Attempts"]
