# SPDX-License-Identifier: Apache-2.0
"""The interval map against an array that holds the writer of every single byte."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from fusion_replay.model.byte_spans import ByteSpans, Span

SIZE = 12
places = st.integers(0, SIZE)
operations = st.lists(
    st.tuples(st.sampled_from(["write", "erase"]), st.sampled_from("xy"), places, places), max_size=12
)


@given(operations, st.sampled_from("xyz"), places, places)
@example([("write", "x", 0, 12), ("write", "x", 4, 8), ("erase", "x", 6, 10)], "x", 2, 11)
@example([("write", "x", 2, 6), ("write", "x", 4, 4)], "x", 0, 12)
def test_every_byte_has_its_last_writer(
    done: list[tuple[str, str, int, int]], buffer: str, start: int, stop: int
) -> None:
    spans: ByteSpans[int] = ByteSpans()
    naive: dict[str, list[int | None]] = {name: [None] * SIZE for name in "xyz"}
    for number, (kind, name, lo, hi) in enumerate(done):
        if kind == "write":
            spans.write(name, lo, hi, number)
        else:
            spans.erase(name, lo, hi)
        for byte in range(lo, hi):
            naive[name][byte] = number if kind == "write" else None

    found = spans.read(buffer, start, stop)
    assert [span.writer for span in found for _ in range(span.start, span.stop)] == naive[buffer][start:stop]
    edges = [edge for span in found for edge in (span.start, span.stop)]
    assert edges[::2] == [start, *edges[1:-1:2]] if start < stop else not edges, "side by side, in ascending order"
    assert edges[-1:] == ([stop] if start < stop else [])
    assert all(span.start < span.stop for span in found)

    left = sorted((s.start, s.stop, s.writer) for s in spans)
    held = [(byte, writer) for name in "xyz" for byte, writer in enumerate(naive[name]) if writer is not None]
    assert sorted((byte, w) for lo, hi, w in left for byte in range(lo, hi)) == sorted(held)


def test_a_write_that_nobody_cut_comes_back_as_it_was() -> None:
    spans: ByteSpans[str] = ByteSpans()
    spans.write(("any", "name"), 0, 4, "a")
    spans.write(("any", "name"), 4, 8, "a")
    assert spans.read(("any", "name"), 0, 8) == [Span(0, 4, "a"), Span(4, 8, "a")], "two writes stay two"
    spans.write(("any", "name"), 2, 4, "b")
    assert spans.read(("any", "name"), 1, 5) == [Span(1, 2, "a"), Span(2, 4, "b"), Span(4, 5, "a")]
