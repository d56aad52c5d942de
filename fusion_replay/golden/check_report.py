# SPDX-License-Identifier: Apache-2.0
"""What a check of goldens found, as frozen data: no path outside the folder, no time, no thread count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fusion_replay.errors import MismatchError, MissingError, SnapshotError
from fusion_replay.model import serialise
from fusion_replay.model.text import one_line, printable

FORMAT = "fusion-replay.golden-check/1"

Question = Literal["reference", "npu"]
"""Does the reference still agree with what was recorded, does the NPU still give it: the two are kept apart."""

State = Literal["same", "within", "moved", "follows", "not_compared"]

_STEPS_TOLD = 20

UNUSABLE = ("unreadable", "contents")
MISSING = (
    *("unknown_operator", "reference_missing", "not_kept", "in_flight", "failed", "not_run"),
    *("recipe", "not_compared", "missing"),
)
"""Kinds of problems by exit status: 3, 4; all the others are 1."""


@dataclass(frozen=True, slots=True)
class CheckedStep:
    """One step under one question.

    Attributes:
        state: "same" to the bit, "within" its limits, "moved", "follows" (from an earlier step that moved), or
            "not_compared".
        kind: of a moved step what moved: "reference", "npu", "tolerance", "inputs", "steps", "verdict",
            "statistics", "contents"; of one that was not compared the reason's kind.
        text: what moved, from what to what; empty for "same".
    """

    question: Question
    address: str
    label: str
    state: State
    kind: str = ""
    text: str = ""

    def __bool__(self) -> bool:
        return self.state in ("same", "within")

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a golden as a whole, or with the folder. ``where``: a path or a golden's name."""

    kind: str
    where: str
    text: str

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.text}")


