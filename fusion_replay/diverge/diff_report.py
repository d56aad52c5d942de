# SPDX-License-Identifier: Apache-2.0
"""What differs between two recordings, as frozen data that is the same on every machine: no path, no time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fusion_replay.diverge.diff_text import layout
from fusion_replay.diverge.difference import ALIGNED, KINDS, FinalDifference, OutsideDifference, StepDifference
from fusion_replay.diverge.environment import Change, in_one_line
from fusion_replay.diverge.pairwise import NOT_KEPT
from fusion_replay.errors import MismatchError, MissingError
from fusion_replay.model import serialise
from fusion_replay.model.notebook import card, data_frame
from fusion_replay.model.text import one_line
from fusion_replay.replaying.replay_report import canonical_json

if TYPE_CHECKING:
    import pandas as pd

    from fusion_replay.diverge.explanation import Explanation

FORMAT = "fusion-replay.diff/1"


@dataclass(frozen=True, repr=False)
class DiffReport:
    """The differences of b against a; truthy when no rule is broken and everything that was asked could be answered.

    Attributes:
        rule: which comparison decides.
        compared: aligned steps that were compared.
        steps: every step that differs, in the order of b's run.
        outside: inputs that differ and that no recorded step made so.
        final: outputs of the sequences that differ at the end of an invocation.
        path: labels of the steps along which the first introduced difference reached an output; () where none did.
        environment: what differs in provenance, device and origin.
        notes: what was not compared, in words: steps and invocations that only one side has.
        not_compared: how many invocations only one side has.
        recorded_on: what a and b ran on.
    """

    rule: str
    compared: int
    steps: tuple[StepDifference, ...] = ()
    outside: tuple[OutsideDifference, ...] = ()
    final: tuple[FinalDifference, ...] = ()
    path: tuple[str, ...] = ()
    environment: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    not_compared: int = 0
    recorded_on: tuple[str, ...] = field(default=())

    @property
    def equal(self) -> bool:
        """Every bit that was recorded of the aligned steps is the same, and nothing is left over on either side."""
        return not (self.steps or self.outside or self.not_compared)

    def of_kind(self, kind: str) -> tuple[StepDifference, ...]:
        return tuple(s for s in self.steps if s.kind == kind)

    @cached_property
    def introduced(self) -> tuple[StepDifference, ...]:
        """The steps where a difference began; where two faults struck, both."""
        return self.of_kind("introduced")

    @property
    def first(self) -> StepDifference | None:
        """The first step that introduces a difference, None where none does."""
        return self.introduced[0] if self.introduced else None

    @property
    def masked_faults(self) -> tuple[StepDifference, ...]:
        """Introduced differences that no output of a sequence shows."""
        return tuple(s for s in self.introduced if s.vanishes)

    @property
    def suspects(self) -> tuple[StepDifference, ...]:
        return tuple(s for s in self.steps if s.suspect)

    @cached_property
    def breaking(self) -> tuple[StepDifference, ...]:
        """Steps that break the rule by themselves."""
        return tuple(s for s in self.steps if s.breaks)

    @property
    def mismatch(self) -> bool:
        """A step introduces more than its tolerance or has another status, an output at the end is beyond it, or one
        side lacks what the other has."""
        beyond = any(not f.verdict if f.verdict is not None else f.why != NOT_KEPT for f in self.final)
        return bool(self.breaking or self.not_compared or beyond)

    @cached_property
    def unanswered(self) -> tuple[str, ...]:
        """What the rule could not decide, because contents or references are missing."""
        outputs = [(s.label, o) for s in self.introduced for o in s.outputs if o.verdict is None]
        found = [f"{label}: {o.name}: {o.why}" for label, o in outputs]
        kept = [f for f in self.final if f.why == NOT_KEPT]
        found += [f"output {f.buffer} of invocation {f.invocation}: {f.why}" for f in kept]
        reasons: dict[str, list[str]] = {}  # an inherited difference that no reference explains may hide a fault
        for step in self.of_kind("inherited"):
            judged = next((j for j in reversed(step.judged or ()) if j.ok is None), None)
            if judged is not None:
                reasons.setdefault(judged.detail, []).append(step.label)
        found += [
            f"{len(labels):,} step{'s' * (len(labels) > 1)} with other inputs, first {labels[0]}: {reason}"
            for reason, labels in reasons.items()
        ]
        return tuple(found)

    @property
    def passed(self) -> bool:
        return not self.mismatch and not self.unanswered

    def __bool__(self) -> bool:
        return self.passed

    @property
    def counts(self) -> dict[str, int]:
        """Steps by kind, and "same"."""
        found = Counter(s.kind for s in self.steps)
        aligned = sum(found[k] for k in ALIGNED)
        return {**{k: found[k] for k in KINDS if found[k]}, "same": self.compared - aligned}

    @property
    def sentence(self) -> str:
        """``3 of 128 steps differ; llvm-aie 2026082101 -> 2026082401``."""
        n = f"{len(self.steps):,}" if self.steps else "none"
        total = self.compared + sum(1 for s in self.steps if s.kind not in ALIGNED)
        what = f"{n} of {total:,} step{'s' * (total != 1)} differ{'s' if len(self.steps) == 1 else ''}"
        changed = in_one_line(self.environment)
        return f"{what}; {changed}" if changed else what

    def check(self) -> None:
        """Nothing if it passed.

        Raises:
            MismatchError: the rule is broken; the message is the report.
            MissingError: nothing is, but not everything could be judged.
        """
        if self.mismatch:
            raise MismatchError(str(self))
        if self.unanswered:
            raise MissingError(str(self))

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **serialise.pick(
                self, "rule", "recorded_on", "passed", "mismatch", "equal", "compared", "not_compared", "counts"
            ),
            "first": None if self.first is None else self.first.address,
            **serialise.pick(self, "path", "unanswered", "notes", "steps", "outside", "final", "environment"),
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of :meth:`to_dict` as canonical JSON, hexadecimal."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode("ascii")).hexdigest()

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines, typed: ``diff``, then ``diff_step``, ``diff_outside``, ``diff_final``, ``diff_environment`` each,
        and one ``diff_summary``."""
        data = self.to_dict()
        yield {"type": "diff", **{k: data[k] for k in ("format", "rule", "recorded_on")}}
        for kind, key in (
            ("diff_step", "steps"),
            ("diff_outside", "outside"),
            ("diff_final", "final"),
            ("diff_environment", "environment"),
        ):
            yield from ({"type": kind, **entry} for entry in data[key])
        tail = ("passed", "mismatch", "equal", "compared", "not_compared", "counts", "first", "path", "unanswered")
        yield {"type": "diff_summary", **{k: data[k] for k in (*tail, "notes")}, "digest": self.digest}

    def text(self, *, every: bool = False, why: Explanation | None = None) -> str:
        """Plain text, at most 100 columns; at most 24 lines unless ``every``. ``why``: of :attr:`first`."""
        return layout(self, every=every, why=why)

    def to_dataframe(self) -> pd.DataFrame:
        """A table of pandas by address: one row per step that differs, with its figures.

        Raises:
            MissingDependencyError: no pandas here; the extra ``tables`` brings it.
        """
        return data_frame(map(_row, self.steps), "address")

    def _repr_html_(self) -> str:
        rows = [(s.label, s.kind, s.why) for s in self.steps[:10]]
        more = len(self.steps) - len(rows)
        told = [f"rule {self.rule}, b against a", *self.notes, *([f"the first 10 of {len(self.steps):,}"] * (more > 0))]
        return card(self.sentence, told, [("step", "kind", "why"), *rows] if rows else ())

    def __repr__(self) -> str:
        return f"<DiffReport {one_line(self.sentence)}>"

    def __str__(self) -> str:
        return self.text()


def _row(step: StepDifference) -> dict[str, Any]:
    about = serialise.pick(step, "address", "a_address", "op", "label", "kind", "suspect", "vanishes", "why")
    if step.verdict is None:
        return about
    names = ("max_abs", "mean_abs", "max_rel", "ulp_max", "ulp_mean", "rel_l2", "cosine", "nrmse", "pcc", "sqnr")
    return {**about, "ok": step.verdict.ok, **{name: getattr(step.verdict.stats, name) for name in names}}


__all__ = ["FORMAT", "DiffReport"]
