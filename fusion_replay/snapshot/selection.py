# SPDX-License-Identifier: Apache-2.0
"""Which steps of a recording filters mean: steps, operator, buffer, invocation, all that are given."""

from __future__ import annotations

from collections.abc import Iterable

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import format_address, parse_buffer
from fusion_replay.snapshot.read.reader import Snapshot, extent
from fusion_replay.snapshot.read.step import RecordedStep

Steps = str | tuple[int, int] | Iterable[str | tuple[int, int]]


def select(
    snapshot: Snapshot,
    steps: Steps | None = None,
    op: str | None = None,
    buffer: str | None = None,
    invocation: int | None = None,
) -> list[RecordedStep]:
    """The steps that pass every filter, in the order they ran; without any, all.

    Args:
        steps: addresses as text or pairs, and ranges, one or several: ``3:412``, ``10-20``, ``3:400-412``.
        op, buffer, invocation: as :meth:`Snapshot.steps`.

    Raises:
        UsageError: an address that names no step, or filters that no step passes.
    """
    found = list(snapshot.steps(invocation=invocation, op=op, buffer=buffer))
    texts = [] if steps is None else _texts(steps)
    if texts:
        wanted = {row for text in texts for row in _rows(snapshot, text)}
        found = [step for step in found if step.row in wanted]
    filters = {"step": " ".join(texts) or None, "op": op, "buffer": buffer, "invocation": invocation}
    asked = ", ".join(f"{name} {value}" for name, value in filters.items() if value is not None)
    if asked and not found and len(snapshot):
        if buffer is not None:
            snapshot.buffer(parse_buffer(buffer)[0])
        raise _nothing(snapshot, asked)
    return found


def _texts(steps: Steps) -> list[str]:
    if isinstance(steps, str):
        return [steps]
    match steps:
        case (int(invocation), int(step)):
            return [format_address(invocation, step)]
    return [s if isinstance(s, str) else format_address(*s) for s in steps]


def _rows(snapshot: Snapshot, text: str) -> list[int]:
    """What one text means; an address by itself has to be there."""
    if ":" in text and not any(c in text for c in "-,"):
        return [snapshot[text].row]
    rows = [step.row for step in snapshot.steps(step=text)]
    if not rows and len(snapshot):
        raise _nothing(snapshot, f"step {text}")
    return rows


def _nothing(snapshot: Snapshot, asked: str) -> UsageError:
    types = sorted({operator.type for sequence in snapshot.sequences for operator in sequence.operators})
    return UsageError(
        f"{snapshot.path}: no recorded step matches {asked}; it has "
        f"{extent(len(snapshot), len(snapshot.invocations))} and the operators {', '.join(types) or 'none'}"
    )


__all__ = ["Steps", "select"]
