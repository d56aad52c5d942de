# SPDX-License-Identifier: Apache-2.0
"""Which steps a text means: ``412``, ``10-20``, ``3:412``, ``3:400-412``, several separated by commas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusion_replay.errors import UsageError

Ranges = list[tuple[int, int]]

_EXAMPLE = "412, 10-20, 3:412 or 3:400-412"


@dataclass(frozen=True, slots=True)
class StepFilter:
    """Alternatives, each (invocation or None for every one, first, last entry of the runlist)."""

    alternatives: tuple[tuple[int | None, int, int], ...]

    @classmethod
    def parse(cls, text: str) -> StepFilter:
        """
        Raises:
            UsageError: malformed.
        """
        found: list[tuple[int | None, int, int]] = []
        for part in parts(text):
            invocation, colon, entries = part.rpartition(":")
            if colon and not (invocation.isascii() and invocation.isdigit()):
                raise UsageError(f"step {part!r}: expected numbers counted from 0 and ranges, such as {_EXAMPLE}")
            ((first, last),) = parse_ranges("step", [entries], _EXAMPLE)
            found.append((int(invocation) if colon else None, first, last))
        return cls(tuple(found))

    def takes(self, invocation: int, step: int) -> bool:
        return any(at in (None, invocation) and first <= step <= last for at, first, last in self.alternatives)


def parts(text: str | None) -> list[str]:
    """What stands between commas; nothing where there is no filter."""
    return [] if text is None else [part.strip() for part in text.split(",")]


def parse_ranges(name: str, texts: Sequence[str], example: str) -> Ranges:
    """
    Raises:
        UsageError: malformed; ``name`` says what the numbers count.
    """
    found = []
    for text in texts:
        first, dash, last = text.partition("-")
        if not all(n.isascii() and n.isdigit() for n in ([first, last] if dash else [first])):
            raise UsageError(f"{name} {text!r}: expected numbers counted from 0 and ranges, such as {example}")
        start, stop = int(first), int(last if dash else first)
        if stop < start:
            raise UsageError(f"{name} {text!r}: a range from {start} down to {stop}; expected {stop}-{start}")
        found.append((start, stop))
    return found


__all__ = ["Ranges", "StepFilter", "parse_ranges", "parts"]
