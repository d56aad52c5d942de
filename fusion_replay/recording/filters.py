# SPDX-License-Identifier: Apache-2.0
"""Filters as they are written, ``412,10-20,3:412``, and what they mean.

Tested in tests/recording/test_retention.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import parse_address

FILTERS = ("op", "step", "buffer", "invocation")
"""Options that choose steps: values of one are alternatives, all that are given must agree."""

Ranges = list[tuple[int, int]]


def parts(text: str | None) -> list[str]:
    """What stands between commas; nothing where there is no filter."""
    return [] if text is None else [part.strip() for part in text.split(",")]


def parse_steps(text: str | None) -> tuple[Ranges, set[tuple[int, int]]]:
    """Entries of the runlist, and addresses.

    Raises:
        UsageError: malformed.
    """
    ranges = _ranges("step", [part for part in parts(text) if ":" not in part], "412, 10-20 or 3:412")
    return ranges, {parse_address(part) for part in parts(text) if ":" in part}


def parse_invocations(text: str | None) -> Ranges:
    """
    Raises:
        UsageError: malformed.
    """
    return _ranges("invocation", parts(text), "0 or 0,3-5")


def within(ranges: Ranges, number: int) -> bool:
    return any(start <= number <= stop for start, stop in ranges)


def _ranges(name: str, texts: Sequence[str], example: str) -> Ranges:
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


__all__ = ["FILTERS", "Ranges", "parse_invocations", "parse_steps", "parts", "within"]
