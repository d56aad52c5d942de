# SPDX-License-Identifier: Apache-2.0
"""What a whole redispatch found, as frozen data: no path, no time in it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fusion_replay.errors import MismatchError, MissingError
from fusion_replay.model import serialise
from fusion_replay.model.text import block
from fusion_replay.replaying.redispatch.outcome import NOT_RUN, VERDICTS, StepOutcome
from fusion_replay.replaying.replay_report import canonical_json

FORMAT = "fusion-replay.redispatch/1"


@dataclass(frozen=True)
class RedispatchReport:
    """The result of a redispatch; truthy when every selected step ran and none is wrong.

    Attributes:
        on: "npu" or "sim".
        device: what it ran on ("NPU Phoenix (npu1)", "the software NPU (npu2)").
        recorded_on: what the recording ran on.
        rule, reference: by which outputs were judged, as asked for.
        repeat: repetitions of each step.
        steps: every selected step, in the order of the recording.
        journal: where what hung is remembered for the next run; None where nothing did.
    """

    on: str
    device: str
    recorded_on: tuple[str, ...]
    rule: str
    reference: str
    repeat: int
    steps: tuple[StepOutcome, ...]
    journal: str | None = None

    @cached_property
    def failures(self) -> tuple[StepOutcome, ...]:
        return tuple(s for s in self.steps if s.failed)

    @cached_property
    def missing(self) -> tuple[StepOutcome, ...]:
        """Steps that were not run, or not judged, because something needed is not here."""
        return tuple(s for s in self.steps if s.missing)

    @property
    def ran(self) -> int:
        return sum(s.ran for s in self.steps)

    @property
    def passed(self) -> bool:
        return self.ran > 0 and not self.failures and not self.missing

    @property
    def exit_status(self) -> int:
        """0; 1 where a step failed or is wrong (outranks 4); 4 where something is missing, or nothing ran."""
        if self.failures:
            return MismatchError.exit_code
        return 0 if self.passed else MissingError.exit_code

    def __bool__(self) -> bool:
        return self.passed

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> steps, worst first."""
        found = Counter(s.verdict for s in self.steps)
        return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}

    def check(self) -> None:
        """Nothing if it passed.

        Raises:
            MismatchError: a step failed, is wrong, or varies; the message is the report.
            MissingError: something could not be run.
        """
        if self.failures:
            raise MismatchError(str(self))
        if not self.passed:
            raise MissingError(str(self))

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **serialise.pick(self, "on", "device", "recorded_on", "rule", "reference", "repeat", "passed", "ran"),
            "failures": len(self.failures),
            "missing": len(self.missing),
            "counts": self.counts,
            "steps": [s.to_dict() for s in self.steps],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of :meth:`to_dict` as canonical JSON, hexadecimal."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode("ascii")).hexdigest()

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines, typed: ``redispatch``, a ``redispatched_step`` each, ``redispatch_summary``."""
        data = self.to_dict()
        head = ("format", "on", "device", "recorded_on", "rule", "reference", "repeat")
        yield {"type": "redispatch", **{k: data[k] for k in head}}
        yield from ({"type": "redispatched_step", **s} for s in data["steps"])
        tail = ("passed", "ran", "failures", "missing", "counts")
        yield {"type": "redispatch_summary", **{k: data[k] for k in tail}, "digest": self.digest}

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        of = f"of {len(self.steps):,} step{'' if len(self.steps) == 1 else 's'}"
        if self.failures:
            return f"{len(self.failures):,} {of} failed, first {self.failures[0].label}"
        if not self.ran:
            return f"none {of} could be run"
        same = self.counts.get("unchanged bits", 0)
        return f"{self.ran:,} {of} run again, {same:,} with unchanged bits"

    @property
    def terms(self) -> str:
        """Where, against what, with which binaries."""
        used = Counter(s.binaries for s in self.steps if s.binaries)
        files = ", ".join(f"{kind} binaries for {n:,}" for kind, n in sorted(used.items()))
        times = f", {self.repeat} times each" if self.repeat > 1 else ""
        recorded = f"; recorded on {' and '.join(self.recorded_on)}" if self.recorded_on else ""
        built = f"; {files}" if files else ""
        return f"on {self.device}{times}, each on its recorded inputs; rule {self.rule}{recorded}{built}"

    def lines(self, *, every: bool = False) -> Iterator[str]:
        """Plain text: the sentence, counts, what went wrong; with ``every`` each step."""
        yield self.sentence
        yield f"  {self.terms}"
        yield from (f"  {n:>7,}  {verdict}" for verdict, n in self.counts.items())
        told = self.steps if every else self.failures[:3]
        for step in told:
            yield from str(step).splitlines()
        if not every and len(self.failures) > len(told):
            yield f"and {len(self.failures) - len(told):,} more that failed (--all shows them)"
        reasons = Counter(s.detail for s in self.steps if s.verdict == NOT_RUN or (s.missing and not s.failed))
        for reason, n in reasons.most_common(3):
            first = next(s for s in self.steps if s.detail == reason)
            yield f"{first.verdict}: {first.label if n == 1 else f'{n:,} steps, first {first.label}'}: {reason}"
        if len(reasons) > 3:
            yield f"and {len(reasons) - 3:,} more for other reasons (--all shows them)"
        taken = sum(s.continued for s in self.steps)
        if taken:
            yield f"{taken:,} of them were run before: taken over from the journal"
        if self.journal is not None:
            yield f"journal: {self.journal} keeps what hung from being tried again; remove it to try"

    def __str__(self) -> str:
        return block(self.lines())


__all__ = ["RedispatchReport"]
