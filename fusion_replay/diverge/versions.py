# SPDX-License-Identifier: Apache-2.0
"""Which commit or toolchain version broke it: a command makes a recording, a golden one judges it.

One try is what ``git bisect run`` wants: 0 good, 1 bad, 125 can't be judged. Over a list of versions the search is
driven here, with a journal written before each try: one that hangs is ended after a time limit, one that takes the
machine down is skipped when the search is started again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_replay.diverge.diff import diff
from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.model import serialise
from fusion_replay.replaying.replay_report import canonical_json
from fusion_replay.system.attempts import Attempts
from fusion_replay.system.processes import run

GOOD, BAD, SKIPPED = 0, 1, 125
"""Exit statuses as ``git bisect run`` reads them; nothing else is ever given, since it takes 2 to 124 for bad."""

WORDS = {GOOD: "good", BAD: "bad", SKIPPED: "can't be judged"}

OUT, VERSION = "FUSION_REPLAY_OUT", "FUSION_REPLAY_VERSION"
"""The command's environment: where to write its recording, and which version is tried."""


@dataclass(frozen=True, slots=True)
class Try:
    """One run of the command; ``status`` is one of :data:`WORDS`, ``version`` empty outside of a list."""

    version: str
    status: int
    reason: str

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        return (
            f"{self.version}: {WORDS[self.status]}: {self.reason}"
            if self.version
            else f"{WORDS[self.status]}: {self.reason}"
        )


@dataclass(frozen=True)
class VersionSearch:
    """Which of some versions is the first bad one; truthy when one is, and it is known which.

    Attributes:
        versions: all that were given, oldest first.
        attempts: every try, in order (those of an earlier run included).
        good: the last version that is known to be good, None where the first one is bad already.
        first_bad: candidates for the first bad one: more than one where versions between could not be judged, none
            where no bad one was found.
    """

    versions: tuple[str, ...]
    attempts: tuple[Try, ...]
    good: str | None
    first_bad: tuple[str, ...]

    def __bool__(self) -> bool:
        return len(self.first_bad) == 1 and self.good is not None

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        if not self.first_bad:
            if self.good is None:
                return "no version could be judged"
            return f"no bad version was found; {self.good} is good"
        if self.good is None:
            return (
                f"{self.first_bad[-1]} is bad, and no earlier version of the list is good: begin the list further back"
            )
        if len(self.first_bad) == 1:
            return f"{self.first_bad[0]} is the first bad version; {self.good} is good"
        *unknown, last = self.first_bad
        between = f"{', '.join(unknown)} can't be judged"
        return f"the first bad version lies between {self.good} (good) and {last} (bad); {between}"

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines: a ``try`` each, then one ``versions``."""
        yield from ({"type": "try", **t.to_dict()} for t in self.attempts)
        yield {
            "type": "versions",
            "versions": list(self.versions),
            "good": self.good,
            "first_bad": list(self.first_bad),
            "found": bool(self),
        }


def one_try(
    command: str,
    against: str | os.PathLike[str],
    *,
    rule: str = "auto",
    timeout: float | None = None,
    version: str = "",
) -> Try:
    """Run ``command`` (by the shell) and judge the recording it makes by ``against``.

    The command finds where to write in ``$FUSION_REPLAY_OUT``, which ``fusion-replay record`` without ``-o`` obeys by
    itself; ``{version}`` in it, and ``$FUSION_REPLAY_VERSION``, give the version.

    Args:
        timeout: seconds after which the command and all it started are killed.

    Returns:
        Never raises for what the command or its recording is like: that is :data:`SKIPPED` with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="fusion-replay-try-") as folder:
        out = Path(folder) / "try.h5"
        environment = {**os.environ, OUT: str(out), VERSION: version}
        ended = _run(command.replace("{version}", version), environment, timeout)
        try:
            report = diff(against, out, rule)
        except FusionReplayError as error:
            why = str(error).replace(str(out), f"${OUT}")
            if why.startswith(f"${OUT}: no such file"):
                why = f"${OUT}: no such file, so nothing was recorded there; `fusion-replay record` without -o does"
            return Try(version, SKIPPED, f"{ended}; {why}" if ended else why)
        if report.mismatch:
            first = f"{report.sentence}, first {report.first.label}" if report.first is not None else report.sentence
            return Try(version, BAD, first)
        if ended:
            return Try(version, SKIPPED, f"{ended}, though what it recorded agrees")
        if report.unanswered:
            return Try(version, SKIPPED, report.unanswered[0])
        return Try(version, GOOD, report.sentence)


