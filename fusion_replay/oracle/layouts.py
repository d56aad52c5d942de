# SPDX-License-Identifier: Apache-2.0
"""The layouts that a tensor of a model may have in a buffer of a given size, likely ones first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import permutations, product

from fusion_replay.oracle.layout import AxisCut, TensorLayout, identity

MOST_AXES = 4
"""Of a tensor, splits included, that are tried."""
MOST_HEADS = 64
"""Of an axis that is seen as two: the longest outer one."""
_MOST_PARTS = 4  # tensors in one buffer, or buffers of one tensor


def layouts(
    shape: Sequence[int], elements: int, hints: Collection[int] = (), *, deep: bool = True
) -> list[TensorLayout]:
    """Layouts of a tensor of ``shape`` in a buffer of ``elements`` elements.

    Args:
        hints: axis lengths that the runlist knows; two axes are padded to these at once, never to others.
        deep: also with an axis seen as two (heads, interleaved halves), and with a part of the tensor.
    """
    sizes = tuple(n for n in shape if n != 1)
    if not 1 <= len(sizes) <= MOST_AXES or not elements:
        return []
    whole = tuple(AxisCut(0, n, n) for n in sizes)
    found = dict.fromkeys(_placed(whole, tuple((n,) for n in sizes), elements, hints))
    if deep:
        for splits in _splits(sizes):
            found.update(dict.fromkeys(_placed(whole, splits, elements, hints)))
        for cuts in _parts(sizes):
            found.update(dict.fromkeys(_placed(cuts, tuple((c.n,) for c in cuts), elements, hints)))
    return list(found)


def plain_layouts(shape: Sequence[int], elements: int, hints: Collection[int]) -> list[TensorLayout]:
    """Those that only pad; to lengths that the runlist knows, where there are any."""
    exact = identity(shape)
    if exact.elements == elements:
        return [exact]
    fitting = [x for x in layouts(shape, elements, hints, deep=False) if x.plain]
    return [x for x in fitting if all(n in hints or n in x.sizes for n in x.whole)] or fitting


# --- parts ----------------------------------------------------------------------------------------------------------


def _splits(sizes: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    if len(sizes) >= MOST_AXES:
        return
    for axis, n in enumerate(sizes):
        for outer in range(2, min(MOST_HEADS, n // 2) + 1):
            if n % outer == 0:
                yield tuple((outer, n // outer) if i == axis else (k,) for i, k in enumerate(sizes))
        if 2 < n // 2 <= MOST_HEADS * 4 and n % 2 == 0 and n // 2 > MOST_HEADS:
            yield tuple((n // 2, 2) if i == axis else (k,) for i, k in enumerate(sizes))


def _parts(sizes: tuple[int, ...]) -> Iterator[tuple[AxisCut, ...]]:
    """One of 2, 3 or 4 equal parts of the last axis, or of the one before it."""
    for axis in range(max(0, len(sizes) - 2), len(sizes)):
        for parts in range(2, _MOST_PARTS + 1):
            n, over = divmod(sizes[axis], parts)
            if over or n < 2:
                continue
            for k in range(parts):
                yield tuple(AxisCut(k * n, n, s) if i == axis else AxisCut(0, s, s) for i, s in enumerate(sizes))


def _placed(
    cuts: tuple[AxisCut, ...], splits: tuple[tuple[int, ...], ...], elements: int, hints: Collection[int]
) -> Iterator[TensorLayout]:
    sizes = [n for split in splits for n in split]
    if math.prod(sizes) > elements:
        return
    seen = set()
    for order in permutations(range(len(sizes))):
        if any(len(s) == 2 for s in splits) and _together(order, splits):
            continue  # the same as not split
        lengths = [sizes[a] for a in order]
        for whole, starts, row in _paddings(lengths, elements, hints):
            key = (order, whole, starts, row)
            if key not in seen:
                seen.add(key)
                yield TensorLayout(cuts, splits, order, whole, starts, row)


def _together(order: Sequence[int], splits: tuple[tuple[int, ...], ...]) -> bool:
    first = 0
    for split in splits:
        if len(split) == 2:
            at = order.index(first)
            return at + 1 < len(order) and order[at + 1] == first + 1
        first += len(split)
    return False


_Padding = tuple[tuple[int, ...], tuple[int, ...], tuple[int, int]]


def _paddings(lengths: Sequence[int], elements: int, hints: Collection[int]) -> Iterator[_Padding]:
    """Lengths in the buffer, where the tensor begins in them, and which row of how many it is."""
    none, size = (0,) * len(lengths), math.prod(lengths)
    if size == elements:
        yield tuple(lengths), none, (0, 1)
        return
    over, rest = divmod(elements, size)
    if not rest and len(lengths) == 1:
        yield tuple(lengths), none, (0, over)
    for axis, n in enumerate(lengths):
        others = size // n
        if elements % others == 0 and (padded := elements // others) > n:
            whole = tuple(padded if i == axis else k for i, k in enumerate(lengths))
            starts = range(0, padded, n) if padded % n == 0 and padded // n <= _MOST_PARTS else (0,)
            for start in starts:
                yield whole, tuple(start if i == axis else 0 for i in range(len(lengths))), (0, 1)
    if not rest and len(lengths) > 1:
        yield tuple(lengths), none, (0, over)
    wide = [[n, *(h for h in sorted(set(hints)) if n < h <= 4 * n + 64)] for n in lengths]
    for whole in product(*wide):
        if math.prod(whole) == elements and sum(a != b for a, b in zip(whole, lengths, strict=True)) > 1:
            yield whole, none, (0, 1)


__all__ = ["MOST_AXES", "MOST_HEADS", "layouts", "plain_layouts"]
