# SPDX-License-Identifier: Apache-2.0
"""Stretches of a runlist built as fused sequences of their own, dispatched on recorded inputs and judged.

Each window is made by calling the class of the sequence that is given, with IRON's own constructor arguments: the same
operator objects, the buffers' sizes and offsets of the whole plan, what the last step writes as output. So a window
differs from the whole in what stands before and behind it, and as little else as can be. Its name says its ends, so a
build that keeps what it has compiled finds it again.

Tested in tests/diverge/test_bisect_fused.py.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.diverge.boundary import Boundary, Bytes, HeldBytes, boundary, collected, needed_after
from fusion_replay.diverge.chained_bound import Wrong, first_wrong
from fusion_replay.diverge.fusion_suspects import Suspect, suspects
from fusion_replay.diverge.window_contents import WindowContents, bound_symbols, layout_of, write_values
from fusion_replay.errors import FusionReplayError, MissingError, UsageError
from fusion_replay.model.runlist import SequenceDescription, parse_buffer
from fusion_replay.sources.describe import describe_sequence
from fusion_replay.sources.iron.tensor import host_bytes, knows_who_wrote
from fusion_replay.sources.iron.variant import current_device
from fusion_replay.sources.iron.whole_call import overlapping

if TYPE_CHECKING:
    from fusion_replay.model.step import Step
    from fusion_replay.snapshot import Snapshot

_OURS = {
    *("self", "args", "kwargs", "name", "runlist", "input_args", "output_args", "buffer_sizes", "buffer_offsets"),
    *("plan_scratch", "dispatch", "arena", "residents", "feedback_args", "coresident", "trace_size"),
}
"""Arguments of the constructor that a window has of its own, or can't have."""


@dataclass(frozen=True, slots=True)
class Window:
    """Steps ``first`` to ``last`` of the runlist, both included.

    ``apart``: a step that works in place writes another buffer instead. ``packed``: no buffer lies over another.
    """

    first: int
    last: int
    apart: int | None = None
    packed: bool = False

    @property
    def key(self) -> str:
        """A name for journals and builds."""
        return f"{self.first}_{self.last}{'_' if self.changed else ''}{self.changed}"

    @property
    def changed(self) -> str:
        """What is not as in the whole, in one word."""
        return ("" if self.apart is None else f"apart{self.apart}") + ("packed" if self.packed else "")

    @property
    def words(self) -> str:
        alone = f"step {self.first} alone" if self.first == self.last else f"steps {self.first} to {self.last}"
        changed = "" if self.apart is None else f", step {self.apart} out of place"
        return f"{alone}{changed}{', no buffer over another' if self.packed else ''}"


@dataclass(frozen=True, slots=True)
class WindowOutcome:
    """What the dispatches of one window gave.

    Attributes:
        wrong: some dispatch left something outside the chained bound.
        differs: the first step whose result is not the recorded one bit for bit; None: there is none.
        step: the first step whose result is wrong; None where none is.
        buffer: where that lies.
        varies: identical dispatches gave different bits.
        dispatches: how many were judged; seconds: of the build.
        suspects: where it is wrong.
    """

    wrong: bool
    differs: int | None
    step: int | None
    buffer: str
    varies: bool
    dispatches: int
    seconds: float
    suspects: tuple[Suspect, ...] = ()


