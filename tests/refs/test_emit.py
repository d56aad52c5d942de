# SPDX-License-Identifier: Apache-2.0
"""Emit against Python integers reduced to 32 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import reference

words = st.integers(-(1 << 31), (1 << 31) - 1) | st.sampled_from([-(1 << 31), (1 << 31) - 1, 0, 1, -1])


def _signed(x: int) -> int:
    x &= 0xFFFFFFFF
    return x - (1 << 32) if x >> 31 else x


@st.composite
def programs(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, ...]], list[list[int]]]:
    slots, carried = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    row = st.tuples(st.integers(0, 1), st.integers(0, carried - 1), words, words, st.integers(0, 31))
    rows = draw(st.lists(row, min_size=slots + carried, max_size=slots + carried))
    return slots, carried, rows, [[draw(words) for _ in range(carried)] for _ in range(2)]


@given(programs())
def test_every_word_wraps(drawn: tuple[int, int, list[tuple[int, ...]], list[list[int]]]) -> None:
    slots, carried, rows, planes = drawn
    want = [_signed(_signed(planes[p][i] * scale + bias) << shift) for p, i, scale, bias, shift in rows]
    for flavour in FLAVOURS:
        image, state = reference(
            "Emit",
            {"slots": slots, "carried": carried},
            {"planes": np.array(planes, np.int32), "program": np.array(rows, np.int32)},
            flavour,
        )
        assert image.dtype == state.dtype == np.int32
        assert (image.tolist(), state.tolist()) == (want[:slots], want[slots:])


@pytest.mark.torch
def test_torch_tensors_give_the_same_words() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    program = rng.integers(-(1 << 31), 1 << 31, (12, 5)).astype(np.int32)
    program[:, 0], program[:, 1], program[:, 4] = program[:, 0] & 1, program[:, 1] & 3, program[:, 4] & 31
    planes = rng.integers(-(1 << 31), 1 << 31, (2, 4)).astype(np.int32)
    mine = reference("Emit", {"slots": 8, "carried": 4}, [program, planes])
    theirs = reference("Emit", {"slots": 8, "carried": 4}, [torch.from_numpy(program), torch.from_numpy(planes)])
    assert [t.tolist() for t in theirs] == [m.tolist() for m in mine]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((2, 0, 1, 0, 0), "row 1: plane 2: expected 0 to 1"),
        ((0, 1, 1, 0, 0), "row 1: index 1: expected 0 to 0"),
        ((0, -1, 1, 0, 0), "row 1: index -1"),
        ((0, 0, 1, 0, 32), "row 1: shift 32: expected 0 to 31"),
    ],
)
def test_rows_that_point_nowhere(row: tuple[int, ...], message: str) -> None:
    program = np.array([[0, 0, 1, 0, 0], row], np.int32)
    with pytest.raises(UsageError, match=f"Emit: argument program, {message}"):
        reference("Emit", {"slots": 1, "carried": 1}, [program, np.array([[1], [2]], np.int32)])


def test_rows_must_be_slots_and_carried() -> None:
    with pytest.raises(UsageError, match=r"Emit: rows 4: expected slots \+ carried = 1 \+ 1"):
        reference("Emit", {"slots": 1, "carried": 1, "rows": 4}, [np.zeros((2, 5), np.int32), np.zeros(2, np.int32)])
    with pytest.raises(UsageError, match="Emit: argument planes needs int32 elements, found int64"):
        reference("Emit", {"slots": 1, "carried": 1}, [np.zeros((2, 5), np.int32), np.zeros(2, np.int64)])
