# SPDX-License-Identifier: Apache-2.0
"""``bisect_fused()``: the smallest stretch of a runlist that is wrong only when it is fused.

The whole first: what it leaves in its buffers bounds where the first difference was made. Then prefixes of the runlist,
by halving: the shortest one that gives other bits ends with the step that shows it. Then the latest start from which it
is wrong: outside the bound of its own few steps, since a window that begins in the middle finds the cores in another
rounding state, and its last bits say nothing. Where no such window is wrong, folds have dropped roundings, and prefixes
are halved again by what is outside the chained bound. Last the control: the same window with the likeliest suspect
removed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.diverge.fused_divergence import FusedDivergence, WindowResult
from fusion_replay.diverge.fusion_suspects import IN_PLACE, OVERLAP, Suspect
from fusion_replay.diverge.windows import Window, WindowOutcome, Windows
from fusion_replay.errors import UsageError
from fusion_replay.model import serialise
from fusion_replay.replaying.replay_report import canonical_json
from fusion_replay.system.attempts import Attempts

if TYPE_CHECKING:
    from fusion_replay.snapshot import Snapshot

REPEATS = 10
"""Dispatches of a window until it counts as right; a fault that strikes one in four is missed by 6 %."""
CONTROLS = 2
"""Suspects that are removed, one after the other, until the window is right."""
TWICE = 2
"""A window whose attempt did not end so often counts as one that hangs."""
NEAR = (1, 8, 64)
"""Steps of the windows that are tried for the start; what shows itself later than that is searched for by halving."""


def bisect_fused(
    sequence: Any,
    snapshot: str | os.PathLike[str] | Snapshot,
    *,
    invocation: int | None = None,
    repeats: int = REPEATS,
    journal: str | os.PathLike[str] | None = None,
    told: Callable[[str], None] | None = None,
) -> FusedDivergence:
    """Find the step, and the smallest window of steps, that are wrong only when they are fused.

    Args:
        sequence: IRON's ``OperatorSequence`` of fused dispatch (or the software NPU's), on the machine with the NPU.
            It is neither called nor changed: windows are sequences of its class with its operators.
        snapshot: the recording of separate dispatch of the same sequence.
        invocation: whose steps; by default the last complete one's.
        repeats: dispatches of a window until it counts as right.
        journal: a file in which results are kept as they come; one that lies there is gone on with, and it is removed
            at the end.
        told: called with a sentence before each build: which window, how many may follow, how long it may take.

    Raises:
        UsageError: npu1, another sequence than the recorded one, a recording of whole calls, a journal of something
            else.
        MissingError: a window can't be built, or needs contents that were not recorded.
        SnapshotError: no usable snapshot.
    """
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise UsageError(f"repeats {repeats!r}: expected a count above 0")
    from fusion_replay.snapshot import opened

    with opened(snapshot) as snap:
        number = _invocation(snap, invocation)
        windows = Windows(sequence, snap, number, repeats)
        plan = {"bisect fused": snap.index.recording, "invocation": number, "repeats": repeats}
        attempts = Attempts(None if journal is None else Path(journal), canonical_json(plan))
        finished = False
        try:
            found = _Search(windows, attempts, told or (lambda _: None)).run(number)
            finished = True
            return found
        finally:
            attempts.close(keep=not finished)


class _Search:
    def __init__(self, windows: Windows, attempts: Attempts, told: Callable[[str], None]) -> None:
        self._windows, self._attempts, self._told = windows, attempts, told
        self._made: dict[str, tuple[Window, WindowOutcome, bool]] = {}
        self._most = int(2 * math.log2(len(windows.steps)) + 6)

    def run(self, invocation: int) -> FusedDivergence:
        whole = self._judged(Window(0, len(self._windows.steps) - 1))
        for bad in (_differs, _wrong):
            if not bad(whole):
                continue
            last = self._shortest_prefix(bad, whole)
            start = self._start(last, halving=bad is _wrong)
            if start is not None:
                window = Window(start, last)
                return self._answer(invocation, window, self._control(window))
        return self._answer(invocation, None, None)

    def _shortest_prefix(self, bad: Callable[[WindowOutcome], bool], whole: WindowOutcome) -> int:
        """The last step of the shortest prefix that is bad."""
        shown = whole.differs if bad is _differs else whole.step
        right, wrong = 0, len(self._windows.steps)  # lengths of prefixes
        ahead = 1 if shown is not None else wrong
        while shown is not None and shown + ahead < wrong:  # what shows it may need the steps that read it
            if bad(self._judged(Window(0, shown + ahead - 1))):
                wrong = shown + ahead
            else:
                right, ahead = shown + ahead, 4 * ahead
        while wrong - right > 1:
            middle = (right + wrong) // 2
            if bad(self._judged(Window(0, middle - 1))):
                wrong = middle
            else:
                right = middle
        return wrong - 1

    def _start(self, last: int, *, halving: bool) -> int | None:
        """The latest step from which the window that ends with ``last`` is wrong; None: it isn't from any near one."""
        right = last + 1
        for size in NEAR:
            first = max(last - size + 1, 0)
            if first < right and _wrong(self._judged(Window(first, last))):
                return self._latest(first, right, last)
            right = first
        return self._latest(0, right, last) if halving and right else None

    def _latest(self, wrong: int, right: int, last: int) -> int:
        """Between a start from which it is wrong and a later one from which it is not."""
        while right - wrong > 1:
            middle = (right + wrong) // 2
            if _wrong(self._judged(Window(middle, last))):
                wrong = middle
            else:
                right = middle
        return wrong

    def _control(self, window: Window) -> Suspect | None:
        tried = [s for s in self._judged(window).suspects if s.explains and s.kind in (IN_PLACE, OVERLAP)]
        for suspect in tried[:CONTROLS]:
            changed = replace(window, packed=True) if suspect.kind == OVERLAP else replace(window, apart=suspect.step)
            if not _wrong(self._judged(changed)):
                return suspect
        return None

    def _judged(self, window: Window) -> WindowOutcome:
        key = window.key
        if key not in self._made:
            hung = self._attempts.unfinished.get(key, 0) >= TWICE
            if hung:
                judged = WindowOutcome(True, window.last, window.last, "", False, 0, 0.0)
            elif key in self._attempts.done:
                judged = _from_data(self._attempts.done[key])
            else:
                self._told(self._announced(window))
                self._attempts.begin(key)
                judged = self._windows.judge(window)
                self._attempts.end(key, serialise.to_dict(judged))
            self._made[key] = window, judged, hung
        return self._made[key][1]

    def _announced(self, window: Window) -> str:
        size = window.last - window.first + 1
        known = [j.seconds / (w.last - w.first + 1) for w, j, _ in self._made.values() if j.seconds]
        longest = f"about {max(known) * size:.0f} s to compile" if known else "how long it compiles is not known yet"
        return f"window {len(self._made) + 1} of at most {self._most}: {window.words} ({size:,} steps), {longest}"

    def _answer(self, invocation: int, window: Window | None, removed: Suspect | None) -> FusedDivergence:
        results = tuple(
            WindowResult(w.first, w.last, w.changed, j.wrong, j.dispatches, j.seconds)
            for w, j, _ in self._made.values()
        )
        description = self._windows.description
        base = FusedDivergence(
            description.name,
            invocation,
            len(self._windows.steps),
            results,
            inside=any(j.differs is not None and not j.wrong for _, j, _ in self._made.values()),
        )
        if window is None:
            return base
        _, judged, hung = self._made[window.key]
        ranked = judged.suspects
        if removed is not None:
            ranked = (removed, *(s for s in ranked if s != removed))
        step = ranked[0].step if ranked and ranked[0].explains else judged.step
        assert step is not None
        return replace(
            base,
            step=step,
            label=self._windows.steps[step].label,
            first=window.first,
            last=window.last,
            buffer=judged.buffer,
            varies=judged.varies,
            suspects=ranked,
            removed=removed,
            hangs=hung,
        )


def _wrong(judged: WindowOutcome) -> bool:
    return judged.wrong


def _differs(judged: WindowOutcome) -> bool:
    return judged.wrong or judged.differs is not None


def _from_data(data: Any) -> WindowOutcome:
    return serialise.from_dict(WindowOutcome, data, "the journal")


def _invocation(snap: Snapshot, wanted: int | None) -> int:
    from fusion_replay.model.runlist import WHOLE_CALL

    complete = [i.index for i in snap.invocations if i.status == "complete"]
    if wanted is not None and wanted not in complete:
        raise UsageError(f"{snap.path}: invocation {wanted} is not there, or not complete; it has {len(complete)}")
    if not complete:
        raise UsageError(f"{snap.path}: no invocation is complete")
    number = complete[-1] if wanted is None else wanted
    sequence = snap.sequences[int(snap.index.invocations["sequence"][number])]
    if sequence.origin.get("dispatch") == WHOLE_CALL:
        raise UsageError(
            f"{snap.path}: a recording of whole calls; give the one of separate dispatch (record --separate)"
        )
    return number


__all__ = ["bisect_fused"]