class Windows:
    """Windows of one invocation of a separate recording.

    Args:
        sequence: the fused sequence, IRON's or the software NPU's.
        repeats: dispatches of a window until it counts as right.

    Raises:
        UsageError: npu1, or the sequence is not the recorded one.
        MissingError: the recording has not all steps of this invocation.
    """

    def __init__(self, sequence: Any, snapshot: Snapshot, invocation: int, repeats: int) -> None:
        if getattr(sequence, "device", current_device()) == "npu1":
            raise UsageError("npu1 runs no full ELF, so nothing is fused there: run bisect --fused where npu2 is")
        self._sequence, self._repeats = sequence, repeats
        recorded = snapshot.sequences[int(snapshot.index.invocations["sequence"][invocation])]
        self.description = recorded
        _need_same(describe_sequence(sequence, {}), recorded, str(snapshot.path))
        self.steps: list[Step] = []
        for number in range(len(recorded.steps)):
            step = snapshot.get(invocation, number)
            if step is None or step.status != "complete":
                raise MissingError(
                    f"{snapshot.path}: step {invocation}:{number} has no complete record; choose another"
                )
            self.steps.append(step)
        earlier = [snapshot.get(invocation - 1, n) for n in range(len(self.steps))] if invocation else []
        self._values_before = {k: v for s in earlier if s is not None for k, v in s.values.items()}
        self._parameters = inspect.signature(type(sequence).__init__).parameters
        self._offsets = _plan_of(sequence, self._parameters)

    def judge(self, window: Window) -> WindowOutcome:
        """Build the window and dispatch it until it is wrong, or right so often as it has to be.

        Raises:
            MissingError: it can't be built, or contents that it needs were not recorded; names the buffer.
        """
        steps = self.steps[window.first : window.last + 1]
        edge = boundary(steps)
        begun = time.perf_counter()
        callable_, renamed = self._build(window, edge)
        seconds = time.perf_counter() - begun
        fill = WindowContents(callable_, edge, renamed)
        fill()
        values, before = self._values(steps)
        if before and before != values:
            write_values(callable_, before)
            self._call(callable_, window)
        results: list[Bytes] = []
        worst: _Found | None = None
        differs: int | None = None
        made = 0
        while made < self._repeats:
            fill()
            write_values(callable_, values)
            held = fill.held()
            self._call(callable_, window)
            made += 1
            seen = self._look(callable_, window, edge, steps, renamed)
            results.append(np.concatenate([b for _, b, _ in seen]) if seen else np.zeros(0, np.uint8))
            bad = first_wrong(seen, steps)
            if bad.differs is not None:
                differs = bad.differs if differs is None else min(differs, bad.differs)
            if bad.wrong is not None:
                worst = _Found(bad.wrong, held)
                break
        varies = any(not np.array_equal(results[0], r) for r in results[1:])
        if worst is None:
            return WindowOutcome(False, differs, None, "", varies, made, seconds)
        layout = layout_of(callable_.op)
        found = suspects(
            steps, layout, worst.wrong, before=lambda n: worst.before.get(n), values=self._values_before or None
        )
        piece = worst.wrong.piece
        return WindowOutcome(True, differs, piece.step.index, piece.buffer, varies, made, seconds, found)

    def _call(self, callable_: Any, window: Window) -> None:
        try:
            callable_()
        except Exception as error:
            raise MissingError(f"{window.words}: the dispatch failed ({type(error).__name__}: {error})") from error

    # --- building ---------------------------------------------------------------------------------------------------

    def _build(self, window: Window, edge: Boundary) -> tuple[Any, dict[str, str]]:
        entries, renamed = self._entries(window)
        used = {parse_buffer(str(name))[0] for _, *names in entries for name in names}
        output = self._output(window, renamed)
        inputs = [n for n in self._sequence.input_args if n in used]
        sizes = {n: int(s) for n, s in self._sequence.explicit_buffer_sizes.items() if n in used}
        hosts = {*inputs, output}
        given: dict[str, Any] = {"buffer_sizes": sizes, "dispatch": "fused"}
        if "plan_scratch" in self._parameters and window.packed:
            given["plan_scratch"] = False
        elif self._offsets is not None and not window.packed:
            given["buffer_offsets"] = {n: at for n, at in self._offsets.items() if n in used and n not in hosts}
        given |= {
            n: getattr(self._sequence, n) for n in self._parameters if n not in _OURS and hasattr(self._sequence, n)
        }
        if any(p.kind is p.VAR_KEYWORD for p in self._parameters.values()) and hasattr(self._sequence, "context"):
            given["context"] = self._sequence.context  # where it builds: amd/IRON iron/common/base.py
        name = f"{self._sequence.name}_w{window.key}"
        try:
            made = type(self._sequence)(name, entries, inputs, [output], **given)
            return made.compile().get_callable(), renamed
        except FusionReplayError as error:
            raise MissingError(f"{window.words} can't be built: {error}") from error
        except Exception as error:
            raise MissingError(f"{window.words} can't be built ({type(error).__name__}: {error})") from error

    def _entries(self, window: Window) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
        """The runlist's own entries; where a step is put apart, its output and its later uses by another name."""
        entries = list(self._sequence.runlist[window.first : window.last + 1])
        renamed: dict[str, str] = {}
        if window.apart is not None:
            at = window.apart - window.first
            op, *names = entries[at]
            renamed = {names[-1]: f"{names[-1]}__apart"}
            entries[at] = (op, *names[:-1], renamed[names[-1]])
            for i in range(at + 1, len(entries)):
                other, *used = entries[i]
                if names[-1] in used:
                    entries[i] = (other, *(renamed.get(n, n) for n in used))
        return entries, renamed

    def _output(self, window: Window, renamed: Mapping[str, str]) -> str:
        """What the last step writes; a buffer that shares no bytes with another where there is one, since an output
        lies apart from what is planned."""
        shared = overlapping(layout_of(self._sequence))
        written = [
            u.buffer
            for step in reversed(self.description.steps[window.first : window.last + 1])
            for u in step.operands
            if u.spec.writes
        ]
        chosen = next((n for n in written if n not in shared), written[0])
        return renamed.get(chosen, chosen)

    def _values(self, steps: Sequence[Step]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Per-call values of these steps by symbol, and those of the call before."""
        symbols = {s for step in steps for s in bound_symbols(self._sequence.runlist[step.index][0], step.values)}
        now = {k: v for step in steps for k, v in step.values.items() if k in symbols}
        return now, {k: v for k, v in self._values_before.items() if k in symbols}

    # --- looking ----------------------------------------------------------------------------------------------------

    def _look(
        self, callable_: Any, window: Window, edge: Boundary, steps: Sequence[Step], renamed: Mapping[str, str]
    ) -> list[tuple[HeldBytes, Bytes, Bytes]]:
        """What counts of what was left: piece, found, expected, by the step that wrote it."""
        layout = layout_of(callable_.op)
        shared = overlapping(layout)
        outputs = {str(n) for n in callable_.op.output_args}
        needed = needed_after(self.description, window.last + 1)
        seen = []
        for name, pieces in collected(edge.leaves).items():
            here = renamed.get(name, name)
            tensor = callable_.get_buffer(here)
            if here not in outputs and not knows_who_wrote(tensor):
                continue
            raw = host_bytes(tensor).copy()
            for piece in pieces:
                if here in shared and not _all_needed(needed, piece):
                    continue
                seen.append((piece, raw[piece.start : piece.stop], piece.read()))
        return sorted(seen, key=lambda s: s[0].step.index)


@dataclass(frozen=True, slots=True)
class _Found:
    wrong: Wrong
    before: dict[str, Bytes]


def _all_needed(needed: Any, piece: HeldBytes) -> bool:
    return any(state for _, _, state in needed.read(piece.buffer, piece.start, piece.stop))


def _plan_of(sequence: Any, parameters: Mapping[str, Any]) -> dict[str, int] | None:
    """Offsets of the whole plan by name; None where this form of IRON plans nothing."""
    if "buffer_offsets" not in parameters:
        return None
    given = getattr(sequence, "buffer_offsets", None)
    if given is None and getattr(sequence, "plan_scratch", False) and hasattr(sequence, "infer_buffer_offsets"):
        given = sequence.infer_buffer_offsets()
    return dict(given or {})


def _need_same(given: SequenceDescription, recorded: SequenceDescription, path: str) -> None:
    if len(given.steps) != len(recorded.steps):
        raise UsageError(
            f"{path}: its runlist has {len(recorded.steps)} steps, the sequence given has {len(given.steps)}; give the "
            "one that was recorded"
        )
    for mine, theirs in zip(given.steps, recorded.steps, strict=True):
        ours, other = given.operator_of(mine.index), recorded.operator_of(theirs.index)
        same = ours.type == other.type and _fit(ours.params, other.params)
        if not same or [u.label for u in mine.operands] != [u.label for u in theirs.operands]:
            raise UsageError(
                f"{path}: step {mine.index} is {other.type} {theirs.flow}, in the sequence given {ours.type} "
                f"{mine.flow}; give the one that was recorded"
            )


def _fit(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether parameters agree as far as both are settled: IRON settles tunables when a sequence is prepared."""
    return all(a[k] == b[k] for k in a.keys() & b.keys() if None not in (a[k], b[k]))


__all__ = ["Window", "WindowOutcome", "Windows"]
