# SPDX-License-Identifier: Apache-2.0
"""Reading ahead of a series of steps: the recorded bytes, within the budget, whatever the timing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fusion_replay as fr
from fusion_replay.errors import DamagedSnapshotError
from fusion_replay.replaying.read_ahead import ReadAhead
from fusion_replay.snapshot import RecordedStep, Snapshot
from fusion_replay.snapshot.read import store
from fusion_replay.snapshot.schema import INPUT, OUTPUT

N = 4096  # elements of each tensor: 8 KiB
TENSOR = 2 * N
STEPS = 12


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Snapshot]:
    """Twelve steps, each on the same A and on what the one before gave: noise, so that none is stored as a patch."""
    path = tmp_path / "chain.h5"
    a = np.full(N, 0.5, ml_dtypes.bfloat16)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(N).astype(ml_dtypes.bfloat16)
    with fr.record(path) as rec:
        for _ in range(STEPS):
            with rec.step("ElementwiseAdd", inputs={"A": a, "B": x}, params={"size": N}) as step:
                x = rng.standard_normal(N).astype(ml_dtypes.bfloat16)
                step.outputs["C"] = x
    with fr.open(path, cache_bytes=0) as snapshot:
        yield snapshot


WAIT = 60


def soon(happened: Callable[[], bool]) -> bool:
    """Whether it happens within the time that a loaded machine may take."""
    end = time.monotonic() + WAIT
    while not happened() and time.monotonic() < end:
        time.sleep(0.001)
    return happened()


def reading_ahead() -> bool:
    return any(thread.name == "read-ahead" for thread in threading.enumerate())


def contents(step: RecordedStep) -> list[bytes]:
    return [t.numpy().tobytes() for t in (*step.inputs.values(), *step.outputs.values())]


STEP = 3 * TENSOR  # two inputs, one output


@pytest.mark.parametrize(
    ("budget", "most"),
    [
        (0, STEP),
        (TENSOR - 1, TENSOR - 1 + STEP),
        (3 * TENSOR, 3 * TENSOR + STEP),
        (5 * TENSOR + 1, 5 * TENSOR + 1),
        (1 << 30, 1 << 30),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_every_tensor_as_recorded_and_never_more_than_the_budget(
    chain: Snapshot, budget: int, most: int, backwards: bool
) -> None:
    """And one step's tensors on top where they don't fit."""
    steps = list(chain.steps())[:: -1 if backwards else 1]
    with ReadAhead(chain, steps, (INPUT, OUTPUT), budget) as ahead:
        for position, step in enumerate(steps):
            assert contents(step.reading_from(ahead)) == contents(step)
            held = sum(int(chain.index.contents["nbytes"][row]) for row in ahead.rows)
            assert held <= most
            assert ahead.nbytes <= most
            ahead.done(position)
    assert not reading_ahead()


def test_where_no_thread_can_be_started(chain: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    steps = list(chain.steps())
    with ReadAhead(chain, steps, (INPUT, OUTPUT), 5 * TENSOR) as ahead:
        for position, step in enumerate(steps):
            assert contents(step.reading_from(ahead)) == contents(step)
            ahead.done(position)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What is read from a store: row and the reading thread's name."""
    found: list[tuple[int, str]] = []
    read = store.ContentStore.read

    def noted(self: store.ContentStore, row: int, what: str, *, keep: bool = True) -> np.ndarray:
        found.append((row, threading.current_thread().name))
        return read(self, row, what, keep=keep)

    monkeypatch.setattr(store.ContentStore, "read", noted)
    return found


def test_each_content_is_decoded_once_and_dropped_after_its_last_use(
    chain: Snapshot, reads: list[tuple[int, str]]
) -> None:
    steps = list(chain.steps())
    # Alive at once: A, a sum, and the next one; a fourth place lets the thread run one content ahead.
    with ReadAhead(chain, steps, (INPUT, OUTPUT), 4 * TENSOR) as ahead:
        for position, step in enumerate(steps):
            rows = {t.row for t in (*step.inputs.values(), *step.outputs.values())}
            contents(step.reading_from(ahead))
            ahead.done(position)
            later = {t.row for s in steps[position + 1 :] for t in (*s.inputs.values(), *s.outputs.values())}
            assert not (rows - later) & ahead.rows
    assert sorted(row for row, _ in reads) == list(range(STEPS + 2))  # A, the first x, twelve sums
    assert not ahead.rows


def test_what_is_needed_last_goes_first(chain: Snapshot, reads: list[tuple[int, str]]) -> None:
    """A is used by every step: with places for A and one more, A is decoded once and the sums make way."""
    steps = list(chain.steps())
    with ReadAhead(chain, steps, (INPUT,), 2 * TENSOR) as ahead:
        for position, step in enumerate(steps):
            [t.numpy() for t in step.reading_from(ahead).inputs.values()]
            ahead.done(position)
    a = steps[0].inputs["A"].row
    assert [row for row, _ in reads].count(a) == 1  # type: ignore[arg-type]


