# SPDX-License-Identifier: Apache-2.0
"""A sequence's runlist as a page draws it: its entries, their layers, and which bytes of which buffer they use.

Tested in tests/report/page/test_replay_page.py.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_replay.model.runlist import SequenceDescription, StepDescription

_NUMBER = re.compile(r"(?:^|[_.])(\d+)(?=$|[_.\[])")


def described(sequence: SequenceDescription) -> dict[str, Any]:
    """JSON data: buffers by number, one entry per step, and its layers as runs of entries."""
    written = {u.buffer for s in sequence.steps for u in s.operands if u.spec.writes}
    layers = _layers(sequence, written)
    numbers = {b.name: i for i, b in enumerate(sequence.buffers)}
    return {
        "name": sequence.name,
        "ran_on": sequence.ran_on,
        "buffers": [[b.name, b.nbytes, b.role, b.name in written] for b in sequence.buffers],
        "entries": [
            [
                sequence.operator_of(s.index).type,
                s.flow,
                [
                    [numbers.get(u.buffer, -1), u.start, u.end, u.spec.reads, u.spec.writes, u.spec.name]
                    for u in s.operands
                ],
            ]
            for s in sequence.steps
        ],
        "layers": [[layer, sum(1 for _ in run)] for layer, run in groupby(layers)],
    }


def _layers(sequence: SequenceDescription, written: set[str]) -> list[str]:
    """The layer of each entry: the number in the name of a weight that it reads; a weight without one ends a layer,
    a step without weights goes on with it."""
    found, current = [], ""
    for step in sequence.steps:
        weights = [u.buffer for u in step.operands if u.buffer not in written and u.buffer not in sequence.input_args]
        named = [n for w in weights if (n := _number(w))] or _caches(step)
        if named:
            current = named[0]
        elif weights and not all(_shared(sequence, w) for w in weights):
            current = ""
        found.append(current)
    return found


def _caches(step: StepDescription) -> list[str]:
    return [n for u in step.operands if (n := _number(u.buffer))]


def _number(name: str) -> str:
    found = _NUMBER.findall(name)
    return found[-1] if found else ""


def _shared(sequence: SequenceDescription, buffer: str) -> bool:
    """Is a constant of many steps (a scale, angles), no layer's own weight?"""
    return sum(any(u.buffer == buffer for u in s.operands) for s in sequence.steps) > 1


__all__ = ["described"]
