# SPDX-License-Identifier: Apache-2.0
"""A bisection on the terminal: the answer, how the error rises, the step that was found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fusion_replay.model.text import wrap
from fusion_replay.report.terminal import mismatch
from fusion_replay.report.text import table

if TYPE_CHECKING:
    from fusion_replay.diverge.bisect import Divergence
    from fusion_replay.diverge.explanation import Explanation

BAR = 40  # columns of the longest bar
ROWS = 12  # evaluations shown around the answer


def layout(found: Divergence, why: Explanation | None = None) -> str:
    """Plain text; ``why``: causes and place of the step that was found."""
    lines = wrap(found.sentence, "")
    lines += [line for text in (*found.besides, found.figures) for line in wrap(text, "  ")]
    if found.stand_ins:
        n = len(found.stand_ins)
        lines += wrap(f"{n:,} steps have no reference here: their recorded outputs stood in", "  ")
    if found.step is None:
        return "\n".join(lines)
    lines.append(table(_rise(found)))
    lines += mismatch(found.step, why, "judged alone") if not found.step else wrap(str(found.step), "judged alone: ")
    return "\n".join(lines)


def _rise(found: Divergence) -> list[list[object]]:
    """How many steps were taken from the recording, the error, and a bar; the nearest to the answer."""
    known = sorted({(e.k, e.error) for e in found.evaluations} | {(found.steps, found.total)})
    at = next((i for i, (_, error) in enumerate(known) if error == found.after), len(known) - 1)
    first = max(0, min(at - ROWS // 2, len(known) - ROWS))
    largest = max((e for _, e in known if math.isfinite(e)), default=1.0) or 1.0
    rows: list[list[object]] = [["recorded steps", found.metric, ""]]
    shown = known[first : first + ROWS]
    for k, error in shown if shown[-1] == known[-1] else [*shown, known[-1]]:
        length = BAR if math.isinf(error) else round(BAR * min(error / largest, 1.0))
        rows.append([f"{k:,}", f"{error:.3g}", "#" * length])
    return rows


__all__ = ["layout"]