@dataclass(frozen=True)
class GoldenResult:
    """One golden; truthy when it holds.

    Attributes:
        name, path: of the golden.
        steps: every step under every question that was asked.
        problems: what kept it from being checked, or is wrong with it as a whole.
        environment: what changed since it was recorded, in words.
        notes: what a person should know although nothing failed.
        pending: the document that was written for a review.
    """

    name: str
    path: str
    steps: tuple[CheckedStep, ...] = ()
    problems: tuple[Problem, ...] = ()
    environment: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pending: str | None = None

    @property
    def compared(self) -> int:
        """Steps that were compared under at least one question."""
        return len({s.address for s in self.steps if s.state != "not_compared"})

    @cached_property
    def wrong(self) -> tuple[CheckedStep, ...]:
        return tuple(s for s in self.steps if not s)

    @property
    def first(self) -> CheckedStep | None:
        """The first step that is wrong on its own account."""
        return next((s for s in self.wrong if s.state != "follows"), None)

    @property
    def within(self) -> int:
        return sum(s.state == "within" for s in self.steps)

    @property
    def passed(self) -> bool:
        return bool(self.compared) and not self.wrong and not self.problems

    def __bool__(self) -> bool:
        return self.passed

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is wrong, first things first, each kind once."""
        found = [p.kind for p in self.problems] + [s.kind for s in self.wrong if s.state != "follows"]
        return tuple(dict.fromkeys(found))

    @property
    def headline(self) -> str:
        """One line: what moved where, and what changed in the environment; or what was compared."""
        if self.passed:
            within = f", {self.within:,} within their limits" if self.within else ""
            return f"{self.name}: {self.compared:,} step{'' if self.compared == 1 else 's'} as accepted{within}"
        said = [p.text for p in self.problems[:1]]
        if (first := self.first) is not None:
            said.append(f"{first.label}: {first.text}" if first.text else first.label)
        if not said:
            said = ["nothing was compared"]
        changed = f"; environment moved: {', '.join(self.environment)}" if self.environment and self.wrong else ""
        return one_line(f"{self.name}: {'; '.join(said)}{changed}")

    @property
    def lines(self) -> list[str]:
        """The headline, and what else is wrong, counted."""
        first = self.first
        more = Counter(s.kind if s.state == "moved" else s.state for s in self.wrong if s is not first)
        found = [self.headline, *(f"  {p.text}" for p in self.problems[1:])]
        names = {"follows": "after it", "not_compared": "not compared"}
        found += [f"  {n:,} more step{'' if n == 1 else 's'}: {names.get(k, f'{k} moved')}" for k, n in more.items()]
        found += [f"  note: {n}" for n in self.notes]
        found += [f"  for review: {self.pending}"] if self.pending else []
        return list(map(printable, found))

    @property
    def properties(self) -> list[tuple[str, str | int]]:
        """For JUnit: under pytest and without."""
        found: list[tuple[str, str | int]] = [
            ("fr_golden", one_line(self.name)),
            ("fr_compared", self.compared),
            ("fr_within", self.within),
            ("fr_headline", self.headline),
        ]
        if self.kinds:
            found.append(("fr_moved", one_line(", ".join(self.kinds))))
        steps = self.wrong[:_STEPS_TOLD]
        return found + [(f"fr_step {one_line(s.address)}", one_line(s.text or s.state)) for s in steps]

    def to_dict(self) -> dict[str, Any]:
        return serialise.pick(
            self,
            "name",
            "path",
            "passed",
            "headline",
            "kinds",
            "compared",
            "within",
            "problems",
            "environment",
            "notes",
            "pending",
        )


@dataclass(frozen=True)
class GoldenReport:
    """A folder of goldens; truthy when every one holds and nothing is wrong with the folder.

    Attributes:
        folder: as it was given.
        on: "sim", "npu", or None where the device was not asked.
        results: one per golden, by name.
        problems: of the folder: two goldens of one name, contents that no golden names, an empty folder.
        left_out: goldens that the filter left out.
    """

    folder: str
    on: str | None
    results: tuple[GoldenResult, ...]
    problems: tuple[Problem, ...] = ()
    left_out: int = 0

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(self.results) and not self.problems

    def __bool__(self) -> bool:
        return self.passed

    @property
    def failed(self) -> tuple[GoldenResult, ...]:
        return tuple(r for r in self.results if not r)

    @property
    def compared(self) -> int:
        return sum(r.compared for r in self.results)

    @cached_property
    def not_compared(self) -> Counter[str]:
        """Reason -> steps that were not compared."""
        return Counter(s.text for r in self.results for s in r.steps if s.state == "not_compared")

    @property
    def exit_status(self) -> int:
        """1 where anything moved or is wrong, else 3 for unusable files, else 4 for what is missing, else 0."""
        kinds = [k for r in self.results for k in r.kinds] + [p.kind for p in self.problems]
        if any(k not in UNUSABLE and k not in MISSING for k in kinds):
            return MismatchError.exit_code
        if any(k in UNUSABLE for k in kinds):
            return SnapshotError.exit_code
        return 0 if self.passed else MissingError.exit_code

    @property
    def sentence(self) -> str:
        """The summary line: goldens, steps, what was left out and why."""
        n, bad = len(self.results), len(self.failed)
        parts = [f"{n - bad:,} of {n:,} golden{'' if n == 1 else 's'} hold{'s' if n == 1 else ''}"]
        parts.append(f"{self.compared:,} step{'' if self.compared == 1 else 's'} compared")
        if within := sum(r.within for r in self.results):
            parts.append(f"{within:,} within their limits and not to the bit")
        parts += [f"{count:,} not compared: {why}" for why, count in self.not_compared.most_common(3)]
        if self.left_out:
            parts.append(f"{self.left_out:,} left out by the filter")
        if self.problems:
            parts.append(f"{len(self.problems)} problem{'' if len(self.problems) == 1 else 's'} of the folder")
        return one_line("; ".join(parts))

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines, typed: every golden, its steps that are not the same, the folder's problems, one summary."""
        for result in self.results:
            yield {"type": "golden", **result.to_dict()}
            for step in result.steps:
                if step.state != "same":
                    yield {"type": "golden_step", "golden": result.name, **step.to_dict()}
        yield from ({"type": "golden_problem", **p.to_dict()} for p in self.problems)
        yield {
            "type": "golden_summary",
            "format": FORMAT,
            "folder": self.folder,
            "on": self.on,
            "passed": self.passed,
            "goldens": len(self.results),
            "failed": len(self.failed),
            "compared": self.compared,
            "not_compared": dict(self.not_compared),
            "left_out": self.left_out,
        }


__all__ = ["FORMAT", "CheckedStep", "GoldenReport", "GoldenResult", "Problem", "Question", "State"]
