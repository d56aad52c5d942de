# SPDX-License-Identifier: Apache-2.0
"""An array as a picture: its rows and columns, and where it is too large, the worst element of each block.

Tested in tests/report/page/test_replay_page.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_ASPECT = 4  # columns for each row, of what has no rows of its own


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of a picture, row by row.

    Attributes:
        rows, columns: of cells.
        height, width: elements down and across that a cell stands for; 1 and 1 where it is one element.
        across: elements in one row of the array.
        index: the flat number of the element that each cell shows; -1: behind the end.
    """

    rows: int
    columns: int
    height: int
    width: int
    across: int
    index: npt.NDArray[np.int64]

    @property
    def whole(self) -> bool:
        """Every element is a cell, in order."""
        return self.height == self.width == 1

    def to_dict(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in ("rows", "columns", "height", "width", "across")}


def grid(shape: Sequence[int], worst: npt.NDArray[Any], cells: int, *, across: int = 0) -> Grid:
    """A picture of an array of this shape with at most about so many cells.

    Args:
        worst: flat; of the elements that share a cell the largest is shown, the first of equals, NaN before all.
        across: elements in a row, where the shape has only one axis.
    """
    size = math.prod(shape)
    wide = shape[-1] if len(shape) > 1 else across or folded(size)
    wide = max(1, min(wide, size))
    high = -(-size // wide)
    height, width = _block(high, wide, cells)
    rows, columns = -(-high // height), -(-wide // width)
    if height == width == 1:
        index = np.arange(rows * columns, dtype=np.int64)
        return Grid(rows, columns, 1, 1, wide, np.where(index < size, index, -1))
    rank = np.full(rows * height * columns * width, -np.inf)
    padded = rank.reshape(rows * height, columns * width)
    flat = np.full(high * wide, -np.inf)
    flat[:size] = np.where(np.isnan(worst), np.inf, worst)
    padded[:high, :wide] = flat.reshape(high, wide)
    blocks = padded.reshape(rows, height, columns, width).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    at = blocks.argmax(axis=1)
    down, right = np.divmod(at, width)
    row, column = np.divmod(np.arange(rows * columns), columns)
    index = (row * height + down) * wide + column * width + right
    return Grid(rows, columns, height, width, wide, np.where(index < size, index, -1))


def folded(size: int) -> int:
    """Elements in a row for a vector: a power of two, some four times as wide as high."""
    return 1 << max(0, math.ceil(math.log2(math.sqrt(max(size, 1) * _ASPECT))))


def _block(high: int, wide: int, cells: int) -> tuple[int, int]:
    """Elements down and across in one cell: as square as the shape allows."""
    if high * wide <= cells:
        return 1, 1
    side = math.sqrt(high * wide / cells)
    height = min(high, math.ceil(side))
    width = max(1, math.ceil(high * wide / cells / height))
    if width > wide:
        width, height = wide, math.ceil(high * wide / cells / wide)
    return height, width


__all__ = ["Grid", "folded", "grid"]
