# SPDX-License-Identifier: Apache-2.0
"""The map of an oracle onto a recording: by what was recorded, then by what the runlist gives on the model's tensors.

Behind a wrong step nothing recorded resembles the model any more. What is known so far says what the steps behind it
should have been handed: computed exactly from that, their results are the model's again, and are found. What is still
ambiguous is where the steps that read it give the model's next tensor. The last word has a name that one buffer alone
has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusion_replay.oracle.layouts import plain_layouts
from fusion_replay.oracle.mapping import Mapping, OracleBoundary, Unmapped, also, by_contents, distinct, reader
from fusion_replay.oracle.stretch import Controls

if TYPE_CHECKING:
    from fusion_replay.diverge.dataflow import Dataflow
    from fusion_replay.oracle.file import Oracle
    from fusion_replay.oracle.places import Location, Places
    from fusion_replay.snapshot import Snapshot

Array = npt.NDArray[Any]

AGREES = 1.5
"""Decimal digits that exact values must agree in: NRMSE 0.03."""
BY_NAME = "by its name alone"
"""The evidence of a place that no value speaks for."""
_NEXT = 6  # boundaries behind a place that may confirm it


def find(snapshot: Snapshot, graph: Dataflow, oracle: Oracle, where: Places) -> Mapping:
    """Every distinct float tensor of the oracle with its place, or why it has none."""
    usable, useless = distinct(oracle)
    read = reader(snapshot)
    boundaries, unmapped = by_contents(oracle, usable, where, read)
    controls = Controls(snapshot, graph, where.rows, oracle, boundaries)
    for _ in range(2):
        if not unmapped or not boundaries:
            break
        known = len(boundaries)
        again = [u.tensor for u in unmapped]
        why = {u.tensor.name: u for u in unmapped}
        exact = _on_the_models(controls.of(boundaries), read)
        boundaries, left = by_contents(oracle, again, where, exact, before=boundaries, enough=AGREES)
        unmapped = [why[u.tensor.name] for u in left]
        boundaries, unmapped = _confirmed(controls, oracle, boundaries, unmapped)
        if len(boundaries) == known:
            break
    boundaries, unmapped = _by_names(oracle, where, boundaries, unmapped)
    ignored = tuple(t.name for t in oracle.tensors if not t.is_float)
    return Mapping(tuple(boundaries), (*useless, *unmapped), ignored)


# --- parts ----------------------------------------------------------------------------------------------------------


def _on_the_models(controls: Controls, read: Callable[[Location], Array]) -> Callable[[Location], Array]:
    """Contents of each place as the runlist makes them of the model's tensors, where these are known."""
    made = controls.on_the_models()

    def exact(place: Location) -> Array:
        spot = (place.row, place.position)
        return made[spot] if place.output and spot in made else read(place)

    return exact


def _confirmed(
    controls: Controls, oracle: Oracle, boundaries: list[OracleBoundary], unmapped: Sequence[Unmapped]
) -> tuple[list[OracleBoundary], list[Unmapped]]:
    """Ambiguous tensors where one place alone, holding the model's values, leads to the model's next tensor."""
    left: list[Unmapped] = []
    for lost in unmapped:
        fitting = []
        for place, layout in lost.rivals:
            tried = OracleBoundary(
                lost.tensor, also(oracle, lost.tensor), place, layout, "the steps that read it agree"
            )
            if place.output and _leads_on(controls.of([*boundaries, tried]), tried):
                fitting.append(tried)
        if len(fitting) == 1:
            boundaries = sorted([*boundaries, fitting[0]], key=lambda b: (b.place.row, b.place.output))
        else:
            left.append(lost)
    return boundaries, left


def _by_names(
    oracle: Oracle, where: Places, boundaries: list[OracleBoundary], unmapped: Sequence[Unmapped]
) -> tuple[list[OracleBoundary], list[Unmapped]]:
    """What nothing else finds, where one buffer of its layer alone has the tensor's name, written once."""
    left: list[Unmapped] = []
    taken = {(b.place.row, b.place.position) for b in boundaries}
    found = list(boundaries)
    for lost in unmapped:
        numbers = re.findall("[0-9]{1,9}", lost.tensor.name)
        layer = int(numbers[0]) if numbers and where.layers > 1 else None
        named = [
            p
            for p in where.all
            if p.output and _word(p.buffer) == _word(lost.tensor.name.rpartition(".")[2]) and p.layer in (layer, None)
        ]
        free = [p for p in named if (p.row, p.position) not in taken]
        ways = plain_layouts(lost.tensor.shape, free[0].elements, where.hints) if len(named) == len(free) == 1 else []
        if len(ways) == 1 and _word(lost.tensor.name):
            found.append(OracleBoundary(lost.tensor, also(oracle, lost.tensor), free[0], ways[0], BY_NAME))
        else:
            left.append(lost)
    return sorted(found, key=lambda b: (b.place.row, b.place.output, b.place.position)), left


def _word(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _leads_on(controls: Controls, tried: OracleBoundary) -> bool:
    spot = (tried.place.row, tried.place.position)
    behind = [b for b in controls.boundaries if b.place.output and b.place.row > tried.place.row][:_NEXT]
    for boundary in behind:
        stretch = controls.stretch(boundary)
        if spot in stretch.reached:
            return stretch.error() <= stretch.limit()
    return False


__all__ = ["BY_NAME", "find"]
