# SPDX-License-Identifier: Apache-2.0
"""The recording under way: the one object that owns the snapshot's writer, the guard, retention and the step timer.

What adds steps to it (observers of sources, steps given as arrays, the hooks on IRON's dispatches) is handed this and
nothing else. Recording must not change the run: inputs are with the writer before the kernel starts, nothing that fails
in here reaches the run (unless ``on_error="raise"`` asks for it), and what could not be recorded is counted in the
snapshot's losses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.errors import RecordingError, UsageError
from fusion_replay.recording import summary
from fusion_replay.recording.guard import Guard
from fusion_replay.recording.observer import Observer
from fusion_replay.recording.options import Options
from fusion_replay.recording.references import References
from fusion_replay.recording.retention import Decider, Retention
from fusion_replay.recording.step_timer import StepTimer
from fusion_replay.snapshot.write.weights import WeightsKeeper
from fusion_replay.snapshot.write.writer import SnapshotWriter
from fusion_replay.sources import provenance
from fusion_replay.sources.protocol import StepObserver, StepSource
from fusion_replay.system.messages import human_bytes, in_words, say

if TYPE_CHECKING:
    from fusion_replay.model.runlist import SequenceDescription
    from fusion_replay.model.step import OperandKey
    from fusion_replay.snapshot import WriteReport

WORTH_TELLING = 32_000_000
"""Bytes on disk after the first call, from which on the recorder says what is to come."""


class Recording:
    """Open from the moment it is made until :meth:`end`.

    Attributes:
        path: the snapshot's, numbered where that was asked for.
        options: what it was told.
        guard: runs recording code so that its failures are losses.
        timer: is told when steps begin and end.
        decider: with ``keep="mismatch"``, what says which steps deviate.
        references: asks operators for their own references.
        unmatched: after the end, what is wrong with the filters, which matched nothing; else None.

    Raises:
        TargetExistsError: the snapshot exists and ``if_exists`` is "error".
        UsageError: it can't be written there.
    """

    def __init__(self, path: Path, options: Options, decider: Decider | None) -> None:
        self.options, self.decider = options, decider
        self._about: dict[str, Any] = {
            "level": options.level,
            "static": "verified" if options.verify_static else "assumed",
        }
        if kept := options.kept:
            self._about["kept"] = kept
        self._writer: SnapshotWriter | None = self._open_writer(path)
        self._pid = os.getpid()
        self.path = self._writer.target
        self.guard = Guard(self.path, options.on_error, self._writer)
        self.timer = StepTimer(options.slow_after, options.step_timeout, f"{self.path}.journal")
        self.references = References(options.reference_budget)
        self.unmatched: str | None = None
        self._retention = Retention(options, refs.canonical)
        self._expectation_told = False

    def _open_writer(self, path: Path) -> SnapshotWriter:
        weights = self._weights_keeper(path)
        try:
            return SnapshotWriter(
                path,
                if_exists=self.options.if_exists or "error",
                provenance={**provenance.gather(), "recording": self._about},
                level=self.options.level,
                keep=self.options.keep,
                max_bytes=self.options.max_bytes,
                weights=weights,
            )
        except BaseException:
            if weights is not None:
                weights.abandon()
            raise

    def _weights_keeper(self, path: Path) -> WeightsKeeper | None:
        if self.options.weights_in is None:
            return WeightsKeeper(None) if self.options.no_weights else None
        side = Path(self.options.weights_in)
        if side.absolute() == path.absolute():
            raise UsageError(f"{path}: the recording and the side file of its weights can't be one file")
        return WeightsKeeper(side)

    @property
    def writer(self) -> SnapshotWriter:
        """The open snapshot.

        Raises:
            UsageError: the recording is over.
        """
        if self._writer is None:
            raise UsageError(f"{self.path}: the recording is over")
        return self._writer

    @property
    def over(self) -> bool:
        return self._writer is None

    # --- what watches sources and IRON's dispatches -------------------------------------------------------------

    def observer(self) -> StepObserver:
        """What records the steps of one source."""
        return Observer(self)

    def watch(self, source: StepSource) -> None:
        """Record ``source`` until the caller detaches it."""
        source.attach(self.observer())
        if caution := source.sequence.origin.get("caution"):
            say(f"{source.sequence.name}: {caution}")

    def unseen(self, kind: str, detail: str, count: int = 1) -> None:
        """Count something that was dispatched and not recorded."""
        with self.guard(detail):
            self.writer.lose(kind, detail, count)

    def miss(self, steps: str) -> None:
        """Count a step that ran and can't be recorded; ``steps`` says which kind and why, told once."""
        with self.guard(steps):
            self.writer.lose("step", steps)
            if self.options.on_error == "raise":
                raise RecordingError("only one thread at a time is recorded")
            self.guard.tell(f"{self.path}: not recorded: {steps}")

    def contain(self, what: str) -> contextlib.AbstractContextManager[None]:
        """As :attr:`guard`, for the hooks: a failure in the block is a dispatch that was not recorded."""
        return self.guard(what, "dispatch")

    # --- what is kept -------------------------------------------------------------------------------------------

    def withheld(
        self, sequence: int, invocation: int, step: int, places: Mapping[int, int] | None = None
    ) -> str | None:
        """Why the contents of a step that begins are not to be kept; None: they are."""
        known, full = self.writer.sequence(sequence), self.writer.full
        return self._retention.reason(sequence, known, invocation, step, full, places)

    @property
    def judges(self) -> bool:
        """Whether each step is judged by its reference as soon as it has run."""
        return self.decider is not None and self.decider.reads

    def decide(
        self,
        digests: Mapping[OperandKey, bytes],
        sequence: SequenceDescription,
        invocation: int,
        step: int,
        values: Mapping[str, int | float],
        contents: Mapping[OperandKey, npt.NDArray[Any]],
        withheld: bool,
        places: Mapping[int, int],
    ) -> str | None:
        """Why the contents of a step that has ended are not to be kept; None: they are, or were left out anyhow."""
        assert self.decider is not None
        reason = self.decider.decide(digests, sequence, invocation, step, values, contents, withheld, places)
        return reason if withheld or reason is not None else self._retention.admit(invocation)

    def count_failed(self, invocation: int) -> None:
        """Where verdicts choose what is kept: a step has failed, and is kept without one."""
        if self.decider is not None:
            self._retention.admit(invocation)

    def expect(self) -> None:
        """After a call, say once what a recording of many will come to, where that is a size to think about."""
        if self._expectation_told or self._writer is None:
            return
        self._expectation_told = True
        once, each = self._writer.volume.on_disk()
        if once + each >= WORTH_TELLING:
            say(f"{self.path}: about {human_bytes(once)} once + {human_bytes(each)} per invocation")

    # --- the end ------------------------------------------------------------------------------------------------

    def end(
        self, *, unentered: Iterable[str], refused: bool = False, failing: bool = False, tells: bool = True
    ) -> WriteReport | None:
        """Seal. What was written; None where it could not be sealed, there is nothing to seal, or it is a parent's.

        Args:
            unentered: operators of steps that were made and never begun.
            refused: a callable was refused: where no step was recorded either, no file is left.
            failing: the run raises already: its error must come through.
            tells: on stderr, what is missing.

        Raises:
            RecordingError: it could not be sealed, and ``on_error`` is "raise".
        """
        writer, self._writer = self._writer, None
        self.guard.writer = None
        if writer is None or os.getpid() != self._pid:
            return None  # a forked child leaves the recording to its parent
        self.unmatched = self._retention.unmatched
        try:
            nothing_asked_for = refused or (self.unmatched is not None and self.options.only_matching)
            if nothing_asked_for and not writer.steps:
                writer.discard()
                return None
            for op in unentered:
                writer.lose("step", f"rec.step({op!r}) was never entered; it records as a with block")
            report = self._seal(writer)
        except KeyboardInterrupt:
            say(f"{self.path} was not sealed; what was recorded is kept, see: fusion-replay fsck --recover {self.path}")
            raise
        except Exception as error:
            self.guard.error = self.guard.error or str(error)
            message = (
                f"{self.path} could not be sealed: {in_words(error)}; "
                f"what was recorded is kept, see: fusion-replay fsck --recover {self.path}"
                + (f"; not recorded: {summary.in_short(writer.losses)}" if writer.losses else "")
            )
            if self.options.on_error == "raise" and not failing:
                raise RecordingError(message) from error
            say(message)
            return None
        if tells:
            summary.tell(self.path, report, told=self.guard.told)
        return report

    def _seal(self, writer: SnapshotWriter) -> WriteReport:
        self.references.close()
        report = self._sealed(writer)
        told = self.references.told
        if told is None:
            return report
        return dataclasses.replace(report, references=told, notes=(told, *report.notes))

    def _sealed(self, writer: SnapshotWriter) -> WriteReport:
        if self.decider is None:
            return writer.close()
        found = self.decider.found()
        writer.add_provenance({"recording": {**self._about, "deviating": found.to_dict()}})
        report = writer.close()
        return dataclasses.replace(report, deviating=found, notes=(str(found), *report.notes))


__all__ = ["Recording"]
