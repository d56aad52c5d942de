# SPDX-License-Identifier: Apache-2.0
"""Asks operators for their own references while their kernels run, within what that may cost the program.

A reference is computed in a thread beside the dispatching one, from the step's begin on, on copies of its inputs; when
the kernel is back the program waits for it, which is what it costs. One that takes too long is abandoned, its thread
with it, and its operator is not asked again; so at the end of the program nothing is outstanding.
"""

from __future__ import annotations

import contextvars
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.model.withheld import BEYOND_BUDGET
from fusion_replay.recording.option_declaration import size_in_bytes
from fusion_replay.system.messages import human_bytes, in_words

if TYPE_CHECKING:
    import numpy.typing as npt

Results = dict[int, "npt.NDArray[Any]"]
"""By operand position."""

DEFAULT_BUDGET = "30,1G"
ONE_AT_MOST = 10.0  # seconds for a single one
_RAISES = 3  # in a row, after which an operator is not asked again


@dataclass(frozen=True, slots=True)
class Budget:
    """What references may cost: seconds that the program waits, bytes of what is kept, and of one step's copies."""

    seconds: float
    nbytes: int

    @classmethod
    def parse(cls, text: str) -> Budget:
        """``30,1G``: seconds (``30`` or ``30s``), then a size, which may be left out.

        Raises:
            UsageError: anything else.
        """
        seconds, _, size = text.strip().partition(",")
        found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*s?", seconds.strip())
        if found is None:
            raise UsageError(f"reference_budget {text!r}: expected seconds and a size, such as {DEFAULT_BUDGET}")
        return cls(float(found[1]), size_in_bytes(size or DEFAULT_BUDGET.partition(",")[2], "reference_budget"))


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was kept, and ``why``; ``failed``: something went wrong, or else it could not be had."""

    why: str
    failed: bool = False


@dataclass(slots=True)
class Asked:
    """One reference that is being computed."""

    kind: str
    ask: Callable[[], Results]
    nbytes: int
    done: threading.Event = field(default_factory=threading.Event)
    results: Results | None = None
    error: BaseException | None = None

    def run(self) -> None:
        try:
            self.results = self.ask()
        except BaseException as error:  # whatever it raises is told, in the thread that waits
            self.error = error
        self.done.set()


class References:
    """One per recording; used by one thread at a time.

    Attributes:
        kept: how many there are; ``seconds``: that the program waited; ``nbytes``: of all that was kept.
    """

    def __init__(self, budget: str) -> None:
        self.kept, self.seconds, self.nbytes = 0, 0.0, 0
        self._text, self._budget = budget, Budget.parse(budget)
        self._jobs: queue.SimpleQueue[Asked | None] | None = None
        self._pid = os.getpid()
        self._raised: dict[str, int] = {}
        self._banned: dict[str, Refused] = {}

    def refusal(self, kind: str, copies: int) -> Refused | None:
        """Why an operator of this kind is not asked, ``copies`` bytes of inputs being needed; None: it is."""
        if kind in self._banned:
            return self._banned[kind]
        if self.seconds >= self._budget.seconds or self.nbytes + copies > self._budget.nbytes:
            return Refused(f"{BEYOND_BUDGET}{self._text}, record with a larger one to have it")
        return Refused("it is a forked child") if os.getpid() != self._pid else None

    def begin(self, kind: str, ask: Callable[[], Results], nbytes: int) -> Asked:
        """Start computing; ``nbytes``: of the results."""
        asked = Asked(kind, ask, nbytes)
        jobs = self._jobs
        if jobs is None:
            jobs = queue.SimpleQueue()
            try:
                threading.Thread(target=_work, args=(jobs,), name="fusion-replay reference", daemon=True).start()
            except RuntimeError:  # no thread can be started here: it is asked at once
                asked.run()
                return asked
            self._jobs = jobs
        asked.ask = _in_context(ask)
        jobs.put(asked)
        return asked

    def collect(self, asked: Asked) -> Results | Refused:
        """What it gave, or why it gave nothing; waits as long as the budget lets it."""
        started = time.monotonic()
        limit = min(ONE_AT_MOST, max(0.0, self._budget.seconds - self.seconds))
        came = asked.done.wait(limit)
        self.seconds += time.monotonic() - started
        if not came:
            self.abandon(asked)
            return self._ban(asked.kind, f"its own reference had not come back after {limit:.3g} s, and was abandoned")
        if isinstance(asked.error, FusionReplayError):
            return self._ban(asked.kind, str(asked.error), failed=False)
        if asked.error is not None:
            self._raised[asked.kind] = self._raised.get(asked.kind, 0) + 1
            why = f"its own reference raised {in_words(asked.error)}"
            return self._ban(asked.kind, why) if self._raised[asked.kind] >= _RAISES else Refused(why, failed=True)
        self._raised.pop(asked.kind, None)
        self.kept, self.nbytes = self.kept + 1, self.nbytes + asked.nbytes
        return asked.results or {}

    def abandon(self, asked: Asked) -> None:
        """It is not waited for any more; a thread that is still at it ends when it comes back, if ever."""
        if not asked.done.is_set():
            self.close()
            self._jobs = None

    def close(self) -> None:
        if self._jobs is not None and os.getpid() == self._pid:
            self._jobs.put(None)

    @property
    def told(self) -> str | None:
        """What they came to, for the last line; None where none was kept."""
        if not self.kept:
            return None
        steps = f"{self.kept:,} step{'' if self.kept == 1 else 's'}"
        cost = f"{self.seconds:.2f} s of waiting, {human_bytes(self.nbytes)}"
        return f"IRON's own reference was kept for {steps}: {cost} (--no-reference asks for none)"

    def _ban(self, kind: str, why: str, *, failed: bool = True) -> Refused:
        self._banned[kind] = Refused(why, failed)
        return self._banned[kind]


def _in_context(ask: Callable[[], Results]) -> Callable[[], Results]:
    """As the dispatching thread would have asked: IRON keeps its profile and its tracer in context variables."""
    context = contextvars.copy_context()
    return lambda: context.run(ask)


def _work(jobs: queue.SimpleQueue[Asked | None]) -> None:
    while (asked := jobs.get()) is not None:
        asked.run()


__all__ = ["DEFAULT_BUDGET", "Asked", "Budget", "References", "Refused", "Results"]