def find_version(
    command: str,
    against: str | os.PathLike[str],
    versions: Sequence[str],
    *,
    rule: str = "auto",
    timeout: float | None = None,
    journal: str | os.PathLike[str] | None = None,
    told: Callable[[Try], None] | None = None,
) -> VersionSearch:
    """Find the first bad one of ``versions`` (oldest first), trying as few as possible.

    Args:
        command, against, rule, timeout: as in :func:`one_try`.
        journal: where what was tried is kept; a file that lies there is gone on with, a try in it that never ended is
            skipped. It is removed at the end.
        told: called with each try as it ends.

    Raises:
        UsageError: no versions, one given twice, or a journal of something else.
    """
    names = tuple(versions)
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise UsageError(f"versions {', '.join(names) or '(none)'}: expected at least two different ones, oldest first")
    plan = canonical_json({"run": command, "against": Path(against).name, "versions": list(names), "rule": rule})
    attempts = Attempts(None if journal is None else Path(journal), plan)
    made: dict[str, Try] = {}

    def status(index: int) -> int:
        name = names[index]
        if name not in made:
            if name not in attempts.done:
                if attempts.unfinished.get(name):
                    found = Try(name, SKIPPED, "an earlier try of it never ended")
                else:
                    attempts.begin(name)
                    found = one_try(command, against, rule=rule, timeout=timeout, version=name)
                attempts.end(name, [found.status, found.reason])
            made[name] = Try(name, *attempts.done[name])
            if told is not None:
                told(made[name])
        return made[name].status

    finished = False
    try:
        good, bad = narrowest_pair(status, len(names))
        finished = True
    finally:
        attempts.close(keep=not finished)
    between = names[bad if good is None else good + 1 : bad + 1] if bad is not None else ()
    return VersionSearch(names, tuple(made.values()), None if good is None else names[good], between)


def narrowest_pair(status: Callable[[int], int], n: int) -> tuple[int | None, int | None]:
    """The last good and the first bad index, nothing but versions that can't be judged between them."""
    good = next((i for i in range(n) if status(i) != SKIPPED), None)
    if good is None:
        return None, None
    if status(good) == BAD:
        return None, good
    bad = next((i for i in reversed(range(good + 1, n)) if status(i) != SKIPPED), None)
    if bad is None or status(bad) == GOOD:
        return (good if bad is None else bad), None
    while True:
        middle = (good + bad) // 2
        # The nearest to the middle that can be judged; asked for one by one, since each costs a build.
        order = sorted(range(good + 1, bad), key=lambda i: (abs(i - middle), i))
        judged = next((i for i in order if status(i) != SKIPPED), None)
        if judged is None:
            return good, bad
        if status(judged) == BAD:
            bad = judged
        else:
            good = judged


def _run(command: str, environment: dict[str, str], timeout: float | None) -> str:
    """Empty where it ended with 0, else what happened. What it prints goes to stderr: stdout is for the answer."""
    try:
        status = run(["/bin/sh", "-c", command], timeout, env=environment, stdout=2, stderr=None).returncode
    except OSError as error:
        return f"the command could not be started ({error.strerror})"
    except subprocess.TimeoutExpired:
        return f"the command was killed after {timeout:g} s"
    if status in (126, 127):
        return f"the command could not be started (exit status {status} of the shell)"
    number = -status if status < 0 else status - 128  # a shell says so of what it ran
    if number in set(signal.Signals):
        return f"the command was ended by {signal.Signals(number).name}"
    return f"the command ended with exit status {status}" if status else ""


__all__ = ["BAD", "GOOD", "OUT", "SKIPPED", "VERSION", "WORDS", "Try", "VersionSearch", "find_version", "one_try"]
