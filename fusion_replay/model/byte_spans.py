# SPDX-License-Identifier: Apache-2.0
"""Who wrote which bytes of which buffer last: an interval map, the one answer to that question everywhere.

Ranges are half open, in bytes from the start of the buffer. A writer is whatever the caller says of it: a step, an
operand of a step, the contents that it left.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

W = TypeVar("W")


class Span(NamedTuple, Generic[W]):
    """Bytes ``start`` to ``stop`` of a buffer, and who wrote all of them last."""

    start: int
    stop: int
    writer: W


class ByteSpans(Generic[W]):
    """The last writer of each byte, in buffers that are told apart by any hashable name."""

    def __init__(self) -> None:
        self._of: dict[Hashable, tuple[list[int], list[Span[W]]]] = {}  # where spans start; the spans, ascending

    def write(self, buffer: Hashable, start: int, stop: int, writer: W) -> None:
        """``writer`` wrote these bytes; who wrote them before is forgotten. An empty range changes nothing."""
        self._replace(buffer, start, stop, [Span(start, stop, writer)])

    def erase(self, buffer: Hashable, start: int, stop: int) -> None:
        """From here on these bytes count as never written."""
        self._replace(buffer, start, stop, [])

    def read(self, buffer: Hashable, start: int, stop: int) -> list[Span[W | None]]:
        """The range in ascending spans that cover it without overlap; the writer of what was never written is None."""
        found: list[Span[W | None]] = []
        if buffer in self._of and start < stop:
            starts, spans = self._of[buffer]
            for span in spans[slice(*_overlapping(starts, spans, start, stop))]:
                if start < span.start:
                    found.append(Span(start, span.start, None))
                    start = span.start
                if span.start < start or stop < span.stop:
                    span = Span(start, min(span.stop, stop), span.writer)
                found.append(span)  # type: ignore[arg-type]  # tuples are covariant, generic named ones are not
                start = span.stop
        if start < stop:
            found.append(Span(start, stop, None))
        return found

    def __iter__(self) -> Iterator[Span[W]]:
        """All that was written and not written over, by buffer."""
        for _, spans in self._of.values():
            yield from spans

    def _replace(self, buffer: Hashable, start: int, stop: int, new: list[Span[W]]) -> None:
        if start >= stop:
            return
        starts, spans = self._of.setdefault(buffer, ([], []))
        lo, hi = _overlapping(starts, spans, start, stop)
        if lo < hi:
            first, last = spans[lo], spans[hi - 1]
            if first.start < start:
                new.insert(0, Span(first.start, start, first.writer))
            if stop < last.stop:
                new.append(Span(stop, last.stop, last.writer))
        spans[lo:hi] = new
        starts[lo:hi] = [span.start for span in new]


def _overlapping(starts: list[int], spans: list[Span[W]], start: int, stop: int) -> tuple[int, int]:
    """Numbers of the spans that share bytes with a range: the first, and the one behind the last."""
    lo = bisect_right(starts, start)
    if lo and start < spans[lo - 1].stop:
        lo -= 1
    return lo, bisect_left(starts, stop, lo)


__all__ = ["ByteSpans", "Span"]
