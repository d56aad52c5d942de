# SPDX-License-Identifier: Apache-2.0
"""What ``record()`` returns: a context manager that watches what it is given while its block runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fusion_replay import sources
from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.recording.options import Options
from fusion_replay.refs import plugins
from fusion_replay.sources.iron.watching.all_dispatches import AllDispatches

if TYPE_CHECKING:
    from fusion_replay.recording.array_step import ArrayStep, ArraySteps
    from fusion_replay.recording.retention import Decider
    from fusion_replay.recording.underway import Recording
    from fusion_replay.snapshot import WriteReport
    from fusion_replay.sources.protocol import StepSource

ALL_DEFAULTS = Options()


class Recorder:
    """What :func:`fusion_replay.record` returns; see there for its arguments.

    Attributes:
        path: where the snapshot is, or will be (the numbered name, once the block is entered).
        report: what was written, after the block; None where sealing failed.
        unmatched: after the block, what is wrong with the filters, which matched nothing; else None.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        callable_: Any = None,
        options: Options = ALL_DEFAULTS,
        *,
        dispatches: bool = True,
        tells: bool = True,
        decider: Callable[[str | None], Decider] | None = None,
    ) -> None:
        """
        Args:
            dispatches: without ``callable_``, record everything that IRON dispatches.
            tells: say on stderr, at the end, what is missing.
            decider: makes who decides with ``keep="mismatch"``, from the name of the earlier snapshot.
        """
        self.path = Path(path)
        self.report: WriteReport | None = None
        self.unmatched: str | None = None
        self._options, self._tells, self._make_decider = options, tells, decider
        self._recording: Recording | None = None
        self._steps: ArraySteps | None = None
        self._refused = False
        self._all_dispatches: AllDispatches | None = None
        self._sources: list[StepSource] = []
        if callable_ is not None and sources.is_operator_call(callable_):
            self._all_dispatches = AllDispatches(only=callable_)
        elif callable_ is not None:
            self._sources.append(sources.attach(callable_, **_whole(options)))
        elif dispatches:
            self._all_dispatches = AllDispatches(**_whole(options))

    def __enter__(self) -> Recorder:
        """Open the recording.

        Raises:
            TargetExistsError: the snapshot exists and ``if_exists`` is "error".
            OSError: it cannot be written there.
            SnapshotError: what it is to be compared with is no usable snapshot.
        """
        if self._recording is not None:
            raise UsageError(f"{self.path}: this recorder was used already; make another one with record()")
        if module := plugins.importing():
            raise UsageError(
                f"{module} records into {self.path} while it is imported for its operators; put what runs there under "
                "if __name__ == '__main__':"
            )
        from fusion_replay.recording.array_step import ArraySteps
        from fusion_replay.recording.underway import Recording

        decider = None
        if self._options.keep == "mismatch":
            assert self._make_decider is not None
            decider = self._make_decider(self._options.against)
            decider.check(source.sequence for source in self._sources)
        self._recording = Recording(self.path, self._options, decider)
        self._steps = ArraySteps(self._recording)
        self.path = self._recording.path
        try:
            for source in self._sources:
                self._recording.watch(source)
            if self._all_dispatches is not None:
                self._all_dispatches.attach(self._recording)
        except BaseException:
            self._finish(failing=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended_before = self._recording is None or self._recording.over
        self._finish(failing=error is not None)
        if self.unmatched is not None and error is None and not ended_before:
            raise UsageError(f"{self.path}: {self.unmatched}")

    def attach(self, callable_: Any) -> None:
        """Watch one more callable until the block ends.

        Raises:
            NotAttachableError, SnapshotError: as :func:`record`; where no step is recorded either, no file is left.
        """
        recording = self._recording
        try:
            source = sources.attach(callable_, **_whole(self._options))
            if recording is not None and recording.decider is not None:
                recording.decider.check(s.sequence for s in (*self._sources, source))
        except FusionReplayError:
            self._refused = True
            raise
        if self._all_dispatches is not None and not self._all_dispatches.claim(callable_, source):
            return  # it was called in this block already
        self._sources.append(source)
        if recording is not None and not recording.over:
            recording.watch(source)

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
        if self._steps is None or self.recording.over:
            raise UsageError(f"{self.path}: rec.step works inside 'with record(...) as rec:' only")
        from fusion_replay.recording.array_step import ArrayStep

        return ArrayStep(self._steps, op, inputs, params or {}, values or {}, previous or {}, outputs or {})

    def invocation(self, sequence: str = "arrays") -> AbstractContextManager[None]:
        """Steps that are given as arrays inside belong together, as one call of ``sequence`` (one token, say).

        ``with rec.invocation("decode"): ...`` around the :meth:`step` calls of each token: addresses are
        ``INVOCATION:STEP``, and what one step wrote is, bit for bit, what a later one read. Filters by invocation or
        step number count each step while it is recorded.

        Raises:
            UsageError: outside the recorder's block, within another invocation, or with ``against``.
        """
        if self._steps is None or self.recording.over:
            raise UsageError(f"{self.path}: rec.invocation works inside 'with record(...) as rec:' only")
        if self._options.against is not None:
            raise UsageError(f"{self.path}: rec.invocation can't be used with against=; steps are compared one by one")
        return self._steps.invocation(sequence)

    def close(self) -> WriteReport | None:
        """End the recording before the block does; safe to call twice."""
        self._finish(failing=False)
        return self.report

    @property
    def error(self) -> str | None:
        """The first failure of the recorder itself, in words; None while all is well."""
        return None if self._recording is None else self._recording.guard.error

    @property
    def recording(self) -> Recording:
        """The recording under way, to add steps to.

        Raises:
            UsageError: it has not begun.
        """
        if self._recording is None:
            raise UsageError(f"{self.path}: the recording has not begun")
        return self._recording

    def _finish(self, *, failing: bool) -> None:
        recording = self._recording
        if recording is None:
            return
        if self._all_dispatches is not None:
            with recording.guard("detaching"):
                self._all_dispatches.detach()
        with recording.guard("ending the step timer"):
            recording.timer.close()
        for source in self._sources:
            with recording.guard("detaching"):
                source.detach()
        if recording.over:
            return
        unentered = [] if self._steps is None else self._steps.unentered.values()
        report = recording.end(unentered=unentered, refused=self._refused, failing=failing, tells=self._tells)
        self.report, self.unmatched = report, recording.unmatched


def _whole(options: Options) -> dict[str, Any]:
    return {"whole_calls": options.whole_calls, "repeat_calls": options.repeat_calls}


__all__ = ["Recorder"]
