# SPDX-License-Identifier: Apache-2.0
"""One output as pictures: aligned maps, the AIE array, histograms, wrong elements, and how limits would recount.

Tested in tests/report/page/test_replay_page.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.verdict import ULP_BUCKETS
from fusion_replay.model.bf16 import wide
from fusion_replay.report.page.chunks import bits, rounded
from fusion_replay.report.page.grid import Grid, folded, grid

if TYPE_CHECKING:
    from fusion_replay.compare.verdict import Verdict
    from fusion_replay.operators.tiling import Tiling
    from fusion_replay.replaying.elements import Elements
    from fusion_replay.report.page.chunks import Chunks

NDArray = npt.NDArray[Any]

FACTORS = tuple(2.0 ** (k / 4) for k in range(-24, 65))
"""By which the limits can be moved: a 64th to 65,536 times, four stops for each doubling."""
FIRST = 20  # wrong elements that are listed
_BINS = 40


def output_picture(
    found: Elements, verdict: Verdict, shape: Sequence[int], tiling: Tiling, chunks: Chunks, cells: int
) -> dict[str, Any]:
    """JSON data of one output. Its maps are left out where the budget has no room for them, which "maps" then says."""
    flat_shape = tuple(shape) or (1,)
    picture = grid(flat_shape, found.distance, cells, across=_across(flat_shape, tiling))
    index = np.maximum(picture.index, 0)
    arrays: dict[str, NDArray] = {
        "actual": bits(found.actual)[index],
        "expected": bits(found.expected)[index],
        "distance": rounded(found.distance)[index],
        "ulp": np.clip(found.ulp, -(2**31) + 1, 2**31 - 1).astype(np.int32)[index],
    }
    if not picture.whole:
        arrays["index"] = picture.index.astype(np.int32)
    taken = chunks.take(arrays)
    return {
        "shape": list(shape),
        "dtype": str(found.actual.dtype),
        "elements": int(found.actual.size),
        "maps": None if taken is None else {**picture.to_dict(), **taken},
        "tiling": {"axes": [list(a) for a in tiling.axes], "source": tiling.source, "instead": tiling.instead},
        "failing": int(np.count_nonzero(found.failing)),
        "slider": slider(found, verdict),
        "array": core_array(found, tiling),
        "values": value_histogram(found),
        "ulps": [list(ULP_BUCKETS), list(verdict.stats.ulp_histogram)],
        "bits": wrong_bits(found),
        "first": first_wrong(found, flat_shape),
    }


def input_picture(array: NDArray, chunks: Chunks, cells: int) -> dict[str, Any] | None:
    """A small map of an input: of the elements that share a cell the one of largest magnitude."""
    values = rounded(array.reshape(-1))
    picture = grid(tuple(array.shape) or (1,), np.abs(values), cells)
    taken = chunks.take({"values": values[np.maximum(picture.index, 0)]})
    return None if taken is None else {**picture.to_dict(), **taken}


def slider(found: Elements, verdict: Verdict) -> dict[str, Any]:
    """How many elements fail by factor on the limits, and how many may."""
    ordered = np.sort(found.distance)
    counts = ordered.size - np.searchsorted(ordered, np.array(FACTORS), side="right")
    by_bound = verdict.decided_by == "bound"
    allowed = 0 if by_bound else int(verdict.stats.n * verdict.tolerance.error_rate)
    finite = ordered[np.isfinite(ordered)]
    return {
        "factors": [float(f"{f:.6g}") for f in FACTORS],
        "counts": counts.tolist(),
        "allowed": allowed,
        "by": verdict.decided_by,
        "passes": float(f"{finite[-1]:.4g}") if finite.size == ordered.size and finite.size else None,
        "limits": verdict.limits,
    }


def core_array(found: Elements, tiling: Tiling) -> dict[str, Any] | None:
    """Failing elements by AIE column (across) and core row (down); None where the operator declares no columns."""
    columns, rows = tiling.count("column"), tiling.count("row")
    if not tiling.source or columns * rows < 2:
        return None
    at = np.flatnonzero(found.failing)
    place = tiling.coordinate("row", at) * columns + tiling.coordinate("column", at)
    counts = np.bincount(place, minlength=rows * columns)
    return {"columns": columns, "rows": rows, "counts": counts.tolist(), "each": tiling.size // (rows * columns)}


def value_histogram(found: Elements) -> dict[str, Any] | None:
    """Finite values of both sides in bins of one width; None without any."""
    a, e = (np.asarray(wide(x), np.float64) for x in (found.actual, found.expected))
    a, e = a[np.isfinite(a)], e[np.isfinite(e)]
    if not (a.size or e.size):
        return None
    both = np.concatenate([a, e])
    low, high = float(both.min()), float(both.max())
    high = high if high > low else low + 1.0
    counted = [np.histogram(x, _BINS, (low, high))[0].tolist() for x in (a, e)]
    return {"low": float(f"{low:.6g}"), "high": float(f"{high:.6g}"), "actual": counted[0], "expected": counted[1]}


def wrong_bits(found: Elements) -> list[int] | None:
    """Of the failing elements: in how many each bit differs from the expected value, the highest bit first."""
    if found.actual.dtype != found.expected.dtype or found.actual.dtype.itemsize > 4:
        return None
    width = found.actual.dtype.itemsize
    a, e = (x.view(f"u{width}")[found.failing] for x in (found.actual, found.expected))
    differing = a ^ e
    return [int(np.count_nonzero(differing >> np.uint8(i) & np.uint8(1))) for i in range(8 * width - 1, -1, -1)]


def first_wrong(found: Elements, shape: Sequence[int]) -> list[list[Any]]:
    """[index, actual, its bits, expected, its bits, ULP, distance] of the first failing elements."""
    at = np.flatnonzero(found.failing)[:FIRST]
    rows = []
    actual_bits, expected_bits = bits(found.actual), bits(found.expected)
    digits = 2 * min(found.actual.dtype.itemsize, 4)
    for i in at.tolist():
        index = ", ".join(str(int(n)) for n in np.unravel_index(i, tuple(shape)))
        pair = [_spelled(found.actual[i]), _hex(actual_bits[i], digits)]
        pair += [_spelled(found.expected[i]), _hex(expected_bits[i], digits)]
        rows.append([index, *pair, int(found.ulp[i]), _spelled(found.distance[i], 3)])
    return rows


# --- parts ----------------------------------------------------------------------------------------------------------


def _across(shape: Sequence[int], tiling: Tiling) -> int:
    """Elements in a row of a vector: one AIE column's run, where that makes a picture and no thread."""
    if len(shape) > 1:
        return 0
    columns = tiling.count("column")
    first = tiling.axes[0][0] if tiling.axes else ""
    run = shape[0] // columns if columns > 1 and first == "column" else 0
    return run if run and run <= 16 * folded(shape[0]) and shape[0] // run >= 2 else 0


def _spelled(value: Any, digits: int = 7) -> str:
    return f"{float(value):.{digits}g}"


def _hex(value: Any, digits: int) -> str:
    return f"0x{int(value) & (16**digits - 1):0{digits}x}"


__all__ = ["FACTORS", "Grid", "input_picture", "output_picture"]
