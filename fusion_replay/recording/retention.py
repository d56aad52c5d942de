# SPDX-License-Identifier: Apache-2.0
"""What of a run is kept: level, filters, budgets. A policy as data, and what it says step by step.

How contents are stored is not decided here: the recorder asks for a step's reason to be left out, and the snapshot's
writer keeps digests alone where there is one.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import SequenceDescription, parse_address, parse_buffer
from fusion_replay.model.withheld import BEYOND, FILTERED

Level = Literal["full", "digest"]
Keep = Literal["all", "mismatch"]
Texts = str | Sequence[str]

_FILTERS = ("op", "step", "buffer", "invocation")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?", re.IGNORECASE)
_FACTORS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_MOST = 1 << 62


@dataclass(frozen=True, slots=True)
class Keeping:
    """Which steps have their contents kept.

    Filters choose whole steps, so that what is kept can be replayed; values of one filter are alternatives, all filters
    given must agree. Steps left out are recorded with digests alone, or with ``only_matching`` not at all.

    Attributes:
        level: "full", or "digest": the digests of all contents alone.
        op: operator types, IRON's class names or aliases, separated by commas.
        step: numbers in the runlist, ranges of them, or addresses: ``412``, ``10-20``, ``3:412``, by commas.
        buffer: ``name`` or ``name[start:end]`` in bytes, by commas: steps that read or write any of it.
        invocation: numbers and ranges, ``0,3-5``.
        max_bytes: contents kept, as they are before compression; what other contents give is not counted.
        max_steps, max_invocations: how many have contents kept, of those that the filters choose and that deviate or
            fail.
        keep: "all", or "mismatch": of the steps that the filters choose only those that deviate.
        against: from what: a file, the earlier snapshot; None: each step's reference.

    Raises:
        UsageError: a malformed value, or values that exclude each other; names it and what was expected.
    """

    level: Level = "full"
    op: str | None = None
    step: str | None = None
    buffer: str | None = None
    invocation: str | None = None
    only_matching: bool = False
    max_bytes: int | None = None
    max_steps: int | None = None
    max_invocations: int | None = None
    keep: Keep = "all"
    against: str | None = None

    def __post_init__(self) -> None:
        if self.level not in ("full", "digest"):
            raise UsageError(f"level {self.level!r}: expected 'full' or 'digest'")
        if self.keep not in ("all", "mismatch"):
            raise UsageError(f"keep {self.keep!r}: expected 'all' or 'mismatch'")
        if self.keep == "mismatch" and self.level == "digest":
            raise UsageError("keep 'mismatch' with level 'digest': no contents are kept that it could choose")
        if self.against is not None and self.keep != "mismatch":
            raise UsageError(f"against {self.against!r}: goes with keep 'mismatch'")
        for name in ("max_bytes", "max_steps", "max_invocations"):
            limit = getattr(self, name)
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit < _MOST):
                raise UsageError(f"{name} {limit!r}: expected a count above 0; leave it out for no limit")
            if limit is not None and self.level == "digest":
                raise UsageError(f"{name} {limit}: level 'digest' keeps no contents that it could limit")
        for name in ("op", "buffer"):
            given = getattr(self, name)
            if given is not None and not all(part.strip() for part in given.split(",")):
                raise UsageError(f"{name} {given!r}: expected names separated by commas")
        _ = [parse_buffer(part) for part in _parts(self.buffer)], self._steps, self._invocations
        if self.only_matching and not self.filters:
            raise UsageError("only_matching: goes with a filter: op, step, buffer or invocation")
        if self.filters and self.level == "digest" and not self.only_matching:
            given = next(iter(self.filters))
            raise UsageError(
                f"{given} with level 'digest': no contents are kept that it could choose; add only_matching"
            )

    @classmethod
    def of(cls, **given: Any) -> Keeping:
        """From what a caller may give: several values as one text or as a sequence, sizes as ``"2G"``."""
        given.update({name: _joined(given[name]) for name in _FILTERS if name in given})
        if isinstance(size := given.get("max_bytes"), str):
            given["max_bytes"] = size_in_bytes(size)
        if (against := given.get("against")) is not None:
            given["against"] = os.fspath(against)
        return cls(**given)

    @property
    def filters(self) -> dict[str, str]:
        """Those given, by name."""
        given = {name: getattr(self, name) for name in _FILTERS}
        return {name: value for name, value in given.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """What differs from keeping everything."""
        fields = [f for f in dataclasses.fields(self) if f.name != "level" and getattr(self, f.name) != f.default]
        given = {f.name: getattr(self, f.name) for f in fields}
        return given if self.against is None else {**given, "against": os.path.basename(self.against)}

    def __str__(self) -> str:
        return ", ".join(f"{k} {v}" if v is not True else k for k, v in self.to_dict().items())

    def chooses(self, sequence: SequenceDescription, canonical: Callable[[str], str]) -> frozenset[int]:
        """Entries of the runlist that pass op and buffer."""
        ops = {canonical(part) for part in _parts(self.op)}
        buffers = [parse_buffer(part) for part in _parts(self.buffer)]
        found = set()
        for entry in sequence.steps:
            fits = not ops or canonical(sequence.operators[entry.operator].type) in ops
            if fits and (not buffers or any(use.touches(*b) for use in entry.operands for b in buffers)):
                found.add(entry.index)
        return frozenset(found)

    def passes(self, invocation: int, step: int) -> bool:
        """Whether the numbers pass."""
        if self.invocation is not None and not _within(self._invocations, invocation):
            return False
        ranges, addresses = self._steps
        return self.step is None or _within(ranges, step) or (invocation, step) in addresses

    @property
    def _steps(self) -> tuple[list[tuple[int, int]], set[tuple[int, int]]]:
        parts = _parts(self.step)
        ranges = _ranges("step", [part for part in parts if ":" not in part], "412, 10-20 or 3:412")
        return ranges, {parse_address(part) for part in parts if ":" in part}

    @property
    def _invocations(self) -> list[tuple[int, int]]:
        return _ranges("invocation", _parts(self.invocation), "0 or 0,3-5")


class Doorkeeper:
    """Asked once per step of one recording; counts what it has let in."""

    def __init__(self, keeping: Keeping, canonical: Callable[[str], str]) -> None:
        self.keeping = keeping
        self._canonical = canonical
        self._chosen: dict[int, frozenset[int]] = {}
        self._steps = 0
        self._invocations: set[int] = set()
        self._matched = False
        self._ops: dict[str, None] = {}
        self._buffers: dict[str, None] = {}
        self._longest = self._called = 0

    def reason(self, number: int, sequence: SequenceDescription, invocation: int, step: int, full: bool) -> str | None:
        """Why the contents of a step that begins are not to be kept; None: they are.

        ``number``: of the sequence, in this recording. ``full``: no bytes are left.
        """
        self._called = max(self._called, invocation + 1)
        k = self.keeping
        if k.filters:
            if step not in self._entries(number, sequence) or not k.passes(invocation, step):
                return FILTERED
            self._matched = True
        if full:
            return f"{BEYOND}bytes {k.max_bytes}"
        if k.keep == "mismatch":
            return self._limit(invocation)  # what it counts is known when the step has ended
        return self.admit(invocation)

    def admit(self, invocation: int) -> str | None:
        """Count a step as one that is kept; why it is not after all, or None."""
        if (limit := self._limit(invocation)) is None:
            self._invocations.add(invocation)
            self._steps += 1
        return limit

    def _limit(self, invocation: int) -> str | None:
        k = self.keeping
        if k.max_steps is not None and self._steps >= k.max_steps:
            return f"{BEYOND}steps {k.max_steps}"
        more = invocation not in self._invocations
        if k.max_invocations is not None and more and len(self._invocations) >= k.max_invocations:
            return f"{BEYOND}invocations {k.max_invocations}"
        return None

    @property
    def unmatched(self) -> str | None:
        """What is wrong with the filters, once everything ran; None: they matched, or nothing ran at all."""
        if not self.keeping.filters or not self._called:
            return None
        asked = ", ".join(f"{name} {value}" for name, value in self.keeping.filters.items())
        has = (
            f"operators {_shown(self._ops)}; buffers {_shown(self._buffers)}; steps 0 to {self._longest - 1}; "
            f"invocations 0 to {self._called - 1}"
        )
        if not self._matched:
            left = "nothing was recorded" if self.keeping.only_matching else "digests alone were recorded"
            return f"no step matched {asked}, {left}; the run had {has}"
        lost = [op for op in _parts(self.keeping.op) if self._canonical(op) not in map(self._canonical, self._ops)]
        lost += [b for b in _parts(self.keeping.buffer) if parse_buffer(b)[0] not in self._buffers]
        return f"no step matched {', '.join(lost)} of {asked}; the run had {has}" if lost else None

    def _entries(self, number: int, sequence: SequenceDescription) -> frozenset[int]:
        known = self._chosen.get(number)
        if known is None:
            self._ops.update(dict.fromkeys(o.type for o in sequence.operators))
            self._buffers.update(dict.fromkeys(use.buffer for s in sequence.steps for use in s.operands))
            self._longest = max(self._longest, len(sequence.steps))
            known = self._chosen[number] = self.keeping.chooses(sequence, self._canonical)
        return known


def size_in_bytes(text: str, name: str = "max_bytes") -> int:
    """``2G`` -> 2,000,000,000; ``2GiB`` -> 2**31; ``500000`` -> itself.

    Raises:
        UsageError: no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{name} {text!r}: expected a size above 0, such as 500M or 2G")
    number, unit, binary = found.groups()
    size = float(number) * (1024 if binary else 1000) ** _FACTORS[unit.upper()]
    if not 1 <= size < _MOST:
        raise UsageError(f"{name} {text!r}: expected a size above 0, such as 500M or 2G")
    return int(size)


