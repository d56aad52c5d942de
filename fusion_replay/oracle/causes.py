# SPDX-License-Identifier: Apache-2.0
"""Which single change makes a stretch of the runlist do what the model does: every one is executed.

A change is a cause where the stretch then agrees with the model as far as rounding lets it. It is *proved* where no
other change does as well and the error was far beyond rounding, else *consistent*, with the rivals beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fusion_replay.model import serialise
from fusion_replay.oracle.changes import changes
from fusion_replay.oracle.exact import RunlistChange
from fusion_replay.oracle.figures import nrmse

if TYPE_CHECKING:
    from fusion_replay.oracle.stretch import Stretch

Floats = npt.NDArray[np.float64]

PLAIN = 3.0
"""Times the limit that the error must be for a single change to be proved."""
MOST_BLOCKS = 64
_WORTH = 0.7  # of the error: a number that brings it below is looked for more closely
_NARROWINGS = 18


@dataclass(frozen=True, slots=True)
class RunlistCause:
    """One change that makes the stretch agree.

    Attributes:
        text: what is wrong, in words.
        grade: "proved" or "consistent".
        before, after: NRMSE of the control without and with the change; ``limit``: what rounding explains.
    """

    text: str
    grade: Literal["proved", "consistent"]
    before: float
    after: float
    limit: float

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        return f"{self.grade}: {self.text} (NRMSE {self.before:.3g} becomes {self.after:.3g})"


def causes(stretch: Stretch) -> tuple[RunlistCause, ...]:
    """All changes that do, the one that agrees best first; none where no single one does."""
    before = stretch.error()
    found: dict[str, tuple[float, float]] = {}
    for text, after, limit in (*_block_orders(stretch), *_executed(stretch)):
        if after <= limit and after < before / PLAIN:
            found.setdefault(text, (after, limit))
    best = sorted(found.items(), key=lambda item: (item[1][0], item[0]))
    proved = len(best) == 1 and before > PLAIN * best[0][1][1]
    return tuple(
        RunlistCause(text, "proved" if proved else "consistent", before, after, limit) for text, (after, limit) in best
    )


# --- parts ----------------------------------------------------------------------------------------------------------


def _executed(stretch: Stretch) -> Iterator[tuple[str, float, float]]:
    def search(make: Callable[[float], RunlistChange], begin: Sequence[float]) -> tuple[float, RunlistChange]:
        number = _best(lambda x: stretch.error(make(x)), begin, stretch.error())
        return number, make(number)

    for tried in changes(stretch, search):
        after = stretch.error(tried.change)
        if math.isfinite(after):
            # What the change does to the sensitivity is asked for what comes near alone.
            yield tried.text, after, stretch.limit(tried.change) if after < 0.1 else 0.0


def _best(error: Callable[[float], float], begin: Sequence[float], base: float) -> float:
    """The number with the smallest error: of ``begin``, then between its neighbours by the golden section."""
    errors = [error(x) for x in begin]
    errors = [e if math.isfinite(e) else math.inf for e in errors]
    at = int(np.argmin(errors))
    if errors[at] > _WORTH * base:
        return begin[at]
    low, high = (math.log(begin[max(at - 1, 0)]), math.log(begin[min(at + 1, len(begin) - 1)]))
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    of_a, of_b = error(math.exp(a)), error(math.exp(b))
    for _ in range(_NARROWINGS):
        if of_a <= of_b:
            high, b, of_b = b, a, of_a
            a = high - ratio * (high - low)
            of_a = error(math.exp(a))
        else:
            low, a, of_a = a, b, of_b
            b = low + ratio * (high - low)
            of_b = error(math.exp(b))
    return math.exp((low + high) / 2)


def _block_orders(stretch: Stretch) -> Iterator[tuple[str, float, float]]:
    """The boundary's last axis in blocks (heads), each of which is another one of the model's."""
    model, found = stretch.model, stretch.run()
    width = model.shape[-1]
    for blocks in range(2, min(MOST_BLOCKS, width // 2) + 1):
        if width % blocks:
            continue
        wanted, had = (_rows(x, blocks) for x in (model, found))
        with np.errstate(all="ignore"):
            likeness = (wanted @ had.T) / np.outer(np.linalg.norm(wanted, axis=1), np.linalg.norm(had, axis=1))
        order = likeness.argmax(1)
        if sorted(order.tolist()) != list(range(blocks)) or (order == np.arange(blocks)).all():
            continue
        moved = nrmse(had[order], wanted)
        if moved <= stretch.limit():
            size = width // blocks
            names = ", ".join(str(i) for i in np.argsort(order).tolist()[:16])
            feeding = " and ".join(_outside_names(stretch)) or "what feeds it"
            text = (
                f"{stretch.boundary.place.buffer} has its {blocks} blocks of {size} in another order: the model's "
                f"{names}{', ...' if blocks > 16 else ''}; so has {feeding}"
            )
            yield text, moved, stretch.limit()
            return


def _rows(x: Floats, blocks: int) -> Floats:
    apart = x.reshape(-1, blocks, x.shape[-1] // blocks)
    found: Floats = np.moveaxis(apart, 1, 0).reshape(blocks, -1)
    return found


def _outside_names(stretch: Stretch) -> list[str]:
    exact = stretch.controls.exact
    names: dict[str, None] = {}
    for row in stretch.rows:
        inner = {p for p, pieces in exact.reads(row) if pieces}
        names.update(dict.fromkeys(t.use.buffer for t in exact.step(row).inputs.in_order() if t.position not in inner))
    return list(names)[:3]


__all__ = ["RunlistCause", "causes"]
