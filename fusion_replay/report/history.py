# SPDX-License-Identifier: Apache-2.0
"""The history of one buffer: which step wrote which bytes of it, and whether the contents changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fusion_replay.model.byte_spans import ByteSpans
from fusion_replay.model.runlist import parse_buffer
from fusion_replay.model.text import printable
from fusion_replay.report.text import count, human_bytes, table

if TYPE_CHECKING:
    from fusion_replay.model.runlist import OperandUse
    from fusion_replay.snapshot import RecordedStep, Snapshot

OUTSIDE = -1
"""In place of the number of a write: bytes that no recorded step wrote."""


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
        return "\n".join([*map(printable, lines), *([table(rows, right=(5,))] if self.writes else [])])


def history(snapshot: Snapshot, buffer: str, *, invocation: int | None = None) -> History:
    """Who wrote ``buffer`` (a name, or ``NAME[START:STOP]`` in bytes: then only what touches that range).

    Raises:
        UsageError: no recorded sequence has such a buffer; the message names the nearest ones.
    """
    name, lo, hi = parse_buffer(buffer)
    found = snapshot.buffer(name)
    stop = found.nbytes if hi is None else hi
    writes: list[Write] = []
    last: ByteSpans[int] = ByteSpans()  # numbers in the list
    reads: Counter[int] = Counter()
    for step in snapshot.steps(invocation=invocation):
        uses = [use for use in step.description.operands if use.touches(name, lo, stop)]
        for use in uses:
            if use.spec.reads:  # counts for the newest write that it overlaps
                reads[
                    max((w for _, _, w in last.read(name, use.start, use.end) if w is not None), default=OUTSIDE)
                ] += 1
        for use in uses:
            if use.spec.writes:
                last.write(name, use.start, use.end, len(writes))
                writes.append(_write(step, use))
    counted = tuple(replace(write, reads_since=reads[number]) for number, write in enumerate(writes))
    return History(buffer, found.nbytes, found.role, found.external, reads[OUTSIDE], counted)


def _write(step: RecordedStep, use: OperandUse) -> Write:
    after = step.outputs.get(use.spec.name) if step.status == "complete" else None
    return Write(
        address=step.address,
        op=step.op.type,
        direction=use.spec.direction,
        start=use.start,
        stop=use.end,
        digest=after.digest if after is not None else None,
        unchanged=after.unchanged if after is not None else None,
        status=step.status,
        reads_since=0,
    )
