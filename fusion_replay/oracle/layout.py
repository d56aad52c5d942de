# SPDX-License-Identifier: Apache-2.0
"""How a tensor of a model lies in a buffer: axes cut, split, reordered, padded, and a factor; as text to edit and keep.

``a (b=12 c) -> b a/64 c`` says: the model's axes are a and b c, where b c is one axis of 12 times what is left; the
buffer has b outermost, then a, of which it holds 64 (the model's come first, the rest is padding), then c. Axes of
length 1 have no letter. ``b@384+384`` left of the arrow: elements 384 to 768 of this axis alone; ``c@384/1152`` right
of it: from element 384 on in an axis of 1,152; ``1@2/64``: all this is row 2 of 64. ``* 0.125`` at the end: the buffer
holds so many times the model's value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import UsageError

Array = npt.NDArray[Any]
_LETTERS = "abcdefghijklmnop"
_LEFT = re.compile(r"\(([a-z= 0-9]+)\)|([a-z])(?:@(\d{1,12})\+(\d{1,12}))?")
_RIGHT = re.compile(r"([a-z]|1)(?:@(\d{1,12}))?(?:/(\d{1,12}))?")


@dataclass(frozen=True, slots=True)
class AxisCut:
    """Elements ``start`` to ``start + n`` of an axis of ``total``."""

    start: int
    n: int
    total: int


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """One way to lie in a buffer.

    Attributes:
        cuts: per axis of the model's tensor, those of length 1 left out.
        splits: per axis, the lengths that it is seen as; their product is the cut's length.
        order: numbers of the split axes in the order of the buffer.
        whole: the axes' lengths in the buffer, in its order.
        starts: where the tensor begins in each of them.
        row: all this is one of many rows: its number and how many there are.
        factor: what the model's values were multiplied with.
    """

    cuts: tuple[AxisCut, ...]
    splits: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    whole: tuple[int, ...]
    starts: tuple[int, ...]
    row: tuple[int, int] = (0, 1)
    factor: float = 1.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the split axes, in the model's order."""
        return tuple(n for split in self.splits for n in split)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is compared: the model's tensor, cut, without axes of length 1."""
        return tuple(cut.n for cut in self.cuts)

    @property
    def elements(self) -> int:
        """Of the buffer."""
        return math.prod(self.whole) * self.row[1]

    @property
    def plain(self) -> bool:
        """The model's own order with padding at most."""
        moved = self.order != tuple(range(len(self.cuts))) or any(self.starts) or self.row[0]
        return not moved and all(cut.n == cut.total for cut in self.cuts)

    def of_model(self, tensor: Array) -> Array:
        """The part of the model's tensor that this is about, in :attr:`shape`."""
        seen = tensor.reshape([n for n in tensor.shape if n != 1])
        part: Array = seen[tuple(slice(cut.start, cut.start + cut.n) for cut in self.cuts)]
        return part

    def of_buffer(self, elements: Array) -> Array:
        """The same part out of a buffer's elements, in the model's order; the factor is taken out."""
        part = self._row_of(elements)[self._window()]
        back: Array = part.transpose(np.argsort(self.order)).reshape(self.shape)
        return back if self.factor == 1.0 else back / self.factor

    def into_buffer(self, elements: Array, part: Array) -> Array:
        """A copy of a buffer's elements, flat, with this part of them as the model has it (:meth:`of_model`)."""
        found = elements.reshape(-1).copy()
        placed = part.reshape(self.sizes).transpose(self.order)
        self._row_of(found)[self._window()] = placed if self.factor == 1.0 else placed * self.factor
        return found

    def indices(self, coordinates: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        """Elements of the buffer at these coordinates of :attr:`shape`, one array for each axis."""
        split = [
            part
            for axis, lengths in zip(coordinates, self.splits, strict=True)
            for part in np.unravel_index(axis, lengths)
        ]
        placed = tuple(split[a] + start for a, start in zip(self.order, self.starts, strict=True))
        return np.asarray(np.ravel_multi_index(placed, self.whole), np.int64) + self.row[0] * math.prod(self.whole)

    def _row_of(self, elements: Array) -> Array:
        row: Array = elements.reshape((self.row[1], *self.whole))[self.row[0]]
        return row

    def _window(self) -> tuple[slice, ...]:
        lengths = (self.sizes[a] for a in self.order)
        return tuple(slice(start, start + n) for start, n in zip(self.starts, lengths, strict=True))

    def __str__(self) -> str:
        letters = iter(_LETTERS)
        left: list[str] = []
        names: list[str] = []
        for cut, lengths in zip(self.cuts, self.splits, strict=True):
            its = [next(letters) for _ in lengths]
            names += its
            if len(its) > 1:
                given = (f"{name}={n}" for name, n in zip(its[:-1], lengths[:-1], strict=True))
                left.append(f"({' '.join(given)} {its[-1]})")
            else:
                left.append(its[0] + (f"@{cut.start}+{cut.n}" if cut.n != cut.total else ""))
        right = [f"1{_place(*self.row, 1)}"] if self.row[1] != 1 else []
        for a, n, start in zip(self.order, self.whole, self.starts, strict=True):
            right.append(names[a] + _place(start, n, self.sizes[a]))
        factor = "" if self.factor == 1.0 else f" * {self.factor:.6g}"
        return f"{' '.join(left)} -> {' '.join(right)}{factor}"


def identity(shape: Sequence[int]) -> TensorLayout:
    """The model's tensor as it is."""
    sizes = tuple(n for n in shape if n != 1)
    cuts = tuple(AxisCut(0, n, n) for n in sizes)
    return TensorLayout(cuts, tuple((n,) for n in sizes), tuple(range(len(sizes))), sizes, (0,) * len(sizes))


def parse(text: str, shape: Sequence[int], elements: int) -> TensorLayout:
    """A layout as :class:`TensorLayout` prints it, for a tensor of this shape in a buffer of so many elements.

    Raises:
        UsageError: no layout, or one that does not fit.
    """
    what = f"layout {text!r:.120}"
    left, arrow, right = text.partition("->")
    right, star, factor_text = right.partition("*")
    if not arrow:
        raise UsageError(f"{what}: expected AXES -> AXES, such as 'a b -> a/64 b'")
    factor = _factor(factor_text, what) if star else 1.0
    sizes = [n for n in shape if n != 1]
    groups = _tokens(left, _LEFT, what)
    if len(groups) != len(sizes):
        raise UsageError(f"{what}: expected {len(sizes)} axes left of the arrow, of {sizes}; found {len(groups)}")
    cuts, splits, names = [], [], ""
    for (inner, name, start, n), total in zip(groups, sizes, strict=True):
        cut = AxisCut(int(start), int(n), total) if start else AxisCut(0, total, total)
        lengths = _split(inner, cut.n, what) if inner else {name: cut.n}
        if cut.start + cut.n > total or cut.n < 1:
            raise UsageError(f"{what}: the axis of {total} has no elements {cut.start} to {cut.start + cut.n}")
        cuts.append(cut)
        splits.append(tuple(lengths.values()))
        names += "".join(lengths)
    return _placed(right, names, tuple(cuts), tuple(splits), elements, factor, what)


# --- parts ----------------------------------------------------------------------------------------------------------


def _place(start: int, whole: int, size: int) -> str:
    return (f"@{start}" if start else "") + (f"/{whole}" if whole != size else "")


def _tokens(text: str, pattern: re.Pattern[str], what: str) -> list[tuple[str, ...]]:
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        token = pattern.match(text, at)
        if token is None or not (token.end() == len(text) or text[token.end()] == " "):
            raise UsageError(f"{what}: expected an axis at {text[at : at + 20]!r}")
        found.append(tuple(g or "" for g in token.groups()))
        at = token.end()
        while at < len(text) and text[at] == " ":
            at += 1
    return found


def _split(inner: str, n: int, what: str) -> dict[str, int]:
    *given, last = inner.split()
    lengths: dict[str, int] = {}
    for token in given:
        name, _, size = token.partition("=")
        if len(name) != 1 or not size.isdigit() or not int(size):
            raise UsageError(f"{what}: expected NAME=LENGTH, found {token!r:.40}")
        lengths[name] = int(size)
    rest, over = divmod(n, math.prod(lengths.values()))
    if over or len(last) != 1 or last in lengths:
        raise UsageError(f"{what}: an axis of {n} can't be split as ({inner})")
    return {**lengths, last: rest}


def _placed(
    right: str,
    names: str,
    cuts: tuple[AxisCut, ...],
    splits: tuple[tuple[int, ...], ...],
    elements: int,
    factor: float,
    what: str,
) -> TensorLayout:
    sizes = [n for split in splits for n in split]
    order, whole, starts, row = [], [], [], (0, 1)
    for name, start, length in _tokens(right, _RIGHT, what):
        begin = int(start) if start else 0
        size = 1 if name == "1" else sizes[names.find(name)] if name in names else 0
        total = int(length) if length else size
        if not size or begin + size > total:
            raise UsageError(f"{what}: axis {name} does not fit: {size} elements from {begin} on in {total}")
        if name == "1":
            row = (begin, total)
        else:
            order.append(names.find(name))
            whole.append(total)
            starts.append(begin)
    if sorted(order) != list(range(len(sizes))) or len(set(names)) != len(names):
        raise UsageError(f"{what}: expected each of the axes {' '.join(names)} once on either side")
    found = TensorLayout(cuts, splits, tuple(order), tuple(whole), tuple(starts), row, factor)
    if found.elements != elements:
        raise UsageError(f"{what}: is of a buffer of {found.elements:,} elements, found one of {elements:,}")
    return found


def _factor(text: str, what: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor) or factor == 0:
        raise UsageError(f"{what}: expected a number after *, found {text.strip()!r:.40}")
    return factor


__all__ = ["AxisCut", "TensorLayout", "identity", "parse"]
