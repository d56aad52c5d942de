# SPDX-License-Identifier: Apache-2.0
"""A folder to attach to a bug report: ``issue.md`` to paste, ``step.h5`` with the step, ``repro.py`` judges it again.

The step is judged on the recording; everything that is written goes through one :class:`.redact.Redactor`, and the
text is made of what the redacted ``step.h5`` holds. Contents of the step's own weights go along up to a limit, so that
the verdict can be computed again from the folder; where they are left out, both texts say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fusion_replay.diverge.explain import explain
from fusion_replay.errors import NothingComparedError
from fusion_replay.export.redact import Redactor
from fusion_replay.export.result import ExportReport, Request
from fusion_replay.export.target import output
from fusion_replay.replay import replay
from fusion_replay.report.markdown import code, fenced, table, text
from fusion_replay.report.text import count, human_bytes, ran_on
from fusion_replay.snapshot import open_snapshot
from fusion_replay.snapshot.seal.subset import subset, write_subset

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.replaying.outcome import StepReport
    from fusion_replay.snapshot import Snapshot


WEIGHTS_LIMIT = 16 << 20
"""Bytes of the step's own weights that go along unasked: with them the folder is still small enough to attach."""


@dataclass(frozen=True, slots=True)
class StepJudgement:
    """What replay says of the step, in one sentence and in full; redacted."""

    sentence: str
    lines: tuple[str, ...]


def export(request: Request, step: Step) -> ExportReport:
    """The folder of ``step``; the other steps of the request (a slice) are in ``step.h5`` too."""
    weights = [t for t in weights_of(request.steps) if not _goes_along(t, request, step)]
    part = subset(request.snapshot, request.steps, drop=[t.row for t in weights if t.row is not None], binaries=False)
    redactor = Redactor.of(request.snapshot.index)
    judged = judge(request.snapshot, step, redactor)
    dropped = [*map(redactor.name, _dropped(request, step, weights)), *redactor.index(part.index)]
    with output(request.target, request.if_exists, folder=True) as out:
        file = write_subset(part, out.part / "step.h5")
        with open_snapshot(file) as redacted:
            issue = "\n".join(_issue(redacted, redacted[step.address], judged, dropped, request)) + "\n"
        (out.part / "issue.md").write_text(issue, encoding="utf-8")
        (out.part / "repro.py").write_text(_script(step.address, "\n".join(judged.lines)), encoding="utf-8")
    kept = len(part.index.contents) - len({t.row for t in weights})
    return request.report("issue", out.path, kept, dropped=tuple(dropped))


def _goes_along(weight: RecordedTensor, request: Request, step: Step) -> bool:
    """Whether its contents do: as it was asked for, else those of the step itself, up to a limit for all of them."""
    if request.with_weights is not None:
        return request.with_weights
    own = {t.row: t.nbytes for t in weights_of([step])}
    return weight.row in own and sum(own.values()) <= WEIGHTS_LIMIT


def judge(snapshot: Snapshot, step: Step, redactor: Redactor) -> StepJudgement:
    """The step's verdict, with figures and causes, redacted; or why there is none."""
    sentence, *lines = _judge(snapshot, step, redactor.text(step.error or ""))
    return StepJudgement(redactor.name(sentence), tuple(map(redactor.name, lines)))


def _judge(snapshot: Snapshot, step: Step, error: str) -> list[str]:
    if step.status != "complete":
        word = "began and never came back" if step.status == "in_flight" else f"failed: {error}"
        return [f"{step.op.type}: the step {word}", f"{step.label}: {word}"]
    try:
        report = replay(snapshot, steps=step.address)
    except NothingComparedError as why:
        return [f"{step.op.type}: not judged", str(why).removeprefix(f"{snapshot.path}: ")]
    found = report.steps[0]
    verdict = found.verdict
    failing = f"{verdict.stats.n_failing:,} of {verdict.stats.n:,} elements fail"
    sentence = f"{found.op.type}: {'matches its reference' if verdict.ok else failing}"
    return [sentence, *str(found).splitlines(), report.terms, *causes(snapshot, step, found)]


def causes(snapshot: Snapshot, step: Step, report: StepReport) -> list[str]:
    """What made the wrong elements, and where, a fact a line; nothing where none is wrong."""
    if report:
        return []
    found = explain(step, snapshot)
    return [] if found is None else found.lines()


