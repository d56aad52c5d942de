# SPDX-License-Identifier: Apache-2.0
"""Whether an output that kept its old contents may: an earlier step did the same work on the same inputs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from fusion_replay.model.byte_spans import ByteSpans

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import Snapshot


class RunningHistory:
    """Writes to buffers while the steps run, one after the other, from digests alone.

    Contents that stay the same are right where the same operator wrote them before from the same inputs: a second
    token with the same prompt, a cache position that no step touched. Anything else means that nothing was written.
    """

    def __init__(self) -> None:
        self._writes: ByteSpans[tuple[int, int, Any]] = ByteSpans()  # all that an operand wrote, and from which work

    def add(self, step: Step) -> frozenset[int]:
        """The step has run. Positions of its outputs whose bytes the same work wrote last, all of them and no more."""
        work, again = _work(step), []
        places = [
            (t.position, (id(step.sequence), t.use.buffer), t.use.start, t.use.end) for t in step.outputs.in_order()
        ]
        for position, buffer, start, stop in places:
            last = self._writes.read(buffer, start, stop)
            if work is not None and len(last) == 1 and last[0].writer == (start, stop, work):
                again.append(position)
        for _, buffer, start, stop in places:
            self._writes.write(buffer, start, stop, (start, stop, work))
        return frozenset(again)


class WriteHistory:
    """The same of a whole recording, whose steps may be asked about in any order; built when it is first asked."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._again: dict[tuple[int, int], frozenset[int]] | None = None

    def explains(self, step: Step, output: RecordedTensor) -> bool:
        """Did the last earlier write to these bytes do the same work?"""
        with self._lock:
            if self._again is None:
                history = RunningHistory()
                complete = (s for s in self._snapshot.steps() if s.status == "complete")
                self._again = {(s.invocation, s.index): history.add(s) for s in complete}
        return output.position in self._again.get((step.invocation, step.index), ())


def _work(step: Step) -> Any:
    digests = [t.digest for t in step.inputs.in_order()]
    # An input that was never seen makes no two pieces of work the same.
    return None if None in digests else (step.description.operator, tuple(digests), tuple(sorted(step.values.items())))


__all__ = ["RunningHistory", "WriteHistory"]
