# SPDX-License-Identifier: Apache-2.0
"""Ways to cut an output into parts that one fault may have struck, and the words for a place in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    """``of``: the number of the part that each element lies in; ``what``: how one is called."""

    what: str
    of: Index
    count: int


def cuts(tiling: Tiling, shape: Sequence[int]) -> Iterator[Cut]:
    """Large parts first."""
    size = tiling.size
    flat = np.arange(size)
    seen: set[bytes] = set()
    for cut in _all(tiling, tuple(shape), flat):
        key = cut.of[:: max(1, size // 4096)].tobytes() + bytes(str(cut.count), "ascii")
        if 1 < cut.count <= min(_MOST, size) and key not in seen:
            seen.add(key)
            yield cut


def _all(tiling: Tiling, shape: tuple[int, ...], flat: Index) -> Iterator[Cut]:
    size = tiling.size
    if tiling.source:
        for role in ROLES[:-1]:
            if tiling.count(role) > 1:
                what = {"column": "AIE column", "row": "core row"}.get(role, role)
                yield Cut(what, tiling.coordinate(role, flat), tiling.count(role))
    if len(shape) > 2:
        yield Cut("block", flat // (size // shape[0]), shape[0])
        if len(shape) > 3:
            yield Cut("head", flat // (size // (shape[0] * shape[1])), shape[0] * shape[1])
    inner = shape[-1] if len(shape) > 1 and shape[-1] > 1 else 0
    if inner and size % inner == 0 and size > inner:
        yield Cut("row", flat // inner, size // inner)
        yield Cut("matrix column", flat % inner, inner)
    yield _tiles(tiling, flat)
    run = tiling.axes[-1][1] if tiling.axes[-1][0] == "" else 1
    for length in dict.fromkeys((run, size // 8, 4096, 1024, 512, 256, 128, 64, 32, 16)):
        if 1 < length < size and size % length == 0:
            yield Cut(f"run of {length} elements", flat // length, size // length)
    for stride in _STRIDES:
        if stride < size:
            yield Cut(f"element of every {stride}", flat % stride, stride)


def _tiles(tiling: Tiling, flat: Index) -> Cut:
    """Counted over the whole output, in the order of the axes."""
    index, number, count = np.unravel_index(flat, tiling.shape), np.zeros(flat.size, np.int64), 1
    for (role, size), i in zip(tiling.axes, index, strict=True):
        if role:
            number, count = number * size + i, count * size
    return Cut("tile" if tiling.source else "eighth", number, count)


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
    for cut in cuts(tiling, shape):
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
