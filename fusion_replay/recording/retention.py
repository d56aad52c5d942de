# SPDX-License-Identifier: Apache-2.0
"""Which steps of a recording keep their contents: filters, limits, and a callback that says which steps deviate.

How contents are stored is not decided here: the recorder asks for a step's reason to be left out, and the snapshot's
writer keeps digests alone where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_replay.model.runlist import SequenceDescription, StepDescription, parse_buffer
from fusion_replay.model.step_filter import StepFilter, parts
from fusion_replay.model.withheld import BEYOND, FILTERED
from fusion_replay.recording.filters import parse_invocations, within
from fusion_replay.recording.options import Options

if TYPE_CHECKING:
    from fusion_replay.snapshot.write.write_report import Deviating


@dataclass(frozen=True, slots=True)
class Decider:
    """Callbacks that decide about every step with ``keep="mismatch"``; handed in, since a recorder judges nothing.

    Attributes:
        reads: whether it needs contents, weights at every step too; digests are enough otherwise.
        check: raises SnapshotError where none of these sequences can be decided about.
        decide: takes the digests of a step that has ended by role and position, its sequence, invocation, number in the
            runlist, values, contents by role and position as far as ``reads`` asks for them, and whether its contents
            are left out anyhow; gives why they are not kept, or None.
        found: what came of it so far.
    """

    reads: bool
    check: Callable[[Iterable[SequenceDescription]], None]
    decide: Callable[..., str | None]
    found: Callable[[], Deviating]


class Retention:
    """Asked once per step of one recording; counts what it has let in."""

    def __init__(self, options: Options, canonical: Callable[[str], str]) -> None:
        self._options = options
        self._canonical = canonical
        self._ops = {canonical(part) for part in parts(options.op)}
        self._buffers = [parse_buffer(part) for part in parts(options.buffer)]
        self._wanted = None if options.step is None else StepFilter.parse(options.step)
        self._calls = parse_invocations(options.invocation)
        self._chosen: dict[int, frozenset[int]] = {}  # by sequence: what chooses() said
        self._steps = 0
        self._invocations: set[int] = set()
        self._matched = False
        self._seen_ops: dict[str, None] = {}
        self._seen_buffers: dict[str, None] = {}
        self._longest = self._called = 0

    def reason(
        self,
        number: int,
        sequence: SequenceDescription,
        invocation: int,
        step: int,
        full: bool,
        places: Mapping[int, int] | None = None,
    ) -> str | None:
        """Why the contents of a step that begins are not to be kept; None: they are.

        ``number``: of the sequence, in this recording. ``full``: no bytes are left. ``places``: of this call.
        """
        self._called = max(self._called, invocation + 1)
        if self._options.filters:
            chosen = step in self._entries(number, sequence)
            if places:
                chosen = self._fits(sequence, sequence.steps[step].placed(places))
            if not chosen or not self._passes(invocation, step):
                return FILTERED
            self._matched = True
        if full:
            return f"{BEYOND}bytes {self._options.max_bytes}"
        if self._options.keep == "mismatch":
            return self._limit(invocation)  # what it counts is known when the step has ended
        return self.admit(invocation)

    def admit(self, invocation: int) -> str | None:
        """Count a step as one that is kept; why it is not after all, or None."""
        if (limit := self._limit(invocation)) is None:
            self._invocations.add(invocation)
            self._steps += 1
        return limit

    def chooses(self, sequence: SequenceDescription) -> frozenset[int]:
        """Entries of the runlist that pass op and buffer."""
        return frozenset(entry.index for entry in sequence.steps if self._fits(sequence, entry))

    def _fits(self, sequence: SequenceDescription, entry: StepDescription) -> bool:
        if self._ops and self._canonical(sequence.operators[entry.operator].type) not in self._ops:
            return False
        return not self._buffers or any(use.touches(*b) for use in entry.operands for b in self._buffers)

    @property
    def unmatched(self) -> str | None:
        """What is wrong with the filters, once everything ran; None: they matched, or nothing ran at all."""
        filters = self._options.filters
        if not filters or not self._called:
            return None
        asked = ", ".join(f"{name} {value}" for name, value in filters.items())
        has = (
            f"operators {_shown(self._seen_ops)}; buffers {_shown(self._seen_buffers)}; "
            f"steps 0 to {self._longest - 1}; invocations 0 to {self._called - 1}"
        )
        if not self._matched:
            left = "nothing was recorded" if self._options.only_matching else "digests alone were recorded"
            return f"no step matched {asked}, {left}; the run had {has}"
        ops = set(map(self._canonical, self._seen_ops))
        lost = [op for op in parts(self._options.op) if self._canonical(op) not in ops]
        lost += [b for b in parts(self._options.buffer) if parse_buffer(b)[0] not in self._seen_buffers]
        return f"no step matched {', '.join(lost)} of {asked}; the run had {has}" if lost else None

    def _passes(self, invocation: int, step: int) -> bool:
        """Whether the numbers pass."""
        if self._options.invocation is not None and not within(self._calls, invocation):
            return False
        return self._wanted is None or self._wanted.takes(invocation, step)

    def _limit(self, invocation: int) -> str | None:
        steps, invocations = self._options.max_steps, self._options.max_invocations
        if steps is not None and self._steps >= steps:
            return f"{BEYOND}steps {steps}"
        more = invocation not in self._invocations
        if invocations is not None and more and len(self._invocations) >= invocations:
            return f"{BEYOND}invocations {invocations}"
        return None

    def _entries(self, number: int, sequence: SequenceDescription) -> frozenset[int]:
        known = self._chosen.get(number)
        if known is None:
            self._seen_ops.update(dict.fromkeys(o.type for o in sequence.operators))
            self._seen_buffers.update(dict.fromkeys(use.buffer for s in sequence.steps for use in s.operands))
            self._longest = max(self._longest, len(sequence.steps))
            known = self._chosen[number] = self.chooses(sequence)
        return known


def _shown(names: Mapping[str, None]) -> str:
    some = sorted(names)
    return ", ".join(some[:12]) + (f" and {len(some) - 12} more" if len(some) > 12 else "")


__all__ = ["Decider", "Retention"]
