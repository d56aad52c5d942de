# SPDX-License-Identifier: Apache-2.0
"""What in a runlist and its layout may be wrong only when it is fused, ranked by what explains the wrong elements.

A suspect is a property of the runlist or of the plan: a step that works in place, a buffer that lies where another one
is still needed, a copy that may have been left out, a per-call value, a configuration that is loaded again, a step that
reads what the one before it wrote. What lies in the wrong elements tells them apart: the old contents of that very
range, another buffer's contents, what the step gives with the values of the call before, the right elements at other
places.

Tested in tests/diverge/test_bisect_fused.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.diverge.boundary import Bytes
from fusion_replay.diverge.chained_bound import Floats, Wrong, elements
from fusion_replay.errors import FusionReplayError
from fusion_replay.model import serialise
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.replaced_step import ReplacedStep
from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.replaying.judge import NotComparedError, Plan, evaluate_step

if TYPE_CHECKING:
    from fusion_replay.model.runlist import SequenceDescription
    from fusion_replay.model.step import Step

Layout = Mapping[str, Sequence[Any]]
"""Buffer -> its argument of the image ("input", "output", "scratch"), offset and length in bytes."""

IN_PLACE, OVERLAP, COPY, VALUE, CONFIGURATION, SLICES, BARRIER = (
    "in place",
    "overlapping offsets",
    "dropped copy",
    "per-call value",
    "configuration",
    "overlapping slices",
    "no barrier",
)
ORDER = (OVERLAP, IN_PLACE, COPY, VALUE, CONFIGURATION, SLICES, BARRIER)
"""Of those that explain equally much: a plan that puts one buffer over another that is needed is wrong as it stands."""
TELLING = 0.05
"""Of the wrong elements, what must be explained to be more than chance."""
MOST = 12
"""Suspects that are told: those that explain something, then as many others."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """One property that only fusion makes dangerous.

    Attributes:
        kind: one of :data:`ORDER`.
        step: number of the runlist entry.
        sentence: what it is, for people.
        explains: of the wrong elements, the share whose contents are what it would have made of them.
        buffers: those concerned; of two that overlap, the one that is still needed first.
    """

    kind: str
    step: int
    sentence: str
    explains: float = 0.0
    buffers: tuple[str, ...] = ()

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        share = f"; explains {self.explains:.0%} of the wrong elements by their contents" if self.explains else ""
        return f"{self.sentence}{share}"


def suspects(
    steps: Sequence[Step],
    layout: Layout,
    wrong: Wrong | None = None,
    *,
    before: Callable[[str], Bytes | None] = lambda _: None,
    values: Mapping[str, Any] | None = None,
) -> tuple[Suspect, ...]:
    """Of these steps, the likeliest first.

    Args:
        layout: of the fused image; empty where it is not known.
        before: what a buffer held before the dispatch, where that is known.
        values: per-call values of the call before.
    """
    found = list(_of_runlist(steps, layout))
    if wrong is not None:
        evidence = _Evidence(steps, layout, wrong, before, values)
        shares = [evidence.share(s) for s in found]
        found = [replace(s, explains=x if x >= TELLING else 0.0) for s, x in zip(found, shares, strict=True)]
    found.sort(key=lambda s: (-round(s.explains, 2), ORDER.index(s.kind), s.step))
    telling = [s for s in found if s.explains]
    return tuple((telling + [s for s in found if not s.explains])[: max(MOST, len(telling))])


# --- what the runlist and the plan say ------------------------------------------------------------------------------


def _of_runlist(steps: Sequence[Step], layout: Layout) -> Iterator[Suspect]:
    for before, step in zip([None, *steps], steps, strict=False):
        reads = [u for u in step.description.operands if u.spec.reads]
        writes = [u for u in step.description.operands if u.spec.writes]
        shared = next(
            (w for w in writes for r in reads if (r.buffer, r.start, r.end) == (w.buffer, w.start, w.end)), None
        )
        if shared is not None:
            yield Suspect(
                IN_PLACE,
                step.index,
                f"{step.label} reads and writes {shared.label}, in place",
                buffers=(shared.buffer,),
            )
        elif any(r.touches(w.buffer, w.start, w.end) for w in writes for r in reads):
            yield Suspect(SLICES, step.index, f"{step.label} reads and writes slices that overlap")
        if _copies(step):
            yield Suspect(COPY, step.index, f"{step.label} is a copy, which an image may leave out")
        if step.values:
            names = ", ".join(sorted(step.values))
            yield Suspect(VALUE, step.index, f"{step.label} takes per-call values ({names})")
        yield Suspect(
            CONFIGURATION, step.index, f"{step.label} runs on what its configuration finds, if the array was not reset"
        )
        written = [] if before is None else [u for u in before.description.operands if u.spec.writes]
        if any(r.touches(w.buffer, w.start, w.end) for w in written for r in reads):
            yield Suspect(BARRIER, step.index, f"{step.label} reads what the step before it wrote")
    yield from _overlaps(steps, layout)


def _copies(step: Step) -> bool:
    spec = refs.coverage(step.op, step.description.operands).spec
    return spec is not None and spec.exact_bits and sum(u.spec.reads for u in step.description.operands) == 1


def _overlaps(steps: Sequence[Step], layout: Layout) -> Iterator[Suspect]:
    """Writes to a buffer that lies on one which these steps wrote and which is still needed."""
    owner: dict[str, int] = {}
    told: set[tuple[str, str]] = set()
    uses = _uses(steps[0].sequence) if steps else {}
    for step in steps:
        for use in step.description.operands:
            if not use.spec.writes or use.buffer not in layout:
                continue
            for other in [n for n in owner if n != use.buffer and _share(layout, n, use.buffer)]:
                if (other, use.buffer) not in told and _is_needed(step.sequence, uses, other, step.index):
                    told.add((other, use.buffer))
                    yield Suspect(
                        OVERLAP,
                        step.index,
                        f"{step.label} writes {use.buffer}, which shares bytes with {other} in the plan",
                        buffers=(other, use.buffer),
                    )
            owner[use.buffer] = step.index


def _uses(sequence: SequenceDescription) -> dict[str, dict[int, bool]]:
    """Per buffer the steps that use it, and whether they read it."""
    found: dict[str, dict[int, bool]] = {}
    for step in sequence.steps:
        for use in step.operands:
            mine = found.setdefault(use.buffer, {})
            mine[step.index] = mine.get(step.index, False) or use.spec.reads
    return found


def _is_needed(sequence: SequenceDescription, uses: Mapping[str, Mapping[int, bool]], buffer: str, after: int) -> bool:
    """Whether a buffer is read before it is written anew, or outlives the call."""
    for step, reads in uses.get(buffer, {}).items():
        if step > after:
            return reads
    return buffer in sequence.output_args or any(b.name == buffer and b.external for b in sequence.buffers)


def _share(layout: Layout, a: str, b: str) -> bool:
    if a not in layout or b not in layout:
        return False
    (kind, start, size), (other, at, length) = layout[a], layout[b]
    return bool(kind == other and start < at + length and at < start + size)


# --- what the wrong elements say ------------------------------------------------------------------------------------


class _Evidence:
    def __init__(
        self,
        steps: Sequence[Step],
        layout: Layout,
        wrong: Wrong,
        before: Callable[[str], Bytes | None],
        values: Mapping[str, Any] | None,
    ) -> None:
        self._steps, self._layout, self._wrong = steps, layout, wrong
        self._before, self._values = before, values
        self._dtype = wrong.piece.tensor.dtype
        self._stale: float | None = None

    def share(self, suspect: Suspect) -> float:
        own = suspect.step == self._wrong.step.index
        match suspect.kind:
            case "in place" if own:
                return self._holds_older()
            case "dropped copy" if own:
                return self._holds_older() * self._is_all_that_it_changes()
            case "per-call value" if own:
                return self._with_other_values()
            case "configuration" if own:
                return self._elsewhere()
            case "overlapping offsets" if suspect.buffers[0] == self._wrong.piece.buffer:
                return self._overlaid(suspect)
        return 0.0

    def _equal(self, other: Bytes | None) -> float:
        """The share of the wrong elements that hold what ``other`` has there."""
        if other is None:
            return 0.0
        width = f"V{DTYPE_BYTES[self._dtype]}"
        same = np.ascontiguousarray(other).view(width) == np.ascontiguousarray(self._wrong.found).view(width)
        return float(np.mean(same[self._wrong.at])) if self._wrong.at.any() else 0.0

    def _holds_older(self) -> float:
        if self._stale is None:
            previous = self._wrong.piece.tensor.previous
            own = None
            if previous is not None and previous.kept:
                lo = self._wrong.piece.start - previous.use.start
                own = flat_bytes(previous.numpy())[lo : lo + self._wrong.expected.size]
            self._stale = max(self._equal(own), self._equal(self._as_placed(until=self._wrong.step.index)))
        return self._stale

    def _is_all_that_it_changes(self) -> float:
        """Of what the step should have changed, the share that is wrong: a copy is left out as a whole."""
        older = self._as_placed(until=self._wrong.step.index)
        previous = self._wrong.piece.tensor.previous
        if previous is not None and previous.kept:
            lo = self._wrong.piece.start - previous.use.start
            older = flat_bytes(previous.numpy())[lo : lo + self._wrong.expected.size]
        width = f"V{DTYPE_BYTES[self._dtype]}"
        changes = np.ascontiguousarray(older).view(width) != np.ascontiguousarray(self._wrong.expected).view(width)
        return float(np.mean(self._wrong.at[changes])) if changes.any() else 0.0

    def _as_placed(self, until: int | None = None, skip: str = "") -> Bytes:
        """The range as the plan has it when the steps before ``until`` (all of them) have written what they should."""
        piece = self._wrong.piece
        kind, start = self._place(piece.buffer)
        lo, hi = start + piece.start, start + piece.stop
        memory = np.zeros(hi - lo, np.uint8)
        for name in [*(n for n in self._layout if n != piece.buffer), piece.buffer]:
            if self._place(name)[0] == kind and (held := self._before(name)) is not None:
                _paint(memory, lo, self._place(name)[1], held)
        for step in self._steps:
            if until is not None and step.index >= until:
                break
            for tensor in step.outputs.in_order():
                of, at = self._place(tensor.use.buffer)
                first = at + tensor.use.start
                if of == kind and first < hi and lo < first + tensor.nbytes and tensor.kept:
                    _paint(memory, lo, first, flat_bytes(tensor.numpy()))
        return memory

    def _place(self, name: str) -> tuple[str, int]:
        if name in self._layout:
            kind, at, _ = self._layout[name]
            return str(kind), int(at)
        return name, 0

    def _overlaid(self, suspect: Suspect) -> float:
        return self._equal(self._as_placed())

    def _with_other_values(self) -> float:
        step = self._wrong.step
        other = {n: v for n, v in (self._values or {}).items() if n in step.values}
        if all(step.values[n] == v for n, v in other.items()):
            return 0.0
        try:
            results = evaluate_step(ReplacedStep(step, values=other), Plan()).results
        except (NotComparedError, FusionReplayError):
            return 0.0
        position = [t.position for t in step.outputs.in_order()].index(self._wrong.piece.tensor.position)
        whole = results[position].astype(np.float64).reshape(-1)
        item = DTYPE_BYTES[self._dtype]
        first = (self._wrong.piece.start - self._wrong.piece.tensor.use.start) // item
        found, right = (elements(x, self._dtype) for x in (self._wrong.found, self._wrong.expected))
        other_way = whole[first : first + found.size]
        return _nearer(found, other_way, right, self._wrong.at | (np.abs(other_way - right) > 0.02 * np.abs(right)))

    def _elsewhere(self) -> float:
        """Whether the right elements stand displaced by one distance, all of them, up to their last places."""
        found, right = (elements(x, self._dtype) for x in (self._wrong.found, self._wrong.expected))
        near = 2.0**-6 * np.abs(found)
        wrong = np.flatnonzero(self._wrong.at & (found != 0) & np.isfinite(found))
        best = 0.0
        for probe in wrong[:: max(wrong.size // 16, 1)].tolist():
            for at in np.flatnonzero(np.abs(right - found[probe]) <= near[probe])[:64].tolist():
                same = np.abs(np.roll(right, probe - at) - found) <= near
                if np.mean(same) > 0.9:
                    best = max(best, float(np.mean((same & (found != 0))[self._wrong.at])))
            if best > 0.9:
                break
        return best


def _paint(memory: Bytes, lo: int, start: int, data: Bytes) -> None:
    """Put ``data``, which begins at ``start``, where it meets ``memory``, which begins at ``lo``."""
    first, last = max(lo, start), min(lo + memory.size, start + data.size)
    if first < last:
        memory[first - lo : last - lo] = data[first - start : last - start]


def _nearer(found: Floats, other: Floats, right: Floats, at: npt.NDArray[np.bool_]) -> float:
    if other.shape != found.shape or not at.any():
        return 0.0
    with np.errstate(invalid="ignore"):
        near = np.abs(found - other) <= 0.1 * np.abs(found - right)
    return float(np.mean(near[at]))


__all__ = ["Layout", "Suspect", "suspects"]
