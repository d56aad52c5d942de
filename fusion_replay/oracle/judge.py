# SPDX-License-Identifier: Apache-2.0
"""A recording against an oracle: the error at each boundary, where it is made, and what of it rounding explains."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fusion_replay.diverge.dataflow import dataflow
from fusion_replay.errors import NothingComparedError
from fusion_replay.model import serialise
from fusion_replay.model.text import one_line
from fusion_replay.oracle.causes import RunlistCause, causes
from fusion_replay.oracle.figures import Carrier, Figures, carriers, figures, nrmse
from fusion_replay.oracle.file import open_oracle
from fusion_replay.oracle.find import BY_NAME, find
from fusion_replay.oracle.map_file import read_map
from fusion_replay.oracle.mapping import Mapping, OracleBoundary
from fusion_replay.oracle.places import places, rows_of
from fusion_replay.oracle.stretch import LEAST, Controls
from fusion_replay.system.messages import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_replay.snapshot import Snapshot

FORMAT = "fusion-replay.oracle-replay/1"

Origin = Literal["made", "amplified", "rounding", "unjudged"]

GROWN = 1.5
"""Times what the boundaries before have, or what rounding explains, that an error must be to be more than that."""
STRANGER = 0.5
"""NRMSE of the first boundary from which on the oracle may be one of another input."""


@dataclass(frozen=True)
class BoundaryReport:
    """One boundary.

    Attributes:
        name: of the model's tensor; ``also``: others with the same contents.
        address, buffer, layout: where the recording has it; ``evidence``: how that is known.
        figures: the recording against the model.
        origin: "made" in the stretch before it, "amplified" there from what it was handed, or "rounding": no more than
            buffers explain that round as these do. "unjudged" where a step of the stretch can't be evaluated.
        handed: the largest NRMSE of the boundaries that its stretch reads; None where it reads none.
        control: NRMSE of the stretch on the model's own inputs; None for what comes from outside. ``limit``: of that.
        rounding: NRMSE of the whole runlist computed exactly, but for the rounding of every buffer.
        stretch: addresses of its steps; ``sources``: names of the boundaries that these read.
        wrong: labels of the steps in it that mismatch by themselves.
        carriers: coordinates that carry most of the error, axes as in the layout.
        causes: single changes that make the stretch agree, where the runlist differs from the model.
    """

    name: str
    also: tuple[str, ...]
    address: str
    buffer: str
    layout: str
    evidence: str
    figures: Figures
    origin: Origin
    handed: float | None
    control: float | None
    limit: float
    rounding: float | None
    stretch: tuple[str, ...]
    sources: tuple[str, ...]
    wrong: tuple[str, ...]
    carriers: tuple[Carrier, ...]
    causes: tuple[RunlistCause, ...]

    to_dict = serialise.to_dict

    @property
    def factor(self) -> float | None:
        """The error over what was handed to the stretch."""
        return None if not self.handed else self.figures.nrmse / self.handed

    @property
    def sentence(self) -> str:
        """Where the error of this boundary comes from."""
        known = ", a place by name alone" if self.evidence == BY_NAME else ""
        what = f"{one_line(self.name)} ({self.address} {one_line(self.buffer)}{known})"
        if self.origin == "made" and self.wrong:
            return f"{what}: made here by {self.wrong[0]}, which mismatches its reference"
        if self.origin == "made" and self.control is None:
            return f"{what}: handed in from outside, and not what the model was given: NRMSE {self.figures.nrmse:.3g}"
        if self.origin == "made":
            return (
                f"{what}: made here, the runlist differs from the model: {count(len(self.stretch), 'step')} "
                f"({self.stretch[0]} to {self.stretch[-1]}) on the model's own inputs miss its output by NRMSE "
                f"{self.control:.3g}, rounding explains {self.limit:.2g}"
            )
        if self.origin == "amplified":
            return (
                f"{what}: amplified {self.factor:.3g} times, from {self.handed:.3g} to {self.figures.nrmse:.3g}; on "
                f"the model's own inputs the stretch agrees ({self.control:.2g})"
            )
        return f"{what}: rounding, NRMSE {self.figures.nrmse:.3g}"


@dataclass(frozen=True)
class OracleReplay:
    """What :func:`judge_against` found; truthy when every tensor has a place, and the runlist does what the model does.

    Attributes:
        boundaries: in the order of the recording.
        unmapped: names of the model's tensors without a place, with the reason.
        ignored: tensors that hold no floats.
        stand_ins: steps that can't be evaluated here; what they recorded stood in.
        recorded_on: what the recording ran on.
    """

    snapshot: str
    oracle: str
    made_by: str
    boundaries: tuple[BoundaryReport, ...]
    unmapped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()
    recorded_on: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return not self.made and not self.unmapped and not self.unjudged

    @property
    def made(self) -> tuple[BoundaryReport, ...]:
        """Boundaries whose own stretch is wrong."""
        return tuple(b for b in self.boundaries if b.origin == "made")

    @property
    def unjudged(self) -> tuple[BoundaryReport, ...]:
        """Boundaries of which nothing can be said: a step before them can't be evaluated here."""
        return tuple(b for b in self.boundaries if b.origin == "unjudged")

    @property
    def first(self) -> BoundaryReport | None:
        """The first boundary whose error the steps before it don't explain."""
        return next(iter(self.made), None)

    @property
    def amplifying(self) -> BoundaryReport | None:
        """The boundary that amplifies most."""
        its = [b for b in self.boundaries if b.origin == "amplified" and b.factor is not None]
        return max(its, key=lambda b: b.factor or 0.0, default=None)

    @property
    def sentence(self) -> str:
        if self.first is not None:
            return self.first.sentence
        if self.unjudged:
            n, why = len(self.unjudged), self.stand_ins[0]
            return f"nothing is said of {count(n, 'boundary')}: steps before them can't be evaluated here ({why})"
        if self.unmapped:
            n, all_ = len(self.boundaries), len(self.boundaries) + len(self.unmapped)
            return f"{n} of {all_} tensors of the model have a place, and agree there; nothing is said of the others"
        last = self.boundaries[-1]
        explained = "" if last.rounding is None else f", of which the buffers' rounding explains {last.rounding:.3g}"
        most = "" if self.amplifying is None else f"; most is amplified at {self.amplifying.sentence}"
        return f"the runlist does what the model does; NRMSE {last.figures.nrmse:.3g} in the end{explained}{most}"

    @property
    def another_input(self) -> str | None:
        """Why the oracle may be one of another input; None where it looks like this one's."""
        if not self.boundaries or self.boundaries[0].origin != "made" or self.boundaries[0].causes:
            return None
        first, rest = self.boundaries[0], self.boundaries[1:]
        if first.figures.nrmse < STRANGER or any(b.figures.nrmse < STRANGER for b in rest[:3]):
            return None
        return (
            f"already the first boundary, {one_line(first.name)}, is off by NRMSE {first.figures.nrmse:.3g}: is this "
            "an oracle of another input?"
        )

    def to_dict(self) -> dict[str, Any]:
        first = self.first
        return {
            "format": FORMAT,
            **serialise.pick(self, "snapshot", "oracle", "made_by", "recorded_on"),
            "agrees": bool(self),
            "first": None if first is None else first.name,
            "sentence": self.sentence,
            **serialise.pick(self, "another_input", "boundaries", "unmapped", "ignored", "stand_ins"),
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines: a ``boundary`` each, then one ``oracle``."""
        yield from ({"type": "boundary", **b.to_dict()} for b in self.boundaries)
        found = self.to_dict()
        del found["boundaries"]
        yield {"type": "oracle", **found}


def judge_against(
    snapshot: Snapshot,
    oracle_path: str | os.PathLike[str],
    *,
    map_path: str | os.PathLike[str] | None = None,
    invocation: int | None = None,
    explain: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> OracleReplay:
    """Judge a recording by the tensors of a framework model.

    Args:
        snapshot: an open recording.
        oracle_path: the oracle file.
        map_path: which tensor is which buffer; found by contents where left out.
        invocation: the call that the oracle is about; by default the last complete one.
        explain: look for causes where the runlist differs from the model.
        progress: called with (boundaries done, boundaries in all).

    Raises:
        UsageError: an oracle, map or invocation that can't be used.
        NothingComparedError: no tensor of the oracle has a place in the recording.
    """
    graph = dataflow(snapshot)
    rows = rows_of(snapshot, invocation)
    with open_oracle(oracle_path) as oracle:
        where = places(snapshot, graph, rows)
        mapping = find(snapshot, graph, oracle, where) if map_path is None else read_map(map_path, oracle, where)
        if not mapping.boundaries:
            why = mapping.unmapped[0].why if mapping.unmapped else "it holds no floats"
            raise NothingComparedError(
                f"{oracle_path}: no tensor has a place in {snapshot.path}: {why}; is it an oracle of another input? "
                "--map FILE says which buffer is which tensor"
            )
        controls = Controls(snapshot, graph, rows, oracle, mapping.boundaries)
        rounded = controls.exact.run(rows, {}, {}, rounds=True)
        reports: list[BoundaryReport] = []
        for number, boundary in enumerate(mapping.boundaries):
            spot = (boundary.place.row, boundary.place.position)
            ideal = None
            if boundary.place.output:
                ideal = nrmse(np.asarray(boundary.layout.of_buffer(rounded[spot])), controls.model(boundary))
            reports.append(_judged(controls, boundary, ideal, reports, explain=explain))
            if progress is not None:
                progress(number + 1, len(mapping.boundaries))
        return OracleReplay(
            snapshot=str(snapshot.path),
            oracle=str(oracle_path),
            made_by=oracle.made_by,
            boundaries=tuple(reports),
            unmapped=_unmapped(mapping),
            ignored=mapping.ignored,
            stand_ins=tuple(f"{address}: {why}" for address, why in controls.exact.stand_ins.items()),
            recorded_on=tuple(dict.fromkeys(s.ran_on for s in snapshot.sequences)),
        )


def mapping_of(snapshot: Snapshot, oracle_path: str | os.PathLike[str], invocation: int | None = None) -> Mapping:
    """Which content of a recording is which tensor of an oracle, by values.

    Raises:
        UsageError: an oracle or invocation that can't be used.
    """
    with open_oracle(oracle_path) as oracle:
        graph = dataflow(snapshot)
        return find(snapshot, graph, oracle, places(snapshot, graph, rows_of(snapshot, invocation)))


# --- parts ----------------------------------------------------------------------------------------------------------


def _judged(
    controls: Controls,
    boundary: OracleBoundary,
    ideal: float | None,
    before: Sequence[BoundaryReport],
    *,
    explain: bool,
) -> BoundaryReport:
    model, found = controls.model(boundary), controls.recorded(boundary)
    stated = figures(found, model)
    origin: Origin | None = None
    handed: float | None = None
    control: float | None = None
    limit = LEAST
    rows: tuple[int, ...] = ()
    sources: list[OracleBoundary] = []
    why: tuple[RunlistCause, ...] = ()
    wrong: tuple[str, ...] = ()
    if boundary.place.output:
        stretch = controls.stretch(boundary)
        rows, sources = stretch.rows, controls.sources(stretch)
        known = {b.name: b.figures.nrmse for b in before}
        errors = [known[s.name] for s in sources if s.name in known]
        handed = max(errors) if errors else None
        control = stretch.error()
        limit = stretch.limit() if not control <= LEAST else LEAST
        wrong = _mismatching(controls, rows)
        if any(controls.exact.step(row).address in controls.exact.stand_ins for row in rows):
            control, origin = None, "unjudged"
        elif not control <= limit:
            origin = "made"
            why = causes(stretch) if explain and not wrong else ()
    elif not stated.nrmse <= limit:
        origin = "made"
    if wrong:
        origin = "made"
    return BoundaryReport(
        name=boundary.name,
        also=boundary.also,
        address=boundary.place.address,
        buffer=boundary.place.buffer,
        layout=str(boundary.layout),
        evidence=boundary.evidence,
        figures=stated,
        origin=origin or _grown(stated.nrmse, handed, ideal),
        handed=handed,
        control=control,
        limit=limit,
        rounding=ideal,
        stretch=tuple(controls.exact.step(row).address for row in rows),
        sources=tuple(s.name for s in sources),
        wrong=wrong,
        carriers=carriers(found, model),
        causes=why,
    )


def _grown(error: float, handed: float | None, ideal: float | None) -> Origin:
    beyond = not error <= GROWN * max(ideal or 0.0, LEAST)
    grown = handed is not None and not error <= GROWN * handed
    return "amplified" if beyond and grown else "rounding"


def _mismatching(controls: Controls, rows: Sequence[int]) -> tuple[str, ...]:
    """Labels of the steps that mismatch on their recorded inputs, the first one first."""
    found = []
    for row in rows:
        report = controls.verdict(row)
        if report is not None and not report:
            found.append(report.label)
    return tuple(found)


def _unmapped(mapping: Mapping) -> tuple[str, ...]:
    return tuple(
        f"{one_line(u.tensor.name)}: {u.why}" + (f" ({'; '.join(u.places[:4])})" if u.places else "")
        for u in mapping.unmapped
    )


__all__ = ["BoundaryReport", "OracleReplay", "judge_against", "mapping_of"]