def weights_of(steps: Sequence[Step]) -> list[RecordedTensor]:
    """Inputs that hold weights: contents from outside that no step writes, and that are no argument of the sequence."""
    found: list[RecordedTensor] = []
    for step in steps:
        sequence = step.sequence
        written = {use.buffer for s in sequence.steps for use in s.operands if use.spec.writes}
        outside = {b.name for b in sequence.buffers if b.external} - {*sequence.input_args, *written}
        found += [t for t in step.inputs.values() if t.use.buffer in outside]
    return found


# --- the texts ------------------------------------------------------------------------------------------------------


def _dropped(request: Request, step: Step, weights: Sequence[RecordedTensor]) -> Iterator[str]:
    if weights:
        names = list(dict.fromkeys(t.buffer for t in weights))
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        size = sum({t.row: t.nbytes for t in weights}.values())
        needed = {t.row for t in step.inputs.values()} & {t.row for t in weights}
        so = "; repro.py can only repeat the verdict without them" if needed else ""
        yield f"contents of weights: {shown} ({human_bytes(size)}){so}; --with-weights keeps them, else their digests"
    if request.snapshot.index.binaries:
        yield "device files (xclbin, instructions)"
    if left := len(request.snapshot) - len(request.steps):
        yield f"{count(left, 'other step')} of the recording; --slice adds those that feed {step.address}"


def _issue(
    snapshot: Snapshot, step: Step, judged: StepJudgement, dropped: Sequence[str], request: Request
) -> Iterator[str]:
    yield f"# {text(judged.sentence)}"
    yield ""
    yield f"Step {code(step.label)} of a recording with fusion-replay, on {text(ran_on(step.sequence.origin))}."
    yield ""
    yield "## Verdict"
    yield from fenced(judged.lines)
    yield "## Operator"
    yield from table(("", ""), _facts(step))
    yield ""
    yield "## Arrays"
    head = ("side", "argument", "buffer", "dtype", "shape", "bytes", "xxh3-128", "in step.h5")
    yield from table(head, _arrays(step))
    yield ""
    yield "## Recorded with"
    yield from table(("", ""), _flat(snapshot.provenance))
    yield ""
    yield "## To reproduce"
    yield from fenced(("pip install fusion-replay", "python repro.py"))
    yield _reproduction(step, request)
    yield ""
    yield "## Left out"
    yield from (f"- {text(what)}" for what in dropped or ["nothing"])
    yield ""
    yield (
        "What is in `step.h5`: contents of the arrays marked above (activations may tell of the input they come from), "
        "operators, parameters, buffer names and order of the whole runlist."
    )


def _reproduction(step: Step, request: Request) -> str:
    bare = [t.name for t in step.inputs.values() if not t.kept]
    told = f"`step.h5` holds {count(len(request.steps), 'step')}; "
    if bare:
        return told + (
            f"contents of {', '.join(map(text, bare))} are not in it, so `repro.py` can only repeat the verdict "
            "above; ask for an export with `--with-weights` to have it computed again."
        )
    return told + "`repro.py` computes the verdict again from its arrays (exit status 1: it is reproduced)."


def _facts(step: Step) -> Iterator[tuple[str, str]]:
    yield "type", step.op.type
    yield "module", step.op.module or "unknown"
    for name, value in {**step.op.params, **step.values}.items():
        yield name, str(value)
    yield "status", step.status
    for name, told in (("state", step.state), ("error", step.error)):
        if told:
            yield name, told
    yield from ((name, step.sequence.origin[name]) for name in ("variant", "flavour") if name in step.sequence.origin)


def _arrays(step: Step) -> Iterator[tuple[str, ...]]:
    for side, t in step.tensors():
        shape = "x".join(map(str, t.shape)) or "scalar"
        kept = "contents" if t.kept else "digest"
        yield side, t.name, t.buffer, t.dtype, shape, str(t.nbytes), t.digest or "never seen", kept


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _script(address: str, reported: str) -> str:
    """Texts of the recording stand in the script as literals: data, whatever they spell."""
    template = files(__package__).joinpath("repro.py.txt").read_text("utf-8")
    return template.replace("@STEP@", ascii(address)).replace("@REPORTED@", ascii(reported))


__all__ = ["export", "judge", "weights_of"]
