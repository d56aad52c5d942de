# SPDX-License-Identifier: Apache-2.0
"""Progress with a time estimate on stderr, where stderr is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PATIENCE = 2.0
"""Seconds before a bar shows: most commands are done by then, and a bar that flashes says nothing."""


class Progress:
    """Call it with (done, total) as often as you like.

    ``active`` is false where no progress is shown: output goes to stderr, and only where that is a terminal. rich is
    loaded only when there is something to draw.
    """

    def __init__(self, label: str, *, quiet: bool = False) -> None:
        self._label = label
        self.active = not quiet and sys.stderr.isatty()
        self._started = time.monotonic()
        self._bar: Bar | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if not self.active:
            return
        if self._bar is None:
            if time.monotonic() - self._started < PATIENCE:
                return
            self._bar, self._task = self._draw(total)
        self._bar.update(self._task, completed=done, total=total)

    def _draw(self, total: int) -> tuple[Bar, Any]:
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
        bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
        bar.start()
        return bar, bar.add_task(self._label, total=total)
