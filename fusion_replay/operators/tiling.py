# SPDX-License-Identifier: Apache-2.0
"""Which AIE column, core row, channel and tile computed an element of an output, as data that an operator declares.

A :class:`Tiling` reads the flat output as a grid: axes from the outermost in, each with a role. ``column`` is a column
of the array, ``row`` a core within it, ``channel`` a DMA channel, ``tile`` what a core hands over at once, ``batch`` an
independent result (a batch, a head, a group). An axis without a role lies inside a tile. A role may have several axes:
the tiles of a matrix product are counted along both of its sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

ROLES = ("batch", "column", "row", "channel", "tile")
"""In the order in which an element is spoken of."""

CORE_ROWS = 4
"""Cores in a column of either generation (amd/IRON iron/operators/gemm/design.py, n_aie_rows)."""

Axis = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How one output is cut up.

    Attributes:
        axes: (role, size) from the outermost axis in; role "" within a tile. Sizes multiply to the output's elements.
        source: the design that this was read from; "" where this is a mere ruler.
        instead: why it is one, in words; "" where it is none.
    """

    axes: tuple[Axis, ...]
    source: str = ""
    instead: str = ""

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(n for _, n in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(n for _, n in self.axes)

    def count(self, role: str) -> int:
        """How many batches, columns, ... there are; 1 where the design has no such axis."""
        return math.prod(n for r, n in self.axes if r == role)

    def places(self, role: str) -> tuple[int, ...]:
        """Numbers of the axes with this role."""
        return tuple(i for i, (r, _) in enumerate(self.axes) if r == role)

    def coordinate(self, role: str, flat: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """For flat element numbers: which batch, column, ... each lies in, counted from 0."""
        index = np.unravel_index(np.asarray(flat, np.int64), self.shape)
        found = np.zeros(np.shape(flat), np.int64)
        for i in self.places(role):
            found = found * self.axes[i][1] + index[i]
        return found

    def blocks(self, x: npt.NDArray[Any], role: str) -> npt.NDArray[Any]:
        """The output as (count of role, everything else), each row in the order of the flat output."""
        grid = np.asarray(x).reshape(self.shape)
        first = self.places(role)
        rest = tuple(i for i in range(grid.ndim) if i not in first)
        return grid.transpose(*first, *rest).reshape(self.count(role), -1)

    def unblock(self, blocks: npt.NDArray[Any], role: str) -> npt.NDArray[Any]:
        """The inverse of :meth:`blocks`, flat."""
        first = self.places(role)
        order = (*first, *(i for i in range(len(self.axes)) if i not in first))
        grid = np.asarray(blocks).reshape(tuple(self.axes[i][1] for i in order))
        return grid.transpose(np.argsort(order)).reshape(-1)


def ruler(size: int, instead: str = "no tiling declared", *, parts: int = 8) -> Tiling:
    """For an output whose operator declares nothing that fits it: up to ``parts`` equal runs, called tiles."""
    n = next(n for n in range(min(parts, max(size, 1)), 0, -1) if size % n == 0)
    return Tiling((("tile", n), ("", size // n)), instead=instead)


def runs(
    size: int, columns: int | None, *, channels: int | None = 1, tile: int | None = None, batches: int = 1, source: str
) -> Tiling | None:
    """Every column (and in it every channel) has one run of each batch, which it works off in tiles.

    The commonest design: amd/IRON iron/operators/{binary_elementwise,channeled_unary}_design.py. None where the sizes
    do not divide, as in a design that IRON would refuse.
    """
    cols, chans = columns or 1, channels or 1
    run, rest = divmod(size, batches * cols * chans)
    if rest or run == 0:
        return None
    inner = tile if tile and run % tile == 0 else run
    axes = (("batch", batches), ("column", cols), ("channel", chans), ("tile", run // inner), ("", inner))
    return Tiling(_slim(axes), source)


def grid(size: int, axes: Iterable[Axis], source: str) -> Tiling | None:
    """The axes as given, if they make up ``size`` elements and none is empty."""
    kept = tuple(axes)
    return Tiling(_slim(kept), source) if math.prod(n for _, n in kept) == size and size else None


def streamed(p: SimpleNamespace) -> Tiling | None:
    """Channelled unary and binary elementwise designs: a tile holds at most 4096 elements."""
    tile = p.tile_size or None
    return runs(
        p.size,
        p.num_aie_columns,
        channels=getattr(p, "num_channels", 1),
        tile=tile and min(tile, 4096),
        source="amd/IRON iron/operators/channeled_unary_design.py, binary_elementwise_design.py",
    )


def _slim(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if a[1] != 1) or (("", 1),)
