# SPDX-License-Identifier: Apache-2.0
"""What a whole replay found, as frozen data that is the same on every machine: no path, no time, no thread count."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import MismatchError, MissingError
from fusion_replay.model import serialise
from fusion_replay.model.notebook import card, data_frame
from fusion_replay.model.text import block, one_line
from fusion_replay.replaying import table
from fusion_replay.replaying.outcome import MISSING, UNFINISHED, FinalOutput, Skip, StepReport
from fusion_replay.replaying.specials import INF, NAN, NAN_OF_INF
from fusion_replay.system.messages import count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FORMAT = "fusion-replay.replay/1"


@dataclass(frozen=True, repr=False)
class ReplayReport:
    """The result of a replay; truthy when it passed.

    Attributes:
        mode: "isolated" or "cumulative".
        rule, reference: as asked for ("auto" included; the flavours that answered stand in each step).
        recorded_on: what the recording ran on, one entry per kind ("the software NPU (npu2)").
        steps: every compared step, in the order of the recording.
        skips: every other selected step, with its reason.
        final: mode cumulative only: the sequences' outputs against the whole chain.
    """

    mode: str
    rule: str
    reference: str
    recorded_on: tuple[str, ...]
    steps: tuple[StepReport, ...]
    skips: tuple[Skip, ...] = ()
    final: tuple[FinalOutput, ...] = ()

    @property
    def compared(self) -> int:
        return len(self.steps)

    @property
    def skipped(self) -> int:
        return len(self.skips)

    @cached_property
    def mismatches(self) -> tuple[StepReport, ...]:
        return tuple(s for s in self.steps if not s)

    @property
    def first_mismatch(self) -> StepReport | None:
        return self.mismatches[0] if self.mismatches else None

    @cached_property
    def outside(self) -> tuple[StepReport, ...]:
        """Steps that match by their tolerance and are outside their bound: no honest device gives that."""
        return tuple(s for s in self.steps if s.outside is not None)

    @cached_property
    def first_nan(self) -> StepReport | None:
        """The first step with NaN in its output and none in its inputs."""
        return next((s for s in self.steps if s.born in (NAN, NAN_OF_INF)), None)

    @cached_property
    def first_non_finite(self) -> StepReport | None:
        """The first step with NaN or Inf in its output and neither in its inputs."""
        return next((s for s in self.steps if s.born in (NAN, INF)), None)

    @property
    def first_lines(self) -> list[str]:
        """What comes before all else: steps outside their bound, and where NaN and Inf begin."""
        lines = []
        if self.outside:
            first = self.outside[0]
            detail = first.outside.verdict.detail if first.outside is not None else ""
            what = f"{count(len(self.outside), 'step')} inside the tolerance and outside the bound, first"
            lines.append(f"{what} {first.label}: {detail}")
        if self.first_nan is not None:
            lines.append(f"first NaN: {_born(self.first_nan)}")
        if self.first_non_finite is not None and self.first_non_finite is not self.first_nan:
            lines.append(f"first {self.first_non_finite.born} from finite inputs: {_born(self.first_non_finite)}")
        return lines

    @cached_property
    def missing(self) -> tuple[Skip, ...]:
        """Skips because something needed is not here: an operator, a reference that takes these inputs."""
        return tuple(s for s in self.skips if s.kind in MISSING)

    @cached_property
    def unfinished(self) -> tuple[Skip, ...]:
        """Steps that had not come back, or failed, in the recorded run: nothing of them can be right."""
        return tuple(s for s in self.skips if s.kind in UNFINISHED)

    @property
    def passed(self) -> bool:
        """Something was compared, nothing mismatches or never ended, and nothing that judging needs is missing."""
        return bool(self.steps) and not (self.mismatches or self.unfinished or self.missing)

    def __bool__(self) -> bool:
        return self.passed

    def to_dict(self) -> dict[str, Any]:
        first = self.first_mismatch
        return {
            "format": FORMAT,
            "mode": self.mode,
            "rule": self.rule,
            "reference": self.reference,
            "recorded_on": list(self.recorded_on),
            "passed": self.passed,
            "compared": self.compared,
            "mismatches": len(self.mismatches),
            "skipped": self.skipped,
            "first_mismatch": None if first is None else first.address,
            "outside_bound": [s.address for s in self.outside],
            "first_nan": None if self.first_nan is None else self.first_nan.address,
            "first_non_finite": None if self.first_non_finite is None else self.first_non_finite.address,
            "steps": [s.to_dict() for s in self.steps],
            "skips": [s.to_dict() for s in self.skips],
            "final": [f.to_dict() for f in self.final],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of :meth:`to_dict` as canonical JSON (sorted keys, no blanks, ASCII), hexadecimal."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode("ascii")).hexdigest()

    def check(self) -> None:
        """Nothing if it passed.

        Raises:
            MismatchError: a step mismatches, had not come back or failed; the message is the report.
            MissingError: everything compared matches, but something could not be judged.
        """
        if self.mismatches or self.unfinished:
            raise MismatchError(str(self))
        if self.missing:
            raise MissingError(str(self))

    @cached_property
    def operators(self) -> tuple[table.OperatorRow, ...]:
        """One row per operator type, those with mismatches first."""
        return table.by_operator(self.steps)

    @property
    def operator_lines(self) -> list[str]:
        """:attr:`operators` as aligned text, rows with mismatches marked."""
        rows = [table.HEADER, *(row.cells() for row in self.operators)]
        return table.text(rows, (row.mismatches > 0 for row in self.operators))

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        total, bad = self.compared, len(self.mismatches)
        of = f"of {count(total, 'step')}"
        if bad:
            verdict = f"{bad:,} {of} mismatch{'es' if bad == 1 else ''}, first {self.mismatches[0].label}"
        else:
            verdict = f"{total:,} {of} match{'es' if total == 1 else ''}"
        return "; ".join([verdict, *self.unfinished_lines])

    @property
    def unfinished_lines(self) -> list[str]:
        """``1 step had not come back: 1:20 Transpose K -> Kt``; one for each way to end badly."""
        lines = []
        for kind, what in zip(UNFINISHED, ("had not come back", "failed"), strict=True):
            if found := [s for s in self.unfinished if s.kind == kind]:
                first = ": " if len(found) == 1 else ", first "
                lines.append(f"{count(len(found), 'step')} {what}{first}{found[0].label}")
        return lines

    @property
    def terms(self) -> str:
        """By which rule and reference, and what the recording ran on."""
        flavours = ", ".join(sorted({s.flavour for s in self.steps})) or self.reference
        if self.reference == "auto" and (own := sorted({s.op.type for s in self.steps if s.flavour == "stored"})):
            flavours = flavours.replace("stored", f"IRON's own as recorded ({', '.join(own)})")
        how = "on each step's recorded inputs" if self.mode == "isolated" else "chained from the external inputs"
        on = f"; run on {' and '.join(self.recorded_on)}" if self.recorded_on else ""
        return f"rule {self.rule}, reference {flavours}, {how}{on}"

    @property
    def caution(self) -> str | None:
        """Mode cumulative: the limits are one step's, and a chain's honest rounding may well pass them at the end."""
        if self.mode != "cumulative":
            return None
        way = "judge final outputs by rel_l2 and cosine"
        return f"rule {self.rule} is for one step, honest rounding accumulates: {way}"

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines, typed: one ``config``, a ``step`` or ``skip`` each, ``final`` outputs, one ``summary``."""
        data = self.to_dict()
        head = ("format", "mode", "rule", "reference", "recorded_on")
        yield {"type": "config", **{k: data[k] for k in head}}
        yield from ({"type": "step", **s} for s in data["steps"])
        yield from ({"type": "skip", **s} for s in data["skips"])
        yield from ({"type": "final", **f} for f in data["final"])
        tail = ("passed", "compared", "mismatches", "skipped", "first_mismatch")
        begins = ("outside_bound", "first_nan", "first_non_finite")
        rows = [row.to_dict() for row in self.operators]
        yield {"type": "summary", **{k: data[k] for k in (*tail, *begins)}, "operators": rows, "digest": self.digest}

    @property
    def skip_lines(self) -> list[str]:
        """Why steps were not compared, most frequent reason first."""
        counted = Counter(s.reason for s in self.skips)
        example = {s.reason: s.label for s in reversed(self.skips)}
        lines = []
        for reason, n in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
            what = example[reason] if n == 1 else f"{n:,} steps, first {example[reason]}"
            lines.append(f"not compared: {what}: {reason}")
        return lines

    def to_dataframe(self) -> pd.DataFrame:
        """A table of pandas by address: one row per step, with all figures of the output that decides.

        Raises:
            MissingDependencyError: no pandas here; the extra ``tables`` brings it.
        """
        from fusion_replay.replaying.frames import rows

        return data_frame(rows(self), "address")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Every step's distance from its reference, mismatches marked; returns the axes.

        Raises:
            MissingDependencyError: no matplotlib here; the extra ``plot`` brings it.
        """
        from fusion_replay.replaying.frames import plot

        return plot(self, ax)

    def _repr_html_(self) -> str:
        rows = [table.HEADER, *(row.cells() for row in self.operators)]
        return card(self.sentence, [self.terms, *self.first_lines, *self.skip_lines[:5]], rows)

    def __repr__(self) -> str:
        return f"<ReplayReport {one_line(self.sentence)}>"

    def __str__(self) -> str:
        lines = [self.sentence, f"  {self.terms}"]
        lines += [f"  {self.caution}"] if self.caution else []
        lines += self.first_lines
        lines += self.operator_lines if self.steps else []
        if self.first_mismatch is not None:
            lines += str(self.first_mismatch).splitlines()
        lines += [str(f) for f in self.final] + self.skip_lines
        return block(lines)


def _born(step: StepReport) -> str:
    """``1:34 GEMV W, x -> y: 12 NaN in its output, none in its inputs; its reference has them too``."""
    s = step.stats
    n, kind = (s.inf_actual, INF) if step.born == INF else (s.nan_actual, NAN)
    agrees = "; its reference has them too" if step and (s.nan_expected or s.inf_expected) else ""
    return f"{step.label}: {n:,} {kind} in its output, none in its inputs{agrees}"


def _scalar(value: Any) -> Any:
    """Of numpy, as JSON; what is no scalar is left to raise."""
    plain = serialise.json_data(value)
    if plain is value:
        raise TypeError(f"{type(value).__name__} is no JSON data")
    return plain


def canonical_json(data: Any) -> str:
    """JSON with sorted keys, no blanks, ASCII only: equal data is equal text.

    Raises:
        ValueError: a NaN or an infinity, which JSON does not have.
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_scalar)
