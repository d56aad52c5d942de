# SPDX-License-Identifier: Apache-2.0
"""``record()``: the public face of :mod:`fusion_replay.recording`.

Tested in tests/recording/test_recorder.py and test_options.py.
"""

from __future__ import annotations

import os
from typing import Any

from fusion_replay.recording.options import IfExists, Keep, Level, OnError, Options, Texts
from fusion_replay.recording.recorder import ALL_DEFAULTS, Recorder
from fusion_replay.recording.references import DEFAULT_BUDGET
from fusion_replay.recording.retention import Decider


def record(
    path: str | os.PathLike[str],
    callable_: Any = None,
    *,
    level: Level = "full",
    if_exists: IfExists = "error",
    on_error: OnError = "warn",
    with_reference: bool | None = None,
    reference_budget: str = DEFAULT_BUDGET,
    verify_static: bool = False,
    binaries: bool = True,
    slow_after: float = 10.0,
    step_timeout: float | None = None,
    whole_calls: bool = False,
    repeat_calls: int = 1,
    weights_in: str | os.PathLike[str] | None = None,
    no_weights: bool = False,
    op: Texts | None = None,
    step: Texts | int | None = None,
    buffer: Texts | None = None,
    invocation: Texts | int | None = None,
    only_matching: bool = False,
    max_bytes: int | str | None = None,
    max_steps: int | None = None,
    max_invocations: int | None = None,
    keep: Keep = "all",
    against: str | os.PathLike[str] | None = None,
) -> Recorder:
    """A context manager that records into ``path`` what runs inside its block.

    Args:
        path: the snapshot to write, an HDF5 file.
        callable_: a callable of an IRON sequence that dispatches step by step, one of a single operator, that operator
            itself, or a callable of the software NPU; each call is one invocation. Without it, everything that IRON
            dispatches while the block runs is recorded; :meth:`Recorder.attach` and :meth:`Recorder.step` add others.
        level: "full" keeps every input and output, "digest" the digest of each alone: enough to compare two runs.
        verify_static: look at weights (large buffers that no step writes and that are no input of the call) at every
            step; otherwise they are digested once and taken for unchanged, and each step says of which.
        if_exists: "error", "replace" (once the new file is complete), or "number" (``app-001.h5``, next free).
        on_error: what a failure of the recorder itself does: "warn" (the run goes on, told once on stderr, counted in
            the snapshot) or "raise" (a :class:`RecordingError` stops the run).
        with_reference: True keeps what each operator's own ``reference()`` gives, for ``replay(reference="stored")``;
            False of none. None, the default: of those operators that the catalogue does not cover, which ``replay``
            judges by it.
        reference_budget: what that may cost: seconds that the program waits for references in all (10 for one; what
            takes longer is abandoned), and bytes of what is kept of them, and of one step's inputs: ``"30,1G"``.
        binaries: keep the xclbin and instruction files behind IRON's kernels, each once; otherwise their digests alone.
        slow_after: seconds after which a step that runs far longer than its like is told on stderr; 0: never.
        step_timeout: seconds after which a step is given up: the program gets a KeyboardInterrupt, and is ended
            where that does not help; None: never.
        whole_calls: a callable whose steps can't be seen (fused dispatch) is recorded too, each call as one step from
            the sequence's inputs to its outputs, with its other buffers as far as they can be read. Nothing judges it;
            two such recordings can be compared, and one with a recording of its steps.
        repeat_calls: make each of these calls so often, on the same contents of all buffers: whether identical calls
            give identical results. The program goes on with the results of the first.
        weights_in: a side file for what steps read from buffers that their sequence never writes (64 KiB or more);
            recordings share it, and it is made or added to as needed.
        no_weights: keep only the digests of such contents; ``open(path, weights=...)`` brings them back from a side
            file.
        op, step, buffer, invocation: keep contents of these steps alone, by operator type, number in the runlist or
            address (``412``, ``10-20``, ``3:4-12``), buffer (``name`` or ``name[start:end]``), call (``0,3-5``). Of the
            other steps digests are kept, so that two runs can still be compared as a whole. Values of one filter are
            alternatives (a sequence, or separated by commas), all filters must agree.
        only_matching: what the filters leave out is not recorded at all.
        max_bytes: keep contents of so many bytes (before compression; an int, or text such as ``"2G"``), then digests.
        max_steps, max_invocations: keep contents of the first so many, then digests. The run goes on, and the losses
            count what was not kept.
        keep: "mismatch" keeps contents of those steps alone that deviate, of those that filters and limits let in:
            from what ``against`` has at the same address, bit for bit; without ``against`` from the step's reference,
            as ``replay`` judges it by default, which costs about what ``replay`` does, and at every step. Failed steps,
            the step in flight, and what can't be judged are kept too; ``report.deviating`` counts.
        against: a snapshot of an earlier run, of any level.

    Raises:
        NotAttachableError: the callable was never compiled, runs fused, or is none; the message says what to do.
        SnapshotError: ``against`` is no usable snapshot, or records other sequences.
        UsageError: an unknown level or policy, a malformed filter or limit, or both ``weights_in`` and ``no_weights``;
            when the block ends: filters that matched no step. The digests are kept; with ``only_matching`` there are
            none, and no file is made.
    """
    given = dict(locals())
    del given["path"], given["callable_"]
    return recorder(path, callable_, Options.of(**given))


def recorder(
    path: str | os.PathLike[str],
    callable_: Any = None,
    options: Options = ALL_DEFAULTS,
    *,
    dispatches: bool = True,
    tells: bool = True,
) -> Recorder:
    """As :func:`record`, from options as one object; the others as for :class:`Recorder`."""
    return Recorder(path, callable_, options, dispatches=dispatches, tells=tells, decider=_decider)


def _decider(against: str | None) -> Decider:
    """Verdicts come from ``replaying``; the recorder is handed them as callbacks."""
    from fusion_replay.replaying import deviating

    made = deviating.DeviationCheck(against)
    return Decider(
        reads=made.reads,
        check=made.check,
        decide=lambda digests, *step: made.decide(deviating.FinishedStep(*step), digests),
        found=lambda: made.found,
    )


__all__ = ["Recorder", "record", "recorder"]
