# SPDX-License-Identifier: Apache-2.0
"""One step in full, as a page shows it: inputs, operator, outputs as pictures, cause, readers, dataflow.

Tested in tests/report/page/test_replay_page.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusion_replay import refs
from fusion_replay.diverge.evidence import Evidence
from fusion_replay.diverge.explain import explain_step, tiling_for
from fusion_replay.replaying.elements import elements
from fusion_replay.replaying.judge import NotComparedError, Plan, evaluate_step
from fusion_replay.replaying.outcome import Skip, StepReport
from fusion_replay.report.headline import graded, of_cause
from fusion_replay.report.headline import told as said
from fusion_replay.report.page.pictures import input_picture, output_picture
from fusion_replay.report.step_view import describe
from fusion_replay.report.terminal import facts
from fusion_replay.report.text import human_bytes, human_ns, ran_on

if TYPE_CHECKING:
    from fusion_replay.diverge.explanation import Explanation
    from fusion_replay.model.step import RecordedTensor
    from fusion_replay.replaying.judge import Evaluation
    from fusion_replay.report.page.around import Around
    from fusion_replay.report.page.chunks import Chunks
    from fusion_replay.snapshot import RecordedStep, Snapshot

CULPRIT_CELLS, OTHER_CELLS, INPUT_CELLS = 1 << 17, 1 << 14, 1 << 12
"""Cells of a map at most: of the step that the sentence is about, of all others, of an input."""


@dataclass
class Panels:
    """Makes panels of the steps of one replay.

    Attributes:
        plan: how the replay judged.
        known: causes that were found already, by address.
    """

    snapshot: Snapshot
    around: Around
    chunks: Chunks
    plan: Plan
    chained: bool = False
    known: dict[str, Explanation | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._evidence = Evidence(self.snapshot)

    def why(self, judged: StepReport) -> Explanation | None:
        """Why a step mismatches or is outside its bound; None where it is not, and where references were chained."""
        if (judged and judged.outside is None) or self.chained:
            return None
        if judged.address not in self.known:
            found = explain_step(self.snapshot, judged, self.plan.reference, self.plan.rule, self._evidence)
            self.known[judged.address] = found
        return self.known[judged.address]

    def panel(self, outcome: StepReport | Skip, cells: int) -> dict[str, Any]:
        """JSON data of one step; what the budget has no room for is left out, and said."""
        step = self.snapshot[outcome.address]
        told = operator(step) | {"address": step.address, "label": step.label, "flow": self.around.flow(step)}
        told["inputs"] = [self._input(step, t) for t in step.inputs.in_order()]
        if isinstance(outcome, Skip):
            return told | {"verdict": "skip", "reason": outcome.reason, "facts": [["not compared", outcome.reason]]}
        why = self.why(outcome)
        told |= {
            "verdict": "match" if outcome else "mismatch",
            "facts": [list(f) for f in facts(outcome, why)],
            "causes": [] if why is None else causes(why, outcome.label),
        }
        evaluation = None if self.chained else self._evaluated(step)
        if evaluation is None:
            why_not = "references were chained; its arrays are in a page of mode isolated" if self.chained else ""
            return told | {"outputs": [], "empty": why_not}
        told["outputs"] = self._outputs(step, outcome, evaluation, cells)
        told["readers"] = self._readers(step, outcome, evaluation)
        return told

    def _evaluated(self, step: RecordedStep) -> Evaluation | None:
        try:
            return evaluate_step(step, self.plan)
        except NotComparedError:
            return None

    def _input(self, step: RecordedStep, tensor: RecordedTensor) -> dict[str, Any]:
        told = operand(tensor) | {"sources": self.around.sources(step, tensor.position)}
        noticed = step.noticed
        if tensor.name in noticed.get("clobbered", {}):
            writer, argument = noticed["clobbered"][tensor.name]
            told["changed"] = f"clobbered: not what step {writer} left there as {argument}"
        elif tensor.name in noticed.get("rewritten", ()):
            told["changed"] = "a buffer that no step writes, changed since it was last looked at"
        return told | contents(tensor, lambda: input_picture(tensor.numpy(), self.chunks, INPUT_CELLS))

    def _outputs(
        self, step: RecordedStep, outcome: StepReport, evaluation: Evaluation, cells: int
    ) -> list[dict[str, Any]]:
        spec = refs.spec_of(step.op)
        made = []
        for number, (tensor, judged) in enumerate(zip(step.outputs.in_order(), outcome.outputs, strict=True)):
            found = elements(step, evaluation, number, judged.verdict)
            tiling = tiling_for(spec if number == 0 else None, step.op.params, found.actual.size)
            shape = tensor.shape
            picture = output_picture(found, judged.verdict, shape, tiling, self.chunks, cells)
            made.append(operand(tensor) | {"detail": judged.verdict.detail, "ok": judged.verdict.ok} | picture)
        return made

    def _readers(self, step: RecordedStep, outcome: StepReport, evaluation: Evaluation) -> list[dict[str, Any]]:
        carried: dict[str, dict[str, Any]] = {}
        if not outcome:
            outputs = zip(step.outputs.in_order(), outcome.outputs, evaluation.results, strict=True)
            for tensor, judged, truth in outputs:
                if not judged.verdict.ok:
                    for told in self.around.carried(step, tensor, truth):
                        carried.setdefault(told["address"], told)
        return [carried.get(a, {"address": a}) for a in self.around.readers(step)[:64]]


def causes(why: Explanation, label: str) -> list[dict[str, Any]]:
    """Each cause as words and figures; the first with the sentence that the page opens with."""
    told = []
    for cause in why.causes:
        told.append({**cause.to_dict(), "says": said(cause), "graded": graded(cause)})
    told[0]["sentence"] = of_cause(label, why)[0]
    return told


def operator(step: RecordedStep) -> dict[str, Any]:
    """What ran: type, parameters that are set, runtime values, time."""
    params = {k: v for k, v in step.op.params.items() if v not in ([], {}, None)}
    spec = refs.spec_of(step.op)
    return {
        "op": step.op.type,
        "params": [[k, str(v)] for k, v in params.items()],
        "values": [[k, str(v)] for k, v in step.values.items()],
        "module": step.op.module,
        "status": step.status,
        "error": step.error or "",
        "ran_on": ran_on(step.sequence.origin),
        "time": human_ns(step.elapsed_ns),
        "moves": bool(spec is not None and spec.exact_bits),
    }


def operand(tensor: RecordedTensor) -> dict[str, Any]:
    """Name, place and digest of one operand."""
    return {
        "name": tensor.name,
        "buffer": tensor.buffer,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "size": human_bytes(tensor.nbytes),
        "digest": (tensor.digest or "")[:16],
        "unchanged": bool(tensor.unchanged),
    }


def contents(tensor: RecordedTensor, picture: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """What its values look like, as a map and in figures; or why they are not here."""
    if not tensor.kept:
        return {"absent": f"Contents {tensor.absent}."}
    summary = describe(tensor.numpy())
    spelled = "" if summary.minimum is None else f"{summary.minimum:.3g} to {summary.maximum:.3g}"
    special = [f"{n:,} {what}" for n, what in ((summary.nans, "NaN"), (summary.infs, "Inf")) if n]
    return {"map": picture(), "range": ", ".join([spelled, *special]).strip(", ")}


__all__ = ["CULPRIT_CELLS", "OTHER_CELLS", "Panels", "causes", "contents", "operand", "operator"]
