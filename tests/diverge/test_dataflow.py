# SPDX-License-Identifier: Apache-2.0
"""The graph against a model that keeps, for every byte of every buffer, who wrote it last."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import fusion_replay as fr
from byte_runlists import SIZE, Entry, Use, record
from fusion_replay.diverge.dataflow import CHANGED, HANDED, OUTSIDE, UNKNOWN, UNRECORDED, Dataflow, dataflow

ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(lambda r: (r[0], min(SIZE, r[0] + r[1])))
uses = st.builds(
    lambda buffer, direction, span: Use(buffer, direction, *span),
    st.sampled_from("xyz"),
    st.sampled_from(["in", "out", "inout"]),
    ranges,
)
entries = st.lists(st.lists(uses, min_size=1, max_size=3).map(lambda u: Entry(tuple(u))), min_size=1, max_size=6)


def graph(path: Path) -> Dataflow:
    with fr.open(path) as snap:
        return dataflow(snap)


def model(runlist: Sequence[Entry], invocations: int, skipped: set[tuple[int, int]]) -> dict[tuple[int, int, int], int]:
    """(row that reads, position, byte of the buffer) -> row that wrote this byte last."""
    owner: dict[tuple[str, int], int] = {}
    found, row = {}, 0
    for i in range(invocations):
        for s, entry in enumerate(runlist):
            recorded = (i, s) not in skipped
            for p, u in enumerate(entry.uses):
                if recorded and u.direction != "out":
                    for byte in range(u.start, u.stop):
                        found[row, p, byte] = owner.get((u.buffer, byte), OUTSIDE)
            for u in entry.uses:
                if u.direction != "in":
                    for byte in range(u.start, u.stop):
                        owner[u.buffer, byte] = row if recorded else UNRECORDED
            row += recorded
    return found


@settings(max_examples=settings().max_examples // 2, deadline=None)
@given(entries, st.integers(1, 3), st.data())
def test_every_byte_comes_from_who_wrote_it_last(runlist: list[Entry], invocations: int, data: st.DataObject) -> None:
    places = [(i, s) for i in range(invocations) for s in range(len(runlist))]
    skipped = data.draw(st.sets(st.sampled_from(places), max_size=len(places) - 1))
    with tempfile.TemporaryDirectory() as folder:
        flow = graph(record(Path(folder) / "x.h5", runlist, invocations=invocations, skipped=tuple(skipped)))
    found = {
        (int(e["consumer"]), int(e["position"]), byte): int(e["producer"])
        for e in flow.edges
        for byte in range(int(e["start"]), int(e["stop"]))
    }
    assert found == model(runlist, invocations, skipped)
    assert not (flow.edges["state"] == CHANGED).any(), "nobody but the steps wrote"


IN_PLACE = [
    Entry((Use("w", "in"), Use("x", "in"), Use("y", "out"))),
    Entry((Use("y", "inout"),)),
    Entry((Use("y", "in", 4, 8), Use("x", "out", 0, 4))),
    Entry((Use("y", "in"), Use("z", "out"))),
]


def test_edges_say_where_the_host_wrote(tmp_path: Path) -> None:
    path = record(tmp_path / "x.h5", IN_PLACE, invocations=2, outputs=["z"], host={0: {"w": b"1"}, 1: {"x": b"2"}})
    flow = graph(path)
    assert [flow.address(r) for r in range(8)] == [f"{i}:{s}" for i in range(2) for s in range(4)]
    (y,) = flow.sources(1)
    assert (y["producer"], y["wrote"], y["state"]) == (0, 2, HANDED)
    (half,) = flow.sources(2)
    assert (half["producer"], half["state"]) == (1, UNKNOWN), "a part of it: its digest is another"
    weights, low, high = flow.sources(4)
    assert weights["producer"] == OUTSIDE
    assert (low["producer"], low["start"], low["stop"]) == (2, 0, 4)
    assert (high["producer"], high["state"]) == (OUTSIDE, UNKNOWN)
    whole = [IN_PLACE[0], Entry((Use("y", "in"), Use("x", "out")))]
    host = {0: {"x": b"1"}, 1: {"x": b"2"}}
    flow = graph(record(tmp_path / "h.h5", whole, invocations=3, host=host))
    assert flow.sources(2, 1)["state"].tolist() == [CHANGED], "the host wrote x between the first two"
    assert flow.sources(4, 1)["state"].tolist() == [HANDED]


def test_readers_end_with_the_next_write(tmp_path: Path) -> None:
    flow = graph(record(tmp_path / "x.h5", IN_PLACE, outputs=["z"]))
    assert flow.readers(0)["consumer"].tolist() == [1]
    assert flow.readers(1)["consumer"].tolist() == [2, 3]
    assert flow.readers(3).size == 0
    assert flow.row(0, 3) == 3
    assert flow.row(0, 4) is None


def test_slices_forward_backward_and_the_shortest_path(tmp_path: Path) -> None:
    flow = graph(record(tmp_path / "x.h5", IN_PLACE, outputs=["z"]))
    assert np.flatnonzero(flow.forward([1])).tolist() == [1, 2, 3]
    assert np.flatnonzero(flow.backward([3])).tolist() == [0, 1, 3]
    assert flow.path(0, [2, 3]) == (0, 1, 2)
    assert flow.path(0, [3]) == (0, 1, 3)
    assert flow.path(2, [3]) == ()
    none = np.zeros(len(flow.edges), np.bool_)
    assert flow.path(0, [3], none) == ()
    assert np.flatnonzero(flow.forward([1], none)).tolist() == [1]


def test_outputs_are_what_is_there_at_the_end(tmp_path: Path) -> None:
    flow = graph(record(tmp_path / "x.h5", IN_PLACE, outputs=["x", "z"], invocations=2))
    pieces = [(f.invocation, f.buffer, f.piece.start, f.piece.stop, f.piece.producer) for f in flow.finals]
    assert pieces == [
        (0, "x", 0, 4, 2),
        (0, "x", 4, 8, OUTSIDE),
        (0, "z", 0, 8, 3),
        (1, "x", 0, 4, 6),
        (1, "x", 4, 8, OUTSIDE),
        (1, "z", 0, 8, 7),
    ]
    assert [f.invocation for f in flow.outputs(1)] == [1, 1, 1]
    assert flow.live == {(6, 1), (7, 1), (5, 0)}
    undeclared = graph(record(tmp_path / "y.h5", IN_PLACE))
    assert [(f.buffer, f.piece.producer) for f in undeclared.finals] == [("z", 3)]


def test_a_partial_writer_reads_what_was_there(tmp_path: Path) -> None:
    """StridedCopy keeps the rest of its output: the cache of the next token depends on every earlier one."""
    from fusion_replay.simulator.workloads import find

    run = find("llama-decode").build("npu2", (), {"tokens": 2, "layers": 1})
    with fr.record(tmp_path / "d.h5", run.callable):
        run.execute()
    with fr.open(tmp_path / "d.h5") as snap:
        flow = dataflow(snap)
        rows = {
            (s.invocation, s.description.operands[-1].buffer): flow.row(s.invocation, s.index) for s in snap.steps()
        }
        assert [s.op.type for s in snap.steps(buffer="keys_cache_0", invocation=0)] == ["StridedCopy", "Repeat"]
    old = flow.sources(rows[1, "keys_cache_0"], 1)
    assert old["producer"].tolist() == [rows[0, "keys_cache_0"]]
    assert old["state"].tolist() == [HANDED]
    logits = [f for f in flow.finals if f.buffer == "logits"]
    assert [f.piece.producer for f in logits] == [rows[0, "logits"], rows[1, "logits"]]
    assert flow.backward([rows[1, "logits"]])[rows[0, "keys"]], "the first token's keys are in the cache"
    assert not flow.backward([rows[1, "logits"]])[rows[0, "logits"]]


def test_a_run_that_was_cut_short(tmp_path: Path) -> None:
    path = record(tmp_path / "x.h5", IN_PLACE, outputs=["z"], invocations=2, stop_after=(1, 1))
    flow = graph(path)
    assert len(flow.addresses) == 6
    assert [(f.invocation, f.piece.producer) for f in flow.finals] == [(0, 3), (1, 3)], "z is still the first call's"
