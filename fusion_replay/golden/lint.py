# SPDX-License-Identifier: Apache-2.0
"""What is wrong with goldens although they hold: too large, doubled, of unknown origin, or too loose to fail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion_replay import refs
from fusion_replay.compare.deviation import measure
from fusion_replay.compare.rules import rule_for
from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.errors import FusionReplayError, SnapshotError
from fusion_replay.golden.check_report import Problem
from fusion_replay.golden.document import Golden
from fusion_replay.golden.problems import document_problems, folder_problems
from fusion_replay.golden.project import Project
from fusion_replay.golden.store import Folder, contents_of, name_of
from fusion_replay.golden.tolerances import canonical, in_force
from fusion_replay.refs import plugins
from fusion_replay.replaying.replay_report import canonical_json
from fusion_replay.snapshot import open_snapshot

KINDS = {
    "size": "contents larger than golden-max-bytes",
    "total": "the folder is larger than golden-max-total-bytes",
    "duplicate": "another golden says the same",
    "provenance": "where it came from is not known",
    "why": "a tolerance without a reason",
    "zeros": "an output of zeros would pass",
    "unexercised": "an operator of the project that no golden has",
}
"""What lint looks for besides what a check finds wrong with documents and folders."""

_ULPS_TO_ZERO = 0x7F7F
"""bf16 ULPs from the largest finite value to zero: so many let anything pass."""


@dataclass(frozen=True, slots=True)
class LintReport:
    """Truthy when nothing was found."""

    folder: str
    goldens: int
    steps: int
    nbytes: int
    problems: tuple[Problem, ...]

    @property
    def passed(self) -> bool:
        return self.goldens > 0 and not self.problems

    def __bool__(self) -> bool:
        return self.passed

    def records(self) -> Iterator[dict[str, Any]]:
        yield from ({"type": "golden_problem", **p.to_dict()} for p in self.problems)
        names = ("folder", "passed", "goldens", "steps", "nbytes")
        yield {"type": "golden_lint", **{n: getattr(self, n) for n in names}, "problems": len(self.problems)}


def lint(folder: Path) -> LintReport:
    """Look at every golden in ``folder``; nothing is recorded or judged again.

    Raises:
        UsageError: no such folder, or a malformed ``pyproject.toml``.
    """
    listing, project = Folder.scan(folder), Project.find(folder)
    problems = folder_problems(listing)
    goldens: dict[Path, Golden] = {}
    for path in listing.goldens:
        try:
            goldens[path] = Golden.read(path)
        except SnapshotError as error:
            problems.append(Problem("unreadable", name_of(path), str(error)))
    for path, golden in goldens.items():
        problems += document_problems(golden, name_of(path))
        problems += _of_golden(golden, path, project)
    total = sum(p.stat().st_size for p in (*listing.goldens, *listing.contents))
    if total > project.max_total_bytes:
        text = f"{total:,} bytes in all, golden-max-total-bytes allows {project.max_total_bytes:,}; keep some thin"
        problems.append(Problem("total", str(folder), text))
    problems += _duplicates(goldens.values())
    problems += _unexercised(goldens.values(), str(folder))
    steps = sum(len(g.steps) for g in goldens.values())
    return LintReport(str(folder), len(listing.goldens), steps, total, tuple(problems))


def lets_zeros_pass(limits: Tolerance) -> bool:
    """Whether these limits accept zeros for *any* output, whatever it is: by the formulas of rule ``auto``."""
    return (
        limits.rtol > 1  # |0 - e| < rtol * (|0| + |e|)
        or limits.error_rate >= 1
        or (limits.range_frac or 0) >= 1
        or (limits.ulps or 0) >= _ULPS_TO_ZERO
    )


def _of_golden(golden: Golden, path: Path, project: Project) -> list[Problem]:
    found = []
    if golden.contents is not None and golden.contents.size > project.max_bytes:
        text = f"{golden.contents.size:,} bytes, golden-max-bytes allows {project.max_bytes:,}; keep it thin"
        found.append(Problem("size", golden.name, text))
    if missing := [k for k in ("fusion_replay", "packages") if not golden.provenance.get(k)]:
        text = f"its provenance has no {' and no '.join(missing)}; record it again"
        found.append(Problem("provenance", golden.name, text))
    for tolerance in golden.tolerances:
        if not tolerance.why.strip():
            text = f"tolerance of {tolerance.target} ({tolerance.limits}) without a reason; write its why"
            found.append(Problem("why", golden.name, text))
    if (loose := _zeros(golden, path, project)) is not None:
        found.append(loose)
    return found


def _zeros(golden: Golden, path: Path, project: Project) -> Problem | None:
    """The first step whose limits would accept an output of zeros: a test that can't fail."""
    own = in_force(golden.tolerances)
    limits = {s.address: own.get(s.address) or own.get(canonical(s.op)) or s.limits for s in golden.steps}
    labels = {s.address: s.label for s in golden.steps}

    def problem(address: str) -> Problem:
        text = f"{labels[address]}: an output of zeros would pass its limits ({limits[address]}); tighten them"
        return Problem("zeros", golden.name, text)

    always = next((a for a, t in limits.items() if lets_zeros_pass(t)), None)
    if always is not None:
        return problem(always)
    try:
        contents = contents_of(golden, path, project)
        if contents is None:
            return None
        with open_snapshot(contents, cache_bytes=0) as snapshot:
            for step in snapshot.steps():
                outputs = [t.numpy() for t in step.outputs.in_order()] if step.address in limits else []
                if outputs and all(_zeros_pass(o, limits[step.address]) for o in outputs):
                    return problem(step.address)
    except FusionReplayError as error:
        kind = "contents" if isinstance(error, SnapshotError) else "missing"
        return Problem(kind, golden.name, str(error))
    return None


def _zeros_pass(output: np.ndarray[Any, Any], limits: Tolerance) -> bool:
    """Whether zeros would pass for ``output``, were it what is expected; never where it is all zero itself."""
    if not np.any(output):
        return False
    zeros = np.zeros_like(output)
    rule = rule_for("auto", zeros, output, tolerance=limits)
    return rule.passes(measure(zeros, output, rule.failing))


def _duplicates(goldens: Iterable[Golden]) -> list[Problem]:
    """Goldens with the same steps made in the same way."""
    by_text: dict[str, list[str]] = defaultdict(list)
    for golden in goldens:
        by_text[canonical_json([golden.recipe, [s.to_dict() for s in golden.steps]])].append(golden.name)
    return [
        Problem("duplicate", names[1], f"says what {names[0]} says; remove one")
        for names in by_text.values()
        if len(names) > 1
    ]


def _unexercised(goldens: Iterable[Golden], folder: str) -> list[Problem]:
    """Operators that the project declares."""
    used = {canonical(s.op) for g in goldens for s in g.steps}
    plugins.ready()
    declared = {spec.type for spec in refs.user_specs()}
    return [
        Problem("unexercised", folder, f"operator {name} is declared here, and no golden has a step of it; add one")
        for name in sorted(declared - used)
    ]


__all__ = ["KINDS", "LintReport", "lets_zeros_pass", "lint"]