def test_what_is_larger_than_the_budget_is_still_decoded_once(chain: Snapshot, reads: list[tuple[int, str]]) -> None:
    """Two steps on end that use it: a product's matrix for the next token."""
    steps = [step for step in chain.steps() for _ in range(2)]
    with ReadAhead(chain, steps, (OUTPUT,), TENSOR // 2) as ahead:
        for position, step in enumerate(steps):
            step.reading_from(ahead).outputs["C"].numpy()
            ahead.done(position)
    assert len(reads) == STEPS


def test_the_thread_reads_while_nobody_asks(chain: Snapshot, reads: list[tuple[int, str]]) -> None:
    with ReadAhead(chain, list(chain.steps()), (INPUT, OUTPUT), 1 << 30) as ahead:
        assert soon(lambda: len(ahead.rows) == STEPS + 2)
    assert {name for _, name in reads} == {"read-ahead"}


def test_damage_is_told_by_whoever_judges_with_the_tensors_name(chain: Snapshot) -> None:
    steps = list(chain.steps())
    row = steps[5].outputs["C"].row
    chain.index.contents = chain.index.contents.copy()
    chain.index.contents["digest"][row] = b"0" * 32
    with ReadAhead(chain, steps, (INPUT, OUTPUT), 1 << 30) as ahead:
        for position, step in enumerate(steps[:5]):
            assert len(contents(step.reading_from(ahead))) == 3
            ahead.done(position)
        with pytest.raises(DamagedSnapshotError, match="step 5:0 ElementwiseAdd, output C"):
            contents(steps[5].reading_from(ahead))


def test_leaving_early_ends_the_thread(chain: Snapshot) -> None:
    with pytest.raises(RuntimeError, match="enough"):  # noqa: SIM117 - the with statement is what is tested
        with ReadAhead(chain, list(chain.steps()), (INPUT, OUTPUT), TENSOR) as ahead:
            raise RuntimeError("enough")
    assert not reading_ahead()
    assert not ahead.rows


# --- contents in several pieces ---------------------------------------------------------------------------------------

LARGE = 3 << 20  # bytes: three pieces


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Snapshot]:
    """Six steps, each on a weight of its own."""
    path = tmp_path / "weights.h5"
    rng = np.random.default_rng(1)
    with fr.record(path) as rec:
        for _ in range(6):
            w = rng.standard_normal(LARGE // 4).astype(np.float32)
            with rec.step("Mine", inputs={"W": w}) as step:
                step.outputs["C"] = w[:8]
    with fr.open(path, cache_bytes=0) as snapshot:
        yield snapshot


def test_who_waits_takes_part(weights: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is inside the first piece and stays there until somebody decodes the second."""
    begun, second = threading.Event(), threading.Event()
    decode = store.decode
    by: list[str] = []

    def together(*args: Any) -> None:
        by.append(threading.current_thread().name)
        if len(by) == 1:
            begun.set()
            assert second.wait(WAIT)
        else:
            second.set()
        decode(*args)

    monkeypatch.setattr(store, "decode", together)
    steps = list(weights.steps())[:1]
    with ReadAhead(weights, steps, (INPUT,), 1 << 30) as ahead:
        assert begun.wait(WAIT)
        found = steps[0].reading_from(ahead).inputs["W"].numpy().tobytes()
    assert by[0] == "read-ahead"
    assert by[1] == threading.current_thread().name
    assert len(by) == 3
    assert found == contents(steps[0])[0]


def test_the_thread_stays_near(weights: Snapshot) -> None:
    """1/16 of the budget is two weights: the step's own, the two, and it waits."""
    steps = list(weights.steps())
    with ReadAhead(weights, steps, (INPUT,), 32 * LARGE) as ahead:
        for position in range(len(steps)):
            near = {step.inputs["W"].row for step in steps[position : position + 3]}
            assert soon(lambda near=near: ahead.rows == near)  # type: ignore[misc]
            ahead.done(position)


def test_memory_is_used_again_but_never_what_somebody_keeps(weights: Snapshot) -> None:
    steps = list(weights.steps())
    kept, places = [], []
    with ReadAhead(weights, steps, (INPUT,), 16 * LARGE) as ahead:
        for position, step in enumerate(steps):
            weight = step.reading_from(ahead).inputs["W"].numpy()
            places.append(weight.__array_interface__["data"][0])
            if position % 3 == 0:
                kept.append((step, weight[5:].view(np.int32)))
            del weight
            ahead.done(position)
            assert ahead.nbytes <= 16 * LARGE
    assert len(set(places)) < len(places)
    for step, view in kept:
        assert view.tobytes() == contents(step)[0][20:]
    assert ahead.nbytes == 0


@pytest.mark.parametrize("piece", [0, 1, 2])
def test_damage_in_any_piece_is_told_by_whoever_judges(weights: Snapshot, piece: int) -> None:
    steps = list(weights.steps())
    row = steps[3].inputs["W"].row
    assert row is not None
    chunks = weights.index.chunks = weights.index.chunks.copy()
    chunks["offset"][int(weights.index.contents["first_chunk"][row]) + piece] += 8
    with ReadAhead(weights, steps, (INPUT,), 1 << 30) as ahead:
        for position, step in enumerate(steps):
            if position == 3:
                with pytest.raises(DamagedSnapshotError, match="step 3:0 Mine, input W"):
                    step.reading_from(ahead).inputs["W"].numpy()
            else:
                step.reading_from(ahead).inputs["W"].numpy()
            ahead.done(position)
    assert ahead.nbytes == 0


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    order=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    budget=st.sampled_from([0, LARGE, 3 * LARGE, 7 * LARGE, 40 * LARGE]),
    keep=st.sets(st.integers(0, 11)),
)
def test_whatever_the_order_the_budget_and_what_is_kept(
    weights: Snapshot, order: list[int], budget: int, keep: set[int]
) -> None:
    steps = [weights[(i, 0)] for i in order]
    kept = []
    with ReadAhead(weights, steps, (INPUT, OUTPUT), budget) as ahead:
        for position, step in enumerate(steps):
            tensors = [t.numpy() for t in (*step.reading_from(ahead).inputs.values(), *step.outputs.values())]
            assert [t.tobytes() for t in tensors] == contents(step)
            if position in keep:
                kept.append((step, tensors))
            del tensors
            ahead.done(position)
            for earlier, theirs in kept:
                assert theirs[0].tobytes() == contents(earlier)[0]
    assert ahead.nbytes == 0
