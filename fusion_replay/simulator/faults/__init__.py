# SPDX-License-Identifier: Apache-2.0
"""Faults to inject into the software NPU: how they are spelled, and whether they fit a runlist.

``WHERE:KIND[:ARG...]``, where WHERE is a step address (``0:412``, one dispatch) or an operator type (``GEMV``, every
dispatch of it). The kinds, each modelled on a reported bug, are in :mod:`.outputs`, :mod:`.runtime` and, for those that
only a fused dispatch has, :mod:`.fusion`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusion_replay import refs
from fusion_replay.errors import UnknownOperatorError, UsageError
from fusion_replay.simulator.faults.catalogue import KINDS
from fusion_replay.simulator.faults.fault import Fault

if TYPE_CHECKING:
    from fusion_replay.simulator.sequence import PlannedStep


def parse_fault(text: str) -> Fault:
    """``"3:412:zeros"``, ``"GEMV:shift:64"`` -> :class:`Fault`; operator types by any of their names.

    Raises:
        UsageError: an unknown kind or operator, a malformed address, or arguments the kind does not take.
    """
    first, *rest = text.strip().split(":")
    invocation = step = op = None
    if first.isascii() and first.isdigit():
        if not (rest and rest[0].isascii() and rest[0].isdigit()):
            raise UsageError(f"fault {text!r}: expected INVOCATION:STEP:KIND[:ARG] or OPERATOR:KIND[:ARG]")
        invocation, step = int(first), int(rest.pop(0))
    else:
        try:
            op = refs.meant(first).type
        except UnknownOperatorError:
            known = ", ".join(s.type for s in refs.specs())
            raise UsageError(f"fault {text!r}: operator {first!r} is unknown; known: {known}") from None
    kind, *args = rest or [""]
    if kind not in KINDS:
        raise UsageError(f"fault {text!r}: kind {kind!r}: expected one of {', '.join(KINDS)}")
    return Fault(kind, op, invocation, step, KINDS[kind].parse(text, args))


def bound(faults: Iterable[Fault | str], runlist: Sequence[tuple[Any, ...]]) -> tuple[Fault, ...]:
    """The faults, parsed; those of fusion each with the runlist entry that has it."""
    found = []
    for given in faults:
        fault = parse_fault(given) if isinstance(given, str) else given
        at = fault.step
        if KINDS[fault.kind].fusion and fault.entry is None and at is not None and at < len(runlist):
            fault = replace(fault, entry=runlist[at])
        found.append(fault)
    return tuple(found)


def check_faults(
    faults: Iterable[Fault | str], steps: Sequence[PlannedStep], *, fused: bool = False
) -> tuple[Fault, ...]:
    """The faults, parsed and known to fit at least one step each; those of other sequences' entries left out.

    Raises:
        UsageError: a fault that matches no step of the runlist, or that cannot apply to what it matches.
    """
    checked = []
    for given in faults:
        fault = parse_fault(str(given))
        if KINDS[fault.kind].fusion and not fused:
            raise UsageError(f"fault {fault}: only a fused dispatch has it; record with --dispatch fused")
        if not isinstance(given, str) and given.entry is not None:
            at = next((s.index for s in steps if s.entry is given.entry), None)
            if at is None:
                continue
            fault = replace(fault, step=at, entry=given.entry)
        matched = [s for s in steps if (s.spec.type == fault.op if fault.op is not None else s.index == fault.step)]
        if not matched:
            types = ", ".join(dict.fromkeys(s.spec.type for s in steps))
            raise UsageError(f"fault {fault} matches no step: the runlist has steps 0 to {len(steps) - 1} of {types}")
        reasons = [KINDS[fault.kind].refuses(fault, s) for s in matched]
        if all(reasons):
            raise UsageError(f"fault {fault} cannot apply to {matched[0].label}: {reasons[0]}")
        checked.append(fault)
    return tuple(checked)


__all__ = ["Fault", "bound", "check_faults", "parse_fault"]
