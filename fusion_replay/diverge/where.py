# SPDX-License-Identifier: Apache-2.0
"""Where in the array the wrong elements were computed: by column, core row, channel, tile and batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model import serialise
from fusion_replay.operators.tiling import ROLES, Tiling

SHADES = " .:-=+*#%@"
"""Heat, from none to every element of a cell."""
_MAP_ROWS, _MAP_COLUMNS = 8, 64
_RANKED = 8


@dataclass(frozen=True, slots=True)
class Part:
    """One column (tile, batch, ...) and its wrong elements."""

    index: int
    wrong: int
    elements: int
    share: float
    """Of all wrong elements."""

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True)
class Level:
    """One way to cut the output: its parts with wrong elements, those with most first."""

    role: str
    count: int
    hit: int
    """Parts that hold a wrong element."""
    parts: tuple[Part, ...]
    """At most eight of them."""

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        if self.hit == 1:
            return f"{self.role} {self.parts[0].index} of {self.count}"
        if self.hit == self.count:
            top = self.parts[0]
            even = top.share <= 1.5 / self.count
            return f"all {self.count} {plural(self.role)}" + ("" if even else f", {top.share:.0%} in {top.index}")
        shown = ", ".join(f"{p.index} ({p.share:.0%})" for p in self.parts[:4])
        more = f", ... {self.hit} of {self.count}" if self.hit > 4 else f" of {self.count}"
        return f"{plural(self.role)} {shown}{more}"


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Share of wrong elements per cell: ``rows`` down (several of a role may share a row), ``columns`` across."""

    down: str
    across: str
    counts: tuple[int, int]
    """How many of each there are, before any were put together."""
    cells: tuple[tuple[float, ...], ...]

    to_dict = serialise.to_dict

    def lines(self) -> list[str]:
        width = 1 if len(self.cells[0]) > 16 else 2
        head = f"{self.down} (down, {self.counts[0]}) x {self.across} (across, {self.counts[1]})"
        return [head, *("|" + "".join(_shade(c) * width for c in row) + "|" for row in self.cells)]


@dataclass(frozen=True, slots=True)
class Where:
    """The wrong elements of one output, mapped through its operator's tiling.

    Attributes:
        wrong, elements: how many, of how many.
        first, last: flat numbers of the first and the last wrong element.
        contiguous: whether all wrong elements stand in one unbroken run.
        levels: one entry per role that the tiling has, in the order of :data:`fusion_replay.operators.tiling.ROLES`.
        heat: of the two roles that tell most; None where the tiling has fewer than two cells.
        source: the design that the tiling was read from; "" where there is none that fits (eighths of the output).
        instead: why there is none; "" where there is one.
    """

    wrong: int
    elements: int
    first: int
    last: int
    contiguous: bool
    levels: tuple[Level, ...]
    heat: HeatMap | None
    source: str
    instead: str = ""

    def level(self, role: str) -> Level | None:
        return next((v for v in self.levels if v.role == role), None)

    @property
    def confined(self) -> dict[str, int]:
        """role -> the one part that holds every wrong element, where there is one such part."""
        return {v.role: v.parts[0].index for v in self.levels if v.hit == 1}

    def to_dict(self) -> dict[str, Any]:
        return serialise.pick(
            self, "wrong", "elements", "first", "last", "contiguous", "confined", "levels", "heat", "source", "instead"
        )

    def __str__(self) -> str:
        span = f"element {self.first}" if self.wrong == 1 else f"elements {self.first} to {self.last}"
        run = f"{span}{', one run' if self.contiguous and self.wrong > 1 else ''}"
        if not self.source:
            return f"{run} ({', '.join(map(str, self.levels))}; {self.instead}: tiles are equal parts)"
        return "; ".join([*map(str, self.levels), run])

    def lines(self) -> list[str]:
        """The sentence, and the map where it shows more than the sentence says."""
        several = sum(v.hit > 1 and v.hit < v.count for v in self.levels) > 0
        return [str(self), *(self.heat.lines() if self.heat is not None and several else ())]


def locate(wrong: npt.NDArray[np.bool_], tiling: Tiling) -> Where:
    """Map the marked elements (flat, or in the output's shape) of an output through its tiling.

    ``wrong`` has ``tiling.size`` elements, at least one of them marked.
    """
    flags = np.ascontiguousarray(wrong).reshape(-1)
    at = np.flatnonzero(flags)
    coordinates = {r: tiling.coordinate(r, at) for r in ROLES if tiling.count(r) > 1}
    levels = tuple(_level(r, tiling, c, at.size) for r, c in coordinates.items())
    first, last = int(at[0]), int(at[-1])
    return Where(
        wrong=at.size,
        elements=flags.size,
        first=first,
        last=last,
        contiguous=last - first + 1 == at.size,
        levels=levels,
        heat=_heat(levels, coordinates, tiling),
        source=tiling.source,
        instead=tiling.instead,
    )


def plural(role: str) -> str:
    return f"{role}es" if role.endswith("h") else f"{role}s"


def _level(role: str, tiling: Tiling, coordinate: npt.NDArray[np.int64], total: int) -> Level:
    count = tiling.count(role)
    wrong = np.bincount(coordinate, minlength=count)
    ranked = np.argsort(-wrong, kind="stable")[: min(_RANKED, int(np.count_nonzero(wrong)))]
    each = tiling.size // count
    parts = tuple(Part(int(i), int(wrong[i]), each, float(wrong[i] / total)) for i in ranked)
    return Level(role, count, int(np.count_nonzero(wrong)), parts)


def _heat(levels: tuple[Level, ...], coordinates: dict[str, npt.NDArray[np.int64]], tiling: Tiling) -> HeatMap | None:
    """Columns across where there are some; down whichever role is hit most unevenly."""
    if not levels:
        return None
    across = next((v for v in levels if v.role == "column"), levels[-1])
    others = [v for v in levels if v is not across]
    down = min(others, key=lambda v: v.hit / v.count) if others else None
    rows, columns = (down.count if down else 1), across.count
    high, wide = min(rows, _MAP_ROWS), min(columns, _MAP_COLUMNS)
    row_of = (coordinates[down.role] if down else np.zeros_like(coordinates[across.role])) * high // rows
    column_of = coordinates[across.role] * wide // columns
    counted = np.bincount(row_of * wide + column_of, minlength=high * wide).reshape(high, wide)
    in_row = np.bincount(np.arange(rows) * high // rows, minlength=high)
    in_column = np.bincount(np.arange(columns) * wide // columns, minlength=wide)
    cell = np.outer(in_row, in_column) * (tiling.size // (rows * columns))
    shares = counted / cell
    cells = tuple(tuple(float(s) for s in row) for row in shares)
    return HeatMap(down.role if down else "output", across.role, (rows, columns), cells)


def _shade(share: float) -> str:
    """Any wrong element at all shows."""
    return SHADES[0] if share <= 0 else SHADES[min(1 + int(share * (len(SHADES) - 1)), len(SHADES) - 1)]
