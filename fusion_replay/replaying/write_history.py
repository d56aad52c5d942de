# SPDX-License-Identifier: Apache-2.0
"""Whether a wrong output that kept its old contents has a reason to: the same work wrote them before."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fusion_replay.model.byte_spans import ByteSpans

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import Snapshot


class WriteHistory:
    """Which work wrote which bytes last in a recording, from digests alone; built when it is first asked.

    The same operator on the same inputs writes the same wrong bytes again: that is its fault a second time, and no
    sign that nothing was written.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._again: dict[tuple[int, int], frozenset[int]] | None = None

    def explains(self, step: Step, output: RecordedTensor) -> bool:
        """Did the last earlier write to these bytes do the same work?"""
        with self._lock:
            if self._again is None:
                self._again = _repeated(s for s in self._snapshot.steps() if s.status == "complete")
        return output.position in self._again.get((step.invocation, step.index), ())


def _repeated(steps: Iterable[Step]) -> dict[tuple[int, int], frozenset[int]]:
    """For each step the positions of its outputs whose bytes the same work wrote last, all of them and no more."""
    writes: ByteSpans[tuple[int, int, Any]] = ByteSpans()  # all that an operand wrote, and from which work
    found = {}
    for step in steps:
        work, again = _work(step), []
        places = [
            (t.position, (id(step.sequence), t.use.buffer), t.use.start, t.use.end) for t in step.outputs.in_order()
        ]
        for position, buffer, start, stop in places:
            last = writes.read(buffer, start, stop)
            if work is not None and len(last) == 1 and last[0].writer == (start, stop, work):
                again.append(position)
        for _, buffer, start, stop in places:
            writes.write(buffer, start, stop, (start, stop, work))
        found[step.invocation, step.index] = frozenset(again)
    return found


def _work(step: Step) -> Any:
    digests = [t.digest for t in step.inputs.in_order()]
    # An input that was never seen makes no two pieces of work the same.
    return None if None in digests else (step.description.operator, tuple(digests), tuple(sorted(step.values.items())))


__all__ = ["WriteHistory"]