def _joined(given: Texts | int | None) -> str | None:
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, int):
        return str(given)
    return ",".join(map(str, given))


def _parts(text: str | None) -> list[str]:
    return [] if text is None else [part.strip() for part in text.split(",")]


def _ranges(name: str, parts: Sequence[str], example: str) -> list[tuple[int, int]]:
    found = []
    for part in parts:
        first, dash, last = part.partition("-")
        if not all(n.isascii() and n.isdigit() for n in ([first, last] if dash else [first])):
            raise UsageError(f"{name} {part!r}: expected numbers counted from 0 and ranges, such as {example}")
        start, stop = int(first), int(last if dash else first)
        if stop < start:
            raise UsageError(f"{name} {part!r}: a range from {start} down to {stop}; expected {stop}-{start}")
        found.append((start, stop))
    return found


def _within(ranges: Sequence[tuple[int, int]], number: int) -> bool:
    return any(start <= number <= stop for start, stop in ranges)


def _shown(names: dict[str, None]) -> str:
    some = sorted(names)
    return ", ".join(some[:12]) + (f" and {len(some) - 12} more" if len(some) > 12 else "")


__all__ = [
    "Doorkeeper",
    "Keep",
    "Keeping",
    "Level",
    "Texts",
    "size_in_bytes",
]
