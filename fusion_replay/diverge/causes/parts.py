# SPDX-License-Identifier: Apache-2.0
"""Ways to cut an output into parts that one fault may have struck, and the words for a place in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from fusion_replay.diverge.causes.spans import Index, Mask
from fusion_replay.operators.tiling import ROLES, Tiling

_MOST = 1 << 16  # parts
_STRIDES = (2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64, 128)
_SHOWN = 4
_PART = 0.6
"""Share of the parts up to which they are a place."""
_FULL = 0.2
"""Least share of a part's elements that are wrong where it counts as struck: a wrong value may be an honest one."""


@dataclass(frozen=True)
class Cut:
    """``at``: elements -> the numbers of the parts that they lie in; ``what``: how a part is called."""

    what: str
    at: Callable[[Index], Index]
    count: int
    size: int

    @cached_property
    def of(self) -> Index:
        """The number of the part that each element lies in."""
        return self.at(np.arange(self.size))


def cuts(tiling: Tiling, shape: Sequence[int]) -> Iterator[Cut]:
    """Large parts first."""
    size = tiling.size
    some = np.arange(0, size, max(1, size // 4096))
    seen: set[bytes] = set()
    for what, count, at in _all(tiling, tuple(shape)):
        if not 1 < count <= min(_MOST, size):
            continue
        key = at(some).tobytes() + bytes(str(count), "ascii")
        if key not in seen:
            seen.add(key)
            yield Cut(what, at, count, size)


def _all(tiling: Tiling, shape: tuple[int, ...]) -> Iterator[tuple[str, int, Callable[[Index], Index]]]:
    size = tiling.size
    if tiling.source:
        for role in ROLES[:-1]:
            if tiling.count(role) > 1:
                what = {"column": "AIE column", "row": "core row"}.get(role, role)
                yield what, tiling.count(role), partial(tiling.coordinate, role)
    if len(shape) > 2:
        yield "block", shape[0], partial(_run_of, size // shape[0])
        if len(shape) > 3:
            yield "head", shape[0] * shape[1], partial(_run_of, size // (shape[0] * shape[1]))
    inner = shape[-1] if len(shape) > 1 and shape[-1] > 1 else 0
    if inner and size % inner == 0 and size > inner:
        yield "row", size // inner, partial(_run_of, inner)
        yield "matrix column", inner, partial(_every, inner)
    tiles = math.prod(n for role, n in tiling.axes if role)
    yield "tile" if tiling.source else "eighth", tiles, partial(_tile, tiling)
    run = tiling.axes[-1][1] if tiling.axes[-1][0] == "" else 1
    for length in dict.fromkeys((run, size // 8, 4096, 1024, 512, 256, 128, 64, 32, 16)):
        if 1 < length < size and size % length == 0:
            yield f"run of {length} elements", size // length, partial(_run_of, length)
    for stride in _STRIDES:
        if stride < size:
            yield f"element of every {stride}", stride, partial(_every, stride)


def _run_of(length: int, flat: Index) -> Index:
    return flat // length


def _every(stride: int, flat: Index) -> Index:
    return flat % stride


def _tile(tiling: Tiling, flat: Index) -> Index:
    """Counted over the whole output, in the order of the axes."""
    index, number = np.unravel_index(flat, tiling.shape), np.zeros(flat.size, np.int64)
    for (role, size), i in zip(tiling.axes, index, strict=True):
        if role:
            number = number * size + i
    return number


def place(wrong: Mask, tiling: Tiling, shape: Sequence[int]) -> str:
    """Where the marked elements are, in words: the smallest parts that hold them all and are struck as a whole."""
    count = int(np.count_nonzero(wrong))
    if count == wrong.size:
        return "in every element"
    at = np.flatnonzero(wrong)
    ends = f"elements {at[0]} to {at[-1]}" if count > 1 else f"element {at[0]}"
    if count > 2 and at[-1] - at[0] + 1 == count:
        ends += ", one run"
    best: tuple[int, str] | None = None
    some = at[:: max(1, at.size // 8192)]
    for cut in cuts(tiling, shape):
        if np.count_nonzero(np.bincount(cut.at(some), minlength=cut.count)) > _PART * cut.count:
            continue
        hit = np.bincount(cut.of, weights=wrong, minlength=cut.count)
        all_of = np.bincount(cut.of, minlength=cut.count)
        struck = np.flatnonzero(hit)
        inside = int(all_of[struck].sum())
        if (
            struck.size <= _PART * cut.count
            and count >= 2
            and count >= _FULL * inside
            and (best is None or inside < best[0])
        ):
            best = inside, numbers(cut, struck)
    if best is not None:
        return f"in {best[1]} ({ends})"
    if count >= _FULL * wrong.size:
        return f"all over ({ends})"
    return f"in {ends}" if count <= 2 or ends.endswith("run") else f"scattered ({ends})"


def numbers(cut: Cut, struck: Index) -> str:
    """``rows 0, 4, 8, ... (every 4th, 16 of 64)``."""
    first = ", ".join(map(str, struck[:_SHOWN].tolist()))
    if struck.size == 1 and cut.what.startswith("element"):
        return f"every {_ordinal(cut.count)} element, from {first} on"
    if struck.size == 1:
        return f"{cut.what} {first} of {cut.count}"
    steps = np.diff(struck)
    regular = ""
    if struck.size > _SHOWN:
        first += ", ..."
        if (steps == steps[0]).all():
            regular = f"to {struck[-1]}, " if steps[0] == 1 else f"every {_ordinal(int(steps[0]))}, "
    name = cut.what.replace("run of", "runs of") if cut.what.startswith("run") else _plural(cut.what)
    return f"{name} {first} ({regular}{struck.size} of {cut.count})"


def _plural(what: str) -> str:
    if what.startswith("element of"):
        return what.replace("element", "elements", 1)
    return f"{what}es" if what.endswith("h") else f"{what}s"


def _ordinal(n: int) -> str:
    return "2nd" if n == 2 else "3rd" if n == 3 else f"{n}th"
