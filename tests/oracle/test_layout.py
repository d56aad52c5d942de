# SPDX-License-Identifier: Apache-2.0
"""Layouts against numpy's own reshape, transpose and pad; the text that people edit; texts that say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.oracle.layout import TensorLayout, identity, parse
from fusion_replay.oracle.layouts import layouts

T = np.arange(3 * 8, dtype=np.float64).reshape(1, 3, 8) + 1
HEADS = T[0].reshape(3, 2, 4)


def _padded(array: Any, *shape: int) -> Any:
    return np.pad(array, [(0, n - m) for n, m in zip(shape, array.shape, strict=True)])


@pytest.mark.parametrize(
    ("text", "buffer"),
    [
        ("a b -> a b", T),
        ("a b -> a/4 b", _padded(T[0], 4, 8)),
        ("a b -> a/4 b/10", _padded(T[0], 4, 10)),
        ("a b -> b a", T[0].T),
        ("a (b=2 c) -> b a c", HEADS.transpose(1, 0, 2)),  # heads outermost
        ("a (b=2 c) -> b a/4 c", _padded(HEADS.transpose(1, 0, 2), 2, 4, 4)),
        ("a (b=2 c) -> a c b", HEADS.transpose(0, 2, 1)),  # interleaved
        ("a b@4+4 -> a b", T[0][:, 4:]),  # one of two tensors
        ("a b -> a b@8/16", np.hstack([np.zeros((3, 8)), T[0]])),  # beside another one
        ("a b -> 1@1/2 a b", np.stack([np.zeros((3, 8)), T[0]])),
        ("a b -> a b * -0.5", T * -0.5),
    ],
)
def test_layouts_say_what_numpy_does(text: str, buffer: Any) -> None:
    flat = np.ascontiguousarray(buffer).reshape(-1)
    layout = parse(text, T.shape, flat.size)
    assert str(layout) == text
    part = layout.of_model(T)
    np.testing.assert_array_equal(layout.of_buffer(flat), part)
    np.testing.assert_array_equal(layout.into_buffer(np.zeros(flat.size), part), flat)
    at = [np.array([0, 2]), np.array([1, 3])]
    np.testing.assert_array_equal(flat[layout.indices(at)], part[at[0], at[1]] * layout.factor)


@pytest.mark.parametrize("elements", [24, 32, 40, 48, 96])
def test_every_layout_of_a_search_is_one_that_its_text_gives_back(elements: int) -> None:
    found = layouts(T.shape, elements, {4, 8, 10})
    assert found
    assert len(found) == len(set(found))
    assert all(parse(str(layout), T.shape, elements) == layout for layout in found)


def test_searches_find_the_known_ones() -> None:
    texts = set(map(str, layouts(T.shape, 40, {4, 10})))
    assert {"a b -> a/4 b/10", "a b -> a/5 b"} <= texts
    texts = set(map(str, layouts(T.shape, 72)))
    assert {"a b -> a b@8/24", "a b -> a/9 b", "a b -> b a/9", "a (b=2 c) -> b a/9 c"} <= texts
    assert layouts(T.shape, 23) == []
    assert layouts((2,) * 5, 32) == []
    assert layouts((), 1) == []
    assert identity((1, 3, 1, 8)).shape == (3, 8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a b", "expected AXES -> AXES"),
        ("a -> a", "expected 2 axes left of the arrow"),
        ("a b -> a", "expected each of the axes"),
        ("a b -> a a", "expected each of the axes"),
        ("a b -> a b/4", "axis b does not fit"),
        ("a b@6+4 -> a b", "has no elements 6 to 10"),
        ("a (b=3 c) -> a b c", "can't be split"),
        ("a (b=x c) -> a b c", "expected NAME=LENGTH"),
        ("a b -> a/5 b", "is of a buffer of 40 elements, found one of 32"),
        ("a b -> a b * nan", "expected a number after"),
        ("a b -> a, b", "expected an axis at"),
    ],
)
def test_texts_that_fit_nothing(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(text, T.shape, 32)


def test_plain_is_padding_alone() -> None:
    assert parse("a b -> a/4 b", T.shape, 32).plain
    layout: TensorLayout = parse("a b -> b a/4", T.shape, 32)
    assert not layout.plain
