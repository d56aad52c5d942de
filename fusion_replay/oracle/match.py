# SPDX-License-Identifier: Apache-2.0
"""Which places of a recording hold the values of a model's tensor, and in which layout: by contents alone.

A few elements of each tensor are looked for in every place and every layout; what resembles is compared as a whole.
Resemblance is measured on values squeezed by their own median, since a few outlier channels would outweigh all others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.oracle.figures import nrmse
from fusion_replay.oracle.layouts import layouts

if TYPE_CHECKING:
    from fusion_replay.oracle.layout import TensorLayout
    from fusion_replay.oracle.places import Location

Array = npt.NDArray[Any]

SAMPLES = 160
"""Elements of a tensor that are looked for."""
LIKE = 0.6
"""Resemblance of the sample from which on a place is compared as a whole; unrelated values reach 0.35."""
_KEPT = 12  # candidates of one tensor
_SCALED = 1.5  # times as bad is an error that a factor was needed for
_QUANTUM = 1e-4  # of NRMSE: below it everything is as good


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place that resembles a tensor.

    Attributes:
        likeness: of the sample, -1 to 1; below 0 the values have the other sign.
    """

    place: Location
    layout: TensorLayout
    likeness: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A tensor against a place as a whole: the error, and that after the best factor, with the factor."""

    nrmse: float
    factor: float
    scaled: float

    @property
    def quality(self) -> float:
        """Decimal digits that agree, 0 to 4; a factor is looked past, since a place is asked for and no verdict."""
        error = min(self.nrmse, _SCALED * self.scaled)
        return -math.log10(min(max(error, _QUANTUM), 1.0)) if math.isfinite(error) else 0.0


def fit(model: Array, found: Array) -> Fit:
    """Both in the model's coordinates."""
    wide_model, wide_found = model.astype(np.float64), found.astype(np.float64)
    error = nrmse(wide_found, wide_model)
    power = float(np.vdot(wide_model, wide_model))
    factor = float(np.vdot(wide_found, wide_model)) / power if power else 1.0
    if not math.isfinite(factor) or not factor:
        return Fit(error, 1.0, error)
    return Fit(error, factor, nrmse(wide_found / factor, wide_model))


def candidates(
    tensors: Sequence[tuple[str, Array]],
    everywhere: Iterable[Location],
    read: Callable[[Location], Array],
    hints: frozenset[int],
    *,
    deep: bool = False,
) -> dict[str, list[Candidate]]:
    """For each tensor (name, contents) the places that resemble it, the most like first; each content is read once.

    ``deep``: also in layouts that split or cut an axis, of which there are hundreds.
    """
    samples = [_Sample(shape, its, deep) for shape, its in _by_shape(tensors).items()]
    found: dict[str, list[Candidate]] = {name: [] for name, _ in tensors}
    by_content: dict[tuple[int, int], list[Location]] = {}
    for place in everywhere:
        by_content.setdefault((place.content, place.elements), []).append(place)
    for (_, elements), same in by_content.items():
        fitting = [(s, s.spread(elements, hints)) for s in samples]
        if not any(spread is not None for _, spread in fitting):
            continue
        flat = read(same[0]).reshape(-1).astype(np.float32)
        for sample, spread in fitting:
            if spread is not None:
                for name, layout, likeness in sample.like(flat, *spread):
                    found[name] += [Candidate(p, layout, likeness) for p in same]
    for its in found.values():
        its.sort(key=lambda c: (-round(abs(c.likeness), 3), not c.layout.plain, c.place.row, c.place.output))
        del its[_KEPT:]
    return found


# --- parts ----------------------------------------------------------------------------------------------------------

_Spread = tuple[list["TensorLayout"], npt.NDArray[np.int64]]


class _Sample:
    """The same few elements of all tensors of one shape."""

    def __init__(self, shape: tuple[int, ...], tensors: list[tuple[str, Array]], deep: bool) -> None:
        self.shape = shape
        self._deep = deep
        rng = np.random.default_rng(math.prod(shape))
        self._share = [rng.random(SAMPLES) for _ in shape]
        self.names = [name for name, _ in tensors]
        self._values = tensors
        self._spreads: dict[int, _Spread | None] = {}
        self._squeezed: dict[tuple[tuple[int, int], ...], Array] = {}

    def spread(self, elements: int, hints: frozenset[int]) -> _Spread | None:
        """Layouts in a buffer of so many elements, and where the sample lies in each; None: there are none."""
        if elements not in self._spreads:
            its = layouts(self.shape, elements, hints, deep=self._deep)
            indices = [layout.indices(self._at(layout)) for layout in its]
            self._spreads[elements] = (its, np.stack(indices)) if its else None
        return self._spreads[elements]

    def like(
        self, flat: Array, its: list[TensorLayout], indices: npt.NDArray[np.int64]
    ) -> Iterator[tuple[str, TensorLayout, float]]:
        seen = _squeeze(flat[indices])
        groups: defaultdict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for i, layout in enumerate(its):
            groups[tuple((c.start, c.n) for c in layout.cuts)].append(i)
        for numbers in groups.values():
            wanted = self._wanted(its[numbers[0]])
            likeness = wanted @ seen[numbers].T  # tensors x layouts
            for t, name in enumerate(self.names):
                best = np.flatnonzero(np.abs(likeness[t]) >= LIKE)
                top = sorted(best.tolist(), key=lambda b: (-round(float(abs(likeness[t, b])), 3), b))[:2]
                yield from ((name, its[numbers[b]], float(likeness[t, b])) for b in top)

    def _at(self, layout: TensorLayout) -> list[npt.NDArray[np.int64]]:
        return [(share * n).astype(np.int64) for share, n in zip(self._share, layout.shape, strict=True)]

    def _wanted(self, layout: TensorLayout) -> Array:
        cut = tuple((c.start, c.n) for c in layout.cuts)
        if cut not in self._squeezed:
            at = tuple(self._at(layout))
            values = [layout.of_model(array)[at] for _, array in self._values]
            self._squeezed[cut] = _squeeze(np.stack(values).astype(np.float32))
        return self._squeezed[cut]


def _squeeze(values: Array) -> Array:
    """Rows of length one, outliers cut by each row's own median."""
    with np.errstate(all="ignore"):
        size = np.median(np.abs(values), axis=-1, keepdims=True)
        squeezed = np.tanh(values / np.where(size > 0, size, 1))
        squeezed = np.where(np.isfinite(squeezed), squeezed, 0)
        length = np.linalg.norm(squeezed, axis=-1, keepdims=True)
        found: Array = squeezed / np.where(length > 0, length, 1)
    return found


def _by_shape(tensors: Sequence[tuple[str, Array]]) -> dict[tuple[int, ...], list[tuple[str, Array]]]:
    found: dict[tuple[int, ...], list[tuple[str, Array]]] = {}
    for name, array in tensors:
        found.setdefault(tuple(n for n in array.shape if n != 1), []).append((name, array))
    return found


__all__ = ["LIKE", "SAMPLES", "Candidate", "Fit", "candidates", "fit"]
