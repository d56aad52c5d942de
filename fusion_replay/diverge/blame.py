# SPDX-License-Identifier: Apache-2.0
"""Which of kernel, reference, tolerance, runlist and host the evidence of a replay speaks for, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion_replay.system.messages import count

if TYPE_CHECKING:
    from fusion_replay.diverge.consistency import Finding
    from fusion_replay.diverge.explanation import Explanation
    from fusion_replay.replaying.outcome import StepReport
    from fusion_replay.replaying.replay_report import ReplayReport

_BETWEEN = {"clobbered": "runlist or host", "caller_changed": "host", "same_offset": "host", "constant_length": "host"}
"""What no single step shows, and whose it is: bytes overwritten between two steps, contents changed between calls."""
_STALE = ("stale-input", "stale-output")
_STATED = ("parameter", "truncated-scalar", "activation", "formula", "operand-order", "transposed-operand", "mask",
           "head-mapping", "int4-order", "zero-point")  # fmt: skip
"""Causes by which kernel and reference state one operator in two ways: either may be the wrong one."""


def blame(report: ReplayReport, why: Explanation | None, found: Sequence[Finding] = ()) -> str:
    """``kernel: 1:69 GEMV alone mismatches, ...``; "" where nothing was compared."""
    between = next((f for f in found if f.kind in _BETWEEN and f.weight == "certain"), None)
    if report.unfinished:
        last = report.unfinished[-1]
        return f"kernel or host: {last.label} {'failed' if last.kind == 'failed' else 'had not come back'}"
    if report.mode != "isolated" or not report.steps:
        return ""
    if between is not None:
        return (
            f"{_BETWEEN[between.kind]}: {between.kind.replace('_', ' ')} {', '.join(between.buffers[:2])}, by no step"
        )
    if report.mismatches:
        return _of_mismatch(report, why)
    if report.outside:
        first = report.outside[0]
        where = f"{first.address} {first.op.type}"
        return f"tolerance: it accepts {where}, which no honest device gives; then kernel{_as(why)}"
    return _of_none(report, found)


def _of_mismatch(report: ReplayReport, why: Explanation | None) -> str:
    first, steps = report.mismatches[0], report.steps
    alike = [s for s in steps if s.op.type == first.op.type]
    wrong = [s for s in alike if not s]
    where = f"{first.address} {first.op.type}"
    if _inside(first):
        return f"tolerance: it refuses {where}, whose every element is inside the bound of an honest device"
    name = None if why is None or why.cause.grade == "located" else why.cause.name
    if name in _STALE:
        return f"host or runlist: {where} worked on contents of another time{_as(why)}"
    if name in _STATED and len(wrong) == len(alike):
        return f"kernel or reference: they state {first.op.type} in two ways{_as(why)}, in {len(wrong)} of {len(alike)}"
    others = f"; {len(alike) - len(wrong):,} other {first.op.type} match" if len(alike) > len(wrong) else ""
    if len(alike) > 2 and len(wrong) == len(alike) and name is None:
        return f"reference or kernel: all {len(alike):,} {first.op.type} mismatch, and no cause explains the first"
    return f"kernel: {where}{_as(why)}{others}"


def _of_none(report: ReplayReport, found: Sequence[Finding]) -> str:
    suspect = next((f for f in found if f.kind in _BETWEEN and f.weight == "suspect"), None)
    total = report.compared
    if suspect is not None:
        return f"{_BETWEEN[suspect.kind]}: {count(total, 'step')} right, {suspect.kind.replace('_', ' ')}, see above"
    rule = sum(o.iron is not None and o.iron.ok is False for s in report.steps for o in s.outputs)
    if rule:
        inside = sum(_inside(s) for s in report.steps)
        what = f"{inside:,} of {total:,} inside their bound" if inside else f"{total:,} of {total:,} within theirs"
        return f"tolerance: IRON's rule has one limit for all elements and fails {rule:,}; steps are right, {what}"
    if report.missing or report.skips:
        return f"none of {count(total, 'compared step')}; {count(len(report.skips), 'step')} were not compared"
    return "no step: all are within their limits; if the answer is wrong, then runlist, weights or host"


def _inside(step: StepReport) -> bool:
    """Whether it has a bound, and every element is known to be inside."""
    each = [o.verdict.within for o in step.outputs]
    return all(w is not None and not (w.n_outside or w.n_unbounded) for w in each)


def _as(why: Explanation | None) -> str:
    if why is None:
        return ""
    cause = why.cause
    return f" ({cause.name}, {cause.grade})" if cause.grade != "located" else " (cause not known)"
