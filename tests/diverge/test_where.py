# SPDX-License-Identifier: Apache-2.0
"""Where errors lie, counted by hand."""

from __future__ import annotations

import json

import numpy as np

from fusion_replay.diverge.where import locate
from fusion_replay.operators.tiling import Tiling, ruler

GRID = Tiling((("batch", 2), ("column", 4), ("tile", 2), ("", 3)), "a design")  # 48 elements


def marked(*elements: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    flags = np.zeros(48, np.bool_)
    flags[list(elements)] = True
    return flags


def test_one_tile_of_one_column() -> None:
    where = locate(marked(9, 10, 11), GRID)  # batch 0, column 1, tile 1
    assert where.confined == {"batch": 0, "column": 1, "tile": 1}
    assert where.contiguous
    assert str(where) == "batch 0 of 2; column 1 of 4; tile 1 of 2; elements 9 to 11, one run"


def test_columns_are_ranked_by_their_share_of_the_errors() -> None:
    where = locate(marked(0, 1, 2, 18, 24), GRID)  # column 0: 0, 1, 2, 24; column 3: 18
    column = where.level("column")
    assert column is not None
    assert [(p.index, p.wrong, p.elements, p.share) for p in column.parts] == [(0, 4, 12, 0.8), (3, 1, 12, 0.2)]
    assert str(column) == "columns 0 (80%), 3 (20%) of 4"
    assert where.confined == {"tile": 0}


def test_the_heat_map_shows_the_share_of_each_cell() -> None:
    heat = locate(marked(0, 1, 2, 18), GRID).heat
    assert heat is not None
    assert (heat.down, heat.across) in {("batch", "column"), ("tile", "column")}
    assert heat.cells == ((0.5, 0, 0, 1 / 6), (0, 0, 0, 0))
    assert heat.lines()[1:] == ["|++    ::|", "|        |"]


def test_many_tiles_share_a_row_of_the_map() -> None:
    tiling = Tiling((("column", 2), ("tile", 100), ("", 1)), "a design")
    heat = locate(np.arange(200) >= 100, tiling).heat
    assert heat is not None
    assert len(heat.cells) == 8
    assert {row[0] for row in heat.cells} == {0.0}
    assert {row[1] for row in heat.cells} == {1.0}


def test_without_a_declared_tiling_the_output_is_measured_in_eighths() -> None:
    where = locate(np.arange(64) == 63, ruler(64))
    assert where.confined == {"tile": 7}
    assert "no tiling declared" in str(where)


def test_it_is_json() -> None:
    data = json.loads(json.dumps(locate(marked(0, 47), GRID).to_dict()))
    assert data["wrong"] == 2
    assert data["levels"][0]["parts"][0] == {"index": 0, "wrong": 1, "elements": 24, "share": 0.5}
