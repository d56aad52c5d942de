# SPDX-License-Identifier: Apache-2.0
"""What a recording appends to its journal, and the account of what it could not.

Losses and frames that others are meaningless without are never given up: where they do not fit they go before the
next frames that do.

Tested in tests/snapshot/write/test_disk_full.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from fusion_replay.snapshot.journal import frames, payloads
from fusion_replay.snapshot.journal.frames import JournalFile
from fusion_replay.snapshot.schema import LEFT_OUT, Loss

Kind = tuple[str, str]
"""Of a loss: its kind and its detail."""


class Commits:
    """One per writer, whose lock is held.

    Attributes:
        error: the first thing that went wrong with a write; the losses say what it cost.
    """

    def __init__(self, journal: JournalFile) -> None:
        self.error: OSError | None = None
        self._journal = journal
        self._vital: list[payloads.Frame] = []
        self._lost: dict[Kind, int] = {}
        self._pending: dict[Kind, int] = {}  # those of them that the journal does not hold yet
        self._left_out: dict[Kind, int] = {}  # said at the end of an invocation: a frame each would be many

    def append(self, batch: Sequence[payloads.Frame], *, last: bool = False) -> bool:
        """Append frames, behind what waits; False where the disk refused (and nothing was written).

        ``last``: with what the journal keeps free below a limit on the sizes of files.
        """
        losses = self._pending_frames()
        if not (batch or losses or self._vital):
            return True
        try:
            append = self._journal.append_last if last else self._journal.append
            append([*self._vital, *batch, *losses])
        except OSError as error:
            self.failed(error)
            if last:  # what waits may be larger than the room that is left for losses
                self._append_losses()
            return False
        self._vital.clear()
        self._pending.clear()
        return True

    def first(self, frame: payloads.Frame) -> None:
        """Put ``frame`` before whatever is appended next."""
        self._vital.append(frame)

    def failed(self, error: OSError) -> None:
        """A write did not work."""
        self.error = self.error or error

    def lose(self, kind: str, detail: str, count: int = 1) -> None:
        """Count a loss. It goes with what is appended next; the first where writes fail at once, if there is room."""
        key = kind, detail
        first = key not in self._lost
        self._lost[key] = self._lost.get(key, 0) + count
        self._pending[key] = self._pending.get(key, 0) + count
        if first and self.error is not None:
            self._append_losses()

    def _append_losses(self) -> None:
        """All that are pending, alone, into what the journal keeps free; they stay pending where that is full too."""
        if losses := self._pending_frames():
            with contextlib.suppress(OSError):
                self._journal.append_last(losses)
                self._pending.clear()

    def _pending_frames(self) -> list[payloads.Frame]:
        return [_loss_frame(kind, count) for kind, count in self._pending.items()]

    def leave_out(self, detail: str, count: int = 1) -> None:
        """Count what was left out on request; among the losses from :meth:`say_left_out` on."""
        key = LEFT_OUT, detail
        self._left_out[key] = self._left_out.get(key, 0) + count

    def say_left_out(self) -> None:
        for (kind, detail), count in self._left_out.items():
            self.lose(kind, detail, count)
        self._left_out.clear()

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Every loss so far, by kind and detail."""
        return tuple(Loss(kind, detail, n) for (kind, detail), n in self._lost.items())

    @property
    def unwritten(self) -> tuple[Loss, ...]:
        """Those that the journal does not hold."""
        return tuple(Loss(kind, detail, n) for (kind, detail), n in self._pending.items())


def _loss_frame(kind: Kind, count: int) -> payloads.Frame:
    return payloads.json_frame(frames.LOSS, {"kind": kind[0], "detail": kind[1], "count": count})


__all__ = ["Commits"]
