# SPDX-License-Identifier: Apache-2.0
"""The recorder: watches sources of steps and writes what they report into a snapshot.

It knows the protocol of a source and the snapshot's writer, nothing else. Recording must not change the run: inputs are
in the writer's hands before the kernel starts, nothing that fails in here reaches the run (unless ``on_error="raise"``
asks for it), and what could not be recorded is counted in the snapshot's losses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fusion_replay import refs, sources
from fusion_replay.errors import FusionReplayError, RecordingError, UsageError
from fusion_replay.model.runlist import ArgSpec, SequenceDescription
from fusion_replay.model.withheld import BEYOND
from fusion_replay.recording.guard import Guard, in_short
from fusion_replay.recording.how import How
from fusion_replay.recording.retention import Doorkeeper, Keeping
from fusion_replay.recording.step_timer import TimedWatch, Watchdog
from fusion_replay.sources import provenance
from fusion_replay.sources.iron.watching.everything import Everything
from fusion_replay.sources.protocol import StepObserver, StepSource
from fusion_replay.system.messages import human_bytes, in_words, say

if TYPE_CHECKING:
    from fusion_replay.recording.array_step import ArrayStep
    from fusion_replay.replaying.deviating import Decider, JustRan
    from fusion_replay.snapshot import SnapshotWriter, WriteReport
    from fusion_replay.snapshot.write.hold import Spot
    from fusion_replay.snapshot.write.weights import WeightsKeeper

EVERYTHING, PLAINLY = Keeping(), How()
WORTH_TELLING = 32_000_000
"""Bytes on disk after the first call, from which on the recorder says what is to come."""


class Recorder:
    """What :func:`record` returns; see there for its arguments, which come as ``keeping`` and ``how``.

    Attributes:
        path: where the snapshot is, or will be (the numbered name, once the block is entered).
        report: what was written, after the block; None where sealing failed.
        unmatched: after the block, what is wrong with the filters, which matched nothing; else None.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        callable_: Any = None,
        *,
        keeping: Keeping = EVERYTHING,
        how: How = PLAINLY,
        everything: bool = True,
        summary: bool = True,
    ) -> None:
        self.path = Path(path)
        self.how, self.keeping = how, keeping
        self.report: WriteReport | None = None
        self.unmatched: str | None = None
        self.guard = Guard(self.path, how.on_error)
        self.decider: Decider | None = None
        self._doorkeeper = Doorkeeper(keeping, refs.canonical)
        self._expectation_told, self._refused = False, False
        self._writer: SnapshotWriter | None = None
        self._entered, self._pid = False, 0
        self.unentered: dict[object, str] = {}  # steps made by rec.step, while no 'with' has entered them
        self._sequence_ids: dict[str, int] = {}
        self._outputs: dict[str, tuple[ArgSpec, ...]] = {}
        self._watchdog: Watchdog | None = None
        self._summary = summary
        self._everything: Everything | None = None
        self._sources: list[StepSource] = []
        if callable_ is not None and sources.is_operator_call(callable_):
            self._everything = Everything(only=callable_)
        elif callable_ is not None:
            self._sources.append(sources.attach(callable_, whole_calls=how.whole_calls))
        elif everything:
            self._everything = Everything(whole_calls=how.whole_calls)

    # --- the block ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Recorder:
        """Open the recording.

        Raises:
            TargetExistsError: the snapshot exists and ``if_exists`` is "error".
            OSError: it cannot be written there.
            SnapshotError: what it is to be compared with is no usable snapshot.
        """
        if self._entered:
            raise UsageError(f"{self.path}: this recorder was used already; make another one with record()")
        from fusion_replay.snapshot.write.writer import SnapshotWriter

        if self.keeping.keep == "mismatch":
            from fusion_replay.replaying.deviating import Decider

            self.decider = Decider(self.keeping.against)
            self.decider.check(source.sequence for source in self._sources)
        about: dict[str, Any] = {
            "level": self.keeping.level,
            "static": "verified" if self.how.verify_static else "assumed",
        }
        if kept := self.keeping.to_dict():
            about["kept"] = kept
        self._about = about
        gathered = {**provenance.gather(), "recording": about}
        keeper = self._weights_keeper()
        try:
            self._writer = SnapshotWriter(
                self.path,
                if_exists=self.how.if_exists,
                provenance=gathered,
                level=self.keeping.level,
                keep=self.keeping.keep,
                max_bytes=self.keeping.max_bytes,
                weights=keeper,
            )
        except BaseException:
            if keeper is not None:
                keeper.abandon()
            raise
        self._entered, self._pid = True, os.getpid()
        self.path = self.guard.path = self._writer.target
        self.guard.writer = self._writer
        self._watchdog = Watchdog(self.how.slow_after, self.how.step_timeout, f"{self.path}.journal")
        try:
            for source in self._sources:
                self.watch(source)
            if self._everything is not None:
                self._everything.attach(self)
        except BaseException:
            self._finish(body_failed=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended_before = self._writer is None
        self._finish(body_failed=error is not None)
        if self.unmatched is not None and error is None and not ended_before:
            raise UsageError(f"{self.path}: {self.unmatched}")

    def _weights_keeper(self) -> WeightsKeeper | None:
        from fusion_replay.snapshot.write.weights import WeightsKeeper

        if self.how.weights_in is None:
            return WeightsKeeper(None) if self.how.no_weights else None
        side = Path(self.how.weights_in)
        if side.absolute() == self.path.absolute():
            raise UsageError(f"{self.path}: the recording and the side file of its weights can't be one file")
        return WeightsKeeper(side)

    def attach(self, callable_: Any) -> None:
        """Watch one more callable until the block ends.

        Raises:
            NotAttachableError, SnapshotError: as :func:`record`; where no step is recorded either, no file is left.
        """
        try:
            source = sources.attach(callable_, whole_calls=self.how.whole_calls)
            if self.decider is not None:
                self.decider.check(s.sequence for s in (*self._sources, source))
        except FusionReplayError:
            self._refused = True
            raise
        if self._everything is not None and not self._everything.claim(callable_, source):
            return  # it was called in this block already
        self._sources.append(source)
        if self._writer is not None:
            self.watch(source)

    def step(
        self,
        op: str,
        inputs: Mapping[str, Any],
        params: Mapping[str, Any] | None = None,
        values: Mapping[str, int | float] | None = None,
        previous: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> ArrayStep:
        """One step given as arrays; needs no IRON. ``with rec.step("MyOp", {"A": a}) as s: s.outputs["C"] = run(a)``.

        The inputs are recorded before the body runs, ``s.outputs`` after it; an exception inside marks the step failed
        and passes on. Argument names and parameters are kept as they are: an unknown operator is recorded too.

        Args:
            op: operator type, IRON's class name or any other.
            inputs: argument name -> array (numpy, torch, or anything numpy can read).
            params: the operator's fields, JSON data.
            values: runtime values of this call, e.g. ``{"vector_size": 64}``.
            previous: old contents of outputs that the step writes only in part, by argument name.
            outputs: arrays that the body fills in place; they need no entry in ``s.outputs``.

        Raises:
            UsageError: outside the block, or names that are no names.
        """
        if self._writer is None:
            raise UsageError(f"{self.path}: rec.step works inside 'with record(...) as rec:' only")
        from fusion_replay.recording.array_step import ArrayStep

        made = ArrayStep(self, op, inputs, params or {}, values or {}, previous or {}, outputs or {})
        self.unentered[made.ticket] = op
        return made

    def close(self) -> WriteReport | None:
        """End the recording before the block does; safe to call twice."""
        self._finish(body_failed=False)
        return self.report

    def _finish(self, *, body_failed: bool) -> None:
        if self._everything is not None:
            with self.guard("detaching"):
                self._everything.detach()
        if self._watchdog is not None:
            self._watchdog.close()
        for source in self._sources:
            with self.guard("detaching"):
                source.detach()
        writer, self._writer = self._writer, None
        self.guard.writer = None
        if writer is None or os.getpid() != self._pid:
            return  # a forked child leaves the recording to its parent
        self.unmatched = self._doorkeeper.unmatched
        try:
            nothing_asked_for = self._refused or (self.unmatched is not None and self.keeping.only_matching)
            if nothing_asked_for and not writer.steps:
                writer.discard()
                return
            for op in self.unentered.values():
                writer.lose("step", f"rec.step({op!r}) was never entered; it records as a with block")
            self.report = self._close(writer)
        except KeyboardInterrupt:
            say(f"{self.path} was not sealed; what was recorded is kept, see: fusion-replay fsck --recover {self.path}")
            raise
        except Exception as error:
            self.guard.error = self.guard.error or str(error)
            message = (
                f"{self.path} could not be sealed: {in_words(error)}; "
                f"what was recorded is kept, see: fusion-replay fsck --recover {self.path}"
                + (f"; not recorded: {in_short(writer.losses)}" if writer.losses else "")
            )
            if self.how.on_error == "raise" and not body_failed:
                raise RecordingError(message) from error
            say(message)
            return
        if self._summary:
            self._tell(self.report)

    def _tell(self, report: WriteReport) -> None:
        """What is missing, and what was noticed."""
        if report.steps == 0:
            why = "no watched callable ran inside the block and no step was given"
            if report.losses:
                why = "the reason was told above" if self.guard.told else in_short(report.losses)
            say(f"nothing was recorded in {self.path}: {why}")
        elif (lost := [x for x in report.losses if not x.asked_for]) and not self.guard.told:
            say(f"{self.path} is incomplete: {in_short(lost)}")
        elif limits := [x for x in report.losses if x.asked_for and BEYOND in x.detail]:
            say(f"{self.path}: a limit was reached: {in_short(limits)}")
        for note in report.notes:
            say(f"{self.path}: {note}")

    def _close(self, writer: SnapshotWriter) -> WriteReport:
        if self.decider is None:
            return writer.close()
        found = self.decider.found
        writer.add_provenance({"recording": {**self._about, "deviating": found.to_dict()}})
        report = writer.close()
        return dataclasses.replace(report, deviating=found, notes=(str(found), *report.notes))

    # --- for whoever feeds this recorder ------------------------------------------------------------------------

    @property
    def writer(self) -> SnapshotWriter:
        """The open snapshot.

        Raises:
            UsageError: the recording is over.
        """
        if self._writer is None:
            raise UsageError(f"{self.path}: the recording is over")
        return self._writer

    def observer(self) -> StepObserver:
        """What records the steps of one source."""
        if self._watchdog is None:
            raise UsageError(f"{self.path}: the recording has not begun")
        return TimedWatch(self, self._watchdog)

    def watch(self, source: StepSource) -> None:
        """Record ``source`` until it is detached; whoever calls this sees to that."""
        source.attach(self.observer())
        if caution := source.sequence.origin.get("caution"):
            say(f"{source.sequence.name}: {caution}")

    @property
    def error(self) -> str | None:
        """The first failure of the recorder itself, in words; None while all is well."""
        return self.guard.error

    def unseen(self, kind: str, detail: str, count: int = 1) -> None:
        """Count something that was dispatched and not recorded."""
        with self.guard(detail):
            self.writer.lose(kind, detail, count)

    def contain(self, what: str) -> contextlib.AbstractContextManager[None]:
        """As :meth:`guard`, for the hooks: what fails in there is a dispatch that was not recorded."""
        return self.guard(what, "dispatch")

    def withheld(self, sequence: int, invocation: int, step: int) -> str | None:
        """Why the contents of a step that begins are not to be kept; None: they are."""
        return self._doorkeeper.reason(sequence, self.writer.sequence(sequence), invocation, step, self.writer.full)

    def decide(self, step: JustRan, digests: Mapping[Spot, bytes]) -> str | None:
        """Why the contents of a step that has ended are not to be kept; None: they are, or were left out anyhow."""
        assert self.decider is not None
        reason = self.decider.decide(step, digests)
        return reason if step.withheld or reason is not None else self._doorkeeper.admit(step.invocation)

    def count_failed(self, invocation: int) -> None:
        """Where verdicts choose what is kept: a step has failed, and is kept without one."""
        if self.decider is not None:
            self._doorkeeper.admit(invocation)

    def expect(self) -> None:
        """After a call, say once what a recording of many will come to, where that is a size to think about."""
        if self._expectation_told or self._writer is None:
            return
        self._expectation_told = True
        once, each = self._writer.traffic.on_disk()
        if once + each >= WORTH_TELLING:
            say(f"{self.path}: about {human_bytes(once)} once + {human_bytes(each)} per invocation")

    def sequence_id(self, sequence: SequenceDescription) -> int:
        """The number of a sequence given as data; an equal one is described once."""
        key = repr(sequence)
        if key not in self._sequence_ids:
            self._sequence_ids[key] = self.writer.add_sequence(sequence)
        return self._sequence_ids[key]

    def remembered_outputs(self, key: str) -> tuple[ArgSpec, ...]:
        """What a step with this key wrote last time; empty the first time."""
        return self._outputs.get(key, ())

    def remember_outputs(self, key: str, outputs: Iterable[ArgSpec]) -> None:
        self._outputs[key] = tuple(outputs)


__all__ = ["Recorder"]
