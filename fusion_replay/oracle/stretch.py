# SPDX-License-Identifier: Apache-2.0
"""The exact-input control: the steps between two boundaries, evaluated exactly on the model's own tensors.

What comes out is compared with the model's next tensor. If it agrees, these steps do what the model does, and whatever
error the recording has there it was handed. How far rounding alone may take the result is measured as well: weights are
the model's, rounded to the buffers' dtype, so the stretch is evaluated once more with its weights moved by as much.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.oracle.exact import UNCHANGED, Exact, RunlistChange, Spot
from fusion_replay.oracle.figures import nrmse
from fusion_replay.oracle.mapping import OracleBoundary, reader
from fusion_replay.replaying.judge import NotComparedError, Plan, evaluate_step, judge

if TYPE_CHECKING:
    from fusion_replay.diverge.dataflow import Dataflow
    from fusion_replay.model.step import RecordedTensor
    from fusion_replay.oracle.file import Oracle
    from fusion_replay.replaying.outcome import StepReport
    from fusion_replay.snapshot import Snapshot

Floats = npt.NDArray[np.float64]

LEAST = 0.004
"""NRMSE of a control below which nothing is said to be wrong: what a model computes in float32 and an operator defines
(GELU by tanh or by erf, LayerNorm's epsilon) differ by up to a tenth of that, a bf16 table of constants by half."""
FOLD = 4.0
"""Times what rounding the weights moves the result by that a control may be off."""

_HALF_ULP = {"bfloat16": 2.0**-9, "float16": 2.0**-12}


class Controls:
    """The boundaries of a recording, each with its stretch."""

    def __init__(
        self,
        snapshot: Snapshot,
        graph: Dataflow,
        rows: Sequence[int],
        oracle: Oracle,
        boundaries: Sequence[OracleBoundary],
    ) -> None:
        self.exact = Exact(snapshot, graph, rows)
        self.rows = tuple(rows)
        self._oracle = oracle
        self._read = reader(snapshot)
        self._verdicts: dict[int, StepReport | None] = {}
        self._take(boundaries)

    def of(self, boundaries: Sequence[OracleBoundary]) -> Controls:
        """The same recording with other boundaries."""
        other = copy.copy(self)
        other._take(boundaries)
        return other

    def _take(self, boundaries: Sequence[OracleBoundary]) -> None:
        self.boundaries = tuple(boundaries)
        self._by_spot: dict[Spot, list[OracleBoundary]] = {}
        self._outside: dict[int, OracleBoundary] = {}
        for b in boundaries:
            if b.place.output:
                self._by_spot.setdefault((b.place.row, b.place.position), []).append(b)
            else:
                self._outside[b.place.content] = b

    def model(self, boundary: OracleBoundary) -> Floats:
        """The model's values, in the layout's shape."""
        return np.asarray(boundary.layout.of_model(self._oracle.read(boundary.tensor)), np.float64)

    def recorded(self, boundary: OracleBoundary) -> Floats:
        """The recording's, in the same shape."""
        return np.asarray(boundary.layout.of_buffer(self._read(boundary.place)), np.float64)

    def stretch(self, boundary: OracleBoundary) -> Stretch:
        """The steps that lead to a boundary; it is an output."""
        spot = (boundary.place.row, boundary.place.position)
        rows, reached = self.exact.rows_between(spot[0], frozenset(self._by_spot))
        return Stretch(self, boundary, tuple(rows), reached)

    def sources(self, stretch: Stretch) -> list[OracleBoundary]:
        """The boundaries that a stretch begins at, those that come from outside included."""
        found = [b for spot in sorted(stretch.reached) for b in self._by_spot[spot]]
        numbers = {t.row for row in stretch.rows for t in self.exact.step(row).inputs.in_order()}
        return [b for number, b in self._outside.items() if number in numbers] + found

    def verdict(self, row: int) -> StepReport | None:
        """A step judged on its recorded inputs; None where that can't be."""
        if row not in self._verdicts:
            step, plan = self.exact.step(row), Plan()
            try:
                evaluation = evaluate_step(step, plan)
            except NotComparedError:
                self._verdicts[row] = None
            else:
                self._verdicts[row] = judge(step, plan, evaluation, [t.numpy() for t in step.outputs.in_order()])
        return self._verdicts[row]

    def on_the_models(self) -> dict[Spot, Floats]:
        """Every output as the runlist makes it of the model's tensors; those of boundaries are the model's."""
        given = {spot: self.as_model(its[0]) for spot, its in self._by_spot.items()}
        outside = {number: self.as_model(b) for number, b in self._outside.items()}
        return self.exact.run(self.rows, given, outside)

    def as_model(self, boundary: OracleBoundary) -> Floats:
        """All elements of a boundary's buffer: the model's where it has any, else the recorded ones."""
        recorded = np.asarray(self._read(boundary.place), np.float64)
        placed = boundary.layout.into_buffer(recorded, self.model(boundary))
        for other in self._by_spot.get((boundary.place.row, boundary.place.position), ()):
            if other is not boundary and boundary.place.output:  # two parts of one buffer
                placed = other.layout.into_buffer(placed, self.model(other))
        return np.asarray(placed, np.float64)


@dataclass(frozen=True)
class Stretch:
    """The steps between the boundaries that they read (``reached``) and the one that they end at."""

    controls: Controls
    boundary: OracleBoundary
    rows: tuple[int, ...]
    reached: frozenset[Spot]

    def run(
        self, change: RunlistChange = UNCHANGED, recorded: Callable[[RecordedTensor, Floats], Floats] | None = None
    ) -> Floats:
        """What the boundary is on the model's own inputs, in the layout's shape."""
        spot = (self.boundary.place.row, self.boundary.place.position)
        made = self.controls.exact.run(self.rows, self._given, self._outside, change=change, recorded=recorded)
        return np.asarray(self.boundary.layout.of_buffer(made[spot]), np.float64)

    def error(self, change: RunlistChange = UNCHANGED) -> float:
        """NRMSE of :meth:`run` against the model."""
        return nrmse(self.run(change), self.model)

    def limit(self, change: RunlistChange = UNCHANGED) -> float:
        """How large that may be where nothing is wrong."""
        moved = nrmse(self.run(change, _moved), self.run(change))
        return max(LEAST, FOLD * moved) if np.isfinite(moved) else LEAST

    @cached_property
    def model(self) -> Floats:
        return self.controls.model(self.boundary)

    @cached_property
    def _given(self) -> Mapping[Spot, Floats]:
        own = self.controls._by_spot
        return {spot: self.controls.as_model(own[spot][0]) for spot in self.reached}

    @cached_property
    def _outside(self) -> Mapping[int, Floats]:
        return {b.place.content: self.controls.as_model(b) for b in self.controls.sources(self) if not b.place.output}


def _moved(tensor: RecordedTensor, array: Floats) -> Floats:
    """As another rounding of the same values would have it; the same on every run."""
    half = _HALF_ULP.get(tensor.dtype, 0.0)
    rng = np.random.default_rng(tensor.row or 0)
    found: Any = array * (1 + (2 * rng.random(array.shape) - 1) * half)
    return np.asarray(found, np.float64)


__all__ = ["FOLD", "LEAST", "Controls", "Stretch"]
