# SPDX-License-Identifier: Apache-2.0
"""A buffer's history against an array that holds the number of the last write to every single byte."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import fusion_replay as fr
from byte_runlists import SIZE, Entry, Use, record
from fusion_replay.report.history import history

ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(lambda r: (r[0], min(SIZE, r[0] + r[1])))
uses = st.builds(
    lambda buffer, direction, span: Use(buffer, direction, *span),
    st.sampled_from("xy"),
    st.sampled_from(["in", "out", "inout"]),
    ranges,
)
entries = st.lists(st.lists(uses, min_size=1, max_size=3).map(lambda u: Entry(tuple(u))), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(entries, ranges, st.booleans())
def test_reads_count_for_the_newest_write_that_they_overlap(
    runlist: list[Entry], span: tuple[int, int], whole: bool
) -> None:
    lo, hi = (0, SIZE) if whole else span
    runlist = [*runlist, Entry((Use("x", "in"),))]
    last, reads, before = [-1] * SIZE, [], 0
    for entry in [*runlist, *runlist]:
        touching = [
            u for u in entry.uses if u.buffer == "x" and any(lo <= byte < hi for byte in range(u.start, u.stop))
        ]
        for use in touching:
            if use.direction != "out":
                newest = max(last[use.start : use.stop])
                if newest < 0:
                    before += 1
                else:
                    reads[newest][1] += 1
        for use in touching:
            if use.direction != "in":
                last[use.start : use.stop] = [len(reads)] * (use.stop - use.start)
                reads.append([(use.start, use.stop), 0])
    with tempfile.TemporaryDirectory() as folder:
        snapshot = fr.open(record(Path(folder) / "a.h5", runlist, invocations=2))
        with snapshot:
            found = history(snapshot, "x" if whole else f"x[{lo}:{hi}]")
    assert [[(w.start, w.stop), w.reads_since] for w in found.writes] == reads
    assert found.reads_before == before
