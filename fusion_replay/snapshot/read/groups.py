# SPDX-License-Identifier: Apache-2.0
"""Steps given as arrays that belong to one call, as that call: ``INVOCATION:STEP`` instead of one invocation each.

The file holds each of them as an invocation of its own, so that whatever is there of a call that was killed can be
read; the details of a step say which call of which sequence it was part of. Here they become one runlist. Steps given
as arrays have no buffers: what a step read, bit for bit as an earlier one of the call left it, is that one's buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fusion_replay.model.runlist import (
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
    external_buffers,
)
from fusion_replay.snapshot.schema import COMPLETE, IN_FLIGHT, INPUT, NO_CONTENT, OUTPUT, PREVIOUS, WATCHED, Index

GROUPED = "grouped"
"""``origin["dispatch"]`` of a sequence that was put together here."""

_Key = tuple[str, int]  # the sequence's name, and which call of it


def grouped(index: Index) -> Index:
    """The same recording with such steps in one invocation for each call; ``index`` itself where there are none."""
    keys = [_key(index, row) for row in range(len(index.steps))] if any("group" in d for d in index.details) else []
    if not any(keys):
        return index
    members: dict[object, list[int]] = {}
    own = index.steps["invocation"].tolist()
    for row, key in enumerate(keys):
        members.setdefault(key or own[row], []).append(row)
    steps, invocations = index.steps.copy(), list[tuple[int, int]]()
    sequences: list[SequenceDescription] = []
    kept: dict[int, int] = {}  # those that stay, by their old numbers
    known: dict[str, list[int]] = {}
    for number in set(range(len(index.invocations))) - set(own):
        members[number] = []  # nothing of it was recorded
    order = sorted(members.items(), key=lambda item: own[item[1][0]] if item[1] else _as_int(item[0]))
    for whose, rows in order:
        steps["invocation"][rows] = len(invocations)
        if not isinstance(whose, tuple):
            old, status = index.invocations[_as_int(whose)].tolist()
            if old not in kept:
                kept[old] = len(sequences)
                sequences.append(index.sequences[old])
            invocations.append((kept[old], status))
            continue
        made = _runlist(index, whose[0], rows)
        last = whose == order[-1][0]
        sequence = _sequence_of(made, known.setdefault(whose[0], []), sequences, cut_short=last)
        steps["step"][rows] = np.arange(len(rows))
        states = [int(index.invocations["status"][own[row]]) for row in rows]
        whole = len(rows) == len(sequences[sequence].steps)
        worst = next((s for s in states if s != COMPLETE), COMPLETE if whole else IN_FLIGHT)
        invocations.append((sequence, worst))
    for old, left in enumerate(index.sequences):
        if old not in kept and left.origin.get("variant") != "arrays":
            kept[old] = len(sequences)
            sequences.append(left)
    return replace(
        index,
        steps=steps,
        invocations=np.array(invocations, index.invocations.dtype),
        sequences=tuple(sequences),
        details=[{k: v for k, v in d.items() if k != "group"} for d in index.details],
        binaries=[{**b, "sequence": kept.get(b.get("sequence", -1), -1)} for b in index.binaries],
    )


# --- parts ----------------------------------------------------------------------------------------------------------


def _as_int(key: object) -> int:
    assert isinstance(key, int)
    return key


def _key(index: Index, row: int) -> _Key | None:
    """The call that a step belongs to; a file may say anything: what is not of this form is no group."""
    group = index.details[int(index.steps["detail"][row])].get("group")
    sequence = index.sequences[int(index.invocations["sequence"][int(index.steps["invocation"][row])])]
    alone = len(sequence.steps) == 1 and sequence.origin.get("variant") == "arrays"
    if not (alone and isinstance(group, dict)):
        return None
    name, call = group.get("sequence"), group.get("call")
    return (name, call) if isinstance(name, str) and isinstance(call, int) and call >= 0 else None


def _sequence_of(
    made: SequenceDescription, known: list[int], sequences: list[SequenceDescription], *, cut_short: bool
) -> int:
    """The number of an equal runlist; for the last call, which may have been killed, of one that goes on from it."""
    for number in known:
        other = _steps(sequences[number])
        if other == _steps(made) or (cut_short and other[: len(made.steps)] == _steps(made)):
            return number
    sequences.append(made)
    known.append(len(sequences) - 1)
    return known[-1]


def _steps(sequence: SequenceDescription) -> list[tuple[OperatorDescription, tuple[OperandUse, ...]]]:
    return [(sequence.operators[s.operator], s.operands) for s in sequence.steps]


@dataclass
class _Buffers:
    """Names for what the steps of one call read and wrote."""

    sizes: dict[str, int] = field(default_factory=dict)
    holding: dict[tuple[int, int], str] = field(default_factory=dict)  # content and bytes -> the buffer that holds it

    def name(self, use: OperandUse, step: int, contents: Sequence[int]) -> str:
        """Of the operand that had these contents before the step: the buffer that holds one of them, or a new one."""
        for content in contents:
            if (content, use.spec.nbytes) in self.holding:
                return self.holding[content, use.spec.nbytes]
        name = use.buffer if use.buffer not in self.sizes else f"{use.buffer}_{step}"
        while name in self.sizes:
            name += "_"
        self.sizes[name] = use.spec.nbytes
        return name

    def holds(self, name: str, content: int) -> None:
        self.holding = {spot: buffer for spot, buffer in self.holding.items() if buffer != name}
        self.holding[content, self.sizes[name]] = name


def _runlist(index: Index, name: str, rows: Sequence[int]) -> SequenceDescription:
    operators: list[OperatorDescription] = []
    steps: list[StepDescription] = []
    buffers = _Buffers()
    ids = _equal_contents(index)
    for number, row in enumerate(rows):
        sequence = index.sequences[int(index.invocations["sequence"][int(index.steps["invocation"][row])])]
        seen = _contents(index, row, ids)
        uses = []
        for position, use in enumerate(sequence.steps[0].operands):
            roles = (INPUT,) if use.spec.reads else (PREVIOUS, WATCHED)
            before = [seen[role, position] for role in roles if (role, position) in seen]
            buffer = buffers.name(use, number, before)
            if use.spec.reads and before and (before[0], use.spec.nbytes) not in buffers.holding:
                buffers.holds(buffer, before[0])
            uses.append(replace(use, buffer=buffer))
        for position, use in enumerate(uses):
            if use.spec.writes and (OUTPUT, position) in seen:
                buffers.holds(use.buffer, seen[OUTPUT, position])
        operator = sequence.operators[0]
        if operator not in operators:
            operators.append(operator)
        steps.append(StepDescription(number, operators.index(operator), tuple(uses)))
    return _described(name, operators, steps, buffers.sizes)


def _described(
    name: str, operators: list[OperatorDescription], steps: list[StepDescription], sizes: Mapping[str, int]
) -> SequenceDescription:
    external = external_buffers(steps)
    read = {u.buffer for s in steps for u in s.operands if u.spec.reads}
    outputs = tuple(b for b in sizes if b not in read)
    inputs = tuple(b for b in sizes if b in external)
    return SequenceDescription(
        name=name,
        operators=tuple(operators),
        buffers=tuple(
            BufferDescription(
                b, n, "output" if b in outputs else "input" if b in external else "scratch", external=b in external
            )
            for b, n in sizes.items()
        ),
        steps=tuple(steps),
        input_args=inputs,
        output_args=outputs,
        origin={"variant": "arrays", "dispatch": GROUPED},
    )


def _contents(index: Index, row: int, ids: Sequence[int]) -> dict[tuple[int, int], int]:
    """By role and position, a number that equal contents share."""
    first, count = int(index.steps["first_operand"][row]), int(index.steps["n_operands"][row])
    found: dict[tuple[int, int], int] = {}
    for position, role, content in index.operands[first : first + count].tolist():
        if content != NO_CONTENT and content < len(ids):
            found[role, position] = ids[content]
    return found


def _equal_contents(index: Index) -> list[int]:
    _, ids = np.unique(index.contents["digest"], return_inverse=True)
    found: list[Any] = ids.reshape(-1).tolist()
    return found


__all__ = ["GROUPED", "grouped"]
