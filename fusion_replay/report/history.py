# SPDX-License-Identifier: Apache-2.0
"""The history of one buffer: which step wrote which bytes of it, and whether the contents changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fusion_replay.model.runlist import parse_buffer
from fusion_replay.report.text import count, human_bytes, table

if TYPE_CHECKING:
    from fusion_replay.model.runlist import OperandUse
    from fusion_replay.snapshot import RecordedStep, Snapshot


@dataclass(frozen=True, slots=True)
class Write:
    """One step's write to the buffer: bytes ``start`` to ``stop`` of it.

    ``digest`` is of the contents after the step (None where they were not recorded), ``unchanged`` whether they
    equal the contents before it, ``reads_since`` how many later steps read these bytes until the next write here.
    """

    address: str
    op: str
    direction: str
    start: int
    stop: int
    digest: str | None
    unchanged: bool | None
    status: str
    reads_since: int


@dataclass(frozen=True, slots=True)
class History:
    """All that ``show F --buffer NAME`` says. ``reads_before`` counts reads of contents that came from outside."""

    buffer: str
    nbytes: int
    role: str
    external: bool
    reads_before: int
    writes: tuple[Write, ...]

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines, typed: one ``buffer``, then a ``write`` each."""
        whole = asdict(self)
        writes = whole.pop("writes")
        yield {"type": "buffer", **whole}
        yield from ({"type": "write", "buffer": self.buffer, **w} for w in writes)

    def __str__(self) -> str:
        outside = f"; read {count(self.reads_before, 'time')} before any write"
        head = f"{self.buffer}: {human_bytes(self.nbytes)}, {self.role}, {count(len(self.writes), 'write')}"
        lines = [head + ("; filled from outside" if self.external else "") + (outside if self.reads_before else "")]
        rows: list[list[str]] = [["step", "operator", "bytes", "contents", "", "reads until the next write"]]
        for w in self.writes:
            span = f"{w.start}:{w.stop}" + (" in place" if w.direction == "inout" else "")
            changed = {True: "unchanged", False: "changed", None: ""}[w.unchanged]
            note = changed if w.status == "complete" else w.status
            rows.append([w.address, w.op, span, (w.digest or "not recorded")[:12], note, f"{w.reads_since:,}"])
        return "\n".join([*lines, table(rows, right=(5,))] if self.writes else lines)


def history(snapshot: Snapshot, buffer: str, *, invocation: int | None = None) -> History:
    """Who wrote ``buffer`` (a name, or ``NAME[START:STOP]`` in bytes: then only what touches that range).

    Raises:
        UsageError: no recorded sequence has such a buffer; the message names the nearest ones.
    """
    name, lo, hi = parse_buffer(buffer)
    found = snapshot.buffer(name)
    stop = found.nbytes if hi is None else hi
    writes: list[Write] = []
    reads_before = 0
    for step in snapshot.steps(invocation=invocation):
        uses = [u for u in step.description.operands if u.buffer == name and _touches(u, lo, stop)]
        for use in uses:
            if use.spec.reads:
                reads_before += not _credit(writes, use)
        writes += [_write(step, use) for use in uses if use.spec.writes]
    return History(buffer, found.nbytes, found.role, found.external, reads_before, tuple(writes))


def _touches(use: OperandUse, lo: int, hi: int) -> bool:
    return use.start < hi and lo < use.start + use.spec.nbytes


def _credit(writes: list[Write], use: OperandUse) -> bool:
    """Count a read for the newest write it overlaps; False where nothing recorded wrote these bytes."""
    for i in range(len(writes) - 1, -1, -1):
        w = writes[i]
        if _touches(use, w.start, w.stop):
            writes[i] = replace(w, reads_since=w.reads_since + 1)
            return True
    return False


def _write(step: RecordedStep, use: OperandUse) -> Write:
    after = step.outputs.get(use.spec.name) if step.status == "complete" else None
    return Write(
        address=step.address,
        op=step.op.type,
        direction=use.spec.direction,
        start=use.start,
        stop=use.start + use.spec.nbytes,
        digest=after.digest if after is not None else None,
        unchanged=after.unchanged if after is not None else None,
        status=step.status,
        reads_since=0,
    )
