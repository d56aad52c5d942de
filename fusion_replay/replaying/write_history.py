# SPDX-License-Identifier: Apache-2.0
"""Who wrote a buffer before: decides whether an output that kept its old contents has a good reason to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from fusion_replay.replaying.judge import tensors

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, RecordedTensor, Snapshot

Span = tuple[int, int]
"""First byte in the buffer, and the one behind the last."""


class WriteHistory:
    """Index of a recording's writes by buffer, from digests alone; built when it is first asked.

    Contents that stay the same are right where the same operator wrote them before from the same inputs: a second
    token with the same prompt, a cache position that nobody touched. Anything else means that nothing was written.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._writes: dict[tuple[int, str], list[tuple[tuple[int, int], int, int, Any]]] | None = None

    def explains(self, step: RecordedStep, output: RecordedTensor) -> bool:
        """Did the last earlier write to these bytes do the same work?"""
        with self._lock:
            if self._writes is None:
                self._writes = self._build()
        lo, hi = _span(output)
        now = (step.invocation, step.index)
        for when, start, stop, work in reversed(self._writes.get((id(step.sequence), output.use.buffer), [])):
            if when < now and start < hi and lo < stop:
                return (start, stop) == (lo, hi) and work is not None and bool(work == _work(step))
        return False

    def _build(self) -> dict[tuple[int, str], list[tuple[tuple[int, int], int, int, Any]]]:
        writes: dict[tuple[int, str], list[tuple[tuple[int, int], int, int, Any]]] = {}
        for step in self._snapshot.steps():
            if step.status != "complete":
                continue
            work = _work(step)
            for output in tensors(step.outputs):
                entry = ((step.invocation, step.index), *_span(output), work)
                writes.setdefault((id(step.sequence), output.use.buffer), []).append(entry)
        return writes


class RunningHistory:
    """The same while the steps run, one after the other: of each place in a buffer the last write alone."""

    def __init__(self) -> None:
        self._writes: dict[tuple[int, str], dict[Span, Any]] = {}

    def add(self, step: RecordedStep) -> None:
        """The step has run."""
        work = _work(step)
        for output in tensors(step.outputs):
            written = self._writes.setdefault((id(step.sequence), output.use.buffer), {})
            written.pop(_span(output), None)  # the newest goes last
            written[_span(output)] = work

    def explains(self, step: RecordedStep, output: RecordedTensor) -> bool:
        """As :meth:`WriteHistory.explains`, of a step that has not been added yet."""
        lo, hi = _span(output)
        for (start, stop), work in reversed(self._writes.get((id(step.sequence), output.use.buffer), {}).items()):
            if start < hi and lo < stop:
                return (start, stop) == (lo, hi) and work is not None and bool(work == _work(step))
        return False


def _span(tensor: RecordedTensor) -> Span:
    return tensor.use.start, tensor.use.start + tensor.nbytes


def _work(step: RecordedStep) -> Any:
    digests = [t.digest for t in tensors(step.inputs)]
    # An input that was never seen makes no two pieces of work the same.
    return None if None in digests else (step.description.operator, tuple(digests), tuple(sorted(step.values.items())))
