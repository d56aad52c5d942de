# SPDX-License-Identifier: Apache-2.0
"""A recording against an oracle on the terminal: the answer, the causes, the error by depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion_replay.model.text import clip, height, wrap
from fusion_replay.report.text import count, table

if TYPE_CHECKING:
    from fusion_replay.oracle.judge import BoundaryReport, OracleReplay
    from fusion_replay.oracle.mapping import Mapping

HEADER = ("step", "NRMSE", "cosine", "SQNR", "max", "control", "rounding", "x", "", "boundary")
NUMBERS = range(1, 8)
_CAUSES = 4
_UNMAPPED = 3


def layout(found: OracleReplay, *, every: bool = False) -> str:
    """Plain text on one screen: what is wrong first and why, then the error by depth; ``every``: all boundaries."""
    head = wrap(found.sentence, "")
    if found.another_input:
        head += wrap(found.another_input, "  ")
    if found.first is not None:
        head += _details(found.first)
    others = found.made[1:]
    if others:
        head += wrap(f"made as well at: {', '.join(b.name for b in others)}", "  ", lines=None if every else 2)
    foot = [line for text in _besides(found, every) for line in wrap(text, "  ")]
    room = height() - len(head) - len(foot) - 2
    shown = found.boundaries if every else _chosen(found.boundaries, max(room, 4))
    rows = table([HEADER, *(_row(b) for b in shown)], right=NUMBERS).splitlines()
    if len(shown) < len(found.boundaries):
        foot.append(f"  {len(shown)} of {count(len(found.boundaries), 'boundary')} shown; --all shows each")
    return "\n".join(clip([*head, *rows, *foot]))


def map_layout(found: Mapping, *, every: bool = False) -> str:
    """What ``oracle map`` prints: a row for each tensor with its place, then those without."""
    rows = [("tensor", "step and buffer", "layout", "evidence")]
    rows += [(b.name, b.place.label, str(b.layout), b.evidence) for b in found.boundaries]
    lines = table(rows).splitlines()
    room = max(height() - 4, 4)
    if not every and len(lines) > room:
        lines = [*lines[: room - 1], f"  ... and {len(lines) - room + 1} more (--all shows them)"]
    for u in found.unmapped if every else found.unmapped[:_UNMAPPED]:
        places = f": {'; '.join(u.places)}" if u.places else ""
        lines += wrap(f"{u.tensor.name}: {u.why}{places}", "  no place: ", lines=2)
    return "\n".join(clip(lines))


# --- parts ----------------------------------------------------------------------------------------------------------


def _details(first: BoundaryReport) -> list[str]:
    facts = [("cause", str(c)) for c in first.causes[:_CAUSES]]
    if not first.causes and not first.wrong and first.control is not None:
        facts.append(("cause", "no single change that was tried makes the stretch agree"))
    if first.carriers:
        its = (f"{'abcdef'[c.axis]} {c.at} {c.share:.0%} (even: {c.expected:.1%})" for c in first.carriers[:4])
        facts.append(("carried", f"of the squared error, axes as in {first.layout}: {', '.join(its)}"))
    if first.sources:
        facts.append(("reads", ", ".join(first.sources[:6])))
    return [line for name, text in facts for line in wrap(text, f"  {name:<8} ", lines=3)]


def _besides(found: OracleReplay, every: bool) -> list[str]:
    told = []
    if found.unmapped:
        some = found.unmapped if every else found.unmapped[:_UNMAPPED]
        more = f"; and {len(found.unmapped) - len(some)} more" if len(some) < len(found.unmapped) else ""
        told.append(f"{count(len(found.unmapped), 'tensor')} without a place: {'; '.join(some)}{more}")
    if found.stand_ins:
        told.append(f"{count(len(found.stand_ins), 'step')} can't be evaluated here, their recorded outputs stood in")
    told.append(f"oracle {found.oracle} by {found.made_by or 'hand'}; recorded on {', '.join(found.recorded_on)}")
    return told


def _chosen(boundaries: Sequence[BoundaryReport], room: int) -> list[BoundaryReport]:
    """What is made, then what is amplified most, then some of the rest spread over the depth; in order."""
    if len(boundaries) <= room:
        return list(boundaries)
    at = [i for i, b in enumerate(boundaries) if b.origin == "made"][: room // 2]
    rest = [i for i in range(len(boundaries)) if i not in at]
    free = room - len(at)
    spread = {rest[round(k * (len(rest) - 1) / max(free - 1, 1))] for k in range(free)}
    return [boundaries[i] for i in sorted({*at, *spread})]


def _row(b: BoundaryReport) -> tuple[str, ...]:
    f = b.figures
    return (
        b.address,
        f"{f.nrmse:.3g}",
        f"{f.cosine:.5f}",
        f"{f.sqnr:.1f}",
        f"{f.max_abs:.3g}",
        "" if b.control is None else f"{b.control:.2g}",
        "" if b.rounding is None else f"{b.rounding:.2g}",
        "" if b.factor is None else f"{b.factor:.2g}",
        "MADE HERE" if b.origin == "made" else b.origin,
        f"{b.name} ({b.buffer})" + (f", {f.n - f.finite} not finite" if f.finite < f.n else ""),
    )


__all__ = ["layout", "map_layout"]
