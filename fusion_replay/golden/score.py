# SPDX-License-Identifier: Apache-2.0
"""What a folder of goldens would catch: each recorded again on the software NPU with every kind of fault in it.

A kind is caught where the run fails, or an output leaves the limits within which a check lets it pass. A kind that
strikes and changes nothing survives: for each that no golden of the operator catches, small inputs are tried, smallest
first, and the first that catches it is proposed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusion_replay import refs
from fusion_replay.compare.verdict import compare
from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.golden.document import Golden
from fusion_replay.golden.project import Project
from fusion_replay.golden.recipes import ON_SOFTWARE, built, kind_of, record_run
from fusion_replay.golden.store import Folder, contents_of, name_of
from fusion_replay.golden.tolerances import canonical
from fusion_replay.model import serialise
from fusion_replay.model.text import shell
from fusion_replay.simulator.errors import HostRuntimeError
from fusion_replay.simulator.faults.catalogue import KINDS
from fusion_replay.simulator.workloads import find
from fusion_replay.snapshot import open_snapshot

if TYPE_CHECKING:
    from fusion_replay.compare.tolerance import Tolerance
    from fusion_replay.snapshot import Snapshot

Result = Literal["caught", "exact", "survives"]
"""``exact``: other bits, inside the limits: caught by ``--exact`` alone."""

KINDS_SCORED = tuple(name for name, kind in KINDS.items() if not kind.fusion and not kind.endless)
"""Those that separate dispatches have and that end."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One kind of fault in one operator of one golden."""

    golden: str
    op: str
    kind: str
    outcome: Result

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True)
class Proposal:
    """What no golden of an operator catches, and the smallest input tried that does; "" where none did.

    ``exact``: only ``--exact`` catches it there: it stays inside the limits.
    """

    op: str
    kind: str
    device: str
    command: str
    exact: bool = False

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True)
class Score:
    """
    Attributes:
        scored: every kind that can strike an operator of a golden.
        proposals: what no golden of an operator catches.
        left_out: goldens that were not scored, each with its reason.
    """

    scored: tuple[Strike, ...]
    proposals: tuple[Proposal, ...]
    left_out: Mapping[str, str]


def score(folder: Path) -> Score:
    """
    Raises:
        UsageError: no such folder.
    """
    listing, project = Folder.scan(folder), Project.find(folder)
    scored: list[Strike] = []
    left_out: dict[str, str] = {}
    known: dict[str, tuple[str, Tolerance]] = {}
    for path in listing.goldens:
        name = name_of(path)
        try:
            golden = Golden.read(path)
            recipe = golden.recipe or {}
            contents = contents_of(golden, path, project)
            if contents is None or kind_of(golden.recipe) not in ON_SOFTWARE:
                left_out[name] = "thin, or no recipe of the software NPU"
                continue
            for step in golden.steps:
                known.setdefault(canonical(step.op), (str(recipe["device"]), step.limits))
            with open_snapshot(contents) as right:
                scored += _golden(golden, right)
        except FusionReplayError as error:
            left_out[name] = str(error)
    caught = {(s.op, s.kind) for s in scored if s.outcome == "caught"}
    missed = dict.fromkeys((s.op, s.kind) for s in scored if (s.op, s.kind) not in caught)
    return Score(tuple(scored), tuple(_propose(op, kind, *known[op]) for op, kind in missed), left_out)


def _golden(golden: Golden, right: Snapshot) -> Iterator[Strike]:
    limits = {s.address: s.limits for s in golden.steps}
    recipe = golden.recipe or {}
    for op in dict.fromkeys(canonical(s.op) for s in golden.steps):
        for kind in KINDS_SCORED:
            outcome = _outcome(lambda f: built(recipe, [f]), f"{op}:{kind}", right, limits)
            if outcome is not None:
                yield Strike(golden.name, op, kind, outcome)


def _propose(op: str, kind: str, device: str, limits: Tolerance) -> Proposal:
    workload, best = find(f"op:{op}"), Proposal(op, kind, device, "")
    for options in _tried(op):

        def build(fault: str, options: Mapping[str, Any] = options) -> Any:
            return workload.build(device, [fault], options)

        with tempfile.TemporaryDirectory(prefix="fusion-replay-") as made:
            honest = Path(made) / "honest.h5"
            try:
                record_run(workload.build(device, (), options), honest)
            except UsageError:  # numbers that this operator does not take
                continue
            with open_snapshot(honest) as right:
                each = {s.address: limits for s in right.steps()}
                outcome = _outcome(build, f"{op}:{kind}", right, each)
        if outcome in (None, "survives") or (outcome == "exact" and best.command):
            continue
        given = [(k, e) for k, v in options.items() for e in (v if isinstance(v, list) else [v])]
        words = [w for k, e in given for w in (f"--{k}", str(e))]
        record = ["fusion-replay", "record", "-o", f"{op}-{kind}.h5", "--workload", f"op:{op}", "--sim", device]
        best = Proposal(op, kind, device, shell([*record, *words]), exact=outcome == "exact")
        if not best.exact:
            break
    return best


def _tried(op: str) -> Iterator[Mapping[str, Any]]:
    """Options of ``op:OPERATOR``, smallest inputs first; the last has numbers that bf16 rounds up."""
    yield from ({}, {"calls": 2}, {"calls": 3})
    numbers = [f"{p.name}=1.999" for p in refs.find(op).params if p.type is float]
    if numbers:
        yield {"param": numbers}


def _outcome(
    build: Callable[[str], Any], fault: str, right: Snapshot, limits: Mapping[str, Tolerance]
) -> Result | None:
    """None where the fault can't strike here."""
    with tempfile.TemporaryDirectory(prefix="fusion-replay-") as made:
        target = Path(made) / "struck.h5"
        try:
            run = build(fault)
        except UsageError:
            return None
        try:
            record_run(run, target)
        except HostRuntimeError:
            return "caught"
        with open_snapshot(target) as struck:
            return _compared(right, struck, limits)


def _compared(right: Snapshot, struck: Snapshot, limits: Mapping[str, Tolerance]) -> Result:
    """As a check compares: the bits first, the step's limits second."""
    outcome: Result = "survives"
    for step in right.steps():
        for old, new in zip(step.outputs.in_order(), struck[step.address].outputs.in_order(), strict=True):
            if old.digest == new.digest:
                continue
            if not compare(new.numpy(), old.numpy(), "auto", tolerance=limits[step.address]):
                return "caught"
            outcome = "exact"
    return outcome


__all__ = ["KINDS_SCORED", "Proposal", "Score", "Strike", "score"]
