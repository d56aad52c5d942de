# SPDX-License-Identifier: Apache-2.0
"""Keeps the failures of a recorder away from the run that it records: told once, counted in the snapshot.

Tested in tests/recording/test_recorder.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_replay.errors import RecordingError
from fusion_replay.recording.options import OnError
from fusion_replay.system.locks import Locked
from fusion_replay.system.messages import in_words, say

if TYPE_CHECKING:
    from fusion_replay.snapshot import SnapshotWriter


class Guard(Locked):
    """One per recorder.

    Attributes:
        path: the snapshot, for messages.
        writer: what counts the losses, until the recording ends.
        error: the first failure of the recorder itself, in words; None while all is well.
        told: whether a failure stands on stderr already.
    """

    def __init__(self, path: Path, on_error: OnError, writer: SnapshotWriter) -> None:
        super().__init__()  # rec.step may be used from several threads
        self.path, self.on_error = path, on_error
        self.writer: SnapshotWriter | None = writer
        self.error: str | None = None
        self.told = False

    @contextlib.contextmanager
    def __call__(self, what: str, loss: str | None = None, *, may_raise: bool = True) -> Iterator[None]:
        """Run recording code so that its failure is a loss of kind ``loss``, told once, and never the run's.

        With ``on_error="raise"`` it is a :class:`RecordingError`, except where ``may_raise`` is false: the run is
        failing on its own there, and its error must come through.
        """
        try:
            with self._lock:
                yield
        except Exception as error:
            self._lose(what, loss, error, may_raise=may_raise)
            return
        failure = None if self.writer is None else self.writer.write_error
        if failure is not None and not self.told:  # the writer has counted the loss itself
            self._lose(what, None, failure, may_raise=may_raise)

    def tell(self, message: str) -> None:
        """On stderr, unless something was told before: one line is read, a thousand are not."""
        told, self.told = self.told, True
        if not told:
            say(message)

    def _lose(self, what: str, loss: str | None, error: Exception, *, may_raise: bool) -> None:
        message = f"{what}: {in_words(error)}"
        if self.error is None:
            self.error = message
        if loss is not None and self.writer is not None:
            with contextlib.suppress(Exception), self._lock:
                self.writer.lose(loss, message)
        if self.on_error == "raise" and may_raise:
            raise RecordingError(f"recording to {self.path} failed at {message}") from error
        self.tell(
            f"recording to {self.path} failed at {message}; the run goes on, the snapshot will say what is missing"
        )


__all__ = ["Guard"]
