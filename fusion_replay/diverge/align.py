# SPDX-License-Identifier: Apache-2.0
"""Which step of one recording is which of another: by what they are, not by their numbers.

Runlists are aligned by operator, parameters, buffers and place in the dataflow, then with one of these changed; so an
inserted, removed or fused step shifts nothing. Invocations are aligned by their sequences, in their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusion_replay.diverge.matching import match
from fusion_replay.diverge.operands import Rows
from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import OperandUse, SequenceDescription
from fusion_replay.replaying.replay_report import canonical_json
from fusion_replay.snapshot.schema import LOST

if TYPE_CHECKING:
    from fusion_replay.snapshot import Snapshot

MISSING, NOT_IN_RUNLIST, NOT_INVOKED, NOT_COMPARED = -1, -2, -3, -4
"""Instead of a row of the other recording: it ran there and left no record (or never came so far); the other runlist
has no such step; the other recording has no such invocation; this invocation was not asked for."""

ENOUGH = 0.5
"""Share of the longer runlist that two sequences must have in common to be the same sequence, changed."""

Levels = list[list[Hashable]]

_TRIES = 64  # sequences of the other side that one is compared with, where names and runlists don't decide
_CHANGED = ("", "", "parameters", "buffers", "parameters and buffers", "operator")
"""What is not the same in a pair of steps, by the level of :func:`_levels` that found it."""


@dataclass(frozen=True, slots=True)
class RunlistAlignment:
    """Two runlists: ``pairs`` of entry numbers, and what changed in those that are not the same step."""

    a: int
    b: int
    pairs: tuple[tuple[int, int], ...]
    changed: Mapping[int, str]
    """Entry number in a -> "parameters", "buffers", "parameters and buffers" or "operator"."""
    steps: tuple[int, int]

    @property
    def identical(self) -> bool:
        return len(self.pairs) == self.steps[0] == self.steps[1] and not self.changed

    @property
    def common(self) -> float:
        """Share of the longer runlist that is the same step up to one change."""
        loose = sum("and" in c or c == "operator" for c in self.changed.values())
        return (len(self.pairs) - loose) / max(*self.steps, 1)


@dataclass(frozen=True)
class Alignment:
    """Two recordings.

    Attributes:
        runlists: the pairs of sequences.
        b_of: row of b for every row of a's steps, or one of the negative codes.
        a_of: the same the other way round.
        alone: names of sequences without a counterpart, of a and of b.
    """

    runlists: tuple[RunlistAlignment, ...]
    b_of: Rows
    a_of: Rows
    alone: tuple[tuple[str, ...], tuple[str, ...]]


def align(
    a: Snapshot, b: Snapshot, *, anyway: bool = False, invocations: tuple[int | None, int | None] = (None, None)
) -> Alignment:
    """Align the steps of two recordings.

    Args:
        anyway: align sequences too that have less than half of their steps in common.
        invocations: only this one of a with that one of b; all the others are out of scope.

    Raises:
        UsageError: no sequence of one is one of the other; the message says how they differ. Or no such invocation.
    """
    runlists = _pair_sequences(a.sequences, b.sequences, anyway)
    if not runlists:
        raise UsageError(_how_they_differ(a, b))
    calls = _in_scope(a, b, _pair_invocations(a, b, runlists), invocations)
    unpaired = NOT_INVOKED if invocations == (None, None) else NOT_COMPARED
    forward = {(r.a, i): j for r in runlists for i, j in r.pairs}
    backward = {(r.b, j): i for r in runlists for i, j in r.pairs}
    paired = {r.a for r in runlists}, {r.b for r in runlists}
    alone = tuple(
        tuple(s.name for n, s in enumerate(side.sequences) if n not in known)
        for side, known in zip((a, b), paired, strict=True)
    )
    return Alignment(
        runlists,
        _rows(a, b, dict(calls), forward, unpaired),
        _rows(b, a, {j: i for i, j in calls}, backward, unpaired),
        (alone[0], alone[1]),
    )


def align_runlists(a: SequenceDescription, b: SequenceDescription) -> RunlistAlignment:
    """Align two runlists."""
    return _same(a, 0, 0) if a == b else _align(_levels(a), _levels(b), 0, 0)


# --- sequences and invocations --------------------------------------------------------------------------------------


def _pair_sequences(
    a: Sequence[SequenceDescription], b: Sequence[SequenceDescription], anyway: bool
) -> tuple[RunlistAlignment, ...]:
    """The same runlist first, then the same name, then whatever has enough in common; each sequence once."""
    found = [_same(x, i, i) for i, (x, y) in enumerate(zip(a, b, strict=False)) if x == y]
    done = {r.a for r in found}
    left_a, left_b = ({i: _levels(s) for i, s in enumerate(side) if i not in done} for side in (a, b))

    def pair(key_a: Callable[[int], Hashable], key_b: Callable[[int], Hashable], least: float) -> None:
        by_key: dict[Hashable, list[int]] = {}
        for j in left_b:
            by_key.setdefault(key_b(j), []).append(j)
        for i in list(left_a):
            candidates = by_key.get(key_a(i), [])
            tried = (_align(left_a[i], left_b[j], i, j) for j in candidates[:_TRIES])
            best = next((r for r in tried if r.common >= least), None)
            if best is not None:
                found.append(best)
                candidates.remove(best.b)
                del left_a[i], left_b[best.b]

    pair(lambda i: tuple(left_a[i][1]), lambda j: tuple(left_b[j][1]), ENOUGH)
    pair(lambda i: a[i].name, lambda j: b[j].name, ENOUGH)
    pair(lambda _: None, lambda _: None, ENOUGH)
    if anyway:
        pair(lambda _: None, lambda _: None, 0.0)
    return tuple(sorted(found, key=lambda r: r.a))


def _same(sequence: SequenceDescription, i: int, j: int) -> RunlistAlignment:
    n = len(sequence.steps)
    return RunlistAlignment(i, j, tuple((k, k) for k in range(n)), {}, (n, n))


def _align(a: Levels, b: Levels, i: int, j: int) -> RunlistAlignment:
    found = match(list(zip(a, b, strict=True)))
    changed = {k: _CHANGED[level] for k, _, level in found if _CHANGED[level]}
    return RunlistAlignment(i, j, tuple((k, m) for k, m, _ in found), changed, (len(a[0]), len(b[0])))


def _pair_invocations(a: Snapshot, b: Snapshot, runlists: Sequence[RunlistAlignment]) -> list[tuple[int, int]]:
    """Invocations of paired sequences, in their order on both sides; the last ones of the longer side stay alone."""
    name_a, name_b = {r.a: n for n, r in enumerate(runlists)}, {r.b: n for n, r in enumerate(runlists)}
    sides = []
    for snapshot, name in ((a, name_a), (b, name_b)):
        rows = enumerate(snapshot.index.invocations.tolist())
        sides.append([(i, name[sequence]) for i, (sequence, status) in rows if status != LOST and sequence in name])
    keys_a, keys_b = ([key for _, key in side] for side in sides)
    short = min(len(keys_a), len(keys_b))
    if keys_a[:short] == keys_b[:short]:
        return [(i, j) for (i, _), (j, _) in zip(*sides, strict=False)]
    return [(sides[0][i][0], sides[1][j][0]) for i, j, _ in match([(keys_a, keys_b)])]


def _in_scope(
    a: Snapshot, b: Snapshot, calls: list[tuple[int, int]], only: tuple[int | None, int | None]
) -> list[tuple[int, int]]:
    """The pairs asked for; two numbers pair these two, whatever their order would have paired."""
    for snapshot, number in ((a, only[0]), (b, only[1])):
        if number is not None and number not in {i.index for i in snapshot.invocations}:
            raise UsageError(f"{snapshot.path}: no invocation {number}; it has {len(snapshot.invocations)}")
    i, j = only
    if i is not None and j is not None:
        names = [x.sequences[int(x.index.invocations["sequence"][n])].name for x, n in ((a, i), (b, j))]
        if (i, j) not in {(k, m) for k, m in calls} and names[0] != names[1]:
            raise UsageError(f"invocation {i} of a ran {names[0]}, {j} of b {names[1]}: give two of the same sequence")
        return [(i, j)]
    return [(i, j) for i, j in calls if only[0] in (None, i) and only[1] in (None, j)]


def _rows(
    a: Snapshot,
    b: Snapshot,
    invocations: Mapping[int, int],
    steps: Mapping[tuple[int, int], int],
    unpaired: int,
) -> Rows:
    """Row of b for every row of a; ``unpaired``: the code of an invocation without a partner."""
    per_sequence = [
        np.array([steps.get((n, i), NOT_IN_RUNLIST) for i in range(len(s.steps))] or [0], np.int64)
        for n, s in enumerate(a.sequences)
    ]
    offsets = np.cumsum([0, *(len(s) for s in per_sequence)])
    flat = np.concatenate(per_sequence) if per_sequence else np.zeros(1, np.int64)
    of_a = a.index.invocations["sequence"].astype(np.int64)
    into = np.array([invocations.get(i, unpaired) for i in range(len(of_a))] or [0], np.int64)
    rows = a.index.steps
    if not len(rows):
        return np.zeros(0, np.int64)
    at = rows["invocation"].astype(np.int64)
    invocation, step = into[at], flat[offsets[of_a[at]] + rows["step"].astype(np.int64)]
    found = _find(b, invocation, step)
    found[step < 0] = NOT_IN_RUNLIST
    found[invocation < 0] = unpaired
    return found


def _find(snapshot: Snapshot, invocation: Rows, step: Rows) -> Rows:
    """Rows of steps by address, MISSING where there is none."""
    table = snapshot.index.steps
    width = 1 + max((len(s.steps) for s in snapshot.sequences), default=0)
    key = table["invocation"].astype(np.int64) * width + table["step"].astype(np.int64)
    order = np.argsort(key, kind="stable")
    if not len(key):
        return np.full(len(step), MISSING, np.int64)
    wanted = invocation * width + step
    place = np.minimum(np.searchsorted(key[order], wanted), len(key) - 1)
    return np.where(key[order][place] == wanted, order[place], MISSING)


# --- what a step is -------------------------------------------------------------------------------------------------


def _levels(sequence: SequenceDescription) -> Levels:
    """Every step of a runlist described ever more loosely; :data:`_CHANGED` names what each level leaves out."""
    params = [canonical_json(_plain(op.params)) for op in sequence.operators]
    exact: list[Hashable] = []
    placed: list[Hashable] = []
    loose: list[list[Hashable]] = [[], [], [], []]
    writer: dict[str, Hashable] = {}
    for step in sequence.steps:
        op, with_params = sequence.operators[step.operator].type, params[step.operator]
        where = tuple(_place(u) for u in step.operands)
        form = tuple((u.spec.direction, u.spec.shape, u.spec.dtype) for u in step.operands)
        key = hash((op, with_params, where, form))
        exact.append(key)
        placed.append((key, tuple(writer.get(u.buffer) for u in step.operands if u.spec.reads)))
        for level, name in enumerate(
            ((op, where), (op, with_params, form), (op, tuple(u.spec.direction for u in step.operands)), where)
        ):
            loose[level].append(name)
        writer.update((u.buffer, key) for u in step.operands if u.spec.writes)
    return [placed, exact, *loose]


def _place(use: OperandUse) -> Hashable:
    return use.spec.direction, use.label


def _plain(params: Mapping[str, object]) -> dict[str, object]:
    """Parameters as canonical JSON can hold them: NaN and infinities of a hostile file as text."""
    return {k: repr(v) if isinstance(v, float) else v for k, v in params.items()}


def _how_they_differ(a: Snapshot, b: Snapshot) -> str:
    sides = " and ".join(f"{s.path} has {', '.join(map(_sequence_words, s.sequences)) or 'none'}" for s in (a, b))
    return f"recordings of different sequences: {sides}; --align-anyway compares the steps that they share"


def _sequence_words(sequence: SequenceDescription) -> str:
    counts = Counter(sequence.operators[s.operator].type for s in sequence.steps)
    most = ", ".join(f"{n} {op}" for op, n in counts.most_common(3))
    return f"{sequence.name} ({len(sequence.steps)} steps: {most}{', ...' if len(counts) > 3 else ''})"


__all__ = [
    "MISSING",
    "NOT_COMPARED",
    "NOT_INVOKED",
    "NOT_IN_RUNLIST",
    "Alignment",
    "RunlistAlignment",
    "align",
    "align_runlists",
]
