# SPDX-License-Identifier: Apache-2.0
"""Two changes of one golden brought together: step by step, limit by limit, never line by line.

What one side changed is taken; what both changed to the same is taken once; what both changed differently is a
conflict, of that step and of no other. The text with conflicts is the two documents with git's markers where they
differ. Whether what came of it holds is for ``golden check`` to say.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from fusion_replay.golden.document import Golden, GoldenStep
from fusion_replay.golden.tolerances import StepTolerance

Side = Literal["ours", "theirs"]
V = TypeVar("V")

_HEAD = ("name", "recorded_on", "recipe", "losses", "accepted_mismatch", "contents")


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of it.

    Attributes:
        golden: with what was asked for where both sides changed it, ours unless something was.
        conflicts: what both sides changed differently and nobody decided, in words.
        text: the document; with markers of the conflicts where there are some.
    """

    golden: Golden
    conflicts: tuple[str, ...]
    text: str


def merge(base: Golden | None, ours: Golden, theirs: Golden, take: Side | None = None) -> Merged:
    """Three versions of one golden as one.

    Args:
        base: what both sides started from; None where each added the golden by itself.
        take: whose version counts where both changed the same.
    """
    mine, conflicts = _merged(base, ours, theirs, take or "ours")
    if not conflicts or take is not None:
        return Merged(mine, (), mine.to_json())
    other, _ = _merged(base, ours, theirs, "theirs")
    return Merged(mine, conflicts, _marked(mine.to_json(), other.to_json()))


def _merged(base: Golden | None, ours: Golden, theirs: Golden, side: Side) -> tuple[Golden, tuple[str, ...]]:
    conflicts: list[str] = []

    def three(was: V | None, mine: V, other: V, what: str) -> V:
        if mine == other or other == was:
            return mine
        if mine == was:
            return other
        conflicts.append(what)
        return mine if side == "ours" else other

    head: dict[str, Any] = {
        name: three(None if base is None else getattr(base, name), getattr(ours, name), getattr(theirs, name), name)
        for name in _HEAD
    }
    versions = [_by(g.steps if g is not None else (), lambda s: s.address) for g in (base, ours, theirs)]
    steps = _table(versions, three, _step)
    limits = [_by(g.tolerances if g is not None else (), lambda t: t.target) for g in (base, ours, theirs)]
    tolerances = _table(limits, three, _tolerance)
    return (
        replace(ours, **head, steps=steps, tolerances=tolerances, provenance=_provenance(base, ours, theirs, side)),
        tuple(conflicts),
    )


def _step(step: GoldenStep) -> str:
    return f"step {step.label}"


def _tolerance(tolerance: StepTolerance) -> str:
    return f"tolerance of {tolerance.target}"


def _by(entries: Iterable[V], key: Callable[[V], str]) -> dict[str, V]:
    return {key(e): e for e in entries}


def _table(
    versions: list[dict[str, V]],
    three: Callable[[V | None, V | None, V | None, str], V | None],
    name: Callable[[V], str],
) -> tuple[V, ...]:
    """Entries by key, in our order; what only they have stands behind what it stands behind there."""
    base, ours, theirs = versions
    order, before = list(ours), ""
    for key in theirs:
        if key not in ours:
            order.insert(order.index(before) + 1 if before else 0, key)
        before = key
    found = []
    for key in order:
        mine, other = ours.get(key), theirs.get(key)
        label = next(name(e) for e in (mine, other) if e is not None)
        entry = three(base.get(key), mine, other, label)
        if entry is not None:
            found.append(entry)
    return tuple(found)


def _provenance(base: Golden | None, ours: Golden, theirs: Golden, side: Side) -> Mapping[str, Any]:
    """Of one recording, never of two: that of the contents, or of whoever recorded again. Never a conflict."""
    was = None if base is None else base.provenance
    if theirs.provenance == was or theirs.provenance == ours.provenance:
        return ours.provenance
    if ours.provenance == was:
        return theirs.provenance
    contents = None if base is None else base.contents
    if ours.contents != theirs.contents and contents in (ours.contents, theirs.contents):
        return theirs.provenance if ours.contents == contents else ours.provenance
    return ours.provenance if side == "ours" else theirs.provenance


def _marked(ours: str, theirs: str) -> str:
    """Both texts in one, with git's markers around what differs."""
    a, b = ours.splitlines(keepends=True), theirs.splitlines(keepends=True)
    found: list[str] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            found += a[i:j]
        else:
            found += ["<<<<<<< ours\n", *a[i:j], "=======\n", *b[k:m], ">>>>>>> theirs\n"]
    return "".join(found)


__all__ = ["Merged", "Side", "merge"]
