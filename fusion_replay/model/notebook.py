# SPDX-License-Identifier: Apache-2.0
"""What results show in a notebook: tables of pandas, small HTML, plots of matplotlib, where those are installed."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import MissingDependencyError
from fusion_replay.model.text import one_line

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PIXELS = 512
"""Elements of a heat map along one side, at most; of those that share one the largest magnitude is shown."""


def markup(text: object) -> str:
    """A text on one line as HTML in which nothing of it is obeyed."""
    return html.escape(one_line(str(text)))


def card(sentence: str, lines: Iterable[str] = (), table: Sequence[Sequence[object]] = ()) -> str:
    """HTML: the sentence first, lines below it, and a table whose first row is its head. All of it is text."""
    told = "".join(f"<div>{markup(line)}</div>" for line in lines)
    head, *rows = table or [()]
    cells = "".join(f"<th>{markup(c)}</th>" for c in head)
    body = "".join("<tr>" + "".join(f"<td>{markup(c)}</td>" for c in row) + "</tr>" for row in rows)
    shown = f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>" if table else ""
    return f"<div><b>{markup(sentence)}</b>{told}{shown}</div>"


def data_frame(rows: Iterable[Mapping[str, Any]], index: str | None = None) -> pd.DataFrame:
    """Rows by column name as a table of pandas.

    Raises:
        MissingDependencyError: no pandas here.
    """
    try:
        import pandas
    except ImportError:
        raise MissingDependencyError(
            "to_dataframe: pandas is not installed; pip install 'fusion-replay[tables]'"
        ) from None
    frame = pandas.DataFrame(list(rows))
    return frame if index is None or index not in frame else frame.set_index(index)


def axes(given: Axes | None = None, *, size: tuple[float, float] = (7.0, 3.0)) -> Axes:
    """The axes to draw on: those that are given, else new ones.

    Raises:
        MissingDependencyError: no matplotlib here.
    """
    return given if given is not None else panels(1, size=size)[0]


def panels(count: int, *, size: tuple[float, float]) -> list[Axes]:
    """New axes, one below the other, each of this size in inches.

    Raises:
        MissingDependencyError: no matplotlib here.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise MissingDependencyError("plot: matplotlib is not installed; pip install 'fusion-replay[plot]'") from None
    made, found = pyplot.subplots(count, 1, figsize=(size[0], size[1] * count), squeeze=False, layout="constrained")
    pyplot.close(made)  # a notebook shows what it is given, not what was left open besides
    return list(found[:, 0])


def draw(array: npt.NDArray[Any], title: str, on: Axes) -> Axes:
    """A line of a vector, a heat map of anything else: the last axis across, all others down."""
    values = np.asarray(array, np.float64)
    on.set_title(plain(title), fontsize="small", loc="left")
    if values.ndim < 2 or 1 in (values.shape[-1], values[..., 0].size):
        on.plot(values.reshape(-1), linewidth=0.8)
        on.set_xlabel("element")
        return on
    rows = values.reshape(-1, values.shape[-1])
    largest = float(np.max(np.abs(rows), initial=0.0, where=np.isfinite(rows))) or 1.0
    image = on.imshow(_shrunk(rows), cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    image.set_extent((0, rows.shape[1], rows.shape[0], 0))
    on.figure.colorbar(image, ax=on)
    return on


def plain(text: str) -> str:
    """A text for matplotlib, in which a dollar sign begins no formula."""
    return one_line(text).replace("$", r"\$")


def _shrunk(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """At most :data:`PIXELS` along each side; of those that share one what is not finite, else the largest."""
    for axis in (0, 1):
        length = rows.shape[axis]
        if length <= PIXELS:
            continue
        each = -(-length // PIXELS)
        padding = [(0, 0), (0, 0)]
        padding[axis] = (0, -length % each)
        cut = np.pad(rows, padding)
        cut = np.moveaxis(cut, axis, 0).reshape(-1, each, rows.shape[1 - axis])
        rank = np.where(np.isfinite(cut), np.abs(cut), np.inf)
        worst = np.take_along_axis(cut, rank.argmax(axis=1)[:, None], axis=1)[:, 0]
        rows = np.moveaxis(worst, 0, axis)
    return rows


__all__ = ["axes", "card", "data_frame", "draw", "markup", "panels", "plain"]
