# SPDX-License-Identifier: Apache-2.0
"""Progress with a time estimate on stderr, where stderr is a terminal."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PATIENCE = 2.0
"""Seconds before a bar shows: most commands are done by then, and a bar that flashes says nothing."""


class Progress:
    """Call it with (done, total) as often as you like; until then, and where nobody counts, the bar only moves.

    ``active`` is false where no progress is shown: output goes to stderr, and only where that is a terminal. rich is
    loaded only when there is something to draw.
    """

    def __init__(self, label: str, *, quiet: bool = False) -> None:
        self._label = label
        self.active = not quiet and sys.stderr.isatty()
        self._counted: tuple[int, int] | None = None
        self._bar: Bar | None = None
        self._task: Any = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(PATIENCE, self._draw)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if self.active:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self.active = False
            if self._bar is not None:
                self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if self.active:
            self._show(self._label, (done, total))

    def stage(self, label: str) -> None:
        """What is done from here on, which nobody counts yet."""
        if self.active:
            self._show(label, None)

    def _show(self, label: str, counted: tuple[int, int] | None) -> None:
        with self._lock:
            self._label, self._counted = label, counted
            if self._bar is not None:
                done, total = counted or (0, None)
                self._bar.update(self._task, description=label, completed=done, total=total)

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with self._lock:
            if not self.active:  # it has ended meanwhile
                return
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            done, total = self._counted or (0, None)
            self._task = self._bar.add_task(self._label, completed=done, total=total)
